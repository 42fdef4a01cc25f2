//! Between the wire's words and the tender's own.

use api::tender as wire;
use ledger::Funding;

use crate::fold::book::Status;

/// As the wire writes it.
#[must_use]
pub const fn funding(funding: Funding) -> wire::Funding {
    match funding {
        Funding::Paid => wire::Funding::Paid,
        Funding::Promo => wire::Funding::Promo,
        Funding::Refund => wire::Funding::Refund,
    }
}

/// As the ledger has it.
#[must_use]
pub const fn funding_from(funding: wire::Funding) -> Funding {
    match funding {
        wire::Funding::Paid => Funding::Paid,
        wire::Funding::Promo => Funding::Promo,
        wire::Funding::Refund => Funding::Refund,
    }
}

/// As the wire writes it.
#[must_use]
pub const fn status(status: Status) -> wire::AccountStatus {
    match status {
        Status::Active => wire::AccountStatus::Active,
        Status::Frozen => wire::AccountStatus::Frozen,
        Status::Closed => wire::AccountStatus::Closed,
    }
}
