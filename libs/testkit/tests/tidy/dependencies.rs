//! What this repository may depend on. `deny.toml` says the same to cargo-deny; these tests need neither it nor a network. Known faults
//! of what it depends on are `libs/advisories`' business.

use std::{collections::BTreeMap, fs, process::Command};

use crate::{complain, root};

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// What is never built, and why.
const BANNED: [(&str, &str); 14] = [
    ("backoff", "unmaintained (RUSTSEC-2025-0012): use backon"),
    ("instant", "unmaintained (RUSTSEC-2024-0384)"),
    ("openssl-sys", "one TLS provider: aws-lc-rs through rustls"),
    ("native-tls", "one TLS provider: aws-lc-rs through rustls"),
    ("ring", "one TLS provider: aws-lc-rs"),
    ("rsa", "timing side channel (RUSTSEC-2023-0071); aws-lc-rs checks RS256"),
    ("atty", "unmaintained (RUSTSEC-2024-0375): std::io::IsTerminal"),
    ("dotenv", "unmaintained (RUSTSEC-2021-0141)"),
    ("serde_yaml", "unmaintained"),
    ("proc-macro-error", "unmaintained (RUSTSEC-2024-0370)"),
    ("async-std", "discontinued (RUSTSEC-2025-0052): one runtime, tokio"),
    ("failure", "unmaintained (RUSTSEC-2020-0036): thiserror"),
    ("ansi_term", "unmaintained (RUSTSEC-2021-0139)"),
    ("figment", "clap reads the environment already"),
];

/// The layers, from the ground up: a crate may use those named beside it and no other of ours.
const LAYERS: [(&str, &[&str]); 12] = [
    ("libs/advisories", &[]),
    ("libs/money", &[]),
    ("libs/api", &["money"]),
    ("libs/ledger", &["money"]),
    ("libs/saga", &[]),
    ("libs/events", &[]),
    ("libs/schema", &[]),
    ("libs/service", &["api"]),
    ("libs/tender", &["api", "events", "ledger", "money", "service"]),
    ("services/points", &["api", "money", "service", "tender"]),
    ("services/store-credit", &["api", "money", "service", "tender"]),
    ("services/wallet", &["api", "events", "money", "saga", "service"]),
];

/// What a crate must know nothing of.
const IGNORANT: [(&str, &[&str]); 4] = [
    ("libs/money", &["tokio", "sqlx", "axum", "reqwest"]),
    ("libs/api", &["axum", "sqlx"]),
    ("libs/ledger", &["axum", "reqwest", "tokio"]),
    ("libs/saga", &["axum", "reqwest", "redis"]),
];

/// One `[[package]]` of Cargo.lock.
struct Package {
    name: String,
    source: Option<String>,
}

fn locked() -> Vec<Package> {
    let text = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let field = |block: &str, name: &str| {
        let start = format!("{name} = \"");
        block.lines().find_map(|line| Some(line.strip_prefix(&start)?.trim_end_matches('"').to_owned()))
    };
    let packages = text.split("[[package]]").skip(1);
    packages
        .map(|block| Package { name: field(block, "name").unwrap(), source: field(block, "source") })
        .collect()
}

/// Names of our dependencies in a section of a manifest.
fn dependencies(manifest: &str) -> Vec<String> {
    let section =
        manifest.split("\n[").find(|section| section.starts_with("dependencies]")).unwrap_or_default();
    let names = section.lines().skip(1).filter_map(|line| line.split(['.', ' ', '=']).next());
    names.filter(|name| !name.is_empty() && !name.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn everything_comes_from_the_registry() {
    let strangers: Vec<String> = locked()
        .iter()
        .filter_map(|package| Some((package, package.source.as_ref()?)))
        .filter(|(_, source)| *source != REGISTRY)
        .map(|(package, source)| format!("{} from {source}", package.name))
        .collect();
    complain("no git dependency and no other registry", &strangers);
}

#[test]
fn nothing_banned_is_built() {
    // Cargo.lock also lists what optional features of others would need; the tree is what is built.
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let tree = Command::new(cargo)
        .args([
            "tree",
            "--workspace",
            "--locked",
            "--offline",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).unwrap();
    let built: BTreeMap<&str, ()> =
        text.lines().filter_map(|line| Some((line.split(' ').next()?, ()))).collect();
    assert!(built.contains_key("tokio"), "the tree is not empty");
    let banned: Vec<String> = BANNED
        .iter()
        .filter(|(name, _)| built.contains_key(name))
        .map(|(name, reason)| format!("{name}: {reason}"))
        .collect();
    complain("banned", &banned);
}

/// What checks the services must not share a defect with them.
#[test]
fn the_checker_depends_on_nothing_of_ours() {
    let manifest = fs::read_to_string(root().join("chaos-tests/checker/Cargo.toml")).unwrap();
    let ours = locked().into_iter().filter(|package| package.source.is_none());
    let is_used = |name: &str| manifest.lines().any(|line| line.split(['.', ' ', '=']).next() == Some(name));
    let used: Vec<String> = ours.map(|package| package.name).filter(|name| is_used(name)).collect();
    complain("the checker uses", &used);
    assert!(
        is_used("serde_json") && !manifest.contains("path ="),
        "its dependencies are not where they were"
    );
}

#[test]
fn dependencies_point_down() {
    let ours: Vec<&str> = LAYERS.iter().filter_map(|(path, _)| path.rsplit('/').next()).collect();
    let mut wrong = Vec::new();
    for (path, allowed) in LAYERS {
        let manifest = fs::read_to_string(root().join(path).join("Cargo.toml")).unwrap();
        let used = dependencies(&manifest);
        let strangers =
            used.iter().filter(|name| ours.contains(&name.as_str()) && !allowed.contains(&name.as_str()));
        wrong.extend(strangers.map(|name| format!("{path} uses {name}")));
    }
    for (path, forbidden) in IGNORANT {
        let manifest = fs::read_to_string(root().join(path).join("Cargo.toml")).unwrap();
        let used = dependencies(&manifest);
        wrong.extend(
            used.iter()
                .filter(|name| forbidden.contains(&name.as_str()))
                .map(|name| format!("{path} knows {name}")),
        );
    }
    complain("layers", &wrong);
}
