//! Plugs pulled under load: each scenario begins anew, with processes and databases of its own.

use std::time::Duration;

use chaos_tests::{
    Cluster,
    check::Settle,
    fault::Fault,
    run::{Outcome, run},
    table::Scenario,
    who::{SECOND, WALLET},
};

/// Runs one fault from beginning to end; somebody must have noticed it.
async fn survive(fault: Fault, lasts: Duration) -> Outcome {
    let mut cluster = Cluster::start().await;
    let name = format!("{fault:?}");
    let scenario = Scenario { name, faults: vec![fault], hold: lasts, times: 1 };
    let outcome = run(&mut cluster, &scenario, "plugs", 1, Settle::All).await;
    eprintln!("{outcome:#?}");
    assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
    assert!(outcome.sagas > 100, "the load did nothing");
    assert!(outcome.unknown > 0, "nobody noticed: the fault did not fire");
    outcome.forget().expect("a folder");
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_orchestrators_is_killed() {
    survive(Fault::Kill(&[WALLET], 1), Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tender_is_killed() {
    survive(Fault::Kill(&[1], 1), Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tender_is_stopped_and_goes_on() {
    let outcome = survive(Fault::Freeze(&[2]), Duration::from_secs(6)).await;
    let slowest = outcome.slowest;
    assert!(slowest < Duration::from_millis(2_600), "a till waited {slowest:?}, and its deadline was 2 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orchestrator_is_stopped_and_wakes_as_a_zombie() {
    survive(Fault::Freeze(&[SECOND]), Duration::from_secs(6)).await;
}
