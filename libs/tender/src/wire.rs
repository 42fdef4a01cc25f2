//! Who paid for a lot, in the wire's words and in the ledger's.

use api::tender as wire;
use ledger::Funding;

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
