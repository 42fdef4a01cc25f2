//! Whatever is asked of a tender, in whatever order and however often: it agrees with a model that is as plain as can be.
//!
//! | | what runs | what is compared |
//! |---|---|---|
//! | [`pure`] | the fold alone, thousands of sequences | every answer, lot and balance, after every step |
//! | [`stored`] | two executors on one Postgres, commands at the same moment | every answer; balances, lots, entries and invariants at the end |
//!
//! `PROPTEST_CASES=100000 cargo test -p tender --test properties` goes on for longer. A failure prints the shortest
//! sequence that still fails.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod model;
mod observed;
mod pure;
mod steps;
mod stored;

use proptest::test_runner::Config;

/// So many sequences, unless the environment asks for others.
fn config(cases: u32) -> Config {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let default = Config::default();
    Config { cases: if asked { default.cases } else { cases }, failure_persistence: None, ..default }
}
