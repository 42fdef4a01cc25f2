//! Answers as they are stored.

use saga::Response;
use serde::Serialize;

/// The answer of a saga under its key, byte for byte, for ever. What serde cannot write is left empty, and an empty answer is
/// refused by the database (`saga_answer_not_empty`): its saga is parked, and no caller ever hears nothing.
pub(super) fn stored(status: u16, body: &impl Serialize) -> Response {
    Response { status, body: serde_json::to_vec(body).unwrap_or_default() }
}

/// The text of a `jsonb` column. What serde cannot write is left empty, which is no JSON: the database refuses it, and the saga is
/// parked.
pub(super) fn as_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
