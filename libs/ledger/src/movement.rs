use std::{fmt, str::FromStr};

/// Who paid for a lot when it was issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Funding {
    /// The customer.
    Paid,
    /// The retailer, as a promotion.
    Promo,
    /// The retailer, for goods that came back.
    Refund,
}

/// Not a funding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown funding")]
pub struct UnknownFunding;

impl Funding {
    /// The name on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Paid => "paid",
            Self::Promo => "promo",
            Self::Refund => "refund",
        }
    }

    const fn contra(self) -> &'static str {
        match self {
            Self::Paid => "issued:paid",
            Self::Promo => "issued:promo",
            Self::Refund => "issued:refund",
        }
    }
}

impl FromStr for Funding {
    type Err = UnknownFunding;

    fn from_str(name: &str) -> Result<Self, UnknownFunding> {
        [Self::Paid, Self::Promo, Self::Refund].into_iter().find(|f| f.as_str() == name).ok_or(UnknownFunding)
    }
}

impl fmt::Display for Funding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an operation does to one account. Every amount is in units of the account's asset and not negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Movement {
    /// New value.
    Credit {
        /// Units.
        amount: i64,
        /// Who paid for them.
        funding: Funding,
    },
    /// Value is taken.
    Debit(i64),
    /// Value is set aside.
    Hold(i64),
    /// Value that was set aside is free again.
    Release(i64),
    /// Value that was set aside is taken, the rest is free again.
    Capture {
        /// Units that are taken.
        taken: i64,
        /// Units that are free again.
        released: i64,
    },
    /// Value that was taken comes back by an operation of its own.
    Reverse(i64),
    /// Value that was taken comes back because its operation is undone.
    Cancel(i64),
    /// What was left of a lot at its end is gone.
    Expire(i64),
}

impl Movement {
    /// The kind of the entries, as stored and shown.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Credit { .. } => "credit",
            Self::Debit(_) => "debit",
            Self::Hold(_) => "hold",
            Self::Release(_) => "release",
            Self::Capture { .. } => "capture",
            Self::Reverse(_) => "reverse",
            Self::Cancel(_) => "cancel",
            Self::Expire(_) => "expire",
        }
    }

    /// The programme's side of the movement.
    #[must_use]
    pub const fn contra(self) -> &'static str {
        match self {
            Self::Credit { funding, .. } => funding.contra(),
            Self::Expire(_) => "expired",
            _ => "redeemed",
        }
    }

    /// By how much `posted` and `held` change; none where the amounts do not fit an `i64`.
    pub(crate) fn changes(self) -> Option<(i64, i64)> {
        Some(match self {
            Self::Credit { amount, .. } | Self::Reverse(amount) | Self::Cancel(amount) => (amount, 0),
            Self::Debit(amount) | Self::Expire(amount) => (amount.checked_neg()?, 0),
            Self::Hold(amount) => (0, amount),
            Self::Release(amount) => (0, amount.checked_neg()?),
            Self::Capture { taken, released } => {
                (taken.checked_neg()?, taken.checked_add(released)?.checked_neg()?)
            }
        })
    }

    /// Whether it changes neither what the account has nor what is set aside: there is nothing to post.
    #[must_use]
    pub fn is_nothing(self) -> bool {
        self.changes() == Some((0, 0))
    }

    pub(crate) const fn is_negative(self) -> bool {
        match self {
            Self::Credit { amount, .. }
            | Self::Debit(amount)
            | Self::Hold(amount)
            | Self::Release(amount)
            | Self::Reverse(amount)
            | Self::Cancel(amount)
            | Self::Expire(amount) => amount < 0,
            Self::Capture { taken, released } => taken < 0 || released < 0,
        }
    }
}
