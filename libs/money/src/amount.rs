use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Asset, MoneyError};

/// A signed quantity of one asset, in its smallest unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Amount {
    units: i64,
    asset: Asset,
}

impl Amount {
    /// `units` of `asset`: minor units of a currency, or whole points.
    #[must_use]
    pub const fn new(units: i64, asset: Asset) -> Self {
        Self { units, asset }
    }

    /// The number of smallest units.
    #[must_use]
    pub const fn units(self) -> i64 {
        self.units
    }

    /// What is counted.
    #[must_use]
    pub const fn asset(self) -> Asset {
        self.asset
    }

    /// The sum.
    ///
    /// # Errors
    /// [`MoneyError::AssetMismatch`] for two assets, [`MoneyError::OutOfRange`] past an `i64`.
    pub fn checked_add(self, other: Self) -> Result<Self, MoneyError> {
        self.combine(other, i64::checked_add)
    }

    /// The difference.
    ///
    /// # Errors
    /// As [`Amount::checked_add`].
    pub fn checked_sub(self, other: Self) -> Result<Self, MoneyError> {
        self.combine(other, i64::checked_sub)
    }

    fn combine(self, other: Self, operation: fn(i64, i64) -> Option<i64>) -> Result<Self, MoneyError> {
        if self.asset != other.asset {
            return Err(MoneyError::AssetMismatch(self.asset, other.asset));
        }
        let units = operation(self.units, other.units).ok_or(MoneyError::OutOfRange)?;
        Ok(Self { units, asset: self.asset })
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.units, self.asset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Currency;

    const USD: Asset = Asset::Money(Currency::USD);

    #[test]
    fn assets_never_mix() {
        let sum = Amount::new(1, USD).checked_add(Amount::new(1, Asset::Points));
        assert_eq!(sum, Err(MoneyError::AssetMismatch(USD, Asset::Points)));
    }

    #[test]
    fn overflow_is_an_error_value() {
        let sum = Amount::new(i64::MAX, USD).checked_add(Amount::new(1, USD));
        assert_eq!(sum, Err(MoneyError::OutOfRange));
        let difference = Amount::new(i64::MIN, USD).checked_sub(Amount::new(1, USD));
        assert_eq!(difference, Err(MoneyError::OutOfRange));
    }
}
