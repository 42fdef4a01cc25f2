//! I11: whoever reads a balance after a redeem was acknowledged sees it.

use std::collections::HashMap;

use serde_json::Value;

use crate::{
    calls::{Made, Told},
    case::{Case, Wallet},
    format::Call,
    invariant::{Invariant, Violation},
};

/// A balance may be so old where Redis was away, in microseconds.
const WITHOUT_REDIS: u64 = 5_000_000;

pub(super) fn check(case: &Case<'_>) -> Vec<Violation> {
    let acknowledged = acknowledged(case);
    let allowance = if case.evidence.meta.redis_was_away { WITHOUT_REDIS } else { 0 };
    let mut found = Vec::new();
    for made in case.calls.iter().filter(|made| made.answer.is_some()) {
        let Call::Balance { business, customer } = made.call else { continue };
        for line in made.said["balances"].as_array().into_iter().flatten() {
            let Some((tender, version)) = line["tender"].as_str().zip(line["version"].as_i64()) else {
                continue;
            };
            let wallet = (business.as_str(), customer.as_str(), tender);
            let before = acknowledged.get(&wallet).into_iter().flatten();
            let least =
                before.filter(|(at, _)| at + allowance < made.invoked).map(|(_, version)| *version).max();
            found.extend(of_line(case, made, wallet, (version, line), least.unwrap_or(0)));
        }
    }
    found
}

fn of_line(
    case: &Case<'_>,
    made: &Made<'_>,
    wallet: Wallet<'_>,
    (version, line): (i64, &Value),
    least: i64,
) -> Option<Violation> {
    let text = if version < least {
        format!("shown at version {version}, and {least} was acknowledged before")
    } else if line["available"].as_i64() != case.free_at(wallet, version) {
        format!("shown as {line}, and its ledger has {:?} at that version", case.free_at(wallet, version))
    } else {
        return None;
    };
    Some(Violation::new(Invariant::I11, format!("{wallet:?} asked for at {} us: {text}", made.invoked)))
}

/// For each account when which version of it was acknowledged.
fn acknowledged<'a>(case: &Case<'a>) -> HashMap<Wallet<'a>, Vec<(u64, i64)>> {
    let mut versions: HashMap<Wallet<'_>, Vec<(u64, i64)>> = HashMap::new();
    for (key, sale) in &case.sales {
        let (Some(at), Some(saga)) =
            (sale.first(Told::Completed).and_then(|made| made.returned), case.redeems.get(key))
        else {
            continue;
        };
        for leg in &saga.plan.legs {
            let entries = case.posted(&leg.tender, &saga.legs_id, leg.leg);
            if let Some(version) = entries.first().and_then(|entry| entry.version) {
                versions.entry((key.0, sale.customer, &leg.tender)).or_default().push((at, version));
            }
        }
    }
    versions
}
