//! I16: whatever became of a redemption is told, and can be told from what was heard before.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::{
    case::Case,
    format::Moment,
    invariant::{Invariant, Violation},
    rows::{REDEEM, RETURN, Saga, state},
};

/// An event may be on its way for so long before Redis loses it, in microseconds.
const ON_ITS_WAY: i64 = 5_000_000;

/// A redemption, what became of it, and whether that was its end.
type Told<'a> = (&'a str, &'a str, &'a str);

pub(super) fn check(case: &Case<'_>) -> Vec<Violation> {
    let evidence = case.evidence;
    let read: Vec<Value> = evidence
        .events
        .iter()
        .map(|event| serde_json::from_str(&event.event).unwrap_or(Value::Null))
        .collect();
    let mut found = Vec::new();
    let mut ids: HashMap<&str, &str> = HashMap::new();
    let mut told: HashMap<Told<'_>, &str> = HashMap::new();
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
    let waiting: HashSet<Told<'_>> =
        evidence.end.wallet.outbox.iter().flat_map(|row| &row.payload).map(what).collect();
    let known: HashSet<Told<'_>> = told.into_keys().chain(waiting).collect();
    let silent = evidence.end.wallet.sagas.iter().filter(|saga| !may_be_lost(case, saga));
    found.extend(
        silent
            .filter_map(|saga| expected(case, saga))
            .filter(|told| !known.contains(told))
            .map(|told| Violation::new(Invariant::I16, format!("nobody was told of {told:?}"))),
    );
    found
}

fn what(event: &Value) -> Told<'_> {
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    (text("redemption_id"), text("type"), text("reversal"))
}

/// What must have been told of a saga that is over.
fn expected<'a>(case: &Case<'a>, saga: &'a Saga) -> Option<Told<'a>> {
    let is_redemption = case.redemptions.contains_key(saga.saga_id.as_str());
    match (saga.operation.as_str(), saga.state) {
        (REDEEM, state::COMPLETED) if is_redemption => {
            Some((&saga.saga_id, "wallet.redemption_completed", ""))
        }
        (REDEEM, state::COMPENSATED) if is_redemption => {
            Some((&saga.saga_id, "wallet.redemption_declined", "done"))
        }
        (RETURN, state::COMPLETED) => Some((saga.parent_id.as_deref()?, "wallet.redemption_reversed", "")),
        _ => None,
    }
}

/// It ended while Redis lost what it had.
fn may_be_lost(case: &Case<'_>, saga: &Saga) -> bool {
    let Some(ended) = saga.ended_at.map(|ended| ended.timestamp_micros()) else { return true };
    let at = |what: Moment| {
        case.evidence.marks.iter().filter(move |mark| mark.what == what).filter_map(|mark| mark.db_us)
    };
    let mut spans = at(Moment::RedisLoses).zip(at(Moment::RedisKeeps));
    spans.any(|(from, until)| (from - ON_ITS_WAY..until).contains(&ended))
}
