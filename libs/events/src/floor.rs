//! The floor under a cached balance: versions below which nothing that is cached may be shown.
//!
//! Whoever learns of a change raises the floor of its account; a cached balance that is below it, or that
//! lacks an account which the floor names, is not used and not stored. A floor only rises, so an
//! invalidation can lose no race: a slow reader that stores what it read before the change stores it below
//! the floor. It outlives every balance that was read before it was raised: those are kept for five
//! seconds, and reading one is limited to one.

use std::{borrow::Cow, time::Duration};

use redis::{Cmd, cmd};
use serde::Deserialize;

/// How long a floor is kept after it was raised last.
pub const FLOOR_TTL: Duration = Duration::from_secs(15);

/// Takes the higher of both versions; a floor is text like `EUR=7,USD=12`.
const RAISE: &str = "
local kept, version = {}, tonumber(ARGV[2])
for asset, known in string.gmatch(redis.call('GET', KEYS[1]) or '', '([^=,]+)=(%d+)') do
    if asset == ARGV[1] then
        version = math.max(version, tonumber(known))
    else
        kept[#kept + 1] = asset .. '=' .. known
    end
end
kept[#kept + 1] = ARGV[1] .. '=' .. string.format('%.0f', version)
redis.call('SET', KEYS[1], table.concat(kept, ','), 'PX', ARGV[3])
return 1";

/// The beginning of every key about one customer's balances. The braces put all of them into one slot of a
/// Redis Cluster; the length keeps two ids from running together.
#[must_use]
pub fn customer_key(business_id: &str, customer_id: &str) -> String {
    format!("wallet:{{{}:{business_id}:{customer_id}}}", business_id.len())
}

/// The key of a customer's floor in one tender.
#[must_use]
pub fn floor_key(business_id: &str, customer_id: &str, tender: &str) -> String {
    format!("{}:{tender}:floor", customer_key(business_id, customer_id))
}

/// An account that has changed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Changed<'a> {
    /// The retailer.
    #[serde(borrow)]
    pub business_id: Cow<'a, str>,
    /// The owner.
    #[serde(borrow)]
    pub customer_id: Cow<'a, str>,
    /// Which tender.
    #[serde(borrow)]
    pub tender: Cow<'a, str>,
    /// What the account holds.
    #[serde(borrow)]
    pub asset: Cow<'a, str>,
    /// The version that it has reached.
    pub version: i64,
}

impl Changed<'_> {
    /// The command that raises the floor.
    #[must_use]
    pub fn raise(&self) -> Cmd {
        let mut command = cmd("EVAL");
        command
            .arg(RAISE)
            .arg(1)
            .arg(floor_key(&self.business_id, &self.customer_id, &self.tender))
            .arg(&*self.asset)
            .arg(self.version)
            .arg(FLOOR_TTL.as_millis().to_string());
        command
    }
}

/// The versions in a floor, or in the head of a cached balance.
pub fn versions(text: &str) -> impl Iterator<Item = (&str, i64)> {
    text.split(',').filter_map(|part| {
        let (asset, version) = part.split_once('=')?;
        Some((asset, version.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_customers_share_a_key() {
        assert_eq!(floor_key("demo", "c", "points"), "wallet:{4:demo:c}:points:floor");
        assert_ne!(customer_key("a", "b:c"), customer_key("a:b", "c"));
        assert_ne!(floor_key("a", "c}:points", "points"), floor_key("a", "c", "points"));
    }

    #[test]
    fn a_floor_is_read_as_it_is_written() {
        assert_eq!(versions("EUR=7,USD=12").collect::<Vec<_>>(), [("EUR", 7), ("USD", 12)]);
        assert_eq!(versions("").count(), 0);
        assert_eq!(versions("nonsense,=,x=y").count(), 0);
    }
}
