//! What amounts are of, and what points are worth. No I/O.
//!
//! Every amount is an `i64` in the smallest unit of its [`Asset`]: minor units of a currency by its
//! ISO 4217 exponent, or whole loyalty points. Arithmetic is checked. `rust_decimal` appears only where a
//! rate does, and every use names its rounding.
#![deny(clippy::arithmetic_side_effects)]

mod asset;
mod rate;

pub use asset::{Asset, Currency};
pub use rate::{PointValue, Rounding};

/// Why an amount, an asset or a rate could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// The result does not fit an `i64`.
    #[error("amount out of range")]
    OutOfRange,
    /// Not an ISO 4217 code, or not in capital letters.
    #[error("unknown currency")]
    UnknownCurrency,
    /// A rate must be above zero, at most 10^9, and have at most nine decimal places.
    #[error("invalid rate")]
    InvalidRate,
}
