//! Where a redemption stands: its status, and how far a way back has come.

use std::fmt;

use api::wallet::{RedemptionStatus as Status, Reversal};

/// Which redemptions hold their till's `sequence`, as SQL about a redemption's columns: the predicate of the unique index
/// `redemption_sequence`, word for word, and of the guard in front of it. [`Standing::holds_sequence`] says the same.
///
/// What is on its way back holds none, parked or not: the cashier's next attempt has the same sequence.
macro_rules! holds_sequence {
    () => {
        "status IN ('pending', 'authorized', 'capturing', 'completed', 'partially_refunded', 'refunded', 'under_review') \
         AND reversal IS NULL"
    };
}
pub(crate) use holds_sequence;

/// The predicate, for statements that are put together at run time.
pub const HOLDS_SEQUENCE: &str = holds_sequence!();

/// A status with what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Standing {
    /// The status.
    pub status: Status,
    /// Of a declined one, and of one under review that was on its way back.
    pub reversal: Option<Reversal>,
}

impl Standing {
    /// Declined, and everything is back.
    pub const DECLINED: Self = Self { status: Status::Declined, reversal: Some(Reversal::Done) };
    /// Declined, and value may still be on its way back.
    pub const DECLINED_PENDING: Self = Self { status: Status::Declined, reversal: Some(Reversal::Pending) };
    /// Parked on its way back.
    pub const UNDER_REVIEW_PENDING: Self =
        Self { status: Status::UnderReview, reversal: Some(Reversal::Pending) };

    /// All that there are; the database has no other (`redemption_reversal_fits`).
    pub const ALL: [Self; 15] = [
        Self::on(Status::Pending),
        Self::on(Status::Authorized),
        Self::on(Status::Capturing),
        Self::on(Status::Completed),
        Self::on(Status::PartiallyRefunded),
        Self::on(Status::Refunded),
        Self::DECLINED_PENDING,
        Self::DECLINED,
        Self::on(Status::Reversing),
        Self::on(Status::Reversed),
        Self::on(Status::Voided),
        Self::on(Status::Expired),
        Self::on(Status::UnderReview),
        Self::UNDER_REVIEW_PENDING,
        Self::on(Status::Resolved),
    ];

    /// A status to which no reversal belongs.
    #[must_use]
    pub const fn on(status: Status) -> Self {
        Self { status, reversal: None }
    }

    /// Whether the till's `sequence` is taken by it.
    #[must_use]
    pub const fn holds_sequence(self) -> bool {
        let is_in_force = matches!(
            self.status,
            Status::Pending
                | Status::Authorized
                | Status::Capturing
                | Status::Completed
                | Status::PartiallyRefunded
                | Status::Refunded
                | Status::UnderReview
        );
        is_in_force && self.reversal.is_none()
    }

    /// Whether nothing is left to be given back, so that a wish for it is fulfilled, or in an operator's hands.
    #[must_use]
    pub const fn ends_cancel_request(self) -> bool {
        matches!(self.status, Status::Reversed | Status::Voided | Status::Expired | Status::Resolved)
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.status.as_str())?;
        match self.reversal {
            Some(reversal) => write!(f, " (reversal {})", reversal.as_str()),
            None => Ok(()),
        }
    }
}

/// The status that a row names.
///
/// # Errors
/// If this version knows no such status.
pub fn read_status(name: &str) -> sqlx::Result<Status> {
    Status::parse(name)
        .ok_or_else(|| sqlx::Error::Decode(format!("{name} is no status of a redemption").into()))
}

/// The reversal that a row names.
///
/// # Errors
/// If this version knows no such reversal.
pub fn read_reversal(name: Option<&str>) -> sqlx::Result<Option<Reversal>> {
    let read = |name| {
        Reversal::parse(name).ok_or_else(|| sqlx::Error::Decode(format!("{name} is no reversal").into()))
    };
    name.map(read).transpose()
}
