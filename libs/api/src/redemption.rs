//! Where a redemption stands, by the names that rows and callers know.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where a redemption stands. How it moves from one to the next is said by the wallet's `redemption::transition`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RedemptionStatus {
    /// Its legs are being sent.
    Pending,
    /// It holds value.
    Authorized,
    /// What it holds is being taken. Shown as `authorized`.
    Capturing,
    /// It took value.
    Completed,
    /// A part of what it took was refunded.
    PartiallyRefunded,
    /// All that it took was refunded.
    Refunded,
    /// It never took effect; `reversal` says whether everything is back.
    Declined,
    /// All that it took or holds is on its way back.
    Reversing,
    /// Its key was cancelled, and all that it took is back.
    Reversed,
    /// It was voided, and all that it held is back.
    Voided,
    /// Its hold ended, and all that it held is back.
    Expired,
    /// Its saga is a dead letter.
    UnderReview,
    /// An operator settled it by hand.
    Resolved,
}

impl RedemptionStatus {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Pending,
        Self::Authorized,
        Self::Capturing,
        Self::Completed,
        Self::PartiallyRefunded,
        Self::Refunded,
        Self::Declined,
        Self::Reversing,
        Self::Reversed,
        Self::Voided,
        Self::Expired,
        Self::UnderReview,
        Self::Resolved,
    ];

    /// The name on the wire and in rows.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Authorized => "authorized",
            Self::Capturing => "capturing",
            Self::Completed => "completed",
            Self::PartiallyRefunded => "partially_refunded",
            Self::Refunded => "refunded",
            Self::Declined => "declined",
            Self::Reversing => "reversing",
            Self::Reversed => "reversed",
            Self::Voided => "voided",
            Self::Expired => "expired",
            Self::UnderReview => "under_review",
            Self::Resolved => "resolved",
        }
    }

    /// The status with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// As callers see it: until a capture is done, the redemption is authorized.
    #[must_use]
    pub const fn shown(self) -> Self {
        match self {
            Self::Capturing => Self::Authorized,
            status => status,
        }
    }
}

/// How far a redemption that never took effect has gone back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reversal {
    /// Value may still be on its way back.
    Pending,
    /// Everything is back.
    Done,
}

impl Reversal {
    /// The name on the wire and in rows.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Done => "done",
        }
    }

    /// The reversal with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Pending, Self::Done].into_iter().find(|reversal| reversal.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_one_name_wherever_it_is_written() {
        for status in RedemptionStatus::ALL {
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
            assert_eq!(RedemptionStatus::parse(status.as_str()), Some(status));
        }
        for reversal in [Reversal::Pending, Reversal::Done] {
            assert_eq!(serde_json::to_value(reversal).unwrap(), reversal.as_str());
            assert_eq!(Reversal::parse(reversal.as_str()), Some(reversal));
        }
    }
}
