//! New value: a lot. A refusal is stored under the key like a success.

use api::{
    Code, Problem,
    tender::{BalanceView, CreditAnswer, LotView, Quantity},
};
use ledger::{AccountRef, Movement};

use super::{
    Decision, account_mut, is_of_another_request,
    record::record,
    replayed, stored, to_json,
    working_set::{Dirty, Kind, Lot, Operation, Origin, Status, WorkingSet},
};
use crate::command::{Command, Credit, Outcome, Rejection, State};

/// Most units that a credit may leave in an account: what every reader of JSON keeps exactly. Far below what can be stored, so
/// that there is always room for what was taken and comes back: a cancel never fails.
pub const BALANCE_MAX: i64 = (1 << 53) - 1;

pub fn credit(set: &mut WorkingSet, command: &Command, credit: &Credit) -> Decision {
    if let Some(operation) = stored(set, command)? {
        if is_of_another_request(operation, &credit.form)? {
            return Err(Rejection::Conflict);
        }
        return Ok(replayed(operation));
    }
    let now = set.now;
    if credit.grace_until.or(credit.expires_at).is_some_and(|end| end <= now) {
        return Err(Rejection::InvalidField { pointer: "/expires_at", detail: "must be in the future" });
    }
    let reference = (command.account.business_id.to_string(), credit.kind.clone(), credit.reference.clone());
    if set.references.contains_key(&reference) {
        return Ok(refuse(set, command, credit, Code::DuplicateReference));
    }
    let account = account_mut(set, command)?;
    if account.status == Status::Closed {
        return Ok(refuse(set, command, credit, Code::AccountFrozen));
    }
    let posted = account.balance.posted().checked_add(credit.amount);
    if posted.is_none_or(|posted| posted > BALANCE_MAX) {
        return Ok(refuse(set, command, credit, Code::LimitExceeded));
    }
    let movement = Movement::Credit { amount: credit.amount, funding: credit.funding };
    let posting = account.post(command.operation_id, movement)?;
    let lot = new_lot(command, credit);
    let answer = answer(command, credit, &lot, account.spendable(None, now), account.balance.version());
    account.insert(lot);
    let owner = account.reference.clone();
    set.postings.extend(posting);
    set.references.insert(reference.clone(), command.operation_id);
    let (business, kind, text) = reference;
    set.new_references.push((business, kind, text, command.operation_id));
    let made = operation(credit, &owner, State::Applied, to_json(&answer));
    Ok(record(set, command.operation_id, made))
}

fn new_lot(command: &Command, credit: &Credit) -> Lot {
    Lot {
        lot_id: credit.lot_id,
        original: credit.amount,
        remaining: credit.amount,
        held: 0,
        expires_at: credit.expires_at,
        grace_until: credit.grace_until,
        funding: credit.funding,
        kind: credit.kind.clone(),
        operation_id: command.operation_id,
        reward_id: credit.reward_id,
        times_expired: 0,
        dirty: Dirty::New,
    }
}

fn answer(command: &Command, credit: &Credit, lot: &Lot, available: i64, version: i64) -> CreditAnswer {
    let asset = command.account.asset;
    CreditAnswer {
        operation_id: command.operation_id,
        customer_id: credit.customer_id.clone(),
        lot: LotView {
            lot_id: lot.lot_id,
            reward_id: lot.reward_id,
            currency: asset.currency(),
            original: lot.original,
            remaining: lot.remaining,
            held: lot.held,
            funding: crate::wire::funding(lot.funding),
            kind: lot.kind.clone(),
            expires_at: lot.expires_at,
            grace_until: lot.grace_until,
        },
        balance_after: BalanceView { quantity: Quantity::new(available, asset), version },
        reward_id: credit.reward_id,
        code: None,
    }
}

fn refuse(set: &mut WorkingSet, command: &Command, credit: &Credit, code: Code) -> Outcome {
    let detail = match code {
        Code::DuplicateReference => {
            "This kind and reference were used under another key. A correction needs a new key."
        }
        Code::AccountFrozen => {
            "The account is closed. Nothing new can enter it; a later try needs a new key."
        }
        _ => "The balance would be above 9007199254740991. A smaller credit needs a new key.",
    };
    let problem = Problem {
        instance: credit.request.instance.clone(),
        trace_id: credit.request.trace_id.clone(),
        ..Problem::new(code, detail)
    };
    let account = &set.accounts[&command.account].reference;
    let refused = operation(credit, account, State::Declined, to_json(&problem));
    record(set, command.operation_id, refused)
}

fn operation(credit: &Credit, account: &AccountRef, state: State, response: String) -> Operation {
    Operation {
        account_no: account.account_no,
        kind: Kind::Credit,
        state,
        amount: credit.amount,
        request_hash: Some(credit.form.hash()),
        response: response.into(),
        allocations: Vec::new(),
        origin: Origin {
            business_id: account.business_id.clone(),
            details: Some(credit.details.clone()),
            ..Origin::default()
        },
        dirty: Dirty::New,
    }
}
