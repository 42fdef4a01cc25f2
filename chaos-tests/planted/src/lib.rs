//! Defects to be planted, one at a time, to see that a check finds each.
//!
//! A defect ([`Defect`]) is a text to be replaced in one file, and the checks of which at least one has to fail then.
//! `defects.toml` lists them; `script/planted` plants them in a copy of the tree and runs the checks.

pub mod check;
pub mod tree;

use std::{fs, io, path::Path};

use serde::Deserialize;

pub use check::{Check, Verdict};
pub use tree::Tree;

/// Where the list is, below the root of the repository.
pub const LIST: &str = "chaos-tests/planted/defects.toml";

/// A mistake that somebody could make.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defect {
    /// Its name.
    pub name: String,
    /// What is wrong then, in a sentence.
    pub what: String,
    /// The file.
    pub file: String,
    /// What stands there once.
    pub find: String,
    /// What stands there instead.
    pub put: String,
    /// Which checks are tried, in this order: see [`Check`].
    pub checks: Vec<String>,
}

#[derive(Deserialize)]
struct List {
    defect: Vec<Defect>,
}

impl Defect {
    /// The file's text with the defect in it.
    ///
    /// # Errors
    /// What is wrong with the list: the text is not there, or more than once.
    pub fn plant(&self, text: &str) -> Result<String, String> {
        match text.matches(&self.find).count() {
            1 => Ok(text.replacen(&self.find, &self.put, 1)),
            count => Err(format!("{}: {} has what is to be replaced {count} times", self.name, self.file)),
        }
    }
}

/// All defects of the repository at `root`.
///
/// # Errors
/// When the list cannot be read.
pub fn list(root: &Path) -> io::Result<Vec<Defect>> {
    let text = fs::read_to_string(root.join(LIST))?;
    toml::from_str::<List>(&text).map(|list| list.defect).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was changed since a defect was written down is found here, and not only when defects are planted.
    #[test]
    fn every_defect_can_be_planted() {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let defects = list(root).expect("a list");
        let mut names = std::collections::HashSet::new();
        for defect in &defects {
            assert!(names.insert(&defect.name), "{} is there twice", defect.name);
            assert!(!defect.checks.is_empty(), "{} has no check", defect.name);
            for check in &defect.checks {
                Check::parse(check).expect("a check");
            }
            let text = fs::read_to_string(root.join(&defect.file)).expect("its file");
            let planted = defect.plant(&text).expect("its place");
            assert_ne!(planted, text, "{} changes nothing", defect.name);
        }
        assert!(defects.len() >= 25, "{} defects", defects.len());
    }
}
