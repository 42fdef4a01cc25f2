use rust_decimal::{Decimal, RoundingStrategy, prelude::ToPrimitive};

use crate::{Currency, MoneyError};

/// How a conversion treats what lies between two units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// Towards zero: the customer never receives more than the points are worth.
    Down,
    /// Away from zero: enough points to cover the amount.
    Up,
}

impl Rounding {
    fn strategy(self) -> RoundingStrategy {
        match self {
            Self::Down => RoundingStrategy::ToZero,
            Self::Up => RoundingStrategy::AwayFromZero,
        }
    }
}

/// Most decimal places of a rate.
const SCALE_MAX: u32 = 9;

/// Most that a point may be worth, in major units. With rates so bounded, no quotient that a conversion needs falls short of
/// the 28 digits of a `Decimal`, so each is rounded once.
const RATE_MAX: i64 = 1_000_000_000;

/// What one point is worth, in major units of a currency (0.01 = one cent a point in USD).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PointValue {
    rate: Decimal,
    currency: Currency,
}

impl PointValue {
    /// One point = `rate` major units of `currency`.
    ///
    /// # Errors
    /// [`MoneyError::InvalidRate`] unless above zero, at most 10^9, with at most nine decimal places.
    pub fn try_new(rate: Decimal, currency: Currency) -> Result<Self, MoneyError> {
        if rate <= Decimal::ZERO || rate > Decimal::from(RATE_MAX) || rate.scale() > SCALE_MAX {
            return Err(MoneyError::InvalidRate);
        }
        Ok(Self { rate, currency })
    }

    /// One point = 0.01 of the currency's major unit: the default for any business.
    #[must_use]
    pub fn hundredth(currency: Currency) -> Self {
        Self { rate: Decimal::new(1, 2), currency }
    }

    /// The rate as it was given.
    #[must_use]
    pub fn rate(self) -> Decimal {
        self.rate
    }

    /// The minor units that `points` are worth.
    ///
    /// # Errors
    /// [`MoneyError::OutOfRange`] if the result does not fit.
    pub fn minor_units(self, points: i64, rounding: Rounding) -> Result<i64, MoneyError> {
        Decimal::from(points)
            .checked_mul(self.rate)
            .and_then(|major| major.checked_mul(self.scale()))
            .and_then(|minor| minor.round_dp_with_strategy(0, rounding.strategy()).to_i64())
            .ok_or(MoneyError::OutOfRange)
    }

    /// The points that `minor` units of the currency take.
    ///
    /// # Errors
    /// [`MoneyError::OutOfRange`] if the result does not fit.
    pub fn points(self, minor: i64, rounding: Rounding) -> Result<i64, MoneyError> {
        Decimal::from(minor)
            .checked_div(self.scale())
            .and_then(|major| major.checked_div(self.rate))
            .and_then(|points| points.round_dp_with_strategy(0, rounding.strategy()).to_i64())
            .ok_or(MoneyError::OutOfRange)
    }

    fn scale(self) -> Decimal {
        // ISO 4217 exponents are at most 4.
        Decimal::from(10_i64.saturating_pow(self.currency.exponent()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(rate: &str, currency: &str) -> PointValue {
        PointValue::try_new(rate.parse().expect("rate"), currency.parse().expect("currency")).expect("value")
    }

    #[test]
    fn conversions_follow_the_exponent_of_the_currency() {
        assert_eq!(value("0.01", "USD").minor_units(500, Rounding::Down), Ok(500));
        assert_eq!(value("1", "JPY").minor_units(7, Rounding::Down), Ok(7));
        assert_eq!(value("0.005", "USD").minor_units(3, Rounding::Down), Ok(1));
        assert_eq!(value("0.005", "USD").points(1, Rounding::Up), Ok(2));
        assert_eq!(value("0.03", "USD").points(100, Rounding::Down), Ok(33));
    }

    #[test]
    fn rates_that_mean_nothing_are_refused() {
        for rate in ["0", "-0.01", "0.0000000001", "1000000000.1", "8300000000000000000000000000"] {
            let rate = rate.parse().expect("decimal");
            assert_eq!(PointValue::try_new(rate, Currency::USD), Err(MoneyError::InvalidRate));
        }
    }

    #[test]
    fn what_does_not_fit_is_out_of_range() {
        assert_eq!(value("1000", "USD").minor_units(i64::MAX, Rounding::Down), Err(MoneyError::OutOfRange));
    }

    proptest! {
        #[test]
        fn points_rounded_down_never_exceed_the_amount(minor in 0_i64..1_000_000_000, rate in 1_i64..100_000) {
            let value = PointValue::try_new(Decimal::new(rate, 4), Currency::USD).expect("rate");
            let points = value.points(minor, Rounding::Down).expect("points");
            prop_assert!(value.minor_units(points, Rounding::Down).expect("minor") <= minor);
        }
    }
}
