//! Where pages end, as text. A cursor is read only if it is what would be written: whatever else it may look like, no list
//! gave it.

use std::collections::{HashMap, VecDeque};

use api::{history::Place, ops::DeadLetterLine, tender::EntryView, wallet::TenderKind};
use chrono::{DateTime, Utc};
use saga::ops::DeadLetterCursor;
use uuid::Uuid;

/// This tender has been read to its end.
const END: &str = "-";

/// What a tender has next.
pub(super) struct Unread {
    pub(super) kind: TenderKind,
    /// Newest first.
    pub(super) entries: VecDeque<EntryView>,
    /// Where it goes on behind them; none at its end.
    pub(super) next: Option<Place>,
}

/// Where each tender's ledger goes on; `None` once it has been read to its end. As text:
/// `points=points:12;digital_reward=-;store_credit=USD:45,KHR:7`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places(HashMap<TenderKind, Option<Place>>);

impl Places {
    /// The places that a cursor names, or the newest entries without one; `None` if this list never wrote it.
    #[must_use]
    pub fn parse(cursor: Option<&str>) -> Option<Self> {
        let mut places = HashMap::from(TenderKind::ALL.map(|kind| (kind, Some(Place::default()))));
        for part in cursor.into_iter().flat_map(|cursor| cursor.split(';')) {
            let (name, place) = part.split_once('=')?;
            let kind = TenderKind::parse(name)?;
            places.insert(kind, if place == END { None } else { Some(Place::parse(place)?) });
        }
        Some(Self(places)).filter(|places| cursor.is_none_or(|cursor| places.write() == cursor))
    }

    /// Where this tender's goes on.
    #[must_use]
    pub fn of(&self, kind: TenderKind) -> Option<&Place> {
        self.0.get(&kind).and_then(Option::as_ref)
    }

    /// Past what is on this page, and no further: what comes meanwhile is on no later page.
    pub(super) fn advance(&mut self, page: &[(TenderKind, EntryView)], unread: &[Unread]) {
        for Unread { kind, entries, next } in unread {
            let Some(Some(place)) = self.0.get_mut(kind) else { continue };
            page.iter().filter(|(of, _)| of == kind).for_each(|(_, entry)| place.pass(entry));
            entries.iter().for_each(|entry| place.stay_at(entry));
            if entries.is_empty() {
                self.0.insert(*kind, next.clone());
            }
        }
    }

    /// The cursor.
    #[must_use]
    pub fn write(&self) -> String {
        let place = |kind| self.of(kind).map_or_else(|| END.to_owned(), Place::to_string);
        TenderKind::ALL.map(|kind| format!("{}={}", kind.as_str(), place(kind))).join(";")
    }
}

/// The place that a cursor of dead letters names: microseconds, as precise as the database keeps them, and the id.
#[must_use]
pub fn letter_place(cursor: &str) -> Option<DeadLetterCursor> {
    let (micros, id) = cursor.split_once('-')?;
    let opened_at = DateTime::from_timestamp_micros(micros.parse().ok()?)?;
    let dead_letter_id = id.parse().ok()?;
    let is_ours = write_letter(opened_at, dead_letter_id) == cursor;
    is_ours.then_some(DeadLetterCursor { opened_at, dead_letter_id })
}

/// The cursor behind this line.
#[must_use]
pub fn letter_cursor(last: &DeadLetterLine) -> String {
    write_letter(last.opened_at, last.dead_letter_id)
}

fn write_letter(opened_at: DateTime<Utc>, id: Uuid) -> String {
    format!("{}-{}", opened_at.timestamp_micros(), id.simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_and_garbage_is_refused() {
        let cursor = "points=points:12;digital_reward=-;store_credit=USD:45,KHR:7";
        assert_eq!(Places::parse(Some(cursor)).unwrap().write(), cursor);
        assert!(Places::parse(None).is_some());
        for bad in [
            "",
            "points",
            "points=USD",
            "coins=USD:1",
            "points=points:0",
            "points=--",
            "points=;points=-;digital_reward=-;store_credit=-",
        ] {
            assert!(Places::parse(Some(bad)).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_cursor_of_dead_letters_has_one_spelling() {
        let id = "0".repeat(32);
        let place = letter_place(&format!("7-{id}")).unwrap();
        assert_eq!((place.opened_at.timestamp_micros(), place.dead_letter_id), (7, Uuid::nil()));
        for bad in [format!("+7-{id}"), format!("07-{id}"), format!("7-{}", Uuid::nil()), format!("-7-{id}")]
        {
            assert!(letter_place(&bad).is_none(), "{bad}");
        }
    }
}
