//! I16: whatever became of a redemption is told, and can be told from what was heard before.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::{
    calls::{Made, Sale, Told},
    case::Case,
    format::Moment,
    invariant::{Invariant, Violation},
    rows::{CAPTURE, REDEEM, RETURN, Saga, VOID, state},
};

/// An event may be on its way for so long before Redis loses it, in microseconds.
const ON_ITS_WAY: u64 = 5_000_000;

/// A redemption, what became of it, and whether that was its end.
type News<'a> = (&'a str, &'a str, &'a str);

pub(super) fn check(case: &Case<'_>) -> Vec<Violation> {
    let evidence = case.evidence;
    let read: Vec<Value> = evidence
        .events
        .iter()
        .map(|event| serde_json::from_str(&event.event).unwrap_or(Value::Null))
        .collect();
    let mut found = Vec::new();
    let mut ids: HashMap<&str, &str> = HashMap::new();
    let mut told: HashMap<News<'_>, &str> = HashMap::new();
    for (event, said) in evidence.events.iter().zip(&read) {
        let first = ids.entry(&event.event_id).or_insert(&event.event);
        if *first != event.event {
            let text = format!("event {} was {first}, and then {}", event.event_id, event.event);
            found.push(Violation::new(Invariant::I16, text));
        }
        let first = told.entry(what(said)).or_insert(&event.event_id);
        if *first != event.event_id && !said["type"].as_str().unwrap_or_default().ends_with("under_review") {
            let text = format!("{} was told as event {first} and as event {}", event.event, event.event_id);
            found.push(Violation::new(Invariant::I16, text));
        }
    }
    let waiting: HashSet<News<'_>> =
        evidence.end.wallet.outbox.iter().flat_map(|row| &row.payload).map(what).collect();
    let known: HashSet<News<'_>> = told.into_keys().chain(waiting).collect();
    let silent = evidence.end.wallet.sagas.iter().filter(|saga| !may_be_lost(case, saga));
    found.extend(
        silent
            .filter_map(|saga| expected(case, saga))
            .filter(|told| !known.contains(told))
            .map(|told| Violation::new(Invariant::I16, format!("nobody was told of {told:?}"))),
    );
    found
}

fn what(event: &Value) -> News<'_> {
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    (text("redemption_id"), text("type"), text("reversal"))
}

/// What must have been told of a saga that is over.
fn expected<'a>(case: &Case<'a>, saga: &'a Saga) -> Option<News<'a>> {
    let is_redemption = case.redemptions.contains_key(saga.saga_id.as_str());
    match (saga.operation.as_str(), saga.state) {
        (REDEEM, state::COMPLETED) if is_redemption && saga.plan.is_hold() => {
            Some((&saga.saga_id, "wallet.redemption_authorized", ""))
        }
        (REDEEM, state::COMPLETED) if is_redemption => {
            Some((&saga.saga_id, "wallet.redemption_completed", ""))
        }
        (REDEEM, state::COMPENSATED) if is_redemption => {
            Some((&saga.saga_id, "wallet.redemption_declined", "done"))
        }
        (RETURN | VOID, state::COMPLETED) => {
            let event = match saga.plan.why.as_str() {
                "void" => "wallet.redemption_voided",
                "hold_expired" => "wallet.redemption_expired",
                _ => "wallet.redemption_reversed",
            };
            Some((saga.parent_id.as_deref()?, event, ""))
        }
        (CAPTURE, state::COMPLETED) => Some((saga.parent_id.as_deref()?, "wallet.redemption_captured", "")),
        _ => None,
    }
}

/// It may have ended while Redis lost what it had: between the first call for it and the first answer that says how it
/// ended, by the clock of those who called.
fn may_be_lost(case: &Case<'_>, saga: &Saga) -> bool {
    let at =
        |what: Moment| case.evidence.marks.iter().filter(move |mark| mark.what == what).map(|mark| mark.at);
    let spans: Vec<(u64, u64)> = at(Moment::RedisLoses).zip(at(Moment::RedisKeeps)).collect();
    if spans.is_empty() {
        return false;
    }
    let redemption = saga.parent_id.as_deref().unwrap_or(&saga.saga_id);
    let key = case.redeems.iter().find(|(_, redeem)| redeem.saga_id == redemption).map(|(key, _)| key);
    let sale = key.and_then(|key| case.sales.get(key));
    let begun = sale.map_or(0, Sale::begun);
    // A refusal may be told before everything is back, and what takes a redemption further has answers of its own or none.
    let is_over = |made: &&Made<'_>| {
        made.told() == Some(Told::Completed)
            || (made.told() == Some(Told::Declined) && made.said["reversal"] == "done")
    };
    let own = sale.filter(|_| saga.parent_id.is_none());
    let told =
        own.and_then(|sale| sale.redeems.iter().filter(is_over).filter_map(|made| made.returned).min());
    let ended = told.unwrap_or(u64::MAX);
    spans.into_iter().any(|(from, until)| begun < until && from.saturating_sub(ON_ITS_WAY) < ended)
}
