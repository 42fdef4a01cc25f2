use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { refused_for: 1_000, wrong_answers: 3, unreachable_for: 60_000 };
const CLOCKS: Clocks = Clocks { deadline: 10_000, budget_from: 0 };

fn machine(kind: Kind, legs: usize) -> Machine {
    Machine::new(kind, State::Running, legs, CLOCKS, false, LIMITS)
}

fn recovered(state: State, legs: usize) -> Machine {
    Machine::new(Kind::Compensable, state, legs, CLOCKS, true, LIMITS)
}

fn write(from: State, to: State, cause: Option<Cause>) -> Vec<Action> {
    vec![Action::Write(Transition { from, to, cause })]
}

fn forward(m: &mut Machine, leg: usize, reply: Reply, now: Millis) -> Vec<Action> {
    m.on(Event::Replied(leg, Direction::Forward, reply), now).expect("legal")
}

fn cancel(m: &mut Machine, leg: usize, reply: Reply, now: Millis) -> Vec<Action> {
    m.on(Event::Replied(leg, Direction::Cancel, reply), now).expect("legal")
}

fn sends(direction: Direction, legs: usize) -> Vec<Action> {
    (0..legs).map(|leg| Action::Send(leg, direction)).collect()
}

#[test]
fn the_happy_path_is_one_write_after_all_legs() {
    let mut m = machine(Kind::Compensable, 3);
    assert_eq!(m.on(Event::Start, 0), Ok(sends(Direction::Forward, 3)));
    assert_eq!(forward(&mut m, 2, Reply::Done, 1), []);
    assert_eq!(forward(&mut m, 0, Reply::Empty, 1), []);
    assert_eq!(forward(&mut m, 1, Reply::Done, 1), write(State::Running, State::Completed, None));
    assert_eq!(m.state(), State::Running, "not before it is durable");
    assert_eq!(m.on(Event::Written, 2), Ok(vec![Action::Finish]));
    assert_eq!(m.state(), State::Completed);
}

#[test]
fn without_legs_it_is_decided_at_once() {
    let mut taken_further = machine(Kind::ForwardOnly, 0);
    assert_eq!(taken_further.on(Event::Start, 0), Ok(write(State::Running, State::Completed, None)));
    let mut redeem = machine(Kind::Compensable, 0);
    let cause = Some(Cause::TookNothing);
    assert_eq!(redeem.on(Event::Start, 0), Ok(write(State::Running, State::Compensated, cause)));
    let mut going_back = recovered(State::Compensating, 0);
    assert_eq!(going_back.on(Event::Start, 0), Ok(write(State::Compensating, State::Compensated, None)));
}

#[test]
fn a_refusal_turns_back_and_cancels_every_leg_only_once_that_is_durable() {
    let mut m = machine(Kind::Compensable, 3);
    m.on(Event::Start, 0).expect("legal");
    forward(&mut m, 0, Reply::Done, 1);
    let cause = Some(Cause::Refused(1));
    assert_eq!(forward(&mut m, 1, Reply::Refused, 1), write(State::Running, State::Compensating, cause));
    assert_eq!(forward(&mut m, 2, Reply::Done, 1), [], "late answers change nothing");
    assert_eq!(m.on(Event::Written, 2), Ok(sends(Direction::Cancel, 3)));
    assert_eq!(cancel(&mut m, 0, Reply::Done, 3), []);
    assert_eq!(cancel(&mut m, 1, Reply::Done, 3), []);
    assert_eq!(cancel(&mut m, 2, Reply::Done, 3), write(State::Compensating, State::Compensated, None));
    assert_eq!(m.on(Event::Written, 4), Ok(vec![Action::Finish]));
}

#[test]
fn where_nothing_took_effect_there_is_nothing_to_take_back() {
    let mut m = machine(Kind::Compensable, 2);
    m.on(Event::Start, 0).expect("legal");
    forward(&mut m, 0, Reply::Empty, 1);
    let cause = Some(Cause::Refused(1));
    assert_eq!(forward(&mut m, 1, Reply::Refused, 1), write(State::Running, State::Compensated, cause));

    let mut m = machine(Kind::Compensable, 2);
    m.on(Event::Start, 0).expect("legal");
    forward(&mut m, 0, Reply::Empty, 1);
    let cause = Some(Cause::TookNothing);
    assert_eq!(forward(&mut m, 1, Reply::Empty, 1), write(State::Running, State::Compensated, cause));
}

