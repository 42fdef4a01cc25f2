//! Compares the lock files of the tree with the snapshot of the advisory database, or makes the snapshot anew.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use advisories::{AGE_MAX_DAYS, Package, SNAPSHOT, Snapshot, locked, refresh};
use anyhow::Context;
use chrono::{DateTime, NaiveDate, Utc};
use clap::Parser;

/// The lock files, from the root of the tree.
const LOCKS: [&str; 3] = ["Cargo.lock", "bench/Cargo.lock", "fuzz/Cargo.lock"];

/// Compares the lock files with the snapshot of the advisory database; exit code 1 if a crate has a known fault.
#[derive(Debug, Parser)]
struct Arguments {
    /// Fail as well when the snapshot is older than 90 days, or does not know every crate.
    #[arg(long)]
    release: bool,
    /// Make the snapshot anew from this checkout of the advisory database, which is up to date.
    #[arg(long)]
    refresh: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut packages = BTreeSet::new();
    for name in LOCKS {
        let text = std::fs::read_to_string(root.join(name)).with_context(|| name.to_owned())?;
        packages.extend(locked(&text).with_context(|| name.to_owned())?);
    }
    let today = DateTime::<Utc>::from(SystemTime::now()).date_naive();
    if let Some(database) = arguments.refresh {
        let names = packages.into_iter().map(|package| package.name).collect();
        let snapshot = root.join("libs/advisories/snapshot.toml");
        std::fs::write(&snapshot, refresh(&database, &names, today)?)?;
        eprintln!("{} is of today", snapshot.display());
        return Ok(ExitCode::SUCCESS);
    }
    let is_well = report(&Snapshot::parse(SNAPSHOT)?, &packages, today, arguments.release);
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says what was found, and whether it may pass.
fn report(snapshot: &Snapshot, packages: &BTreeSet<Package>, today: NaiveDate, is_release: bool) -> bool {
    let age = snapshot.age_days(today);
    eprintln!(
        "{} crates, {} advisories as of {} ({age} days old)",
        packages.len(),
        snapshot.advisory.len(),
        snapshot.taken
    );
    let faults = snapshot.faults(packages).map(|(package, advisory)| {
        format!("{} {}: {} {}", package.name, package.version, advisory.id, advisory.title)
    });
    let faults: Vec<String> = faults.collect();
    faults.iter().for_each(|fault| eprintln!("FAULT {fault}"));
    let unknown = snapshot.not_looked_up(packages);
    if !unknown.is_empty() {
        eprintln!(
            "WARNING the snapshot says nothing of {} crates: script/advisories --refresh DIR",
            unknown.len()
        );
        if is_release {
            eprintln!("{}", unknown.iter().copied().collect::<Vec<_>>().join(" "));
        }
    }
    if age > AGE_MAX_DAYS {
        eprintln!("WARNING the snapshot is older than {AGE_MAX_DAYS} days: script/advisories --refresh DIR");
    }
    eprintln!("not covered: versions that were yanked, which only the registry knows");
    faults.is_empty() && (!is_release || (age <= AGE_MAX_DAYS && unknown.is_empty()))
}
