//! The decision: one command after the other is applied to what the batch read. Pure: no I/O, no clock but the
//! database's, which is part of the book.
//!
//! Each function decides first and changes afterwards: whatever can fail fails before the book is touched, so
//! that a command that is turned away leaves the commands behind it undisturbed.

pub mod book;
mod cancel;
mod capture;
mod credit;
mod expire;
mod forward;
mod give_back;
mod reverse;
mod take;
#[cfg(test)]
mod tests;

use api::{
    derive::RequestForm,
    legs::{BalanceAfter, Decline, LegAnswer, LotPart},
};
use book::{AccountState, Book, Operation, absent_no};
use chrono::{DateTime, Utc};
pub use credit::BALANCE_MAX;
pub use expire::{LAPSED_MAX, sweep};
pub use take::LOTS_MAX;
use uuid::Uuid;

use crate::command::{Action, Answer, Command, Outcome, Rejection, State};

const NOT_LOCKED: Rejection = Rejection::Corrupt("the account was not locked");
const NOT_READ: Rejection = Rejection::Corrupt("the operation was not read");
const OUT_OF_BALANCE: Rejection = Rejection::Corrupt("the account's balance is not what its lots are");

/// Applies one command. Commands of a batch are applied in the order in which they came; the same operation twice
/// meets its own first answer. What has lapsed of the account is moved out before, and what goes back to a lapsed lot after.
pub fn apply(book: &mut Book, command: &Command) -> Outcome {
    if let Err(corrupt) = sweep(book, &command.account) {
        return Outcome::Rejected(corrupt);
    }
    let outcome = decide(book, command);
    // What was decided stands; an account that is out of balance turns away what comes next.
    let _ = sweep(book, &command.account);
    outcome
}

fn decide(book: &mut Book, command: &Command) -> Outcome {
    let outcome = match &command.action {
        Action::Forward(leg) => forward::forward(book, command, leg),
        Action::Cancel(key) => cancel::cancel(book, command, *key),
        Action::Capture { amount } => capture::capture(book, command, *amount),
        Action::Query => query(book, command),
        Action::Credit(credit) => credit::credit(book, command, credit),
    };
    outcome.unwrap_or_else(Outcome::Rejected)
}

/// A decision: an outcome, or why there is none.
type Decision = Result<Outcome, Rejection>;

fn query(book: &Book, command: &Command) -> Decision {
    let operation = stored(book, command)?.ok_or(Rejection::NotFound)?;
    Ok(replayed(operation))
}

/// The operation with the command's id, if there is one. One of another account shares only the key. What was recorded before
/// its account was there belongs to it as well.
fn stored<'a>(book: &'a Book, command: &Command) -> Result<Option<&'a Operation>, Rejection> {
    let account = book.accounts.get(&command.account).ok_or(NOT_LOCKED)?;
    match book.operations.get(&command.operation_id) {
        Some(operation) if !is_of(operation, account, command) => Err(Rejection::Conflict),
        found => Ok(found),
    }
}

/// Whether the stored operation came of another request. A tombstone came of none: it refuses whatever comes.
fn is_of_another_request(operation: &Operation, form: &RequestForm) -> Result<bool, Rejection> {
    let Some(stored) = operation.request_hash else { return Ok(false) };
    form.is_same_as(stored).map(|is_same| !is_same).map_err(Rejection::UnknownHashVersion)
}

/// Whether an operation is of the command's account.
fn is_of(operation: &Operation, account: &AccountState, command: &Command) -> bool {
    let number = operation.account_no;
    number == account.reference.account_no || number == absent_no(&command.account)
}

fn account_mut<'a>(book: &'a mut Book, command: &Command) -> Result<&'a mut AccountState, Rejection> {
    book.accounts.get_mut(&command.account).ok_or(NOT_LOCKED)
}

/// Whose account it would be that the command is for and that is not stored: its number tells it to nobody.
fn owner_of_absent(book: &Book, command: &Command) -> Option<serde_json::Value> {
    let is_stored = book.accounts.get(&command.account).is_some_and(AccountState::is_stored);
    let key = &command.account;
    (!is_stored).then(|| serde_json::json!({ "owner": key.owner, "asset": key.asset.as_str() }))
}

/// Adds a new operation, and answers with what it says.
fn record(book: &mut Book, operation_id: Uuid, operation: Operation) -> Outcome {
    let answer = answer_of(&operation);
    book.operations.insert(operation_id, operation);
    Outcome::Recorded(answer)
}

fn replayed(operation: &Operation) -> Outcome {
    Outcome::Replayed(answer_of(operation))
}

fn answer_of(operation: &Operation) -> Answer {
    Answer { state: operation.state, body: operation.response.clone() }
}

/// The document that answers a leg.
fn leg_answer(state: State, amount: i64, lots: Vec<LotPart>, after: Option<BalanceAfter>) -> LegAnswer {
    LegAnswer { state, amount, lots, after, decline: None }
}

fn declined(code: api::Code, available: Option<i64>, held_until: Option<DateTime<Utc>>) -> LegAnswer {
    let decline = Decline { code: code.as_str().to_owned(), available, held_until };
    LegAnswer { decline: Some(decline), ..leg_answer(State::Declined, 0, Vec::new(), None) }
}

/// An answer is plain data with text keys: writing it as JSON cannot fail.
fn to_json(answer: &impl serde::Serialize) -> String {
    serde_json::to_string(answer).expect("an answer is plain data")
}
