//! The rule of one leg, taken from the real fold: every (stored state, command, circumstance) is folded once, on an account
//! with one lot, and the results are the table that the model walks.

use std::collections::BTreeMap;

use api::{
    BusinessId, LegsId,
    derive::leg_operation_id,
    legs::{Forward, LegKey, Mode, Take},
};
use chrono::{DateTime, TimeDelta, Utc};
use money::Asset;
use saga::machine::Reply;
use tender::{
    command::{AccountKey, Action, Command, Outcome, State},
    fold::{apply, working_set::WorkingSet},
    testing,
};
use uuid::Uuid;

const AMOUNT: i64 = 5;
const LEG: LegKey = LegKey { legs_id: LegsId(Uuid::nil()), leg: 0 };

/// What is stored of a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stored {
    /// Nothing.
    Nothing,
    /// Value is taken.
    Applied,
    /// Value is set aside.
    Held,
    /// Refused, for ever.
    Declined,
    /// Came too late, for ever.
    Expired,
    /// Was in force, and was taken back.
    Reversed,
    /// Cancelled before it came.
    Tombstoned,
}

impl Stored {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Nothing,
        Self::Applied,
        Self::Held,
        Self::Declined,
        Self::Expired,
        Self::Reversed,
        Self::Tombstoned,
    ];

    /// Whether it has an effect that stands.
    #[must_use]
    pub fn in_force(self) -> bool {
        matches!(self, Self::Applied | Self::Held)
    }
}

/// What a leg may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ask {
    /// Take value.
    Debit,
    /// Take back.
    Cancel,
    /// Turn a hold into a debit.
    Capture,
}

/// The circumstances in which a leg is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Given {
    /// In time, and the account has enough.
    Enough,
    /// In time, and it has not.
    TooLittle,
    /// Past `not_after`.
    TooLate,
}

/// The rule: what is stored then, and what the saga hears.
#[derive(Debug, Clone)]
pub struct Rule(BTreeMap<(Stored, Ask, Given), (Stored, Reply)>);

impl Rule {
    /// Asks the fold everything.
    #[must_use]
    pub fn of_the_fold() -> Self {
        let mut table = BTreeMap::new();
        for stored in Stored::ALL {
            for ask in [Ask::Debit, Ask::Cancel, Ask::Capture] {
                for given in [Given::Enough, Given::TooLittle, Given::TooLate] {
                    table.insert((stored, ask, given), folded(stored, ask, given));
                }
            }
        }
        Self(table)
    }

    /// What becomes of a leg that is asked, and what the saga hears.
    #[must_use]
    pub fn ask(&self, stored: Stored, ask: Ask, given: Given) -> (Stored, Reply) {
        self.0[&(stored, ask, given)]
    }
}

/// Folds one command over an account whose leg is stored as said: led there by commands as well.
fn folded(stored: Stored, ask: Ask, given: Given) -> (Stored, Reply) {
    let mut set = testing::working_set(DateTime::UNIX_EPOCH, &[key()]);
    let too_little = stored == Stored::Declined || (stored == Stored::Nothing && given == Given::TooLittle);
    if !too_little {
        apply(&mut set, &credit());
    }
    // A leg that is captured a second time was held before the first.
    let was_captured = stored == Stored::Applied && ask == Ask::Capture;
    let hold = || command(Ask::Debit, Mode::Hold, false);
    let capture = || command(Ask::Capture, Mode::Hold, false);
    let direction = if was_captured { vec![hold(), capture()] } else { way_to(stored) };
    for command in direction {
        apply(&mut set, &command);
    }
    if stored == Stored::Declined {
        // Value has come meanwhile: the refusal stands all the same.
        apply(&mut set, &credit());
    }
    let late = given == Given::TooLate;
    let outcome = apply(&mut set, &command(ask, Mode::Debit, late));
    let reply = match outcome {
        Outcome::Recorded(answer) | Outcome::Replayed(answer) => match (ask, answer.state) {
            (Ask::Cancel, _) | (_, State::Applied | State::Held) => Reply::Done,
            (_, State::Declined | State::Expired | State::Reversed | State::Tombstoned) => Reply::Refused,
        },
        Outcome::Rejected(_) => Reply::Wrong,
    };
    (stored_in(&set), reply)
}

