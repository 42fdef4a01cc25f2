//! The public keys that tokens are checked with.

use std::{collections::HashSet, str::from_utf8};

use serde_json::Value;
use service::{auth::KeySet, config::AppEnv};

/// Reads the bytes as a JWKS.
pub fn run(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    let in_development = KeySet::parse(text, AppEnv::Development);
    let Ok(keys) = KeySet::parse(text, AppEnv::Production) else { return };
    assert!(in_development.is_ok(), "production never takes what development refuses");
    let plain: Value = serde_json::from_str(text).expect("what is accepted is JSON");
    let listed = plain["keys"].as_array().expect("a key set has keys");
    let kids: HashSet<&str> = listed.iter().filter_map(|key| key["kid"].as_str()).collect();
    assert!(kids.iter().all(|kid| (1..=64).contains(&kid.len()) && !kid.starts_with("dev-")), "{kids:?}");
    // What can be shown of a key set is the ids of its keys.
    let shown = format!("{keys:?}");
    assert!(kids.iter().any(|kid| shown.contains(&format!("{kid:?}"))), "{shown}");
}
