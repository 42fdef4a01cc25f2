//! `planted`: plants each defect of the list and shows which check caught it. `script/planted` starts what the checks need.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    path::{Path, PathBuf},
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
    let log = cli.work.join("check.log");
    if !is_sound(&tree, &defects, &log)? {
        return Ok(ExitCode::FAILURE);
    }
    let mut caught = 0;
    for defect in &defects {
        caught += usize::from(tree.with(defect, || is_caught(&tree, defect, cli.all, &log))??);
    }
    writeln!(io::stdout(), "{caught} of {} defects were caught", defects.len())?;
    Ok(if caught == defects.len() && caught > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A check that fails without a defect would catch everything.
fn is_sound(tree: &Tree, defects: &[Defect], log: &Path) -> io::Result<bool> {
    let checks: BTreeSet<Check> = defects
        .iter()
        .flat_map(|defect| &defect.checks)
        .filter_map(|check| Check::parse(check).ok())
        .collect();
    for check in checks {
        let verdict = check.run(tree.root(), log)?;
        if verdict != Verdict::Missed {
            writeln!(io::stdout(), "without a defect, {} says {verdict:?}", check.name())?;
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_caught(tree: &Tree, defect: &Defect, all: bool, log: &Path) -> io::Result<bool> {
    let mut is_caught = false;
    for check in &defect.checks {
        let check = Check::parse(check).map_err(io::Error::other)?;
        let begun = Instant::now();
        let verdict = check.run(tree.root(), log)?;
        let said = match &verdict {
            Verdict::Caught(complaint) => format!("caught by {}: {complaint}", check.name()),
            Verdict::Missed => format!("MISSED by {}", check.name()),
            Verdict::Unbuilt(why) => format!("NOT BUILT for {}: {why}", check.name()),
        };
        writeln!(io::stdout(), "{:<40} {:>4} s  {said}", defect.name, begun.elapsed().as_secs())?;
        is_caught |= matches!(verdict, Verdict::Caught(_));
        if is_caught && !all {
            break;
        }
    }
    Ok(is_caught)
}
