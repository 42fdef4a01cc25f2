use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::MoneyError;

/// An ISO 4217 currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency(iso_currency::Currency);

impl Currency {
    /// United States dollar, the currency of the demonstration data.
    pub const USD: Self = Self(iso_currency::Currency::USD);

    /// The three capital letters of ISO 4217.
    #[must_use]
    pub fn code(self) -> &'static str {
        self.0.code()
    }

    /// Decimal places between the major and the minor unit (2 for USD, 0 for JPY, 3 for KWD).
    /// Codes to which ISO 4217 gives no minor unit (gold, testing) count as 0.
    #[must_use]
    pub fn exponent(self) -> u32 {
        self.0.exponent().map_or(0, u32::from)
    }
}

impl FromStr for Currency {
    type Err = MoneyError;

    /// Accepts capital letters only: `usd` is refused rather than guessed.
    fn from_str(code: &str) -> Result<Self, MoneyError> {
        iso_currency::Currency::from_code(code)
            .filter(|c| c.code() == code)
            .map(Self)
            .ok_or(MoneyError::UnknownCurrency)
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl PartialOrd for Currency {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Currency {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.code().cmp(other.code())
    }
}

impl Serialize for Currency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = String::deserialize(deserializer)?;
        code.parse().map_err(serde::de::Error::custom)
    }
}

/// What an account holds: loyalty points (exponent 0) or one currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Asset {
    /// Whole loyalty points.
    Points,
    /// Minor units of a currency.
    Money(Currency),
}

impl Asset {
    /// The name used on the wire and in the database: `points`, or the currency's code.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Points => "points",
            Self::Money(currency) => currency.code(),
        }
    }

    /// The currency, unless this is points.
    #[must_use]
    pub fn currency(self) -> Option<Currency> {
        match self {
            Self::Points => None,
            Self::Money(currency) => Some(currency),
        }
    }
}

impl FromStr for Asset {
    type Err = MoneyError;

    fn from_str(name: &str) -> Result<Self, MoneyError> {
        match name {
            "points" => Ok(Self::Points),
            code => code.parse().map(Self::Money),
        }
    }
}

impl fmt::Display for Asset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Asset {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Asset {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponents_are_those_of_iso_4217() {
        for (code, exponent) in [("KHR", 2), ("SGD", 2), ("PHP", 2), ("USD", 2), ("JPY", 0), ("KWD", 3)] {
            let currency: Currency = code.parse().expect(code);
            assert_eq!(currency.exponent(), exponent, "{code}");
        }
    }

    #[test]
    fn only_capital_iso_codes_are_currencies() {
        for code in ["usd", "US", "USDT", "", "points", "ＵＳＤ", "US\u{0}"] {
            assert_eq!(code.parse::<Currency>(), Err(MoneyError::UnknownCurrency), "{code:?}");
        }
    }

    #[test]
    fn an_asset_survives_its_name() {
        for asset in [Asset::Points, Asset::Money(Currency::USD)] {
            assert_eq!(asset.as_str().parse(), Ok(asset));
        }
    }
}
