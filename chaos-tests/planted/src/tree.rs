//! A copy of the tree, in which defects are planted.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::Defect;

/// The copy. Files that have not changed keep their times, so that a later run builds little.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Copies what git knows of `from`, as it is there now, to `to`.
    ///
    /// # Errors
    /// When a file cannot be read or written, or git fails.
    pub fn copy(from: &Path, to: &Path) -> io::Result<Self> {
        let listed = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let listed = Command::new("git").current_dir(from).args(listed).output()?;
        if !listed.status.success() {
            return Err(io::Error::other("git ls-files failed"));
        }
        for name in String::from_utf8_lossy(&listed.stdout).split_terminator('\0') {
            let (source, target) = (from.join(name), to.join(name));
            let Ok(bytes) = fs::read(&source) else { continue };
            if fs::read(&target).is_ok_and(|there| there == bytes) {
                continue;
            }
            if let Some(folder) = target.parent() {
                fs::create_dir_all(folder)?;
            }
            // With its permissions: scripts are run.
            fs::copy(&source, &target)?;
        }
        Ok(Self { root: to.to_owned() })
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Does something while a defect is in the tree, and takes it out again.
    ///
    /// # Errors
    /// When the defect cannot be planted, or its file not be written.
    pub fn with<T>(&self, defect: &Defect, work: impl FnOnce() -> T) -> io::Result<T> {
        let file = self.root.join(&defect.file);
        let sound = fs::read_to_string(&file)?;
        fs::write(&file, defect.plant(&sound).map_err(io::Error::other)?)?;
        let done = work();
        fs::write(&file, sound)?;
        Ok(done)
    }
}
