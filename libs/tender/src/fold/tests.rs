//! The fold against a model that knows no amounts: every unit of value is a coin that lies in its lot, is set aside, or
//! is taken. Whatever the commands, both agree on every lot, and nothing is lost or made.

use std::collections::{BTreeMap, HashMap};

use api::{
    BusinessId, LegsId,
    legs::{Account, Forward, LegAnswer, LegKey, Mode, Take},
};
use chrono::{DateTime, TimeDelta, Utc};
use ledger::{AccountRef, Balance, Funding};
use money::Asset;
use proptest::prelude::*;
use uuid::Uuid;

use super::{
    apply,
    book::{AccountState, Book, Mark, Status},
};
use crate::command::{
    AccountKey, Action, Command, Credit, ForwardLeg, Outcome, Rejection, RequestRef, State, leg_operation_id,
    leg_request_hash,
};

const START: DateTime<Utc> = DateTime::UNIX_EPOCH;

#[derive(Debug, Clone)]
enum Step {
    Credit { amount: i64, expires_in: Option<i64> },
    Forward { leg: u16, hold: bool, amount: i64, take: Take, step: i64 },
    Reverse { leg: u16, of: u16, amount: i64 },
    Capture { leg: u16, amount: i64 },
    Cancel { leg: u16 },
    Wait { seconds: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    let leg = 0_u16..6;
    let take = prop_oneof![Just(Take::Exact), Just(Take::AtMost)];
    prop_oneof![
        (1_i64..12, prop::option::of(1_i64..20))
            .prop_map(|(amount, expires_in)| Step::Credit { amount, expires_in }),
        (leg.clone(), any::<bool>(), 0_i64..15, take, 1_i64..4)
            .prop_map(|(leg, hold, amount, take, step)| Step::Forward { leg, hold, amount, take, step }),
        (10_u16..14, leg.clone(), 0_i64..8).prop_map(|(leg, of, amount)| Step::Reverse { leg, of, amount }),
        (leg.clone(), 0_i64..10).prop_map(|(leg, amount)| Step::Capture { leg, amount }),
        leg.prop_map(|leg| Step::Cancel { leg }),
        (1_i64..8).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

// ── The model ───────────────────────────────────────────────────────────────────────────────────────

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coin {
    Free,
    Held,
    Taken,
}

#[derive(Debug, Default)]
struct Model {
    now: i64,
    /// Lots in the order of their age: when they end, and their coins.
    lots: Vec<(Option<i64>, Vec<Coin>)>,
    legs: HashMap<u16, ModelLeg>,
}

#[derive(Debug)]
struct ModelLeg {
    state: State,
    is_hold: bool,
    request: (Mode, i64, Take, i64, Option<u16>),
    /// Its coins in the order of taking: lot and place.
    coins: Vec<(usize, usize)>,
}

impl Model {
    fn free(&self) -> Vec<(usize, usize)> {
        let mut lots: Vec<usize> = (0..self.lots.len()).collect();
        lots.sort_by_key(|lot| (self.lots[*lot].0.unwrap_or(i64::MAX), *lot));
        lots.retain(|lot| self.lots[*lot].0.is_none_or(|end| self.now < end));
        let coins =
            lots.into_iter().flat_map(|lot| (0..self.lots[lot].1.len()).map(move |place| (lot, place)));
        coins.filter(|(lot, place)| self.lots[*lot].1[*place] == Coin::Free).collect()
    }

    fn lay(&mut self, coins: &[(usize, usize)], coin: Coin) {
        for (lot, place) in coins {
            self.lots[*lot].1[*place] = coin;
        }
    }

    /// The state that the command answers with and its units; none if it is rejected.
    fn run(&mut self, step: &Step) -> Option<(State, usize)> {
        match *step {
            Step::Credit { amount, expires_in } => {
                let coins = vec![Coin::Free; usize::try_from(amount).unwrap()];
                self.lots.push((expires_in.map(|seconds| self.now + seconds), coins));
                Some((State::Applied, 0))
            }
            Step::Forward { leg, hold, amount, take, step } => {
                let mode = if hold { Mode::Hold } else { Mode::Debit };
                self.forward(leg, (mode, amount, take, step, None))
            }
            Step::Reverse { leg, of, amount } => self.reverse(leg, of, amount),
            Step::Capture { leg, amount } => self.capture(leg, usize::try_from(amount).unwrap()),
            Step::Cancel { leg } => Some(self.cancel(leg)),
            Step::Wait { seconds } => {
                self.now += seconds;
                Some((State::Applied, 0))
            }
        }
    }

    fn stored(
        &self,
        leg: u16,
        request: (Mode, i64, Take, i64, Option<u16>),
    ) -> Option<Option<(State, usize)>> {
        let known = self.legs.get(&leg)?;
        if known.state == State::Tombstoned {
            return Some(Some((State::Tombstoned, 0)));
        }
        if known.request != request {
            return Some(None);
        }
        Some(match known.state {
            State::Reversed => Some((State::Tombstoned, 0)),
            State::Declined => Some((State::Declined, 0)),
            // The answer as it was given: what went back since does not change it.
            state => Some((state, usize::MAX)),
        })
    }

    fn forward(&mut self, leg: u16, request: (Mode, i64, Take, i64, Option<u16>)) -> Option<(State, usize)> {
        if let Some(known) = self.stored(leg, request) {
            return known;
        }
        let (mode, amount, take, step, _) = request;
        let (amount, step) = (usize::try_from(amount).unwrap(), usize::try_from(step).unwrap());
        let mut coins = self.free();
        let units = match take {
            Take::AtMost => amount.min(coins.len()) / step * step,
            Take::Exact => amount,
        };
        let is_hold = mode == Mode::Hold;
        let (state, coin) = if is_hold { (State::Held, Coin::Held) } else { (State::Applied, Coin::Taken) };
        let state = if units <= coins.len() { state } else { State::Declined };
        coins.truncate(if state == State::Declined { 0 } else { units });
        self.lay(&coins, coin);
        let taken = coins.len();
        self.legs.insert(leg, ModelLeg { state, is_hold, request, coins });
        Some((state, taken))
    }

    fn reverse(&mut self, leg: u16, of: u16, amount: i64) -> Option<(State, usize)> {
        let request = (Mode::Reverse, amount, Take::Exact, 1, Some(of));
        if let Some(known) = self.stored(leg, request) {
            return known;
        }
        let units = usize::try_from(amount).unwrap();
        let taken = self.legs.get_mut(&of)?;
        let back = if taken.state == State::Applied {
            let rest = taken.coins.len().checked_sub(units)?;
            taken.coins.split_off(rest)
        } else if units == 0 {
            Vec::new()
        } else {
            return None;
        };
        self.lay(&back, Coin::Free);
        self.legs.insert(leg, ModelLeg { state: State::Applied, is_hold: false, request, coins: Vec::new() });
        Some((State::Applied, units))
    }

    fn capture(&mut self, leg: u16, units: usize) -> Option<(State, usize)> {
        let held = self.legs.get_mut(&leg).filter(|leg| leg.is_hold)?;
        match held.state {
            State::Held if units <= held.coins.len() => {
                let rest = held.coins.split_off(units);
                held.state = State::Applied;
                let taken = held.coins.clone();
                self.lay(&rest, Coin::Free);
                self.lay(&taken, Coin::Taken);
                Some((State::Applied, units))
            }
            // Again, by the amount: compared by the caller with what was answered then.
            State::Applied => Some((State::Applied, usize::MAX)),
            _ => None,
        }
    }

    fn cancel(&mut self, leg: u16) -> (State, usize) {
        let request = (Mode::Debit, 0, Take::Exact, 1, None);
        let Some(known) = self.legs.get_mut(&leg) else {
            let tombstone = ModelLeg { state: State::Tombstoned, is_hold: false, request, coins: Vec::new() };
            self.legs.insert(leg, tombstone);
            return (State::Tombstoned, 0);
        };
        if !matches!(known.state, State::Applied | State::Held) {
            return (known.state, usize::MAX);
        }
        known.state = State::Reversed;
        let back = std::mem::take(&mut known.coins);
        self.lay(&back, Coin::Free);
        (State::Reversed, back.len())
    }
}

// ── The fold ────────────────────────────────────────────────────────────────────────────────────────

fn key() -> AccountKey {
    let business_id = BusinessId::try_from("demo".to_owned()).unwrap();
    AccountKey { business_id, owner: "cus".to_owned(), asset: Asset::Points }
}

fn book() -> Book {
    let mut book = Book::new(START);
    let account = AccountState {
        reference: AccountRef { account_no: 1, business_id: "demo".into(), asset: Asset::Points },
        balance: Balance::default(),
        status: Status::Active,
        available: 0,
        lots: BTreeMap::new(),
        ranks: HashMap::new(),
        read_to: None,
        mark: Mark::Stored,
    };
    book.accounts.insert(key(), account);
    book
}

fn legs_id() -> LegsId {
    LegsId(Uuid::from_u128(1))
}

fn leg_command(leg: u16, action: Action) -> Command {
    let operation_id = leg_operation_id(&key().business_id, legs_id(), leg);
    Command { operation_id, account: key(), action }
}

fn forward(leg: u16, mode: Mode, amount: i64, take: Take, step: i64, of: Option<u16>) -> Command {
    let of = of.map(|leg| LegKey { legs_id: legs_id(), leg });
    let plan = Forward {
        mode,
        amount,
        take,
        step,
        reward_id: None,
        of,
        hold_until: None,
        not_after: None,
        order_id: None,
    };
    let account = Account { business_id: key().business_id, customer_id: key().owner, asset: key().asset };
    let forward = ForwardLeg {
        key: LegKey { legs_id: legs_id(), leg },
        request_hash: leg_request_hash(&account, &plan),
        reverses: of.map(|of| leg_operation_id(&key().business_id, of.legs_id, of.leg)),
        plan,
        epoch: None,
    };
    leg_command(leg, Action::Forward(forward))
}

fn credit(number: u128, amount: i64, expires_at: Option<DateTime<Utc>>) -> Command {
    let credit = Credit {
        lot_id: Uuid::from_u128(number),
        amount,
        kind: "earn".to_owned(),
        funding: Funding::Promo,
        reference: number.to_string(),
        expires_at,
        grace_until: None,
        reward_id: None,
        customer_id: Some("cus".to_owned()),
        details: serde_json::Value::Null,
        request_hash: [0; 32],
        request: RequestRef::default(),
    };
    Command { operation_id: Uuid::from_u128(1_000 + number), account: key(), action: Action::Credit(credit) }
}

fn command(step: &Step, number: u128, now: DateTime<Utc>) -> Command {
    match *step {
        Step::Credit { amount, expires_in } => {
            credit(number, amount, expires_in.map(|seconds| now + TimeDelta::seconds(seconds)))
        }
        Step::Forward { leg, hold, amount, take, step } => {
            forward(leg, if hold { Mode::Hold } else { Mode::Debit }, amount, take, step, None)
        }
        Step::Reverse { leg, of, amount } => forward(leg, Mode::Reverse, amount, Take::Exact, 1, Some(of)),
        Step::Capture { leg, amount } => leg_command(leg, Action::Capture { amount }),
        Step::Cancel { leg } => leg_command(leg, Action::Cancel(LegKey { legs_id: legs_id(), leg })),
        Step::Wait { .. } => leg_command(0, Action::Query),
    }
}

/// What the next batch would read: the clock goes on, and lots lapse.
fn wait(book: &mut Book, seconds: i64) {
    book.now += TimeDelta::seconds(seconds);
    let now = book.now;
    let account = book.accounts.get_mut(&key()).unwrap();
    account.available =
        account.lots.values().filter(|lot| lot.is_spendable(now)).map(|lot| lot.remaining).sum();
}

fn check(book: &Book, model: &Model) {
    let account = &book.accounts[&key()];
    let mut lots: Vec<_> = account.lots.values().collect();
    lots.sort_by_key(|lot| lot.lot_id);
    for (lot, (_, coins)) in lots.iter().zip(&model.lots) {
        let count = |coin| i64::try_from(coins.iter().filter(|c| **c == coin).count()).unwrap();
        assert_eq!((lot.remaining, lot.held), (count(Coin::Free), count(Coin::Held)), "{lot:?}");
    }
    assert_eq!(lots.len(), model.lots.len());
    assert_eq!(usize::try_from(account.available), Ok(model.free().len()));
    assert_eq!(account.balance.posted(), lots.iter().map(|lot| lot.remaining + lot.held).sum::<i64>());
    assert_eq!(account.balance.held(), lots.iter().map(|lot| lot.held).sum::<i64>());
    // Every posting raised the version by one, and the last one's balance is the account's.
    assert_eq!(usize::try_from(account.balance.version()), Ok(book.postings.len()));
    for (posting, version) in book.postings.iter().zip(1..) {
        assert_eq!(posting.after().version(), version);
    }
    for operation in book.operations.values() {
        let back = |part: &super::book::Allocation| (0..=part.amount).contains(&part.reversed);
        assert!(operation.allocations.iter().all(back), "{operation:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_fold_agrees_with_coins(steps in prop::collection::vec(step(), 1..60)) {
        let (mut book, mut model) = (book(), Model::default());
        let mut answers: HashMap<(Uuid, State), String> = HashMap::new();
        let mut issued = 0_u128;
        for (number, step) in (1..).zip(&steps) {
            if let Step::Wait { seconds } = step {
                model.run(step);
                wait(&mut book, *seconds);
                check(&book, &model);
                continue;
            }
            issued += u128::from(matches!(step, Step::Credit { .. }));
            let number = if matches!(step, Step::Credit { .. }) { issued } else { number };
            let command = command(step, number, book.now);
            let outcome = apply(&mut book, &command);
            match (outcome, model.run(step)) {
                (Outcome::Recorded(answer) | Outcome::Replayed(answer), Some((state, units))) => {
                    prop_assert_eq!(answer.state, state, "{:?}", step);
                    if matches!(step, Step::Credit { .. }) {
                        check(&book, &model);
                        continue;
                    }
                    let parsed: LegAnswer = serde_json::from_str(&answer.body).unwrap();
                    prop_assert_eq!(parsed.lots.iter().map(|lot| lot.amount).sum::<i64>(), parsed.amount);
                    if units != usize::MAX {
                        prop_assert_eq!(usize::try_from(parsed.amount), Ok(units), "{:?}", step);
                    }
                    // While its state stands, a leg answers with the same bytes.
                    if !matches!(step, Step::Capture { .. }) {
                        let first = answers
                            .entry((command.operation_id, state))
                            .or_insert_with(|| answer.body.to_string());
                        if matches!(state, State::Declined | State::Tombstoned | State::Reversed) {
                            prop_assert_eq!(&*first, &*answer.body);
                        }
                    }
                }
                (Outcome::Rejected(reason), expected) => {
                    // A capture of what was captured already is compared by its amount, which coins forget.
                    let is_repeated = matches!(expected, Some((State::Applied, usize::MAX)));
                    prop_assert!(expected.is_none() || is_repeated, "{:?}: {:?}", step, reason);
                    prop_assert!(reason != Rejection::Broken);
                }
                (outcome, None) => prop_assert!(false, "{step:?} came to {outcome:?}"),
            }
            check(&book, &model);
        }
    }
}

fn answer(outcome: &Outcome) -> LegAnswer {
    match outcome {
        Outcome::Recorded(answer) | Outcome::Replayed(answer) => serde_json::from_str(&answer.body).unwrap(),
        Outcome::Rejected(reason) => panic!("rejected: {reason:?}"),
    }
}

#[test]
fn a_tombstone_refuses_what_comes_late() {
    let mut book = book();
    apply(&mut book, &credit(1, 10, None));
    let cancelled = apply(&mut book, &command(&Step::Cancel { leg: 0 }, 0, START));
    assert_eq!(answer(&cancelled).state, State::Tombstoned);
    let late = apply(&mut book, &forward(0, Mode::Debit, 5, Take::Exact, 1, None));
    assert_eq!(answer(&late).state, State::Tombstoned);
    assert_eq!(book.accounts[&key()].available, 10);
}

#[test]
fn a_decline_stands_even_when_value_comes() {
    let mut book = book();
    let leg = forward(0, Mode::Debit, 5, Take::Exact, 1, None);
    let declined = apply(&mut book, &leg);
    assert_eq!(answer(&declined).decline.unwrap().code, "insufficient_balance");
    apply(&mut book, &credit(1, 10, None));
    let again = apply(&mut book, &leg);
    assert_eq!(answer(&again), answer(&declined));
    assert!(matches!(again, Outcome::Replayed(_)));
}

#[test]
fn frozen_value_stays_but_comes_back() {
    let mut book = book();
    apply(&mut book, &credit(1, 10, None));
    apply(&mut book, &forward(0, Mode::Debit, 4, Take::Exact, 1, None));
    for status in [Status::Frozen, Status::Closed] {
        book.accounts.get_mut(&key()).unwrap().status = status;
        let number = if status == Status::Frozen { 1 } else { 2 };
        let refused = apply(&mut book, &forward(number, Mode::Hold, 1, Take::AtMost, 1, None));
        assert_eq!(answer(&refused).decline.unwrap().code, "account_frozen");
    }
    let back = apply(&mut book, &forward(10, Mode::Reverse, 1, Take::Exact, 1, Some(0)));
    assert_eq!(answer(&back).amount, 1);
    let cancelled = apply(&mut book, &command(&Step::Cancel { leg: 0 }, 0, START));
    assert_eq!((answer(&cancelled).state, answer(&cancelled).amount), (State::Reversed, 3));
    assert_eq!(book.accounts[&key()].available, 10);
}

#[test]
fn held_value_is_told_apart_from_none() {
    let mut book = book();
    apply(&mut book, &credit(1, 10, None));
    apply(&mut book, &forward(0, Mode::Hold, 8, Take::Exact, 1, None));
    let code = |outcome: &Outcome| answer(outcome).decline.unwrap().code;
    let held = apply(&mut book, &forward(1, Mode::Debit, 10, Take::Exact, 1, None));
    assert_eq!(code(&held), "held_by_other_order");
    let empty = apply(&mut book, &forward(2, Mode::Debit, 11, Take::Exact, 1, None));
    assert_eq!(code(&empty), "insufficient_balance");
}

#[test]
fn too_late_is_expired_for_ever() {
    let mut book = book();
    apply(&mut book, &credit(1, 10, None));
    let mut leg = forward(0, Mode::Debit, 5, Take::Exact, 1, None);
    let Action::Forward(plan) = &mut leg.action else { unreachable!() };
    plan.plan.not_after = Some(START - TimeDelta::seconds(1));
    assert_eq!(answer(&apply(&mut book, &leg)).state, State::Expired);
    // A retry may carry a later limit: it is the same leg, and what was answered stands.
    let retry = forward(0, Mode::Debit, 5, Take::Exact, 1, None);
    assert_eq!(answer(&apply(&mut book, &retry)).state, State::Expired);
    assert_eq!(book.accounts[&key()].available, 10);
}

#[test]
fn a_reference_is_used_once_and_the_refusal_is_kept() {
    let mut book = book();
    apply(&mut book, &credit(1, 10, None));
    let mut again = credit(1, 10, None);
    again.operation_id = Uuid::from_u128(5_000);
    for _ in 0..2 {
        match apply(&mut book, &again) {
            Outcome::Recorded(answer) | Outcome::Replayed(answer) => {
                assert_eq!(answer.state, State::Declined);
                assert!(answer.body.contains("duplicate_reference"), "{}", answer.body);
            }
            Outcome::Rejected(reason) => panic!("{reason:?}"),
        }
    }
    assert_eq!(book.accounts[&key()].available, 10);
}

#[test]
fn a_balance_too_large_to_store_is_refused() {
    let mut book = book();
    apply(&mut book, &credit(1, i64::MAX, None));
    match apply(&mut book, &credit(2, 1, None)) {
        Outcome::Recorded(answer) => assert!(answer.body.contains("limit_exceeded"), "{}", answer.body),
        other => panic!("{other:?}"),
    }
    assert_eq!(book.postings.len(), 1);
}

#[test]
fn lots_that_were_not_read_are_never_passed_over() {
    let mut book = book();
    for number in 1..=4 {
        apply(&mut book, &credit(number, 1, None));
    }
    let account = book.accounts.get_mut(&key()).unwrap();
    let second = *account.lots.keys().nth(1).unwrap();
    account.read_to = Some(second);
    let declined = apply(&mut book, &forward(0, Mode::Debit, 3, Take::Exact, 1, None));
    assert_eq!(answer(&declined).decline.unwrap().code, "limit_exceeded");
    let applied = apply(&mut book, &forward(1, Mode::Debit, 2, Take::Exact, 1, None));
    assert_eq!(answer(&applied).state, State::Applied);
}
