//! I13: whoever watches a balance sees what it comes to, soon, in order, and nothing that is not so.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use crate::{
    case::{Case, Wallet},
    evidence::TENDERS,
    format::{Heard, Moment},
    invariant::{Invariant, Violation},
};

/// 99 of 100 accounts reach their final version at a subscriber within this of quiet, in microseconds.
const P99_BOUND: u64 = 1_000_000;
/// All do, and all where Redis was away.
const MAX_BOUND: u64 = 5_000_000;

/// A version of an account that a subscriber was told.
struct Told<'a> {
    at: u64,
    heard: &'a Heard,
    tender: String,
    version: i64,
    free: i64,
}

/// A subscriber's view of one account: of each connection, since when it is there.
#[derive(Default)]
struct View {
    last: i64,
    last_connection: u64,
    connected_at: u64,
    /// When the highest version was told first.
    told_at: u64,
}

pub(super) fn check(case: &Case<'_>) -> Vec<Violation> {
    let told: Vec<Told<'_>> = case.evidence.streams.iter().flat_map(told).collect();
    let mut found: Vec<Violation> = told.iter().filter_map(|told| is_untrue(case, told)).collect();
    found.extend(too_early(case, &told));
    let mut views: BTreeMap<(&str, &str, &str, &str), View> = BTreeMap::new();
    for told in &told {
        let Heard { subscriber, business, customer, connection, .. } = told.heard;
        let view = views.entry((subscriber, business, customer, &told.tender)).or_default();
        if view.last_connection == *connection && told.version <= view.last {
            let text = format!(
                "{subscriber} heard of version {} of {} after {}",
                told.version, told.tender, view.last
            );
            found.push(Violation::new(Invariant::I13, text));
        }
        if view.last_connection != *connection {
            (view.last_connection, view.connected_at) = (*connection, told.at);
        }
        if told.version != view.last {
            view.told_at = told.at;
        }
        view.last = told.version;
    }
    found.extend(late(case, &views));
    found
}

/// Everything that a message tells.
fn told(heard: &Heard) -> Vec<Told<'_>> {
    let Some(message) = &heard.message else { return Vec::new() };
    let said: Value = serde_json::from_str(message).unwrap_or(Value::Null);
    let tell = |line: &Value, free: &Value| {
        let (tender, version, free) = (line["tender"].as_str()?, line["version"].as_i64()?, free.as_i64()?);
        Some(Told { at: heard.at, heard, tender: tender.to_owned(), version, free })
    };
    match said["type"].as_str() {
        Some("wallet.snapshot") => said["balances"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|line| tell(line, &line["available"]))
            .collect(),
        Some("wallet.balance_updated") => tell(&said, &said["balance"]["available"]).into_iter().collect(),
        _ => Vec::new(),
    }
}

fn is_untrue(case: &Case<'_>, told: &Told<'_>) -> Option<Violation> {
    let wallet = (told.heard.business.as_str(), told.heard.customer.as_str(), told.tender.as_str());
    let is = case.free_at(wallet, told.version);
    (is != Some(told.free)).then(|| {
        let text = format!(
            "{} heard {:?}, and its ledger has {is:?} at that version",
            told.heard.subscriber, told.heard.message
        );
        Violation::new(Invariant::I13, text)
    })
}

/// What was told is durable: no later snapshot has an older version.
fn too_early(case: &Case<'_>, told: &[Told<'_>]) -> Vec<Violation> {
    let mut of_account: HashMap<Wallet<'_>, Vec<&Told<'_>>> = HashMap::new();
    for told in told {
        let wallet = (told.heard.business.as_str(), told.heard.customer.as_str(), told.tender.as_str());
        of_account.entry(wallet).or_default().push(told);
    }
    let mut found = Vec::new();
    for snapshot in &case.evidence.snapshots {
        let Some((tender, _)) = TENDERS.into_iter().find(|(_, database)| *database == snapshot.database)
        else {
            continue;
        };
        for seen in &snapshot.accounts {
            let told = of_account.get(&(seen.business_id.as_str(), seen.owner.as_str(), tender));
            let before = told.into_iter().flatten().filter(|told| told.at < snapshot.from);
            if let Some(told) =
                before.max_by_key(|told| told.version).filter(|told| told.version > seen.version)
            {
                let text = format!(
                    "{} heard {:?} before {} us, when there was only {seen:?}",
                    told.heard.subscriber, told.heard.message, snapshot.from
                );
                found.push(Violation::new(Invariant::I13, text));
            }
        }
    }
    found
}

/// Who did not have the final version in time. Quiet is when a snapshot first has the final version, and everything is
/// ready, and the subscriber is connected.
fn late(case: &Case<'_>, views: &BTreeMap<(&str, &str, &str, &str), View>) -> Vec<Violation> {
    let ready = case.evidence.last(Moment::Ready);
    let finals = finals(case);
    let mut found = Vec::new();
    let mut delays = Vec::new();
    for ((subscriber, business, customer, tender), view) in views {
        let version = case.entries((business, customer, tender)).len();
        if i64::try_from(version) != Ok(view.last) {
            let text = format!(
                "{subscriber} last heard of version {} of {tender}, which is at {version}",
                view.last
            );
            found.push(Violation::new(Invariant::I13, text));
            continue;
        }
        let since = finals.get(&(business, customer, tender)).copied().unwrap_or(0);
        delays.push((
            view.told_at.saturating_sub(since.max(ready).max(view.connected_at)),
            subscriber,
            tender,
        ));
    }
    delays.sort_unstable();
    let bound = if case.evidence.meta.redis_was_away { MAX_BOUND } else { P99_BOUND };
    let place = (delays.len() * 99).div_ceil(100).saturating_sub(1);
    let p99 = delays.get(place).filter(|(delay, ..)| *delay > bound);
    let slowest = delays.last().filter(|(delay, ..)| *delay > MAX_BOUND);
    found.extend(p99.or(slowest).map(|(delay, subscriber, tender)| {
        let text = format!(
            "{subscriber} had the final version of {tender} {delay} us after quiet, of {} such waits",
            delays.len()
        );
        Violation::new(Invariant::I13, text)
    }));
    found
}

/// When a snapshot first had the final version of each account.
fn finals<'a>(case: &'a Case<'_>) -> HashMap<Wallet<'a>, u64> {
    let mut finals = HashMap::new();
    for snapshot in case.evidence.snapshots.iter().rev() {
        let Some((tender, _)) = TENDERS.into_iter().find(|(_, database)| *database == snapshot.database)
        else {
            continue;
        };
        for seen in &snapshot.accounts {
            let wallet = (seen.business_id.as_str(), seen.owner.as_str(), tender);
            if i64::try_from(case.entries(wallet).len()) == Ok(seen.version) {
                finals.insert(wallet, snapshot.until);
            }
        }
    }
    finals
}
