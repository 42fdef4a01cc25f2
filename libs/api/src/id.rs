//! Ids by kind. What a caller chose is 1–128 visible ASCII characters; what we chose is a UUID.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// An id outside 1–128 visible ASCII characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 128 visible ASCII characters")]
pub struct InvalidId;

/// Whether `text` is 1 to `longest` visible ASCII characters (0x21–0x7e: no spaces, no controls).
#[must_use]
pub fn is_visible_ascii(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// The retailer that a token speaks for; first in every key of every table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[schema(min_length = 1, max_length = 128, pattern = "^[!-~]{1,128}$")]
#[serde(try_from = "String", into = "String")]
pub struct BusinessId(String);

/// The holder of value within one business, as the business names them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[schema(min_length = 1, max_length = 128, pattern = "^[!-~]{1,128}$")]
#[serde(try_from = "String", into = "String")]
pub struct CustomerId(String);

impl BusinessId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl CustomerId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for BusinessId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        if is_visible_ascii(&text, 128) { Ok(Self(text)) } else { Err(InvalidId) }
    }
}

impl TryFrom<String> for CustomerId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        if is_visible_ascii(&text, 128) { Ok(Self(text)) } else { Err(InvalidId) }
    }
}

impl From<BusinessId> for String {
    fn from(id: BusinessId) -> Self {
        id.0
    }
}

impl From<CustomerId> for String {
    fn from(id: CustomerId) -> Self {
        id.0
    }
}

impl fmt::Display for BusinessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for CustomerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of a saga's key, under which tenders know its legs.
///
/// It is derived from what the caller sent, not drawn: should the wallet's database lose its tail, the
/// till's retry meets the legs that it already has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LegsId(pub Uuid);

impl fmt::Display for LegsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_visible_ascii() {
        for bad in ["", "a b", "a\n", "é", &"x".repeat(129)] {
            assert_eq!(CustomerId::try_from(bad.to_owned()), Err(InvalidId), "{bad:?}");
        }
        assert!(CustomerId::try_from("x".repeat(128)).is_ok());
    }
}
