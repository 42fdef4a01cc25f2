//! Which lots pay: soonest-expiring first, then oldest.

use api::legs::LotPart;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::book::{AccountState, Allocation, Mark, Rank};

/// Most lots that one operation takes from: its answer, and its reversal, stay bounded.
pub const LOTS_MAX: usize = 1_000;

/// A part of a lot that will pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    rank: Rank,
    units: i64,
}

/// The lots that pay `amount` at `now`; none if they were not all read, or are more than [`LOTS_MAX`].
pub fn choose(
    account: &AccountState,
    reward_id: Option<Uuid>,
    amount: i64,
    now: DateTime<Utc>,
) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut missing = amount;
    for (rank, lot) in &account.lots {
        // Lots behind the point to which lots were read may come before this one.
        let is_read = reward_id.is_some() || account.read_to.is_none_or(|end| *rank <= end);
        if missing == 0 || !is_read {
            break;
        }
        let is_asked_for = reward_id.is_none() || lot.reward_id == reward_id;
        if is_asked_for && lot.remaining > 0 && lot.is_spendable(now) {
            let units = missing.min(lot.remaining);
            parts.push(Part { rank: *rank, units });
            missing -= units;
        }
    }
    (missing == 0 && parts.len() <= LOTS_MAX).then_some(parts)
}

/// Takes the parts out of their lots, or sets them aside.
pub fn take(account: &mut AccountState, parts: &[Part], hold: bool) -> (Vec<Allocation>, Vec<LotPart>) {
    let mut allocations = Vec::with_capacity(parts.len());
    let mut answer = Vec::with_capacity(parts.len());
    // Positions fit: no operation takes from more than `LOTS_MAX` lots.
    for (position, Part { rank, units }) in (0..).zip(parts) {
        let Some(lot) = account.lots.get_mut(rank) else { continue };
        lot.remaining -= units;
        if hold {
            lot.held += units;
        }
        lot.mark.touch();
        allocations.push(Allocation {
            position,
            lot_id: lot.lot_id,
            amount: *units,
            reversed: 0,
            mark: Mark::New,
        });
        answer.push(LotPart { lot_id: lot.lot_id, amount: *units, expires_at: lot.expires_at });
    }
    (allocations, answer)
}
