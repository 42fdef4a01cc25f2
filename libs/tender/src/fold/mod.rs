//! The decision: one command after the other is applied to what the batch read. Pure: no I/O, no clock but the
//! database's, which is part of the working set.
//!
//! Each function decides first and changes afterwards: whatever can fail fails before the working set is touched, so
//! that a command that is turned away leaves the commands behind it undisturbed.

mod allocate;
mod cancel;
mod capture;
mod credit;
mod expire;
mod forward;
mod record;
mod restore;
mod reverse;
#[cfg(test)]
mod tests;
pub mod working_set;

pub use allocate::LOTS_MAX;
use api::{
    derive::RequestForm,
    legs::{BalanceAfter, Decline, LegAnswer, LotPart},
};
use chrono::{DateTime, Utc};
pub use credit::BALANCE_MAX;
pub use expire::{LAPSED_MAX, lapsed_max, sweep};
use working_set::{AccountState, Operation, WorkingSet, absent_no};

use crate::command::{Action, Answer, Command, Outcome, Rejection, State};

const NOT_LOCKED: Rejection = Rejection::Corrupt("the account was not locked");
const NOT_READ: Rejection = Rejection::Corrupt("the operation was not read");

/// Applies one command. Commands of a batch are applied in the order in which they came; the same operation twice
/// meets its own first answer. What has lapsed of the account is moved out before, and what goes back to a lapsed lot after.
pub fn apply(set: &mut WorkingSet, command: &Command) -> Outcome {
    if let Err(corrupt) = sweep(set, &command.account) {
        return Outcome::Rejected(corrupt);
    }
    let outcome = decide(set, command);
    // What was decided stands; an account that is out of balance turns away what comes next.
    let _ = sweep(set, &command.account);
    outcome
}

fn decide(set: &mut WorkingSet, command: &Command) -> Outcome {
    let outcome = match &command.action {
        Action::Forward(leg) => forward::forward(set, command, leg),
        Action::Cancel(key) => cancel::cancel(set, command, *key),
        Action::Release(key) => cancel::release(set, command, *key),
        Action::Capture { amount } => capture::capture(set, command, *amount),
        Action::Query => query(set, command),
        Action::Credit(credit) => credit::credit(set, command, credit),
    };
    outcome.unwrap_or_else(Outcome::Rejected)
}

/// A decision: an outcome, or why there is none.
type Decision = Result<Outcome, Rejection>;

fn query(set: &WorkingSet, command: &Command) -> Decision {
    let operation = stored(set, command)?.ok_or(Rejection::NotFound)?;
    Ok(replayed(operation))
}

/// The operation with the command's id, if there is one. One of another account shares only the key. An operation that was recorded
/// before its account was stored belongs to the account as well.
fn stored<'a>(set: &'a WorkingSet, command: &Command) -> Result<Option<&'a Operation>, Rejection> {
    let account = set.accounts.get(&command.account).ok_or(NOT_LOCKED)?;
    match set.operations.get(&command.operation_id) {
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

fn account_mut<'a>(set: &'a mut WorkingSet, command: &Command) -> Result<&'a mut AccountState, Rejection> {
    set.accounts.get_mut(&command.account).ok_or(NOT_LOCKED)
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
