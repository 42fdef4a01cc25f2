//! Points and money against fractions of whole numbers: exact, rounded once, for any rate that is accepted.

use money::{Currency, MoneyError, PointValue, Rounding};
use proptest::prelude::*;
use rust_decimal::Decimal;

/// Currencies of every exponent that there is.
const CURRENCIES: [&str; 4] = ["JPY", "USD", "KWD", "CLF"];

const ROUNDINGS: [Rounding; 2] = [Rounding::Down, Rounding::Up];

/// `numerator / denominator`, rounded once.
fn divide(numerator: i128, denominator: i128, rounding: Rounding) -> Result<i64, MoneyError> {
    let (quotient, rest) = (numerator / denominator, numerator % denominator);
    let away = if rounding == Rounding::Up { rest.signum() } else { 0 };
    i64::try_from(quotient + away).map_err(|_| MoneyError::OutOfRange)
}

fn power_of_ten(exponent: u32) -> i128 {
    10_i128.pow(exponent)
}

fn rates() -> impl Strategy<Value = Decimal> {
    (0_u32..=9).prop_flat_map(|scale| {
        let most = power_of_ten(9 + scale);
        prop_oneof![1_i128..100, 1_i128..1_000_000, 1..=most, most - 1_000..=most]
            .prop_map(move |mantissa| Decimal::from_i128_with_scale(mantissa, scale))
    })
}

fn amounts() -> impl Strategy<Value = i64> {
    prop_oneof![-1_000_i64..1_000, any::<i64>(), i64::MAX - 1_000..=i64::MAX]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4_000) })]

    #[test]
    fn conversions_are_exact_and_rounded_once(
        rate in rates(),
        amount in amounts(),
        currency in prop::sample::select(&CURRENCIES[..]),
        rounding in prop::sample::select(&ROUNDINGS[..]),
    ) {
        let currency: Currency = currency.parse().unwrap();
        let value = PointValue::try_new(rate, currency).unwrap();
        // One point is this many minor units, over a power of ten.
        let (point, parts) = (rate.mantissa() * power_of_ten(currency.exponent()), power_of_ten(rate.scale()));
        let worth = i128::from(amount).checked_mul(point).ok_or(MoneyError::OutOfRange);
        let worth = worth.and_then(|worth| divide(worth, parts, rounding));
        prop_assert_eq!(value.minor_units(amount, rounding), worth);
        prop_assert_eq!(value.points(amount, rounding), divide(i128::from(amount) * parts, point, rounding));
    }
}
