use crate::Movement;

/// Why a movement is impossible. The account is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// A balance would leave the range of an `i64`.
    #[error("the balance would be out of range")]
    OutOfRange,
    /// The account has less than is taken, or less set aside than is freed.
    #[error("the balance would be below zero")]
    BelowZero,
    /// An amount below zero: the movement means something else.
    #[error("the amount is below zero")]
    NegativeAmount,
}

/// What an account has. `0 <= held <= posted`, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Balance {
    posted: i64,
    held: i64,
    version: i64,
}

impl Balance {
    /// The balance as it was stored.
    ///
    /// # Errors
    /// [`LedgerError::BelowZero`] unless `0 <= held <= posted` and `version` is not negative.
    pub const fn try_new(posted: i64, held: i64, version: i64) -> Result<Self, LedgerError> {
        if held < 0 || posted < held || version < 0 {
            return Err(LedgerError::BelowZero);
        }
        Ok(Self { posted, held, version })
    }

    /// Units that the account has, those set aside included.
    #[must_use]
    pub const fn posted(self) -> i64 {
        self.posted
    }

    /// Units that are not set aside.
    #[must_use]
    pub const fn free(self) -> i64 {
        // Within bounds: `0 <= held <= posted`.
        self.posted.saturating_sub(self.held)
    }

    /// Units set aside.
    #[must_use]
    pub const fn held(self) -> i64 {
        self.held
    }

    /// How many postings the account has had.
    #[must_use]
    pub const fn version(self) -> i64 {
        self.version
    }

    /// The balance after one more posting.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn after(self, movement: Movement) -> Result<Self, LedgerError> {
        if movement.is_negative() {
            return Err(LedgerError::NegativeAmount);
        }
        let (posted, held) = movement.changes().ok_or(LedgerError::OutOfRange)?;
        let posted = self.posted.checked_add(posted).ok_or(LedgerError::OutOfRange)?;
        let held = self.held.checked_add(held).ok_or(LedgerError::OutOfRange)?;
        let version = self.version.checked_add(1).ok_or(LedgerError::OutOfRange)?;
        Self::try_new(posted, held, version)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Funding;

    fn balance(posted: i64, held: i64) -> Balance {
        Balance::try_new(posted, held, 7).unwrap()
    }

    #[test]
    fn each_movement_changes_what_its_row_says() {
        let credit = Movement::Credit { amount: 5, funding: Funding::Paid };
        for (movement, posted, held) in [
            (credit, 105, 30),
            (Movement::Debit(5), 95, 30),
            (Movement::Hold(5), 100, 35),
            (Movement::Release(5), 100, 25),
            (Movement::Capture { taken: 5, released: 6 }, 95, 19),
            (Movement::Reverse(5), 105, 30),
            (Movement::Cancel(5), 105, 30),
            (Movement::Expire(5), 95, 30),
        ] {
            let after = balance(100, 30).after(movement).unwrap();
            assert_eq!((after.posted(), after.held(), after.version()), (posted, held, 8), "{movement:?}");
        }
    }

    #[test]
    fn a_movement_of_no_units_is_nothing() {
        for movement in [Movement::Debit(0), Movement::Hold(0), Movement::Capture { taken: 0, released: 0 }] {
            assert!(movement.is_nothing(), "{movement:?}");
        }
        for movement in [Movement::Debit(1), Movement::Hold(1), Movement::Capture { taken: 0, released: 1 }] {
            assert!(!movement.is_nothing(), "{movement:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_an_error_value() {
        for (movement, error) in [
            (Movement::Debit(71), LedgerError::BelowZero),
            (Movement::Hold(71), LedgerError::BelowZero),
            (Movement::Expire(71), LedgerError::BelowZero),
            (Movement::Release(31), LedgerError::BelowZero),
            (Movement::Capture { taken: 1, released: 30 }, LedgerError::BelowZero),
            (Movement::Capture { taken: i64::MAX, released: 1 }, LedgerError::OutOfRange),
            (Movement::Cancel(i64::MAX), LedgerError::OutOfRange),
            (Movement::Debit(-1), LedgerError::NegativeAmount),
            (Movement::Debit(i64::MIN), LedgerError::NegativeAmount),
        ] {
            assert_eq!(balance(100, 30).after(movement), Err(error), "{movement:?}");
        }
    }

    proptest! {
        #[test]
        fn no_movement_breaks_the_bounds(
            posted in 0..=i64::MAX,
            held in 0..=i64::MAX,
            amount in i64::MIN..=i64::MAX,
            rest in i64::MIN..=i64::MAX,
            kind in 0..8,
        ) {
            prop_assume!(held <= posted);
            let movement = match kind {
                0 => Movement::Credit { amount, funding: Funding::Promo },
                1 => Movement::Debit(amount),
                2 => Movement::Hold(amount),
                3 => Movement::Release(amount),
                4 => Movement::Capture { taken: amount, released: rest },
                5 => Movement::Reverse(amount),
                6 => Movement::Cancel(amount),
                _ => Movement::Expire(amount),
            };
            if let Ok(after) = balance(posted, held).after(movement) {
                prop_assert!(0 <= after.held() && after.held() <= after.posted());
                prop_assert_eq!(after.version(), 8);
            }
        }
    }
}
