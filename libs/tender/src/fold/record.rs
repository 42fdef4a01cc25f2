//! A new operation, as the batch keeps it.

use api::legs::LegAnswer;
use uuid::Uuid;

use super::{
    answer_of, to_json,
    working_set::{AccountState, Allocation, Dirty, Kind, Operation, Origin, WorkingSet},
};
use crate::command::{Command, ForwardLeg, Outcome};

/// Adds a new operation, and answers with what it says.
pub fn record(set: &mut WorkingSet, operation_id: Uuid, operation: Operation) -> Outcome {
    let answer = answer_of(&operation);
    set.operations.insert(operation_id, operation);
    Outcome::Recorded(answer)
}

/// Adds a forward leg with its answer.
pub fn record_leg(
    set: &mut WorkingSet,
    command: &Command,
    leg: &ForwardLeg,
    kind: Kind,
    answer: &LegAnswer,
    allocations: Vec<Allocation>,
) -> Outcome {
    let account = &set.accounts[&command.account].reference;
    let account_no = account.account_no;
    let origin = Origin {
        business_id: account.business_id.clone(),
        leg: Some(leg.key),
        reverses: leg.reverses,
        // A hold of nothing has no end to wait for.
        hold_until: leg.plan.hold_until.filter(|_| answer.amount > 0),
        epoch: leg.epoch,
        order_id: leg.plan.order_id.clone(),
        details: owner_of_absent(set, command),
    };
    let operation = Operation {
        account_no,
        kind,
        state: answer.state,
        amount: answer.amount,
        request_hash: Some(leg.form.hash()),
        response: to_json(answer).into(),
        allocations,
        origin,
        dirty: Dirty::New,
    };
    record(set, command.operation_id, operation)
}

/// The owner and asset of the command's account, where that is not stored: its number alone does not tell them.
pub fn owner_of_absent(set: &WorkingSet, command: &Command) -> Option<serde_json::Value> {
    let is_stored = set.accounts.get(&command.account).is_some_and(AccountState::is_stored);
    let key = &command.account;
    (!is_stored).then(|| serde_json::json!({ "owner": key.owner, "asset": key.asset.as_str() }))
}
