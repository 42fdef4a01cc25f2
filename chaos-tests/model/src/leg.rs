//! The rule of one leg, taken from the real fold: every (stored state, command, circumstance) is folded once, on an account
//! with one lot, and the results are the table that the model walks.

use std::collections::BTreeMap;

use api::{
    BusinessId, LegsId,
    derive::{leg_operation_id, requests},
    legs::{Account, Forward, LegKey, Mode, Take},
};
use chrono::{DateTime, TimeDelta, Utc};
use ledger::{AccountRef, Balance, Funding};
use money::Asset;
use saga::machine::Reply;
use tender::{
    command::{AccountKey, Action, Command, ForwardLeg, Outcome, State},
    fold::{
        apply,
        book::{AccountState, Book, Lot, Mark},
    },
};
use uuid::Uuid;

const AMOUNT: i64 = 5;

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
    let too_little = stored == Stored::Declined || (stored == Stored::Nothing && given == Given::TooLittle);
    let mut book = book(if too_little { 0 } else { AMOUNT });
    // A leg that is captured a second time was held before the first.
    let was_captured = stored == Stored::Applied && ask == Ask::Capture;
    let hold = || command(Ask::Debit, Mode::Hold, AMOUNT, false);
    let capture = || command(Ask::Capture, Mode::Hold, AMOUNT, false);
    let direction = if was_captured { vec![hold(), capture()] } else { way_to(stored) };
    for command in direction {
        apply(&mut book, &command);
    }
    if stored == Stored::Declined {
        // Value has come meanwhile: the refusal stands all the same.
        fill(&mut book, AMOUNT);
    }
    let late = given == Given::TooLate;
    let outcome = apply(&mut book, &command(ask, Mode::Debit, AMOUNT, late));
    let reply = match outcome {
        Outcome::Recorded(answer) | Outcome::Replayed(answer) => match (ask, answer.state) {
            (Ask::Cancel, _) | (_, State::Applied | State::Held) => Reply::Done,
            (_, State::Declined | State::Expired | State::Reversed | State::Tombstoned) => Reply::Refused,
        },
        Outcome::Rejected(_) => Reply::Wrong,
    };
    (stored_in(&book), reply)
}

/// The commands that lead to a stored state.
fn way_to(stored: Stored) -> Vec<Command> {
    let debit = command(Ask::Debit, Mode::Debit, AMOUNT, false);
    let cancel = command(Ask::Cancel, Mode::Debit, AMOUNT, false);
    match stored {
        Stored::Nothing => vec![],
        Stored::Applied => vec![debit],
        Stored::Held => vec![command(Ask::Debit, Mode::Hold, AMOUNT, false)],
        // It has to be the same request: the account is what had too little.
        Stored::Declined => vec![debit],
        Stored::Expired => vec![command(Ask::Debit, Mode::Debit, AMOUNT, true)],
        Stored::Reversed => vec![debit, cancel],
        Stored::Tombstoned => vec![cancel],
    }
}

fn stored_in(book: &Book) -> Stored {
    match book.operations.get(&operation_id()).map(|operation| operation.state) {
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

fn operation_id() -> Uuid {
    leg_operation_id(&key().business_id, &key().owner, LegsId(Uuid::nil()), 0)
}

fn command(ask: Ask, mode: Mode, amount: i64, late: bool) -> Command {
    let leg = LegKey { legs_id: LegsId(Uuid::nil()), leg: 0 };
    let plan = Forward {
        mode,
        amount,
        take: Take::Exact,
        step: 1,
        reward_id: None,
        of: None,
        hold_until: None,
        not_after: late.then(|| DateTime::<Utc>::UNIX_EPOCH - TimeDelta::seconds(1)),
        order_id: None,
    };
    let account = Account { business_id: key().business_id, customer_id: key().owner, asset: key().asset };
    let action = match ask {
        Ask::Cancel => Action::Cancel(leg),
        Ask::Capture => Action::Capture { amount },
        Ask::Debit => Action::Forward(ForwardLeg {
            key: leg,
            form: requests::leg(&account, &plan),
            plan,
            reverses: None,
            epoch: None,
        }),
    };
    Command { operation_id: operation_id(), account: key(), action }
}

fn book(units: i64) -> Book {
    let mut book = Book::new(DateTime::UNIX_EPOCH);
    let reference = AccountRef { account_no: 1, business_id: "model".into(), asset: Asset::Points };
    let account = AccountState::empty(reference);
    book.accounts.insert(key(), account);
    fill(&mut book, units);
    book
}

fn fill(book: &mut Book, units: i64) {
    let Some(account) = book.accounts.get_mut(&key()).filter(|_| units > 0) else { return };
    account.balance = Balance::try_new(units, 0, 1).unwrap_or_default();
    account.insert(Lot {
        lot_id: Uuid::from_u128(1),
        original: units,
        remaining: units,
        held: 0,
        expires_at: None,
        grace_until: None,
        times_expired: 0,
        funding: Funding::Promo,
        kind: "earn".to_owned(),
        operation_id: Uuid::from_u128(2),
        reward_id: None,
        mark: Mark::Stored,
    });
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