/// The commands that lead to a stored state.
fn way_to(stored: Stored) -> Vec<Command> {
    let debit = command(Ask::Debit, Mode::Debit, false);
    let cancel = command(Ask::Cancel, Mode::Debit, false);
    match stored {
        Stored::Nothing => vec![],
        Stored::Applied => vec![debit],
        Stored::Held => vec![command(Ask::Debit, Mode::Hold, false)],
        // It has to be the same request: the account is what had too little.
        Stored::Declined => vec![debit],
        Stored::Expired => vec![command(Ask::Debit, Mode::Debit, true)],
        Stored::Reversed => vec![debit, cancel],
        Stored::Tombstoned => vec![cancel],
    }
}

fn stored_in(set: &WorkingSet) -> Stored {
    let AccountKey { business_id, owner, .. } = key();
    let id = leg_operation_id(&business_id, &owner, LEG.legs_id, LEG.leg);
    match set.operations.get(&id).map(|operation| operation.state) {
        None => Stored::Nothing,
        Some(State::Applied) => Stored::Applied,
        Some(State::Held) => Stored::Held,
        Some(State::Declined) => Stored::Declined,
        Some(State::Expired) => Stored::Expired,
        Some(State::Reversed) => Stored::Reversed,
        Some(State::Tombstoned) => Stored::Tombstoned,
    }
}

fn key() -> AccountKey {
    let business_id = BusinessId::try_from("model".to_owned()).unwrap_or_else(|_| unreachable!("visible"));
    AccountKey { business_id, owner: "c".to_owned(), asset: Asset::Points }
}

fn command(ask: Ask, mode: Mode, late: bool) -> Command {
    let not_after = late.then(|| DateTime::<Utc>::UNIX_EPOCH - TimeDelta::seconds(1));
    let plan = Forward { not_after, ..testing::plan(mode, AMOUNT, Take::Exact) };
    let action = match ask {
        Ask::Cancel => Action::Cancel(LEG),
        Ask::Capture => Action::Capture { amount: AMOUNT },
        Ask::Debit => Action::Forward(testing::forward(&key(), LEG, plan)),
    };
    testing::leg(key(), LEG, action)
}

/// The credit that gives the account its lot.
fn credit() -> Command {
    let credit = testing::credit(Uuid::from_u128(1), "lot", AMOUNT);
    Command { operation_id: Uuid::from_u128(2), account: key(), action: Action::Credit(credit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_leg_protocol() {
        let rule = Rule::of_the_fold();
        let ask = |stored, ask, given| rule.ask(stored, ask, given);
        use Given::{Enough, TooLate, TooLittle};
        assert_eq!(ask(Stored::Nothing, Ask::Debit, Enough), (Stored::Applied, Reply::Done));
        assert_eq!(ask(Stored::Nothing, Ask::Debit, TooLittle), (Stored::Declined, Reply::Refused));
        assert_eq!(ask(Stored::Nothing, Ask::Debit, TooLate), (Stored::Expired, Reply::Refused));
        assert_eq!(ask(Stored::Nothing, Ask::Cancel, Enough), (Stored::Tombstoned, Reply::Done));
        assert_eq!(ask(Stored::Declined, Ask::Debit, Enough), (Stored::Declined, Reply::Refused));
        assert_eq!(ask(Stored::Tombstoned, Ask::Debit, Enough), (Stored::Tombstoned, Reply::Refused));
        assert_eq!(ask(Stored::Reversed, Ask::Debit, Enough), (Stored::Reversed, Reply::Refused));
        assert_eq!(ask(Stored::Applied, Ask::Debit, TooLate), (Stored::Applied, Reply::Done));
        assert_eq!(ask(Stored::Held, Ask::Capture, Enough), (Stored::Applied, Reply::Done));
        assert_eq!(ask(Stored::Applied, Ask::Capture, Enough), (Stored::Applied, Reply::Done));
        assert_eq!(ask(Stored::Held, Ask::Cancel, Enough), (Stored::Reversed, Reply::Done));
        for stored in Stored::ALL {
            let (then, reply) = ask(stored, Ask::Cancel, Enough);
            assert!(!then.in_force() && reply == Reply::Done, "a cancel always succeeds: {stored:?}");
        }
    }
}
