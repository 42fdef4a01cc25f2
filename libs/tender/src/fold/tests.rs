//! What the fold decides, by example. Against a model: `tests/properties`.

use api::{
    BusinessId, LegsId,
    derive::{RequestHash, UnknownHashVersion},
    legs::{LegAnswer, LegKey, Mode, Take},
};
use chrono::{DateTime, TimeDelta, Utc};
use money::Asset;
use uuid::Uuid;

use super::{
    BALANCE_MAX, apply,
    working_set::{Status, WorkingSet},
};
use crate::{
    command::{AccountKey, Action, Command, Credit, Outcome, Rejection, RequestRef, State},
    testing,
};

const START: DateTime<Utc> = DateTime::UNIX_EPOCH;

fn key() -> AccountKey {
    let business_id = BusinessId::try_from("demo".to_owned()).unwrap();
    AccountKey { business_id, owner: "cus".to_owned(), asset: Asset::Points }
}

fn set() -> WorkingSet {
    testing::working_set(START, &[key()])
}

fn leg_key(leg: u16) -> LegKey {
    LegKey { legs_id: LegsId(Uuid::from_u128(1)), leg }
}

fn forward(leg: u16, mode: Mode, amount: i64, take: Take, step: i64, of: Option<u16>) -> Command {
    let plan = api::legs::Forward { step, of: of.map(leg_key), ..testing::plan(mode, amount, take) };
    let forward = testing::forward(&key(), leg_key(leg), plan);
    testing::leg(key(), leg_key(leg), Action::Forward(forward))
}

fn credit(number: u128, amount: i64, expires_at: Option<DateTime<Utc>>) -> Command {
    let credit = testing::credit(Uuid::from_u128(number), &number.to_string(), amount);
    let credit = Credit { expires_at, customer_id: Some("cus".to_owned()), ..credit };
    Command { operation_id: Uuid::from_u128(1_000 + number), account: key(), action: Action::Credit(credit) }
}

fn cancel(leg: u16) -> Command {
    testing::leg(key(), leg_key(leg), Action::Cancel(leg_key(leg)))
}

fn available(set: &WorkingSet) -> i64 {
    set.accounts[&key()].spendable(None, set.now)
}

fn answer(outcome: &Outcome) -> LegAnswer {
    match outcome {
        Outcome::Recorded(answer) | Outcome::Replayed(answer) => serde_json::from_str(&answer.body).unwrap(),
        Outcome::Rejected(reason) => panic!("rejected: {reason:?}"),
    }
}

#[test]
fn a_tombstone_refuses_what_comes_late() {
    let mut set = set();
    apply(&mut set, &credit(1, 10, None));
    let cancelled = apply(&mut set, &cancel(0));
    assert_eq!(answer(&cancelled).state, State::Tombstoned);
    let late = apply(&mut set, &forward(0, Mode::Debit, 5, Take::Exact, 1, None));
    assert_eq!(answer(&late).state, State::Tombstoned);
    assert_eq!(available(&set), 10);
}

#[test]
fn a_decline_stands_even_when_value_comes() {
    let mut set = set();
    let leg = forward(0, Mode::Debit, 5, Take::Exact, 1, None);
    let declined = apply(&mut set, &leg);
    assert_eq!(answer(&declined).decline.unwrap().code, "insufficient_balance");
    apply(&mut set, &credit(1, 10, None));
    let again = apply(&mut set, &leg);
    assert_eq!(answer(&again), answer(&declined));
    assert!(matches!(again, Outcome::Replayed(_)));
}

#[test]
fn frozen_value_stays_but_comes_back() {
    let mut set = set();
    apply(&mut set, &credit(1, 10, None));
    apply(&mut set, &forward(0, Mode::Debit, 4, Take::Exact, 1, None));
    for status in [Status::Frozen, Status::Closed] {
        set.accounts.get_mut(&key()).unwrap().status = status;
        let number = if status == Status::Frozen { 1 } else { 2 };
        let refused = apply(&mut set, &forward(number, Mode::Hold, 1, Take::AtMost, 1, None));
        assert_eq!(answer(&refused).decline.unwrap().code, "account_frozen");
    }
    let back = apply(&mut set, &forward(10, Mode::Reverse, 1, Take::Exact, 1, Some(0)));
    assert_eq!(answer(&back).amount, 1);
    let cancelled = apply(&mut set, &cancel(0));
    assert_eq!((answer(&cancelled).state, answer(&cancelled).amount), (State::Reversed, 3));
    assert_eq!(available(&set), 10);
}

