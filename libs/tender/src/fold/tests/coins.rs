//! The fold against a model that knows no amounts: every unit of value is a coin that lies in its lot, is set aside, or
//! is taken. Whatever the commands, both agree on every lot, and nothing is lost or made.

use std::collections::HashMap;

use api::legs::{LegAnswer, Mode, Take};
use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use uuid::Uuid;

use super::{book, cancel, credit, forward, key, leg_command};
use crate::{
    command::{Action, Command, Outcome, Rejection, State},
    fold::{
        apply,
        book::{Allocation, Book},
    },
};

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
        Step::Cancel { leg } => cancel(leg),
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
        let back = |part: &Allocation| (0..=part.amount).contains(&part.reversed);
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
