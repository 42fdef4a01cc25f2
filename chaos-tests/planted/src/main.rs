//! `planted`: plants each defect of the list and shows which check caught it. `script/planted` starts what the checks need.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Instant,
};

use clap::Parser;
use planted::{Check, Defect, Tree, Verdict, list};

/// Plants defects, one at a time, and shows which check caught each. Exit code 1 if one was not caught.
#[derive(Debug, Parser)]
struct Cli {
    /// Only defects whose name contains one of these.
    names: Vec<String>,
    /// Names and sentences of all defects.
    #[arg(long)]
    list: bool,
    /// Every check of a defect, not only until one has caught it.
    #[arg(long)]
    all: bool,
    /// The repository.
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// Where the copy goes in which defects are planted.
    #[arg(long, default_value = ".run/planted")]
    work: PathBuf,
}

fn main() -> io::Result<ExitCode> {
    let cli = Cli::parse();
    let mut defects = list(&cli.root)?;
    defects.retain(|defect| cli.names.is_empty() || cli.names.iter().any(|name| defect.name.contains(name)));
    if cli.list {
        for defect in &defects {
            writeln!(io::stdout(), "{:<40} {}", defect.name, defect.what)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let tree = Tree::copy(&cli.root, &cli.work.join("tree"))?;
    let trial = Trial { tree, log: cli.work.join("check.log") };
    let mut caught = 0;
    for defect in &defects {
        caught += usize::from(trial.catches(defect, cli.all)?);
    }
    writeln!(io::stdout(), "{caught} of {} defects were caught", defects.len())?;
    Ok(if caught == defects.len() && caught > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Defects are planted in a tree, and its checks run.
struct Trial {
    tree: Tree,
    log: PathBuf,
}

impl Trial {
    /// Whether a check fails with the defect that passes without it.
    fn catches(&self, defect: &Defect, all: bool) -> io::Result<bool> {
        let mut is_caught = false;
        for check in &defect.checks {
            let check = Check::parse(check).map_err(io::Error::other)?;
            let begun = Instant::now();
            let verdict = self.tree.with(defect, || check.run(self.tree.root(), &self.log))??;
            let took = begun.elapsed().as_secs();
            let said = match verdict {
                Verdict::Caught(what) | Verdict::Unnamed(what) if self.is_sound(&check)? => {
                    is_caught = true;
                    format!("caught by {}: {what}", check.name())
                }
                Verdict::Caught(_) | Verdict::Unnamed(_) => {
                    format!("NOT TRIED by {}: it fails without a defect", check.name())
                }
                Verdict::Missed => format!("MISSED by {}", check.name()),
                Verdict::Unbuilt(why) => format!("NOT BUILT for {}: {why}", check.name()),
            };
            writeln!(io::stdout(), "{:<40} {took:>4} s  {said}", defect.name)?;
            if is_caught && !all {
                break;
            }
        }
        Ok(is_caught)
    }

    /// Whether a check that has just failed passes without the defect. It is asked after each failure, since what passed a while ago
    /// says nothing of a database or a disk that has failed since: those make tests fail by name.
    fn is_sound(&self, check: &Check) -> io::Result<bool> {
        Ok(check.run(self.tree.root(), &self.log)? == Verdict::Missed)
    }
}
