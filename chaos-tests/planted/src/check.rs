//! What may catch a defect.

use std::{
    fs::File,
    io,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// A check that hangs has found something as well.
const LIMIT: Duration = Duration::from_secs(600);
/// What has to be built for the first time takes long.
const BUILD_LIMIT: Duration = Duration::from_secs(1_800);
/// How often it is looked whether a check has ended.
const LOOK: Duration = Duration::from_millis(100);

/// A check of the repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// `test CRATE [FILTER]`: tests of a crate whose name contains the filter.
    Test(String, String),
    /// `chaos SCENARIO`: one scenario of the chaos suite.
    Chaos(String),
}

/// What a check said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It failed, and this is what did.
    Caught(String),
    /// It passed.
    Missed,
    /// It could not be built.
    Unbuilt(String),
}

impl Check {
    /// Reads a check from the list.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(' ') {
            Some(("test", rest)) => {
                let (name, filter) = rest.split_once(' ').unwrap_or((rest, ""));
                Ok(Self::Test(name.to_owned(), filter.to_owned()))
            }
            Some(("chaos", scenario)) => Ok(Self::Chaos(scenario.to_owned())),
            _ => Err(format!("{text:?} is no check")),
        }
    }

    /// Its line in the list.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Test(name, filter) => format!("test {name} {filter}").trim_end().to_owned(),
            Self::Chaos(scenario) => format!("chaos {scenario}"),
        }
    }

    /// Runs it in the tree at `root`; what it writes goes to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, root: &Path, log: &Path) -> io::Result<Verdict> {
        let (mut build, mut run) = match self {
            Self::Test(..) => (Command::new("cargo"), Command::new("cargo")),
            Self::Chaos(_) => (Command::new("script/chaos"), Command::new("script/chaos")),
        };
        match self {
            Self::Test(name, filter) => {
                build.args(["test", "--locked", "--no-run", "-p", name]);
                run.args(["test", "--locked", "-p", name, "--", filter]);
            }
            Self::Chaos(scenario) => {
                // It builds what it lists.
                build.arg("--list");
                run.args(["--only", scenario]);
            }
        }
        let built = limited(build.current_dir(root), log, BUILD_LIMIT)?;
        if !built.is_some_and(|status| status.success()) {
            return Ok(Verdict::Unbuilt(format!("see {}", log.display())));
        }
        let ended = limited(run.current_dir(root), log, LIMIT)?;
        let text = String::from_utf8_lossy(&std::fs::read(log)?).into_owned();
        Ok(match ended {
            Some(status) if status.success() => Verdict::Missed,
            Some(_) => Verdict::Caught(complaint(&text)),
            None => Verdict::Caught(format!("did not end within {} s", LIMIT.as_secs())),
        })
    }
}

/// Runs a command with its output in `log`; none if it did not end in time.
fn limited(command: &mut Command, log: &Path, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let log = File::create(log)?;
    let mut child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begun.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    }
}

/// The first thing that a failing check complains of.
fn complaint(text: &str) -> String {
    let mut lines = text.lines().map(str::trim);
    let found = lines.find_map(|line| {
        let test = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"));
        test.or_else(|| line.strip_prefix("VIOLATION "))
    });
    found.unwrap_or("failed without a word").chars().take(110).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_what_its_name_says() {
        for name in ["test tender", "test wallet recovery::", "chaos F zombie wallet"] {
            assert_eq!(Check::parse(name).expect("a check").name(), name);
        }
        assert!(Check::parse("nothing").is_err());
    }

    #[test]
    fn the_first_complaint_is_told() {
        assert_eq!(complaint("test a ... ok\ntest b::c ... FAILED\n"), "b::c");
        assert_eq!(complaint("A wallet killed   1\n    VIOLATION I3: lost\n"), "I3: lost");
        assert_eq!(complaint("nothing"), "failed without a word");
    }
}
