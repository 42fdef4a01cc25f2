//! A customer's history: entries of ledgers, newest first, and the place in it where a page ends.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use money::Asset;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    tender::{EntryKind, EntryView, Quantity},
    wallet::TenderKind,
};

/// A line of the history over all tenders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Transaction {
    /// Which tender.
    pub tender: TenderKind,
    /// The tender's operation.
    pub operation_id: Uuid,
    /// The redemption that it belongs to, if it is a leg of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redemption_id: Option<Uuid>,
    /// What happened.
    pub kind: EntryKind,
    /// Signed change: points, or minor units of `currency`; 0 for a hold and its release.
    #[serde(flatten)]
    pub change: Quantity,
    /// The account's version after it.
    pub version: i64,
    /// Units in the account after it.
    pub balance_after: i64,
    /// Units set aside after it.
    pub held_after: i64,
    /// The order that it paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<String>,
    /// When, by the tender's clock.
    pub created_at: DateTime<Utc>,
}

/// A place in a customer's history at one tender: below which version of each account the next page begins.
///
/// Versions have no gaps and only rise, so pages are the same whatever is written meanwhile. As text: `USD:45,KHR:7`; empty
/// is the newest entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place(Vec<(Asset, i64)>);

impl Place {
    /// The place that a text names; `None` if it is not what a place is written as, or names an account twice.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::default());
        }
        let mut place = Self::default();
        for part in text.split(',') {
            let (asset, version) = part.split_once(':')?;
            let (asset, version) =
                (asset.parse().ok()?, version.parse().ok().filter(|version| *version > 0)?);
            if place.iter().any(|(known, _)| known == asset) {
                return None;
            }
            place.0.push((asset, version));
        }
        Some(place).filter(|place| place.to_string() == text)
    }

    /// Goes on below this entry.
    pub fn pass(&mut self, entry: &EntryView) {
        let asset = asset(entry);
        match self.0.iter_mut().find(|(known, _)| *known == asset) {
            Some((_, version)) => *version = entry.version,
            None => self.0.push((asset, entry.version)),
        }
    }

    /// Goes on with this entry, unless it says already where its account goes on: what is newer was not there when the
    /// history was opened.
    pub fn stay_at(&mut self, entry: &EntryView) {
        let asset = asset(entry);
        if self.0.iter().all(|(known, _)| *known != asset) {
            self.0.push((asset, entry.version.saturating_add(1)));
        }
    }

    /// Assets, and the version below which each goes on.
    pub fn iter(&self) -> impl Iterator<Item = (Asset, i64)> {
        self.0.iter().copied()
    }
}

impl FromIterator<(Asset, i64)> for Place {
    fn from_iter<I: IntoIterator<Item = (Asset, i64)>>(accounts: I) -> Self {
        Self(accounts.into_iter().collect())
    }
}

fn asset(entry: &EntryView) -> Asset {
    entry.change.currency.map_or(Asset::Points, Asset::Money)
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, (asset, version)) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_char(',')?;
            }
            write!(f, "{}:{version}", asset.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_and_garbage_is_refused() {
        for text in ["", "USD:45,KHR:7"] {
            assert_eq!(Place::parse(text).unwrap().to_string(), text);
        }
        for bad in [
            "USD",
            "USD:",
            "USD:x",
            "USD:0",
            "USD:-1",
            "USD:+1",
            "USD:01",
            "usd:1",
            "USD:1,",
            "USD:1,USD:2",
            "USD:99999999999999999999",
        ] {
            assert_eq!(Place::parse(bad), None, "{bad}");
        }
    }
}
