//! Which lots pay: soonest-expiring first, then oldest.

use api::legs::LotPart;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::working_set::{AccountState, Allocation, Dirty, SpendOrder};

/// Most lots that one operation takes from: its answer, and its reversal, stay bounded.
pub const LOTS_MAX: usize = 1_000;

/// A part of a lot that will pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    order: SpendOrder,
    units: i64,
}

/// The parts of lots that pay `amount` at `now`; none if the lots were not all read, or are more than [`LOTS_MAX`].
pub fn parts(
    account: &AccountState,
    reward_id: Option<Uuid>,
    amount: i64,
    now: DateTime<Utc>,
) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut missing = amount;
    for (order, lot) in &account.lots {
        // Lots behind the point to which lots were read may come before this one.
        let is_read = reward_id.is_some() || account.read_to.is_none_or(|end| *order <= end);
        if missing == 0 || !is_read {
            break;
        }
        let is_asked_for = reward_id.is_none() || lot.reward_id == reward_id;
        if is_asked_for && lot.remaining > 0 && lot.is_spendable(now) {
            let units = missing.min(lot.remaining);
            parts.push(Part { order: *order, units });
            missing -= units;
        }
    }
    (missing == 0 && parts.len() <= LOTS_MAX).then_some(parts)
}

/// Allocates the parts: takes them out of their lots, or sets them aside.
pub fn allocate(account: &mut AccountState, parts: &[Part], hold: bool) -> (Vec<Allocation>, Vec<LotPart>) {
    let mut allocations = Vec::with_capacity(parts.len());
    let mut answer = Vec::with_capacity(parts.len());
    // Positions fit: no operation takes from more than `LOTS_MAX` lots.
    for (position, Part { order, units }) in (0..).zip(parts) {
        let Some(lot) = account.lots.get_mut(order) else { continue };
        lot.remaining -= units;
        if hold {
            lot.held += units;
        }
        lot.dirty.touch();
        allocations.push(Allocation {
            position,
            lot_id: lot.lot_id,
            amount: *units,
            reversed: 0,
            dirty: Dirty::New,
        });
        answer.push(LotPart { lot_id: lot.lot_id, amount: *units, expires_at: lot.expires_at });
    }
    (allocations, answer)
}
