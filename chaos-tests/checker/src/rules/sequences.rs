//! I2 and I12: of all keys that a till uses for one of its sales one takes at most; and where nothing takes, the next may.

use std::collections::BTreeMap;

use crate::{
    calls::{Key, Sale, Told},
    case::Case,
    invariant::{Invariant, Violation},
};

/// Redemptions with these endings have something in force.
const IN_FORCE: [&str; 3] = ["completed", "authorized", "capturing"];
/// What a key is refused with whose sale has another key.
const DUPLICATE: &str = "duplicate_reference";

pub(super) fn check(case: &Case<'_>) -> Vec<Violation> {
    let mut places: BTreeMap<(&str, &str), Vec<(Key<'_>, &Sale<'_>)>> = BTreeMap::new();
    for (key, sale) in &case.sales {
        if let Some(place) = sale.place {
            places.entry((key.0, place)).or_default().push((*key, sale));
        }
    }
    let mut found = Vec::new();
    for (place, sales) in places {
        let in_force: Vec<_> =
            sales.iter().filter(|(key, _)| is_in_force(case, *key)).map(|(key, _)| key.1).collect();
        if in_force.len() > 1 {
            let text = format!("the sale {place:?} was taken under each of {in_force:?}");
            found.push(Violation::new(Invariant::I2, text));
        }
        let refused = sales.iter().filter(|(key, sale)| is_refused_for_nothing(*key, sale, &sales));
        found.extend(refused.map(|(key, _)| {
            let text =
                format!("{key:?} was refused for {place:?}, of which every other key had been refused");
            Violation::new(Invariant::I12, text)
        }));
    }
    found
}

fn is_in_force(case: &Case<'_>, key: Key<'_>) -> bool {
    let saga = case.redeems.get(&key);
    let redemption = saga.and_then(|saga| case.redemptions.get(saga.saga_id.as_str()));
    redemption.is_some_and(|redemption| IN_FORCE.contains(&redemption.status.as_str()))
}

/// It was refused since its sale had another key, when all others had been refused before it was asked for.
fn is_refused_for_nothing(key: Key<'_>, sale: &Sale<'_>, all: &[(Key<'_>, &Sale<'_>)]) -> bool {
    let is_duplicate = sale.first(Told::Declined).is_some_and(|made| made.said["code"] == DUPLICATE);
    let mut others = all.iter().filter(|(other, _)| *other != key);
    is_duplicate
        && others.all(|(_, other)| {
            let told = other.first(Told::Declined).and_then(|made| made.returned);
            told.is_some_and(|told| told < sale.begun())
        })
}
