//! `planted`: plants each defect of the list and shows which check caught it. `script/planted` starts what the checks need.

use std::{
    collections::BTreeMap,
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
    let mut trial = Trial { tree, log: cli.work.join("check.log"), is_sound: BTreeMap::new() };
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
    /// Which checks pass without a defect: one that fails would catch everything.
    is_sound: BTreeMap<Check, bool>,
}

impl Trial {
    /// Whether a check fails with the defect that passes without it.
    fn catches(&mut self, defect: &Defect, all: bool) -> io::Result<bool> {
        let mut is_caught = false;
        for check in &defect.checks {
            let check = Check::parse(check).map_err(io::Error::other)?;
            let begun = Instant::now();
            let verdict = self.tree.with(defect, || check.run(self.tree.root(), &self.log))??;
            let took = begun.elapsed().as_secs();
            let said = match verdict {
                Verdict::Caught(complaint) if self.is_sound(&check)? => {
                    is_caught = true;
                    format!("caught by {}: {complaint}", check.name())
                }
                Verdict::Caught(_) => format!("NOT TRIED by {}: it fails without a defect", check.name()),
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

    fn is_sound(&mut self, check: &Check) -> io::Result<bool> {
        if let Some(known) = self.is_sound.get(check) {
            return Ok(*known);
        }
        let is_sound = check.run(self.tree.root(), &self.log)? == Verdict::Missed;
        self.is_sound.insert(check.clone(), is_sound);
        Ok(is_sound)
    }
}
