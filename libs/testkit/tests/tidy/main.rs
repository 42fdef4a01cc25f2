//! Rules of this repository that a machine can keep. All of them work offline.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod circles;
mod dependencies;
mod errors_page;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Longest file. Beyond it a reader needs a map.
const LINES_LIMIT: usize = 500;

/// Endings of the files that people write.
const WRITTEN: [&str; 6] = [".rs", ".sql", ".toml", ".md", ".yml", ".sh"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Every file of ours with one of these endings, or in script/, with its text.
fn files(endings: &[&str]) -> Vec<(PathBuf, String)> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let is_ours = !name.starts_with('.') && name != "target" && name != "node_modules";
            let is_wanted = endings.iter().any(|ending| name.ends_with(ending))
                || path.parent() == Some(&root.join("script"));
            if path.is_dir() && is_ours {
                folders.push(path);
            } else if path.is_file() && is_wanted {
                found
                    .push((path.strip_prefix(&root).unwrap().to_owned(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

/// `path:line: text` of every line that `is_found`.
fn places(path: &Path, text: &str, is_found: impl Fn(&str) -> bool) -> Vec<String> {
    let lines = text.lines().enumerate().filter(|(_, line)| is_found(line));
    lines.map(|(number, line)| format!("{}:{}: {}", path.display(), number + 1, line.trim())).collect()
}

fn complain(rule: &str, places: &[String]) {
    assert!(places.is_empty(), "{rule}:\n  {}", places.join("\n  "));
}

#[test]
fn files_are_short() {
    let long = files(&[".rs", ".sql"]).into_iter().map(|(path, text)| (path, text.lines().count()));
    let long = long.filter(|(_, lines)| *lines > LINES_LIMIT);
    let long: Vec<String> = long.map(|(path, lines)| format!("{}: {lines} lines", path.display())).collect();
    complain("a file has at most 500 lines", &long);
}

#[test]
fn nothing_is_left_to_do() {
    // Put together here, so that this file does not find itself.
    let marks = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["HA", "CK"]].map(|parts| parts.concat());
    let is_mark = |word: &str| marks.iter().any(|mark| mark == word);
    let is_found = |line: &str| line.split(|c: char| !c.is_ascii_alphanumeric()).any(is_mark);
    let found: Vec<String> =
        files(&WRITTEN).iter().flat_map(|(path, text)| places(path, text, is_found)).collect();
    complain("what is left to do is an issue, not a comment", &found);
}

#[test]
fn no_path_of_somebodys_machine_is_in_a_file() {
    let homes = [["/home", "/"], ["/work", "/"], ["/Users", "/"], ["/root", "/"]].map(|parts| parts.concat());
    let is_found = |line: &str| homes.iter().any(|home| line.contains(home.as_str()));
    let found: Vec<String> =
        files(&WRITTEN).iter().flat_map(|(path, text)| places(path, text, is_found)).collect();
    complain("paths are relative", &found);
}

/// The part of a source file that runs in production: modules of tests stand last in their file.
fn production(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or_default()
}

fn is_test_file(path: &Path) -> bool {
    let is_tests =
        |part: std::path::Component<'_>| matches!(part.as_os_str().to_str(), Some("tests" | "testing"));
    path.to_string_lossy().ends_with("tests.rs")
        || path.components().any(is_tests)
        || path.starts_with("libs/testkit")
        || path.starts_with("chaos-tests")
}

#[test]
fn production_code_does_not_unwrap() {
    // clippy says so too; this also holds for what a cfg hides from it.
    let call = [".unw", "rap()"].concat();
    let is_found = |line: &str| line.contains(&call) && !line.trim_start().starts_with("//");
    let sources = files(&[".rs"]).into_iter().filter(|(path, _)| !is_test_file(path));
    let found: Vec<String> =
        sources.flat_map(|(path, text)| places(&path, production(&text), is_found)).collect();
    complain("what can fail is an error value", &found);
}

#[test]
fn one_module_knows_the_columns_of_a_redemptions_legs() {
    // So that they can be moved. Migrations make them, their invariants check them, and tests and benchmarks fill tables.
    const KNOWS: &str = "services/wallet/src/redemption/legs.rs";
    let columns = ["leg_taken", "leg_returned"];
    let is_found = |line: &str| columns.iter().any(|column| line.contains(column));
    let sources = files(&[".rs", ".sql"]).into_iter().filter(|(path, _)| {
        !path.ends_with(KNOWS) && !["migrations", "bench"].iter().any(|folder| path.starts_with(folder))
    });
    let sources = sources.filter(|(path, _)| !path.components().any(|part| part.as_os_str() == "tests"));
    let found: Vec<String> = sources.flat_map(|(path, text)| places(&path, &text, is_found)).collect();
    complain("the amounts of a redemption's legs are read and written by redemption/legs.rs", &found);
}

#[test]
fn every_crate_obeys_the_workspaces_lints() {
    let manifests = files(&["Cargo.toml"])
        .into_iter()
        .filter(|(path, _)| path.components().count() > 1 && path.ends_with("Cargo.toml"));
    let lax: Vec<String> = manifests
        .filter(|(_, text)| !text.contains("[lints]\nworkspace = true"))
        .map(|(path, _)| path.display().to_string())
        .collect();
    complain("[lints] workspace = true", &lax);
}

#[test]
fn the_benchmarks_workspace_has_the_same_lints() {
    let lints = |path: &str| {
        let text = fs::read_to_string(root().join(path)).unwrap();
        let lines = text.lines().skip_while(|line| *line != "[workspace.lints.rust]");
        let lines = lines.take_while(|line| !line.starts_with('#') && !line.starts_with("[profile"));
        lines.filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lints("Cargo.toml"), lints("bench/Cargo.toml"));
}
