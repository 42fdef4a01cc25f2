//! Balances that were read a moment ago.
//!
//! One entry a tender: what it said of all accounts of one customer, under a head of their versions. Only a read-through
//! writes an entry. Everything else raises the *floor* (see `events::Changed`): a leg's answer before its saga goes on,
//! and so before any caller hears of it, and the relay of each tender. An entry below the floor, or without an account
//! that the floor names, is as good as none. So no invalidation can lose a race, whoever is slow; one of which Redis could not
//! be told in time is counted, and costs at most the life of an entry.
//!
//! A balance is one round trip: three entries, three floors, and whether nothing is in doubt. Nothing here ever fails:
//! without Redis every read is a miss. Reads that decide do not come here.

use std::time::Duration;

use api::{legs::Account, tender::Owner, wallet::TenderKind};
use events::{Changed, customer_key, floor_key, versions};
use futures_util::{FutureExt, future::BoxFuture};
use metrics::counter;
use redis::{Client, cmd};
use service::Supervisor;

use super::{account_balance::AccountBalance, redis_connection::RedisConnection};
use crate::tenders::BalanceObserver;

const TENDERS: usize = TenderKind::ALL.len();
/// For how long it is believed that nothing of a customer is in doubt.
const DOUBT_TTL: Duration = Duration::from_secs(1);
/// Longest time to say that something is in doubt: what a till's answer has left.
const NOTE_LIMIT: Duration = Duration::from_millis(50);
/// Writes an entry unless it is older than the floor or than the entry that is there.
const STORE: &str = "
local new = {}
for asset, version in string.gmatch(ARGV[1], '([^=,]+)=(%d+)') do
    new[asset] = tonumber(version)
end
local function covers(known)
    for asset, version in string.gmatch(known or '', '([^=,]+)=(%d+)') do
        if (new[asset] or -1) < tonumber(version) then
            return false
        end
    end
    return true
end
local entry = redis.call('GET', KEYS[1])
if covers(redis.call('GET', KEYS[2])) and covers(entry and string.match(entry, '^[^\\n]*')) then
    redis.call('SET', KEYS[1], ARGV[1] .. '\\n' .. ARGV[2], 'PX', ARGV[3])
    return 1
end
return 0";

/// What the cache knows of a customer.
#[derive(Debug, Default)]
pub struct Cached {
    lines: [Option<Vec<AccountBalance>>; TENDERS],
    /// No unfinished redemption, as of a second ago at most.
    pub is_free_of_doubt: bool,
}

impl Cached {
    /// The lines of a tender, if they can be shown.
    pub fn take(&mut self, kind: TenderKind) -> Option<Vec<AccountBalance>> {
        self.lines[place(kind)].take()
    }
}

fn place(kind: TenderKind) -> usize {
    TenderKind::ALL.iter().position(|one| *one == kind).expect("ALL has every kind")
}

/// The cache. Clones share its connection.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    link: RedisConnection,
}

impl Cache {
    /// A cache in this Redis, if there is one, with a connection that is kept as long as the process serves.
    #[must_use]
    pub fn start(redis: Option<Client>, supervisor: &Supervisor) -> Self {
        let link = redis.map(|redis| RedisConnection::start(redis, supervisor));
        Self { link: link.unwrap_or_default() }
    }

