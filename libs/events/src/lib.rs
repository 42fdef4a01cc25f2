//! What happened, on its way from a service's database to everybody who watches.
//!
//! A service writes each event to its [`Outbox`] in the transaction that makes it happen. The [`Relay`] tells
//! Redis of what it finds there and deletes it: at least once, in any order. For balances neither matters:
//! every message carries its account's version, and who listens drops what is older than what it has. For the
//! same reason nothing is lost for good when Redis forgets: who listens compares versions and asks. What became
//! of redemptions carries an `event_id`, by which consumers tell what they have seen.

mod floor;
mod outbox;
mod relay;

pub use floor::{Changed, FLOOR_TTL, customer_key, floor_key, versions};
pub use outbox::{Outbox, REDEMPTIONS};
pub use relay::{Passed, Relay, RelayError};

/// The channel on which the changes of one owner's accounts are published. The length keeps two ids from
/// running together: `a` + `b:c` is not `a:b` + `c`.
#[must_use]
pub fn balance_channel(business_id: &str, owner: &str) -> String {
    format!("balance:{}:{business_id}:{owner}", business_id.len())
}

#[cfg(test)]
mod tests {
    use super::balance_channel;

    #[test]
    fn no_two_owners_share_a_channel() {
        assert_ne!(balance_channel("a", "b:c"), balance_channel("a:b", "c"));
        assert_eq!(balance_channel("demo", "cus_8Q"), "balance:4:demo:cus_8Q");
    }
}
