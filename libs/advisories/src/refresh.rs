//! Makes a snapshot from a checkout of the advisory database.

use std::{
    collections::BTreeSet,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use chrono::NaiveDate;
use serde::Deserialize;

/// The head of an advisory: a fenced block of TOML.
#[derive(Deserialize)]
struct Head {
    advisory: About,
    #[serde(default)]
    versions: Versions,
}

#[derive(Deserialize)]
struct About {
    id: String,
    package: String,
    withdrawn: Option<String>,
}

#[derive(Default, Deserialize)]
struct Versions {
    #[serde(default)]
    patched: Vec<String>,
    #[serde(default)]
    unaffected: Vec<String>,
}

/// The text of a snapshot of `packages`, from the checkout at `database` as it is on the day `taken`.
///
/// # Errors
/// When the checkout is none, or an advisory in it cannot be read.
pub fn refresh(database: &Path, packages: &BTreeSet<String>, taken: NaiveDate) -> anyhow::Result<String> {
    let crates = database.join("crates");
    anyhow::ensure!(crates.is_dir(), "{} has no folder `crates`", database.display());
    let mut text = format!("# Made by script/advisories --refresh.\ntaken = \"{taken}\"\npackages = [\n");
    for package in packages {
        writeln!(text, "  \"{package}\",")?;
    }
    text.push_str("]\n");
    for package in packages {
        for path in advisories(&crates.join(package))? {
            let file = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let (head, title) = read(&file).with_context(|| path.display().to_string())?;
            if head.advisory.withdrawn.is_none() {
                write_one(&mut text, &head, title)?;
            }
        }
    }
    Ok(text)
}

fn advisories(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with("RUSTSEC-") && path.extension().is_some_and(|ending| ending == "md") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(file: &str) -> anyhow::Result<(Head, &str)> {
    let body = file.split_once("```toml").context("no block of TOML")?.1;
    let (head, text) = body.split_once("```").context("the block of TOML has no end")?;
    let title = text.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or("(no title)");
    Ok((toml::from_str(head)?, title.trim()))
}

fn write_one(text: &mut String, head: &Head, title: &str) -> anyhow::Result<()> {
    let list =
        |ranges: &[String]| ranges.iter().map(|range| format!("\"{range}\"")).collect::<Vec<_>>().join(", ");
    let title = title.replace('\\', "").replace('"', "'");
    writeln!(text, "\n[[advisory]]\nid = \"{}\"\npackage = \"{}\"", head.advisory.id, head.advisory.package)?;
    writeln!(text, "title = \"{title}\"\npatched = [{}]", list(&head.versions.patched))?;
    if !head.versions.unaffected.is_empty() {
        writeln!(text, "unaffected = [{}]", list(&head.versions.unaffected))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Snapshot;

    #[test]
    fn a_checkout_becomes_a_snapshot() {
        let dir = std::env::temp_dir().join(format!("advisories-{}", std::process::id()));
        let folder = dir.join("crates/leaky");
        fs::create_dir_all(&folder).unwrap();
        let advisory = |id: &str, more: &str| {
            format!(
                "```toml\n[advisory]\nid = \"{id}\"\npackage = \"leaky\"\n{more}\n[versions]\npatched = [\">= 1.2.0\"]\n```\n\n# It \"leaks\"\n\nA lot.\n"
            )
        };
        fs::write(folder.join("RUSTSEC-2026-0001.md"), advisory("RUSTSEC-2026-0001", "")).unwrap();
        let withdrawn = advisory("RUSTSEC-2026-0002", "withdrawn = \"2026-02-01\"");
        fs::write(folder.join("RUSTSEC-2026-0002.md"), withdrawn).unwrap();
        let packages = BTreeSet::from(["leaky".to_owned(), "tight".to_owned()]);
        let taken = NaiveDate::from_ymd_opt(2026, 3, 1).unwrap();
        let snapshot = Snapshot::parse(&refresh(&dir, &packages, taken).unwrap()).unwrap();
        assert_eq!((snapshot.taken, &snapshot.packages), (taken, &packages));
        let ids: Vec<&str> = snapshot.advisory.iter().map(|one| one.id.as_str()).collect();
        assert_eq!(ids, ["RUSTSEC-2026-0001"]);
        assert_eq!(snapshot.advisory[0].title, "It 'leaks'");
        assert!(refresh(&folder, &packages, taken).is_err());
        fs::remove_dir_all(dir).unwrap();
    }
}