    /// Whether Redis can be used, as far as is known.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.link.is_up()
    }

    /// What is known of a customer.
    pub async fn read(&self, owner: &Owner) -> Cached {
        if !self.link.is_up() {
            counter!("cache_reads_total", "result" => "away").increment(1);
            return Cached::default();
        }
        let mut command = cmd("MGET");
        for kind in TenderKind::ALL {
            command.arg(entry_key(owner, kind)).arg(floor(owner, kind));
        }
        command.arg(doubt_key(owner));
        let answer: Option<Vec<Option<String>>> =
            self.link.call(async |connection| command.query_async(connection).await).await;
        let Some(values) = answer else {
            counter!("cache_reads_total", "result" => "away").increment(1);
            return Cached::default();
        };
        let value = |place: usize| values.get(place).and_then(Option::as_deref);
        let cached = Cached {
            lines: std::array::from_fn(|tender| parse(value(2 * tender)?, value(2 * tender + 1))),
            is_free_of_doubt: value(2 * TENDERS).is_some(),
        };
        let is_hit = cached.is_free_of_doubt && cached.lines.iter().all(Option::is_some);
        counter!("cache_reads_total", "result" => if is_hit { "hit" } else { "miss" }).increment(1);
        cached
    }

    /// Keeps what a tender said just now, for as long as it may be shown.
    pub async fn store(
        &self,
        owner: &Owner,
        kind: TenderKind,
        lines: &[AccountBalance],
        fresh_for: Duration,
    ) {
        let Ok(body) = serde_json::to_string(lines) else { return };
        if fresh_for.as_millis() == 0 {
            return;
        }
        let mut command = cmd("EVAL");
        command.arg(STORE).arg(2).arg(entry_key(owner, kind)).arg(floor(owner, kind));
        command.arg(head(kind, lines)).arg(body).arg(fresh_for.as_millis().to_string());
        let _: Option<i64> = self.link.call(async |connection| command.query_async(connection).await).await;
    }

    /// Says that accounts have reached versions: nothing older is shown from here on. Done when this returns, in one round trip,
    /// unless Redis is away or takes longer than 250 ms; then what is cached is shown for at most as long as an entry lives.
    pub async fn raise(&self, kind: TenderKind, reached: &[(&Account, i64)]) {
        if reached.is_empty() || !self.link.is_wanted() {
            return;
        }
        let mut floors = redis::pipe();
        for (account, version) in reached {
            floors.add_command(changed(kind, account, *version).raise()).ignore();
        }
        // A floor that was given up shows a till that was told what it took the balance from before.
        let raised: Option<()> =
            self.link.call_relied_on(None, async |connection| floors.query_async(connection).await).await;
        if raised.is_none() {
            counter!("cache_raises_failed_total").increment(1);
        }
    }

    /// Keeps for a second that nothing of a customer is in doubt. That something is in doubt is never kept.
    pub async fn store_free_of_doubt(&self, owner: &Owner) {
        let mut command = cmd("SET");
        command.arg(doubt_key(owner)).arg(1).arg("PX").arg(DOUBT_TTL.as_millis().to_string());
        let _: Option<()> = self.link.call(async |connection| command.query_async(connection).await).await;
    }

    /// Something of a customer is in doubt from now on. The caller has to answer a till in time.
    pub async fn note_doubt(&self, owner: &Owner) {
        let mut command = cmd("DEL");
        command.arg(doubt_key(owner));
        let _: Option<i64> = self
            .link
            .call_relied_on(Some(NOTE_LIMIT), async |connection| command.query_async(connection).await)
            .await;
    }
}

impl BalanceObserver for Cache {
    fn reached<'a>(&'a self, tender: TenderKind, versions: &'a [(&'a Account, i64)]) -> BoxFuture<'a, ()> {
        self.raise(tender, versions).boxed()
    }
}

fn changed(kind: TenderKind, account: &Account, version: i64) -> Changed<'_> {
    Changed {
        business_id: account.business_id.as_str().into(),
        customer_id: account.customer_id.as_str().into(),
        tender: kind.as_str().into(),
        asset: account.asset.as_str().into(),
        version,
    }
}

fn entry_key(owner: &Owner, kind: TenderKind) -> String {
    format!("{}:{}", customer_key(owner.business_id.as_str(), owner.customer_id.as_str()), kind.as_str())
}

fn floor(owner: &Owner, kind: TenderKind) -> String {
    floor_key(owner.business_id.as_str(), owner.customer_id.as_str(), kind.as_str())
}

fn doubt_key(owner: &Owner) -> String {
    format!("{}:free_of_doubt", customer_key(owner.business_id.as_str(), owner.customer_id.as_str()))
}

/// The versions of all accounts, as a floor writes them.
fn head(kind: TenderKind, lines: &[AccountBalance]) -> String {
    let versions =
        lines.iter().filter_map(|line| Some(format!("{}={}", line.asset(kind)?, line.totals.version)));
    versions.collect::<Vec<_>>().join(",")
}

/// The lines of an entry, unless it is below the floor.
fn parse(entry: &str, floor: Option<&str>) -> Option<Vec<AccountBalance>> {
    let (head, body) = entry.split_once('\n')?;
    let has = |asset: &str| versions(head).find(|(known, _)| *known == asset).map(|(_, version)| version);
    let is_above =
        versions(floor.unwrap_or_default()).all(|(asset, least)| has(asset).is_some_and(|v| v >= least));
    if is_above { serde_json::from_str(body).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_below_the_floor_is_none() {
        let entry = "EUR=4,USD=7\n[]";
        for (floor, is_shown) in [
            (None, true),
            (Some(""), true),
            (Some("USD=7"), true),
            (Some("USD=8"), false),
            (Some("EUR=4,USD=6"), true),
            (Some("EUR=5,USD=6"), false),
            (Some("JPY=1"), false),
        ] {
            assert_eq!(parse(entry, floor).is_some(), is_shown, "{floor:?}");
        }
        assert!(parse("\n[]", Some("points=1")).is_none(), "an account that was not there yet");
        assert!(parse("nonsense", None).is_none());
    }
}
