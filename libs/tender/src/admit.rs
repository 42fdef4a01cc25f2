//! A leg's command that makes sense: everything that can be said without looking into the database.

use api::{
    Problem,
    derive::{leg_operation_id, requests},
    id::is_visible_ascii,
    legs::{Account, Forward, LegAction, LegCommand, LegKey, Mode},
};
use chrono::DateTime;

use crate::{
    command::{AccountKey, Action, Command, ForwardLeg},
    rules::Rules,
};

/// The command that a leg's command is.
///
/// # Errors
/// A 400 that points at the field.
pub fn leg(rules: &dyn Rules, command: LegCommand) -> Result<Command, Box<Problem>> {
    let LegCommand { legs_id, leg, account, action, epoch, trace: _, sent_at } = command;
    let invalid = |pointer: &str, detail: &str| Err(Box::new(Problem::invalid(pointer, detail)));
    if !is_visible_ascii(&account.customer_id, 128) {
        return invalid("/account/customer_id", "must be 1 to 128 visible ASCII characters");
    }
    if !rules.accepts(account.asset) {
        return invalid("/account/asset", "is not what this tender holds");
    }
    let key = LegKey { legs_id, leg };
    let action = match action {
        LegAction::Forward(plan) => {
            Action::Forward(ForwardLeg { epoch, sent_at, ..forward(rules, key, &account, plan)? })
        }
        LegAction::Cancel => Action::Cancel(key),
        LegAction::Release => Action::Release(key),
        LegAction::Capture { amount } if amount < 0 => {
            return invalid("/amount", "must not be below zero");
        }
        LegAction::Capture { amount } => Action::Capture { amount },
        LegAction::Query => Action::Query,
    };
    let operation_id = leg_operation_id(&account.business_id, &account.customer_id, legs_id, leg);
    Ok(Command { operation_id, account: AccountKey::from(account), action })
}

fn forward(
    rules: &dyn Rules,
    key: LegKey,
    account: &Account,
    plan: Forward,
) -> Result<ForwardLeg, Box<Problem>> {
    let invalid =
        |field: &str, detail: &str| Err(Box::new(Problem::invalid(format!("/forward/{field}"), detail)));
    if plan.amount < 0 {
        return invalid("amount", "must not be below zero");
    }
    if plan.step < 1 {
        return invalid("step", "must be 1 or more");
    }
    if plan.order_id.as_deref().is_some_and(|id| !is_visible_ascii(id, 128)) {
        return invalid("order_id", "must be 1 to 128 visible ASCII characters");
    }
    if plan.hold_until.is_some_and(|end| end < DateTime::UNIX_EPOCH) {
        return invalid("hold_until", "must not be before 1970");
    }
    if plan.mode == Mode::Hold && plan.hold_until.is_none() {
        return invalid("hold_until", "is missing");
    }
    if (plan.mode == Mode::Reverse) != plan.of.is_some() {
        return invalid("of", "names the leg whose value goes back, for mode reverse only");
    }
    let needs_reward = rules.takes_from_rewards() && plan.mode != Mode::Reverse;
    if needs_reward && plan.reward_id.is_none() {
        return invalid("reward_id", "is missing");
    }
    if !rules.takes_from_rewards() && plan.reward_id.is_some() {
        return invalid("reward_id", "is for digital rewards only");
    }
    let operation_id =
        |of: LegKey| leg_operation_id(&account.business_id, &account.customer_id, of.legs_id, of.leg);
    let reverses = plan.of.map(operation_id);
    let form = requests::leg(account, &plan);
    Ok(ForwardLeg { key, plan, reverses, form, epoch: None, sent_at: None })
}