#[test]
fn transient_failures_are_retried_until_the_deadline_and_no_longer() {
    let mut m = machine(Kind::Compensable, 1);
    m.on(Event::Start, 0).expect("legal");
    assert_eq!(forward(&mut m, 0, Reply::Unknown, 1), [Action::Backoff(0, Direction::Forward, 1)]);
    assert_eq!(m.on(Event::Wake(0, Direction::Forward), 51), Ok(vec![Action::Send(0, Direction::Forward)]));
    assert_eq!(m.on(Event::Deadline, 9_999), Ok(vec![]), "not yet");
    let cause = Some(Cause::Unreachable(Some(0)));
    assert_eq!(m.on(Event::Deadline, 10_000), Ok(write(State::Running, State::Compensating, cause)));
    assert_eq!(m.deadline(), None);
}

#[test]
fn a_leg_that_waits_for_its_next_attempt_is_waited_for() {
    let mut m = machine(Kind::Compensable, 2);
    m.on(Event::Start, 0).expect("legal");
    assert_eq!(forward(&mut m, 0, Reply::Unknown, 1), [Action::Backoff(0, Direction::Forward, 1)]);
    assert_eq!(forward(&mut m, 1, Reply::Done, 2), []);
    m.on(Event::Wake(0, Direction::Forward), 51).expect("legal");
    assert_eq!(forward(&mut m, 0, Reply::Done, 52), write(State::Running, State::Completed, None));
}

#[test]
fn refused_at_connect_for_a_second_counts_as_declined() {
    let mut m = machine(Kind::Compensable, 1);
    m.on(Event::Start, 0).expect("legal");
    assert_eq!(forward(&mut m, 0, Reply::NotSent, 100), [Action::Backoff(0, Direction::Forward, 1)]);
    m.on(Event::Wake(0, Direction::Forward), 600).expect("legal");
    assert_eq!(forward(&mut m, 0, Reply::NotSent, 1_099), [Action::Backoff(0, Direction::Forward, 2)]);
    m.on(Event::Wake(0, Direction::Forward), 1_100).expect("legal");
    let cause = Some(Cause::Unreachable(Some(0)));
    // Through COMPENSATING: an earlier attempt may have been sent after all.
    assert_eq!(forward(&mut m, 0, Reply::NotSent, 1_100), write(State::Running, State::Compensating, cause));
}

#[test]
fn after_a_takeover_past_the_deadline_each_leg_has_one_attempt() {
    let mut m = recovered(State::Running, 2);
    assert_eq!(m.on(Event::Start, 20_000), Ok(sends(Direction::Forward, 2)));
    assert_eq!(m.deadline(), None);
    forward(&mut m, 0, Reply::Done, 20_001);
    assert_eq!(forward(&mut m, 1, Reply::Done, 20_001), write(State::Running, State::Completed, None));

    let mut m = recovered(State::Running, 2);
    m.on(Event::Start, 20_000).expect("legal");
    let cause = Some(Cause::Unreachable(Some(1)));
    assert_eq!(forward(&mut m, 1, Reply::Unknown, 20_001), write(State::Running, State::Compensating, cause));
}

#[test]
fn a_deadline_during_recovery_lets_attempts_in_flight_answer() {
    let mut m = recovered(State::Running, 2);
    m.on(Event::Start, 9_000).expect("legal");
    assert_eq!(m.on(Event::Deadline, 10_000), Ok(vec![]));
    assert_eq!(forward(&mut m, 0, Reply::Done, 10_001), []);
    assert_eq!(forward(&mut m, 1, Reply::Done, 10_002), write(State::Running, State::Completed, None));

    let mut m = recovered(State::Running, 2);
    m.on(Event::Start, 9_000).expect("legal");
    forward(&mut m, 0, Reply::Unknown, 9_500);
    let cause = Some(Cause::Unreachable(Some(0)));
    assert_eq!(
        m.on(Event::Deadline, 10_000),
        Ok(write(State::Running, State::Compensating, cause)),
        "leg 0 waits for a retry that no longer comes"
    );
}

