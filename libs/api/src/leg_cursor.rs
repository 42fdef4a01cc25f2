//! Where a page of legs ends, as text: a time with its microseconds, and an operation's id. A cursor is read only if it is what
//! would be written.

use chrono::{DateTime, SecondsFormat, Utc};
use uuid::Uuid;

/// The cursor of this place.
#[must_use]
pub fn write(at: DateTime<Utc>, operation_id: Uuid) -> String {
    format!("{}_{operation_id}", at.to_rfc3339_opts(SecondsFormat::Micros, true))
}

/// The place that a cursor names; `None` if this list never wrote it: nothing is older than 1970, and Postgres fails on times
/// that it cannot keep.
#[must_use]
pub fn parse(cursor: &str) -> Option<(DateTime<Utc>, Uuid)> {
    let (at, id) = cursor.split_once('_')?;
    let (at, id) = (DateTime::parse_from_rfc3339(at).ok()?.to_utc(), id.parse().ok()?);
    let is_ours = at >= DateTime::UNIX_EPOCH && write(at, id) == cursor;
    is_ours.then_some((at, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_in_one_spelling() {
        let cursor = "2026-11-21T10:00:00.000001Z_00000000-0000-0000-0000-00000000000a";
        let (at, id) = parse(cursor).unwrap();
        assert_eq!(write(at, id), cursor);
        for bad in [
            "",
            "_",
            "2026-11-21T10:00:00Z_00000000-0000-0000-0000-00000000000a",
            "-262143-01-01T00:00:00.000000Z_00000000-0000-0000-0000-00000000000a",
            &cursor.to_lowercase(),
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
