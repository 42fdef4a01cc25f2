//! Places in lists. Each has one spelling: a cursor that is read is the cursor that would be written.

use std::{collections::HashSet, str::from_utf8};

use api::{history::Place, leg_cursor, wallet::TenderKind};
use chrono::DateTime;
use wallet::http::cursors::{Places, letter_place};

/// Reads the bytes as a cursor of each list.
pub fn run(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    if let Some(place) = Place::parse(text) {
        assert_eq!(place.to_string(), text);
        is_sound(&place);
    }
    if let Some(places) = Places::parse(Some(text)) {
        assert_eq!(places.write(), text);
        TenderKind::ALL.into_iter().filter_map(|kind| places.of(kind)).for_each(is_sound);
    }
    if let Some((at, id)) = leg_cursor::parse(text) {
        assert_eq!(leg_cursor::write(at, id), text);
        assert!(at >= DateTime::UNIX_EPOCH);
    }
    if let Some(place) = letter_place(text) {
        let (micros, id) = (place.opened_at.timestamp_micros(), place.dead_letter_id.simple());
        assert_eq!(format!("{micros}-{id}"), text);
    }
}

/// Each account once, and every version one that an entry can have.
fn is_sound(place: &Place) {
    let accounts: HashSet<_> = place.iter().map(|(asset, _)| asset).collect();
    assert_eq!(accounts.len(), place.iter().count());
    assert!(place.iter().all(|(_, version)| version > 0));
}