#[test]
fn compensation_ends_in_a_dead_letter_only_past_its_budget() {
    let mut m = recovered(State::Compensating, 2);
    assert_eq!(m.on(Event::Start, 1), Ok(sends(Direction::Cancel, 2)));
    assert_eq!(cancel(&mut m, 0, Reply::Unknown, 59_999), [Action::Backoff(0, Direction::Cancel, 1)]);
    m.on(Event::Wake(0, Direction::Cancel), 60_000).expect("legal");
    assert_eq!(cancel(&mut m, 0, Reply::Unknown, 60_000), [], "leg 1 is still in flight");
    let cause = Some(Cause::Unreachable(Some(0)));
    assert_eq!(cancel(&mut m, 1, Reply::Done, 60_001), write(State::Compensating, State::DeadLetter, cause));
}

#[test]
fn a_budget_counts_from_when_compensation_began() {
    let clocks = Clocks { deadline: 10_000, budget_from: 5_000 };
    let mut m = Machine::new(Kind::Compensable, State::Compensating, 1, clocks, true, LIMITS);
    m.on(Event::Start, 5_000).expect("legal");
    assert_eq!(cancel(&mut m, 0, Reply::Unknown, 64_999), [Action::Backoff(0, Direction::Cancel, 1)]);
    m.on(Event::Wake(0, Direction::Cancel), 65_000).expect("legal");
    let cause = Some(Cause::Unreachable(Some(0)));
    assert_eq!(
        cancel(&mut m, 0, Reply::Unknown, 65_000),
        write(State::Compensating, State::DeadLetter, cause)
    );
}

#[test]
fn definite_wrong_answers_count_and_silence_does_not() {
    let mut m = recovered(State::Compensating, 1);
    m.on(Event::Start, 1).expect("legal");
    for nth in 1..3 {
        assert_eq!(cancel(&mut m, 0, Reply::Wrong, 2), [Action::Backoff(0, Direction::Cancel, nth)]);
        m.on(Event::Wake(0, Direction::Cancel), 3).expect("legal");
    }
    let cause = Some(Cause::Wrong(0));
    assert_eq!(cancel(&mut m, 0, Reply::Wrong, 4), write(State::Compensating, State::DeadLetter, cause));
}

#[test]
fn a_leg_that_is_somebody_elses_parks_the_saga_and_is_not_taken_back() {
    let mut m = machine(Kind::Compensable, 2);
    m.on(Event::Start, 0).expect("legal");
    let cause = Some(Cause::Foreign(1));
    assert_eq!(forward(&mut m, 1, Reply::Foreign, 1), write(State::Running, State::DeadLetter, cause));
    assert_eq!(forward(&mut m, 0, Reply::Done, 1), []);
}

#[test]
fn forward_only_never_turns_back() {
    let mut m = machine(Kind::ForwardOnly, 1);
    m.on(Event::Start, 50_000).expect("legal");
    assert_eq!(m.deadline(), None, "its deadline is nobody's");
    assert_eq!(forward(&mut m, 0, Reply::Refused, 50_001), [Action::Backoff(0, Direction::Forward, 1)]);
    m.on(Event::Wake(0, Direction::Forward), 50_002).expect("legal");
    let cause = Some(Cause::Unreachable(Some(0)));
    assert_eq!(forward(&mut m, 0, Reply::NotSent, 60_000), write(State::Running, State::DeadLetter, cause));
}

