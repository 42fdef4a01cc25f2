//! The ordinary dose: 20,000 sagas, every fault, no rule broken; and the same seed does the same in another process.

use sim::{Defect, simulate_with};
use std::process::{Command, Output};

fn sim(options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(options)
        .output()
        .expect("the binary is built with its tests")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn twenty_thousand_sagas_break_no_rule_and_meet_every_fault() {
    let run = sim(&["--sagas", "20000"]);
    println!("{}", text(&run));
    assert!(run.status.success(), "{}", text(&run));
}

#[test]
fn a_seed_does_the_same_in_a_fresh_process() {
    for seed in ["7", "8", "20261121"] {
        let (first, second) = (sim(&["--seed", seed, "--trace"]), sim(&["--seed", seed, "--trace"]));
        assert!(first.status.success(), "{}", text(&first));
        assert!(first.stdout.len() > 10_000, "a trace was printed");
        assert_eq!(first.stdout, second.stdout, "seed {seed}");
        // Printing changes nothing.
        let quiet = text(&sim(&["--seed", seed]));
        assert!(text(&first).ends_with(&quiet), "seed {seed}: {quiet}");
    }
    assert_ne!(text(&sim(&["--seed", "7"])), text(&sim(&["--seed", "8"])));
}

/// The first seed whose world shows a defect, and what it shows.
fn found(defect: Defect) -> Option<(u64, String)> {
    (1..2_000).find_map(|seed| Some((seed, simulate_with(seed, defect).violation?)))
}

#[test]
fn every_planted_defect_is_found() {
    let all = [
        Defect::StateIgnored,
        Defect::NoTombstone,
        Defect::DeclineNotRecorded,
        Defect::AnswerNotFrozen,
        Defect::CancelForgotten,
        Defect::ReturnNotReserved,
        Defect::ReturnNotCounted,
    ];
    let missed: Vec<_> = all
        .into_iter()
        .filter(|defect| {
            let found = found(*defect);
            println!("{defect:?}: {found:?}");
            found.is_none()
        })
        .collect();
    assert!(missed.is_empty(), "nothing shows {missed:?}");
}
