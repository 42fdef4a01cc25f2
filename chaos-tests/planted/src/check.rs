//! What may catch a defect.

use std::{
    fs::File,
    io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Longest time that a check may take.
const LIMIT: Duration = Duration::from_secs(600);
/// What has to be built for the first time takes long.
const BUILD_LIMIT: Duration = Duration::from_secs(1_800);
/// How often it is looked whether a check has ended.
const LOOK: Duration = Duration::from_millis(100);
/// What a check that is ended early may take to stop what it has started outside of its process group.
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(10);

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
    /// It failed without naming what did, for this reason: the defect may have made it hang or crash, or its surroundings are gone.
    Unnamed(String),
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
        verdict(run.current_dir(root), log, LIMIT)
    }
}

/// What a check says that is run by a command, with its output in `log`.
fn verdict(command: &mut Command, log: &Path, limit: Duration) -> io::Result<Verdict> {
    let ended = limited(command, log, limit)?;
    let text = String::from_utf8_lossy(&std::fs::read(log)?).into_owned();
    Ok(match (ended, complaint(&text)) {
        (Some(status), _) if status.success() => Verdict::Missed,
        (_, Some(complaint)) => Verdict::Caught(complaint),
        (Some(status), None) => Verdict::Unnamed(format!("failed without a word, {status}")),
        (None, None) => Verdict::Unnamed(format!("did not end within {} s", limit.as_secs())),
    })
}

/// Runs a command with its output in `log`, in a process group of its own of which nothing is left afterwards; none if it did not
/// end in time.
fn limited(command: &mut Command, log: &Path, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let log = File::create(log)?;
    let command = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let mut child = command.spawn()?;
    let ended = until_ended(&mut child, limit)?;
    if ended.is_none() {
        // A script stops the servers that it started, which may have groups of their own.
        signal("TERM", &child)?;
        until_ended(&mut child, CLEAN_UP_LIMIT)?;
    }
    signal("KILL", &child)?;
    child.wait()?;
    Ok(ended)
}

fn until_ended(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    loop {
        let ended = child.try_wait()?;
        if ended.is_some() || begun.elapsed() > limit {
            return Ok(ended);
        }
        std::thread::sleep(LOOK);
    }
}

/// Sends a signal to all that is left of the child's process group, if anything is. Ids are given out in a circle: within moments no
/// other group has the id of one that is empty.
fn signal(name: &str, child: &Child) -> io::Result<()> {
    let group = format!("-{}", child.id());
    let mut kill = Command::new("kill");
    kill.args(["-s", name, "--", &group]).stdout(Stdio::null()).stderr(Stdio::null()).status().map(drop)
}

/// The first thing that a failing check complains of by name.
fn complaint(text: &str) -> Option<String> {
    let mut lines = text.lines().map(str::trim);
    let found = lines.find_map(|line| {
        let test = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"));
        test.or_else(|| line.strip_prefix("VIOLATION "))
    });
    found.map(|found| found.chars().take(110).collect())
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
        let told = |text| complaint(text).unwrap_or_default();
        assert_eq!(told("test a ... ok\ntest b::c ... FAILED\n"), "b::c");
        assert_eq!(told("A wallet killed   1\n    VIOLATION I3: lost\n"), "I3: lost");
        assert_eq!(complaint("nothing"), None);
    }

    /// What a shell with this script is said to be, in a folder of its own.
    fn verdict_of(name: &str, script: &str) -> (Verdict, String) {
        let log = std::env::temp_dir().join(format!("planted-{}-{name}.log", std::process::id()));
        let mut command = Command::new("sh");
        let verdict = verdict(command.args(["-c", script]), &log, Duration::from_secs(1)).expect("a verdict");
        let text = std::fs::read_to_string(&log).expect("a log");
        std::fs::remove_file(&log).expect("removed");
        (verdict, text)
    }

    #[test]
    fn only_what_names_a_failure_has_caught_something() {
        let of = |name, script| verdict_of(name, script).0;
        assert_eq!(of("passes", "exit 0"), Verdict::Missed);
        assert_eq!(of("names", "echo 'test a::b ... FAILED'; exit 101"), Verdict::Caught("a::b".to_owned()));
        assert!(matches!(of("wordless", "exit 1"), Verdict::Unnamed(_)));
        assert!(matches!(of("hangs", "sleep 1000"), Verdict::Unnamed(_)));
    }

    /// A process that has ended, or is only not yet waited for.
    fn is_gone(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    }

    #[test]
    fn nothing_of_a_check_outlives_it() {
        for (name, script) in [
            ("late", "sleep 1000 & echo $!; wait"),
            ("stubborn", "trap '' TERM; (trap '' TERM; sleep 1000) & echo $!; wait"),
            ("early", "sleep 1000 & echo $!; exit 1"),
        ] {
            let (verdict, pid) = verdict_of(name, script);
            assert!(matches!(verdict, Verdict::Unnamed(_)), "{name}: {verdict:?}");
            // Who is killed is gone a moment later.
            let begun = Instant::now();
            while !is_gone(pid.trim()) {
                assert!(begun.elapsed() < Duration::from_secs(5), "{name}: {pid} is alive");
                std::thread::sleep(LOOK);
            }
        }
    }
}