#[test]
fn a_wake_up_that_nobody_waits_for_sends_nothing() {
    let mut m = machine(Kind::Compensable, 2);
    m.on(Event::Start, 0).expect("legal");
    assert_eq!(m.on(Event::Wake(0, Direction::Forward), 1), Ok(vec![]), "it is in flight");
    forward(&mut m, 0, Reply::Done, 1);
    assert_eq!(m.on(Event::Wake(0, Direction::Forward), 2), Ok(vec![]), "it has answered");
    forward(&mut m, 1, Reply::Unknown, 2);
    assert_eq!(m.on(Event::Wake(1, Direction::Cancel), 3), Ok(vec![]), "it is another way");
    m.on(Event::Deadline, 10_000).expect("legal");
    assert_eq!(
        m.on(Event::Wake(1, Direction::Forward), 10_001),
        Ok(vec![]),
        "the direction is being written"
    );

    let mut m = recovered(State::Compensating, 2);
    m.on(Event::Start, 1).expect("legal");
    cancel(&mut m, 0, Reply::Unknown, 60_000);
    assert_eq!(m.on(Event::Wake(0, Direction::Cancel), 60_001), Ok(vec![]), "it was given up");
}

#[test]
fn events_that_do_not_fit_are_error_values() {
    let mut m = machine(Kind::Compensable, 1);
    let illegal = |event| Err(Illegal { event, state: State::Running });
    let refused = m.on(Event::Written, 0);
    assert_eq!(refused, illegal(Event::Written));
    assert_eq!(refused.unwrap_err().to_string(), "Written does not fit a saga in Running");
    for event in [Event::Replied(1, Direction::Forward, Reply::Done), Event::Wake(1, Direction::Forward)] {
        assert_eq!(m.on(event, 0), illegal(event), "there is no such leg");
    }
    let poisoned = Ok(write(State::Running, State::DeadLetter, Some(Cause::Poison)));
    assert_eq!(m.on(Event::Poisoned, 0), poisoned);
    for event in [Event::Poisoned, Event::Start] {
        assert_eq!(m.on(event, 0), illegal(event), "one write at a time");
        let over = Err(Illegal { event, state: State::Completed });
        assert_eq!(recovered(State::Completed, 1).on(event, 0), over);
    }
}

fn any_event(legs: usize) -> impl Strategy<Value = Event> {
    let direction = prop_oneof![Just(Direction::Forward), Just(Direction::Cancel)];
    let reply = prop_oneof![
        Just(Reply::Done),
        Just(Reply::Empty),
        Just(Reply::Refused),
        Just(Reply::NotSent),
        Just(Reply::Unknown),
        Just(Reply::Foreign),
        Just(Reply::Wrong)
    ];
    prop_oneof![
        6 => (0..legs, direction.clone(), reply).prop_map(|(l, w, r)| Event::Replied(l, w, r)),
        3 => (0..legs, direction).prop_map(|(l, w)| Event::Wake(l, w)),
        1 => Just(Event::Deadline),
        3 => Just(Event::Written),
    ]
}

proptest! {
    /// Whatever comes in whatever order: cancels only when COMPENSATING is durable, one write at a time, no forward
    /// after the direction changed, and the states follow the diagram.
    #[test]
    fn any_order_of_events_keeps_the_rules(
        events in prop::collection::vec((any_event(3), 0_i64..5_000), 1..60),
        compensable in any::<bool>(),
        recovered in any::<bool>(),
    ) {
        let kind = if compensable { Kind::Compensable } else { Kind::ForwardOnly };
        let mut m = Machine::new(kind, State::Running, 3, CLOCKS, recovered, LIMITS);
        let mut now = 0;
        m.on(Event::Start, now).expect("legal");
        let mut writing = false;
        for (event, passed) in events {
            now += passed;
            let before = m.state();
            let Ok(actions) = m.on(event, now) else { continue };
            if event == Event::Written {
                writing = false;
            }
            for action in actions {
                match action {
                    Action::Send(_, Direction::Cancel) => prop_assert_eq!(m.state(), State::Compensating),
                    Action::Send(_, Direction::Forward) => prop_assert!(m.state() == State::Running && !writing),
                    Action::Write(t) => {
                        prop_assert!(!writing);
                        writing = true;
                        prop_assert_eq!(t.from, before);
                        prop_assert!(compensable || matches!(t.to, State::Completed | State::DeadLetter));
                        prop_assert!(t.to != State::Completed || before == State::Running);
                    }
                    Action::Finish => prop_assert!(!m.state().is_live()),
                    Action::Backoff(_, direction, _) => prop_assert_eq!(direction, m.direction()),
                }
            }
        }
    }
}
