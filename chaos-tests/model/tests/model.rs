//! More than a million states without a counterexample; and one for every rule that is taken out.
#![expect(clippy::print_stdout, reason = "a test says how far it went")]

use model::{Bounds, Protocol, Scenario, Twin};
use stateright::{Checker, HasDiscoveries, Model};

/// States that the whole protocol is followed into, of those within its bounds.
const STATES: usize = 1_000_000;

fn hold(scenario: Scenario, bounds: Bounds, states: usize) -> usize {
    let checker =
        Protocol::new(scenario, bounds).checker().threads(2).target_state_count(states).spawn_dfs().join();
    println!(
        "{scenario:?} {bounds:?}: {} unique states, {} in all",
        checker.unique_state_count(),
        checker.state_count()
    );
    for property in
        checker.model().properties().iter().filter(|p| p.expectation == stateright::Expectation::Always)
    {
        if let Some(path) = checker.discovery(property.name) {
            panic!("{}: {:?}", property.name, path.into_actions());
        }
    }
    checker.unique_state_count()
}

#[test]
fn a_million_states_of_a_redemption_break_no_rule() {
    let bounds = Bounds { executors: 2, epochs: 4, faults: 3 };
    let unique = hold(Scenario::Redeem, bounds, 7 * STATES);
    assert!(unique >= STATES, "{unique}");
}

#[test]
fn forward_only_sagas_break_no_rule() {
    let bounds = Bounds { executors: 2, epochs: 3, faults: 2 };
    for scenario in [Scenario::Return, Scenario::Capture] {
        hold(scenario, bounds, STATES);
    }
}

fn caught(twin: Twin) {
    caught_in(Protocol::new(Scenario::Redeem, Bounds { executors: 2, epochs: 3, faults: 2 }).without(twin));
}

fn caught_in(protocol: Protocol) {
    let twin = protocol.twin;
    let checker = protocol
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures)
        .target_state_count(5 * STATES)
        .spawn_bfs()
        .join();
    let found = checker.discoveries();
    let failed =
        checker.model().properties().into_iter().filter(|p| p.expectation == stateright::Expectation::Always);
    let paths: Vec<_> =
        failed.filter_map(|p| Some((p.name, found.get(p.name)?.clone().into_actions()))).collect();
    println!("{twin:?}: {} unique states; {paths:?}", checker.unique_state_count());
    assert!(!paths.is_empty(), "nothing catches {twin:?}");
}

#[test]
fn a_cancel_must_leave_a_tombstone() {
    caught(Twin::NoTombstone);
}

#[test]
fn compensating_must_be_durable_before_the_first_cancel() {
    caught(Twin::CancelBeforeDurable);
}

#[test]
fn every_leg_must_be_cancelled() {
    caught(Twin::CancelOnlyKnown);
}

#[test]
fn declines_must_be_recorded() {
    // Of several legs all but the last would have to take nothing; of one leg the first decline ends the saga uncancelled.
    let bounds = Bounds { executors: 2, epochs: 3, faults: 2 };
    caught_in(Protocol::new(Scenario::Redeem, bounds).with_one_leg().without(Twin::DeclineNotRecorded));
}

#[test]
fn transitions_must_compare_and_set() {
    caught(Twin::NoCompareAndSet);
}

#[test]
fn an_answer_must_be_durable_before_it_leaves() {
    caught(Twin::AnswerBeforeDurable);
}

#[test]
fn an_unknown_commit_must_not_be_resolved_by_reading() {
    caught(Twin::UnknownByReading);
}

#[test]
fn who_writes_must_take_over() {
    caught(Twin::NoTakeover);
}