#[test]
fn held_value_is_told_apart_from_none() {
    let mut set = set();
    apply(&mut set, &credit(1, 10, None));
    apply(&mut set, &forward(0, Mode::Hold, 8, Take::Exact, 1, None));
    let code = |outcome: &Outcome| answer(outcome).decline.unwrap().code;
    let held = apply(&mut set, &forward(1, Mode::Debit, 10, Take::Exact, 1, None));
    assert_eq!(code(&held), "held_by_other_order");
    let empty = apply(&mut set, &forward(2, Mode::Debit, 11, Take::Exact, 1, None));
    assert_eq!(code(&empty), "insufficient_balance");
}

#[test]
fn too_late_is_expired_for_ever() {
    let mut set = set();
    apply(&mut set, &credit(1, 10, None));
    let mut leg = forward(0, Mode::Debit, 5, Take::Exact, 1, None);
    let Action::Forward(plan) = &mut leg.action else { unreachable!() };
    plan.plan.not_after = Some(START - TimeDelta::seconds(1));
    assert_eq!(answer(&apply(&mut set, &leg)).state, State::Expired);
    // A retry may carry a later limit: it is the same leg, and what was answered stands.
    let retry = forward(0, Mode::Debit, 5, Take::Exact, 1, None);
    assert_eq!(answer(&apply(&mut set, &retry)).state, State::Expired);
    assert_eq!(available(&set), 10);
    let mut in_time = forward(1, Mode::Debit, 5, Take::Exact, 1, None);
    let Action::Forward(plan) = &mut in_time.action else { unreachable!() };
    plan.plan.not_after = Some(START);
    assert_eq!(answer(&apply(&mut set, &in_time)).state, State::Applied);
}

#[test]
fn a_clock_that_was_set_refuses_nothing() {
    let mut set = set();
    apply(&mut set, &credit(1, 10, None));
    let sent = |leg: u16, sent_at: DateTime<Utc>| {
        let mut command = forward(leg, Mode::Debit, 5, Take::Exact, 1, None);
        let Action::Forward(plan) = &mut command.action else { unreachable!() };
        plan.sent_at = Some(sent_at);
        plan.plan.not_after = Some(sent_at + TimeDelta::milliseconds(100));
        command
    };
    let late = sent(0, START - TimeDelta::seconds(4));
    assert_eq!(answer(&apply(&mut set, &late)).state, State::Expired);
    for (leg, apart) in [(1, 13), (2, -3_600)] {
        let outcome = apply(&mut set, &sent(leg, START - TimeDelta::seconds(apart)));
        assert_eq!(answer(&outcome).state, State::Applied, "clocks {apart} s apart");
    }
}

#[test]
fn a_release_leaves_what_was_captured() {
    let release = |leg| testing::leg(key(), leg_key(leg), Action::Release(leg_key(leg)));
    let capture = |leg| testing::leg(key(), leg_key(leg), Action::Capture { amount: 3 });
    let mut set = set();
    apply(&mut set, &credit(1, 10, None));
    for leg in [0, 1] {
        apply(&mut set, &forward(leg, Mode::Hold, 3, Take::Exact, 1, None));
    }
    apply(&mut set, &capture(0));
    assert_eq!(answer(&apply(&mut set, &release(0))).state, State::Applied);
    assert_eq!(available(&set), 4, "what was captured stays taken");
    assert_eq!(answer(&apply(&mut set, &release(1))).state, State::Reversed);
    assert_eq!(available(&set), 7);
    assert_eq!(answer(&apply(&mut set, &release(2))).state, State::Tombstoned);
}

#[test]
fn a_retry_is_judged_by_the_version_of_the_hash_that_is_stored() {
    let mut set = set();
    apply(&mut set, &credit(1, 10, None));
    let leg = forward(0, Mode::Debit, 5, Take::Exact, 1, None);
    apply(&mut set, &leg);
    for command in [credit(1, 10, None), leg] {
        assert!(matches!(apply(&mut set, &command), Outcome::Replayed(_)));
        let operation = set.operations.get_mut(&command.operation_id).unwrap();
        let stored = operation.request_hash.unwrap();
        operation.request_hash = Some(RequestHash { version: 2, ..stored });
        let unknown = Outcome::Rejected(Rejection::UnknownHashVersion(UnknownHashVersion(2)));
        assert_eq!(apply(&mut set, &command), unknown);
    }
}

#[test]
fn a_reference_is_used_once_and_the_refusal_is_kept() {
    let mut set = set();
    apply(&mut set, &credit(1, 10, None));
    let mut again = credit(1, 10, None);
    again.operation_id = Uuid::from_u128(5_000);
    for _ in 0..2 {
        match apply(&mut set, &again) {
            Outcome::Recorded(answer) | Outcome::Replayed(answer) => {
                assert_eq!(answer.state, State::Declined);
                assert!(answer.body.contains("duplicate_reference"), "{}", answer.body);
                assert!(answer.body.contains("kind and reference"), "{}", answer.body);
            }
            Outcome::Rejected(reason) => panic!("{reason:?}"),
        }
    }
    assert_eq!(available(&set), 10);
}

