//! What each leg of a redemption took, and what of it is reserved for, or done by, going back: `leg_taken` and `leg_returned`, in
//! minor units, a position for each leg number (arrays of SQL count from 1, legs from 0).
//!
//! Nothing else names these columns, so that they can be moved. The database keeps 0 ≤ returned ≤ taken for every leg
//! (`redemption_legs_returned_within_taken`), and derives the redemption's totals from them.

use std::fmt::Write as _;

use api::wallet::TenderResult;

/// Assignments of a redemption `r` from a move `u`: its `taken` as the text of an array, or null to leave it, and whether it
/// `returns_all`.
macro_rules! assign_legs {
    () => {
        "leg_taken = coalesce(u.taken::bigint[], r.leg_taken), \
         leg_returned = CASE WHEN u.returns_all THEN coalesce(u.taken::bigint[], r.leg_taken) ELSE r.leg_returned END"
    };
}
pub(super) use assign_legs;

/// What each leg took, as Postgres reads an array. A leg number without a tender took nothing.
#[must_use]
pub fn taken(tenders: &[TenderResult]) -> String {
    let mut units = Vec::new();
    for tender in tenders {
        let position = usize::from(tender.leg);
        if units.len() <= position {
            units.resize(position + 1, 0_i64);
        }
        units[position] = tender.amount;
    }
    let mut text = String::from("{");
    for (position, units) in units.iter().enumerate() {
        let comma = if position == 0 { "" } else { "," };
        let _ = write!(text, "{comma}{units}"); // a string takes whatever is written
    }
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tender(leg: u16, amount: i64) -> TenderResult {
        let tender = serde_json::json!({ "leg": leg, "type": "points", "status": "applied", "amount": amount, "lots": [] });
        serde_json::from_value(tender).unwrap()
    }

    #[test]
    fn a_leg_keeps_its_number_also_where_another_took_nothing() {
        assert_eq!(taken(&[]), "{}");
        assert_eq!(taken(&[tender(0, 500), tender(2, 7)]), "{500,0,7}");
        assert_eq!(taken(&[tender(1, 7), tender(0, 1)]), "{1,7}");
    }
}
