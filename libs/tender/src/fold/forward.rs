//! A forward leg: the stored answer if there is one, otherwise value is taken, set aside or given back, or
//! refused for ever.

use api::{
    Code,
    legs::{Forward, LegAnswer, Mode, Take},
};
use chrono::{DateTime, TimeDelta, Utc};
use ledger::Movement;

use super::{
    Decision, account_mut,
    allocate::{self, Part, allocate},
    declined, is_of_another_request, leg_answer,
    record::record_leg,
    replayed, reverse, stored, to_json,
    working_set::{AccountState, Kind, OpenHold, Status, WorkingSet},
};
use crate::command::{Answer, Command, ForwardLeg, Outcome, Rejection, State};

/// Two databases whose clocks differ by more do not judge by each other's times. The way from one to the other counts as well.
const CLOCKS_APART_MAX: TimeDelta = TimeDelta::seconds(5);

pub fn forward(set: &mut WorkingSet, command: &Command, leg: &ForwardLeg) -> Decision {
    if let Some(operation) = stored(set, command)? {
        if is_of_another_request(operation, &leg.form)? {
            return Err(Rejection::Conflict);
        }
        return Ok(match operation.state {
            State::Reversed | State::Tombstoned => tombstoned(),
            _ => replayed(operation),
        });
    }
    if is_too_late(leg, set.now) {
        return Ok(refuse(set, command, leg, leg_answer(State::Expired, 0, Vec::new(), None)));
    }
    match leg.plan.mode {
        Mode::Reverse => reverse::reverse(set, command, leg),
        Mode::Debit | Mode::Hold => debit(set, command, leg),
    }
}

/// Whether a leg comes after its saga's time, as far as that can be said: a clock that has been set since the wallet last compared
/// the two would refuse legs that are in time. A late leg that is applied is cancelled with its saga.
fn is_too_late(leg: &ForwardLeg, now: DateTime<Utc>) -> bool {
    let is_comparable = leg.sent_at.is_none_or(|sent| (now - sent).abs() <= CLOCKS_APART_MAX);
    is_comparable && leg.plan.not_after.is_some_and(|end| now > end)
}

/// The answer to a forward that comes after its cancel.
fn tombstoned() -> Outcome {
    let body = to_json(&leg_answer(State::Tombstoned, 0, Vec::new(), None));
    Outcome::Replayed(Answer { state: State::Tombstoned, body: body.into() })
}

fn debit(set: &mut WorkingSet, command: &Command, leg: &ForwardLeg) -> Decision {
    let now = set.now;
    let account = account_mut(set, command)?;
    let (amount, parts) = match plan(account, &leg.plan, now) {
        Ok(plan) => plan,
        Err(refusal) => return Ok(refuse(set, command, leg, *refusal)),
    };
    let (movement, kind, state) = match leg.plan.mode {
        Mode::Hold => (Movement::Hold(amount), Kind::Hold, State::Held),
        Mode::Debit | Mode::Reverse => (Movement::Debit(amount), Kind::Debit, State::Applied),
    };
    // An at_most leg that finds nothing is applied with nothing.
    let posting = account.post(command.operation_id, movement)?;
    let (allocations, lots) = allocate(account, &parts, kind == Kind::Hold);
    if let (Kind::Hold, Some(until)) = (kind, leg.plan.hold_until) {
        account.holds.extend(allocations.iter().map(|part| OpenHold {
            operation_id: command.operation_id,
            until,
            lot_id: part.lot_id,
            units: part.amount,
        }));
    }
    let after = account.after(leg.plan.reward_id, now);
    set.postings.extend(posting);
    let answer = leg_answer(state, amount, lots, after);
    Ok(record_leg(set, command, leg, kind, &answer, allocations))
}

/// How much is taken from which lots, or the refusal.
fn plan(
    account: &AccountState,
    plan: &Forward,
    now: DateTime<Utc>,
) -> Result<(i64, Vec<Part>), Box<LegAnswer>> {
    let refusal = |code, available| Err(Box::new(declined(code, available, None)));
    if account.status != Status::Active {
        return refusal(Code::AccountFrozen, None);
    }
    let reward = plan.reward_id.map(|id| account.lots.values().find(|lot| lot.reward_id == Some(id)));
    let is_blocked = plan.reward_id.is_some_and(|id| account.blocked.contains(&id));
    if let Some(reward) = reward
        && (is_blocked || reward.is_none_or(|lot| !lot.is_spendable(now)))
    {
        return refusal(Code::RewardNotUsable, None);
    }
    let available = account.spendable(plan.reward_id, now);
    let amount = match plan.take {
        Take::AtMost => {
            let most = plan.amount.min(available);
            most - most % plan.step.max(1)
        }
        Take::Exact if plan.amount <= available => plan.amount,
        Take::Exact => {
            let held = reward.flatten().map_or(account.balance.held(), |lot| lot.held);
            // "Held by another order" is told apart from "empty": the cashier can do something about it.
            let is_held = plan.amount <= available.saturating_add(held);
            if !is_held {
                return refusal(Code::InsufficientBalance, Some(available));
            }
            let until = account.free_again(plan.reward_id, plan.amount - available);
            return Err(Box::new(declined(Code::HeldByOtherOrder, Some(available), until)));
        }
    };
    match allocate::parts(account, plan.reward_id, amount, now) {
        Some(parts) => Ok((amount, parts)),
        None => refusal(Code::LimitExceeded, Some(available)),
    }
}

/// Records a refusal: it stands for ever.
fn refuse(set: &mut WorkingSet, command: &Command, leg: &ForwardLeg, answer: LegAnswer) -> Outcome {
    let kind = match leg.plan.mode {
        Mode::Debit => Kind::Debit,
        Mode::Hold => Kind::Hold,
        Mode::Reverse => Kind::Reverse,
    };
    record_leg(set, command, leg, kind, &answer, Vec::new())
}