#[test]
fn a_balance_has_a_limit_but_what_was_taken_comes_back_above_it() {
    let mut set = set();
    apply(&mut set, &credit(1, BALANCE_MAX, None));
    for (number, amount) in [(2, 1), (3, i64::MAX)] {
        match apply(&mut set, &credit(number, amount, None)) {
            Outcome::Recorded(answer) => assert!(answer.body.contains("limit_exceeded"), "{}", answer.body),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(set.postings.len(), 1);
    apply(&mut set, &forward(0, Mode::Debit, 5, Take::Exact, 1, None));
    apply(&mut set, &credit(4, 5, None));
    assert_eq!(answer(&apply(&mut set, &cancel(0))).amount, 5);
    assert_eq!(available(&set), 9_007_199_254_740_991 + 5);
}

#[test]
fn lots_that_were_not_read_are_never_passed_over() {
    let mut set = set();
    for number in 1..=4 {
        apply(&mut set, &credit(number, 1, None));
    }
    let account = set.accounts.get_mut(&key()).unwrap();
    let second = *account.lots.keys().nth(1).unwrap();
    account.read_to = Some(second);
    let declined = apply(&mut set, &forward(0, Mode::Debit, 3, Take::Exact, 1, None));
    assert_eq!(answer(&declined).decline.unwrap().code, "limit_exceeded");
    let applied = apply(&mut set, &forward(1, Mode::Debit, 2, Take::Exact, 1, None));
    assert_eq!(answer(&applied).state, State::Applied);
}

#[test]
fn nothing_new_enters_a_closed_account_and_the_refusal_names_reason_and_request() {
    let mut set = set();
    set.accounts.get_mut(&key()).unwrap().status = Status::Closed;
    let mut refused = credit(1, 10, None);
    let Action::Credit(asked) = &mut refused.action else { unreachable!() };
    asked.request = RequestRef { instance: Some("/credits".into()), trace_id: Some("trace".into()) };
    let Outcome::Recorded(answer) = apply(&mut set, &refused) else { panic!("not recorded") };
    let problem: api::Problem = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(problem.code, "account_frozen");
    assert!(problem.detail.contains("is closed"), "{}", problem.detail);
    assert_eq!((problem.instance.as_deref(), problem.trace_id.as_deref()), (Some("/credits"), Some("trace")));
}

#[test]
fn an_operation_is_kept_with_all_that_it_came_from() {
    let mut set = set();
    apply(&mut set, &credit(1, 10, None));
    let mut held = forward(0, Mode::Hold, 5, Take::Exact, 1, None);
    let Action::Forward(leg) = &mut held.action else { unreachable!() };
    leg.plan.hold_until = Some(START + TimeDelta::days(1));
    leg.plan.order_id = Some("order".to_owned());
    leg.epoch = Some(7);
    let back = forward(1, Mode::Reverse, 0, Take::Exact, 1, Some(0));
    let tombstone = cancel(2);
    for command in [&held, &back, &tombstone] {
        assert!(matches!(apply(&mut set, command), Outcome::Recorded(_)));
    }
    let key = |leg| Some(leg_key(leg));
    let origin = |command: &Command| &set.operations[&command.operation_id].origin;
    assert_eq!((origin(&held).leg, origin(&back).leg, origin(&tombstone).leg), (key(0), key(1), key(2)));
    assert_eq!((origin(&held).reverses, origin(&back).reverses), (None, Some(held.operation_id)));
    assert_eq!(origin(&held).hold_until, Some(START + TimeDelta::days(1)));
    assert_eq!((origin(&held).order_id.as_deref(), origin(&held).epoch), (Some("order"), Some(7)));
    let details = &set.operations[&credit(1, 10, None).operation_id].origin.details;
    assert_eq!(*details, Some(serde_json::Value::Null));
}

#[test]
fn nothing_goes_back_to_a_lot_that_was_not_read() {
    let mut set = set();
    apply(&mut set, &credit(1, 10, None));
    for leg in [0, 1] {
        apply(&mut set, &forward(leg, Mode::Debit, 5, Take::Exact, 1, None));
    }
    apply(&mut set, &forward(2, Mode::Reverse, 5, Take::Exact, 1, Some(1)));
    let account = set.accounts.get_mut(&key()).unwrap();
    account.lots.clear();
    account.order_of.clear();
    let postings = set.postings.len();
    assert_eq!(
        apply(&mut set, &cancel(0)),
        Outcome::Rejected(Rejection::Corrupt("a lot that the operation took from is missing"))
    );
    assert_eq!(answer(&apply(&mut set, &cancel(1))).amount, 0, "all of it is back already");
    assert_eq!(set.postings.len(), postings);
}
