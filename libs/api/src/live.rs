//! What a client of `GET /wallet/stream` or `GET /wallet/ws` hears.

use money::Currency;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    CurrencyCode,
    wallet::{TenderKind, WalletBalance},
};

/// One message. The first is a snapshot; after it, for each account, versions only rise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type")]
pub enum LiveMessage {
    /// Everything there is, as `GET /wallet/balance` answers it.
    #[serde(rename = "wallet.snapshot")]
    Snapshot(WalletBalance),
    /// An account has changed. Changes in quick succession may come as one.
    #[serde(rename = "wallet.balance_updated")]
    BalanceUpdated(BalanceUpdated),
    /// The token's time is up; nothing more comes.
    #[serde(rename = "wallet.token_expired")]
    TokenExpired {
        /// Whose wallet.
        customer_id: String,
    },
}

impl LiveMessage {
    /// Its type, which is also the name of the server-sent event.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Snapshot(_) => "wallet.snapshot",
            Self::BalanceUpdated(_) => "wallet.balance_updated",
            Self::TokenExpired { .. } => "wallet.token_expired",
        }
    }
}

/// An account that has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BalanceUpdated {
    /// Whose wallet.
    pub customer_id: String,
    /// Which tender.
    pub tender: TenderKind,
    /// Its currency; absent for points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<CurrencyCode>)]
    pub currency: Option<Currency>,
    /// The account's version.
    pub version: i64,
    /// What it holds.
    pub balance: LiveBalance,
}

/// The balance of one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiveBalance {
    /// Units that could be spent at that time.
    pub available: i64,
    /// Units set aside.
    pub held: i64,
    /// Units in the account.
    pub posted: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_what_it_is_and_points_have_no_currency() {
        let updated = BalanceUpdated {
            customer_id: "c".to_owned(),
            tender: TenderKind::Points,
            currency: None,
            version: 7,
            balance: LiveBalance { available: 1, held: 2, posted: 3 },
        };
        let message = LiveMessage::BalanceUpdated(updated);
        assert_eq!(
            serde_json::to_string(&message).expect("JSON"),
            r#"{"type":"wallet.balance_updated","customer_id":"c","tender":"points","version":7,"balance":{"available":1,"held":2,"posted":3}}"#
        );
        assert_eq!(message.name(), "wallet.balance_updated");
    }
}
