//! I8: what a saga came to is what its legs are.

use crate::{
    case::Case,
    invariant::{Invariant, Violation},
    rows::{DeadLetter, PlannedLeg, REDEEM, Saga, state},
};

pub(super) fn check(case: &Case<'_>) -> Vec<Violation> {
    let wallet = &case.evidence.end.wallet;
    let redeems = wallet.sagas.iter().filter(|saga| saga.operation == REDEEM);
    let mut found: Vec<Violation> = redeems.flat_map(|saga| of_saga(case, saga)).collect();
    for letter in wallet.dead_letters.iter().filter(|letter| letter.closed_at.is_none()) {
        if let Some(saga) = wallet.sagas.iter().find(|saga| saga.saga_id == letter.saga_id) {
            found.extend(of_letter(case, saga, letter));
        }
    }
    found
}

/// Sagas that are not what their legs are: their wallet had heard of a leg, or of its return, and its tender's database has lost
/// it since; or the wallet's database has lost that a till had everything taken back.
pub fn lost(case: &Case<'_>) -> Vec<String> {
    let is_lost = |saga: &&Saga| {
        let mut legs = saga.plan.legs.iter().map(|leg| states(case, saga, leg));
        saga.operation == REDEEM
            && legs.any(|states| match saga.state {
                state::COMPLETED if is_forgotten(case, &states) || is_back(case, saga, &states) => true,
                state::COMPLETED | state::COMPENSATED => is_still_taken(case, saga, &states),
                _ => false,
            })
    };
    case.evidence.end.wallet.sagas.iter().filter(is_lost).map(|saga| saga.saga_id.clone()).collect()
}

/// Nothing of the leg is there, or only the cancel that came for it later.
fn is_forgotten(case: &Case<'_>, states: &[&str]) -> bool {
    case.evidence.meta.database_forgot && matches!(states, [] | ["tombstoned"])
}

/// It went back since its till asked for that, which the wallet's database does not know any more.
fn is_back(case: &Case<'_>, saga: &Saga, states: &[&str]) -> bool {
    let asked = || {
        case.sales
            .get(&(saga.business_id.as_str(), saga.key.as_str()))
            .is_some_and(|sale| !sale.cancels.is_empty())
    };
    let is_known = case.given_back.contains(saga.saga_id.as_str());
    case.evidence.meta.database_forgot && !is_known && states == ["reversed"] && asked()
}

/// It went back, and its tender's database does not know that any more.
fn is_still_taken(case: &Case<'_>, saga: &Saga, states: &[&str]) -> bool {
    let went_back = saga.state == state::COMPENSATED || case.given_back.contains(saga.saga_id.as_str());
    case.evidence.meta.database_forgot && went_back && matches!(states, ["applied" | "held"])
}

fn states<'a>(case: &'a Case<'_>, saga: &'a Saga, leg: &'a PlannedLeg) -> Vec<&'a str> {
    let operations = case.legs.get(&(leg.tender.as_str(), saga.legs_id.as_str(), leg.leg));
    operations.into_iter().flatten().map(|row| row.state.as_str()).collect()
}

/// What a capture that is done made of a leg: taken in part, the rest free again; or wholly free.
fn is_captured(case: &Case<'_>, leg: &PlannedLeg, capture: &Saga, states: &[&str], net: i64) -> bool {
    let units = capture.plan.legs.iter().find(|other| other.leg == leg.leg).map_or(0, |other| other.units);
    match (capture.state, units) {
        // A database that forgot may still have it set aside.
        (state::COMPLETED, _) if case.evidence.meta.database_forgot => net == 0 || net == -units,
        (state::COMPLETED, 0) => states == ["reversed"] && net == 0,
        (state::COMPLETED, _) => states == ["applied"] && net == -units,
        _ => true,
    }
}

fn of_saga(case: &Case<'_>, saga: &Saga) -> Vec<Violation> {
    let is_given_back = case.given_back.contains(saga.saga_id.as_str());
    let mut found = Vec::new();
    for leg in &saga.plan.legs {
        let states = states(case, saga, leg);
        let net: i64 =
            case.posted(&leg.tender, &saga.legs_id, leg.leg).iter().map(|entry| entry.amount).sum();
        let is_right = match saga.state {
            state::COMPLETED if is_forgotten(case, &states) || is_back(case, saga, &states) => net == 0,
            state::COMPLETED | state::COMPENSATED if is_still_taken(case, saga, &states) => net <= 0,
            state::COMPLETED if is_given_back => net == 0 && states == ["reversed"],
            state::COMPLETED => match case.captured.get(saga.saga_id.as_str()) {
                Some(capture) => is_captured(case, leg, capture, &states, net),
                None if saga.plan.is_hold() => states == ["held"] && net == 0,
                None => states == ["applied"] && net < 0,
            },
            state::COMPENSATED => net == 0 && !states.contains(&"held"),
            _ => true,
        };
        if !is_right {
            let back = if is_given_back { " and was given back" } else { "" };
            let text = format!(
                "saga {} is in state {}{back}; its {leg:?} is {states:?} and posted {net}",
                saga.saga_id, saga.state
            );
            found.push(Violation::new(Invariant::I8, text));
        }
    }
    found
}

/// A saga that is parked on its way back has nothing in force but at the legs that its dead letter names.
fn of_letter(case: &Case<'_>, saga: &Saga, letter: &DeadLetter) -> Vec<Violation> {
    let Some(pending) = letter.detail["pending_legs"].as_array() else { return Vec::new() };
    let is_pending = |leg: i32| pending.iter().any(|pending| pending.as_i64() == Some(i64::from(leg)));
    let settled = saga.plan.legs.iter().filter(|leg| saga.backward && !is_pending(leg.leg));
    let posted = settled.map(|leg| (leg, case.posted(&leg.tender, &saga.legs_id, leg.leg)));
    let in_force = posted.filter(|(_, entries)| entries.iter().map(|entry| entry.amount).sum::<i64>() != 0);
    in_force
        .map(|(leg, entries)| {
            let text = format!(
                "dead letter {} does not name {leg:?}, which posted {entries:?}",
                letter.dead_letter_id
            );
            Violation::new(Invariant::I8, text)
        })
        .collect()
}
