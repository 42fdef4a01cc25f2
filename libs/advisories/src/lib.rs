//! Known faults of the crates that are built, without a network: a dated snapshot of the RustSec advisory database, compared with lock
//! files.
//!
//! The snapshot has the advisories of some packages and says of which. Versions that were withdrawn from the registry (yanked) are in
//! no advisory, and are not seen here.

mod refresh;

use std::collections::BTreeSet;

use anyhow::Context;
use chrono::NaiveDate;
use semver::{Version, VersionReq};
use serde::Deserialize;

pub use refresh::refresh;

/// The snapshot in the tree.
pub const SNAPSHOT: &str = include_str!("../snapshot.toml");
/// A snapshot that is older says little of today.
pub const AGE_MAX_DAYS: i64 = 90;

/// What the advisory database said of some packages on one day.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// The day.
    pub taken: NaiveDate,
    /// The packages that were looked up, whether there is an advisory or not.
    pub packages: BTreeSet<String>,
    /// Their advisories.
    pub advisory: Vec<Advisory>,
}

/// One advisory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advisory {
    /// `RUSTSEC-…`.
    pub id: String,
    /// The package's name.
    pub package: String,
    /// What is wrong.
    pub title: String,
    /// Versions without the fault; none where there is no such version.
    #[serde(default)]
    pub patched: Vec<VersionReq>,
    /// Versions that never had it.
    #[serde(default)]
    pub unaffected: Vec<VersionReq>,
}

/// One package of a lock file that comes from the registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: Version,
}

impl Snapshot {
    /// Reads a snapshot.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        toml::from_str(text).context("the snapshot cannot be read")
    }

    /// Days from the snapshot to `today`.
    #[must_use]
    pub fn age_days(&self, today: NaiveDate) -> i64 {
        today.signed_duration_since(self.taken).num_days()
    }

    /// The packages with a known fault, each with its advisory.
    pub fn faults<'a>(
        &'a self,
        packages: &'a BTreeSet<Package>,
    ) -> impl Iterator<Item = (&'a Package, &'a Advisory)> {
        let faults = |package: &'a Package| {
            self.advisory.iter().filter(|advisory| advisory.concerns(package)).map(move |one| (package, one))
        };
        packages.iter().flat_map(faults)
    }

    /// Names of packages of which the snapshot says nothing.
    #[must_use]
    pub fn not_looked_up<'a>(&self, packages: &'a BTreeSet<Package>) -> BTreeSet<&'a str> {
        packages
            .iter()
            .map(|package| package.name.as_str())
            .filter(|name| !self.packages.contains(*name))
            .collect()
    }
}

impl Advisory {
    fn concerns(&self, package: &Package) -> bool {
        let mut well = self.patched.iter().chain(&self.unaffected);
        self.package == package.name && !well.any(|range| range.matches(&package.version))
    }
}

#[derive(Deserialize)]
struct Lock {
    #[serde(default)]
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: Version,
    source: Option<String>,
}

/// The packages of a `Cargo.lock` that are not our own.
///
/// # Errors
/// When it cannot be read.
pub fn locked(text: &str) -> anyhow::Result<BTreeSet<Package>> {
    let lock: Lock = toml::from_str(text).context("the lock file cannot be read")?;
    let foreign = lock.package.into_iter().filter(|package| package.source.is_some());
    Ok(foreign.map(|package| Package { name: package.name, version: package.version }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(packages: &[(&str, &str)]) -> BTreeSet<Package> {
        let block = |(name, version): &(&str, &str)| {
            format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\nsource = \"registry\"\n")
        };
        locked(&packages.iter().map(block).collect::<String>()).unwrap()
    }

    fn found(packages: &[(&str, &str)]) -> Vec<String> {
        let packages = lock(packages);
        let snapshot = Snapshot::parse(SNAPSHOT).unwrap();
        snapshot.faults(&packages).map(|(_, advisory)| advisory.id.clone()).collect()
    }

    #[test]
    fn a_crate_with_a_known_fault_is_found() {
        assert_eq!(found(&[("rustls", "0.23.44"), ("bytes", "1.11.1")]), ["RUSTSEC-2026-0285"]);
        assert_eq!(found(&[("sqlx", "0.8.0")]), ["RUSTSEC-2024-0363"]);
        assert_eq!(found(&[("backoff", "0.4.0")]), ["RUSTSEC-2025-0012"], "it has no good version");
        assert_eq!(found(&[("rand", "0.9.2")]), ["RUSTSEC-2026-0097"]);
        assert_eq!(found(&[("rand", "0.9.3"), ("rand", "0.6.5"), ("rustls", "0.23.45")]), [""; 0]);
    }

    #[test]
    fn what_is_built_has_no_known_fault() {
        let snapshot = Snapshot::parse(SNAPSHOT).unwrap();
        for name in ["Cargo.lock", "bench/Cargo.lock", "fuzz/Cargo.lock"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name);
            let packages = locked(&std::fs::read_to_string(path).unwrap()).unwrap();
            assert!(packages.len() > 50, "{name} was read");
            let faults: Vec<_> = snapshot.faults(&packages).collect();
            assert!(faults.is_empty(), "{name}: {faults:#?}");
        }
    }

    #[test]
    fn a_snapshot_says_what_it_knows() {
        let snapshot = Snapshot::parse(SNAPSHOT).unwrap();
        let strangers: Vec<&Advisory> =
            snapshot.advisory.iter().filter(|one| !snapshot.packages.contains(&one.package)).collect();
        assert!(strangers.is_empty(), "{strangers:?}");
        let packages = lock(&[("tokio", "1.50.0"), ("unheard-of", "1.0.0")]);
        assert_eq!(snapshot.not_looked_up(&packages), BTreeSet::from(["unheard-of"]));
        assert_eq!(snapshot.age_days(snapshot.taken + chrono::Days::new(91)), 91);
    }

    #[test]
    fn our_own_crates_are_left_out() {
        let text = "[[package]]\nname = \"bytes\"\nversion = \"1.0.0\"\n";
        assert!(locked(text).unwrap().is_empty());
    }
}
