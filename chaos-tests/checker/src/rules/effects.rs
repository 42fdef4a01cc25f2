//! I2, I3 and I20: every key acts once; what was acknowledged is there, and nothing else is.

use std::collections::{HashMap, HashSet};

use crate::{
    calls::{Key, Sale, Told},
    case::Case,
    evidence::TENDERS,
    format::{Call, Leg},
    invariant::{Invariant, Violation},
    rows::Saga,
};

pub(super) fn check(case: &Case<'_>) -> Vec<Violation> {
    let mut found = twice(case);
    for (key, sale) in &case.sales {
        found.extend(of_sale(case, *key, sale));
    }
    found.extend(credits(case));
    found.extend(durable(case));
    found.extend(orphans(case));
    found
}

/// Two sagas under one key, or two operations for one leg.
fn twice(case: &Case<'_>) -> Vec<Violation> {
    let mut keys = HashSet::new();
    let key = |saga: &&Saga| {
        !keys.insert((saga.business_id.clone(), saga.operation.clone(), saga.scope.clone(), saga.key.clone()))
    };
    let sagas = case.evidence.end.wallet.sagas.iter().filter(key);
    let sagas =
        sagas.map(|saga| format!("{} {} has two sagas, one is {}", saga.business_id, saga.key, saga.saga_id));
    let legs = case.legs.iter().filter(|(_, operations)| operations.len() > 1);
    let legs =
        legs.map(|(leg, operations)| format!("{leg:?} has {} operations: {operations:?}", operations.len()));
    sagas.chain(legs).map(|text| Violation::new(Invariant::I2, text)).collect()
}

fn of_sale(case: &Case<'_>, key: Key<'_>, sale: &Sale<'_>) -> Vec<Violation> {
    let completed = sale.first(Told::Completed).is_some();
    let declined = sale.first(Told::Declined).is_some();
    let cancelled = sale.cancelled().is_some() || sale.first(Told::Cancelled).is_some();
    let Some(saga) = case.redeems.get(&key) else {
        let is_lost = completed || declined || cancelled;
        return is_lost
            .then(|| Violation::new(Invariant::I3, format!("{key:?} was answered, and has no saga")))
            .into_iter()
            .collect();
    };
    let mut found = Vec::new();
    if completed && !case.redemptions.contains_key(saga.saga_id.as_str()) {
        found.push(Violation::new(Invariant::I3, format!("{key:?} was completed, and has no redemption")));
    }
    if cancelled && !saga.key_cancelled {
        found.push(Violation::new(
            Invariant::I3,
            format!("{key:?} was cancelled, and its saga does not know"),
        ));
    }
    for (leg, planned) in saga.plan.legs.iter().enumerate() {
        // What is free goes down when something is taken and when it is set aside; a capture takes what is not free.
        let place = (planned.tender.as_str(), saga.legs_id.as_str(), planned.leg);
        let changes = case.freed((key.0, sale.customer), place);
        let amounts = case.posted(place.0, place.1, place.2).iter().map(|entry| entry.amount).sum::<i64>();
        let taken: Vec<i64> = changes.iter().copied().filter(|change| *change < 0).collect();
        let asked = sale.legs.get(leg).map_or(planned.units, |leg: &Leg| leg.units);
        if completed && taken != [-asked] {
            found.push(Violation::new(
                Invariant::I2,
                format!("{key:?} was completed, and leg {leg} of {asked} took {taken:?}"),
            ));
        }
        if (declined || cancelled) && (amounts != 0 || changes.iter().sum::<i64>() != 0) {
            found.push(Violation::new(
                Invariant::I2,
                format!(
                    "{key:?} was refused or cancelled, and leg {leg} posted {amounts} and freed {changes:?}"
                ),
            ));
        }
    }
    found
}

/// A credit that was acknowledged is one entry.
fn credits(case: &Case<'_>) -> Vec<Violation> {
    let acknowledged = case.calls.iter().filter(|made| made.answer.is_some());
    let credits = acknowledged.filter_map(|made| match made.call {
        Call::Credit { leg, .. } => Some((leg, made.said["operation_id"].as_str().unwrap_or_default())),
        _ => None,
    });
    let check = |(leg, id): (&Leg, &str)| {
        let entries = case.books.get(leg.tender.as_str()).and_then(|book| book.by_operation.get(id));
        let amounts: Vec<i64> = entries.into_iter().flatten().map(|entry| entry.amount).collect();
        (amounts != [leg.units]).then(|| {
            Violation::new(
                Invariant::I3,
                format!("credit {id} of {leg:?} was acknowledged, and posted {amounts:?}"),
            )
        })
    };
    credits.filter_map(check).collect()
}

/// From the acknowledgement of a redeem on, every snapshot has its accounts at its version, or later.
fn durable(case: &Case<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (tender, database) in TENDERS {
        let mut told: HashMap<(&str, &str), Vec<(u64, i64)>> = HashMap::new();
        for (key, sale) in &case.sales {
            let (Some(made), Some(saga)) = (sale.first(Told::Completed), case.redeems.get(key)) else {
                continue;
            };
            for leg in saga.plan.legs.iter().filter(|leg| leg.tender == tender) {
                let entries = case.posted(tender, &saga.legs_id, leg.leg);
                let version = entries.first().and_then(|entry| entry.version);
                if let (Some(at), Some(version)) = (made.returned, version) {
                    told.entry((key.0, sale.customer)).or_default().push((at, version));
                }
            }
        }
        for snapshot in case.evidence.snapshots.iter().filter(|snapshot| snapshot.database == database) {
            for seen in &snapshot.accounts {
                let told = told
                    .get(&(seen.business_id.as_str(), seen.owner.as_str()))
                    .map_or(&[][..], Vec::as_slice);
                let before = told.iter().filter(|(at, _)| *at < snapshot.from).map(|(_, version)| *version);
                if let Some(version) = before.max().filter(|version| *version > seen.version) {
                    let text = format!(
                        "{database} at {} us has {seen:?}, and version {version} was acknowledged before",
                        snapshot.from
                    );
                    found.push(Violation::new(Invariant::I3, text));
                }
            }
        }
    }
    found
}

/// Legs of which the wallet knows nothing.
fn orphans(case: &Case<'_>) -> Vec<Violation> {
    let known: HashSet<&str> =
        case.evidence.end.wallet.sagas.iter().map(|saga| saga.legs_id.as_str()).collect();
    let unknown = case.legs.iter().filter(|((_, legs_id, _), _)| !known.contains(legs_id));
    unknown
        .map(|(leg, operations)| {
            Violation::new(Invariant::I20, format!("{leg:?} has no saga: {operations:?}"))
        })
        .collect()
}
