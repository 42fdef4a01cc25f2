//! The evidence, line by line. What is written is JSON Lines: one of these values a line, in the files that [`files`]
//! names.
//!
//! All `at`, `from` and `until` are microseconds on one monotonic clock, that of the process which wrote them down. Databases
//! have clocks of their own, which may be wrong and may jump: no rule compares them with this one, or with each other.
//! Dumps ([`crate::rows`]) are rows of the databases as they are.

use serde::{Deserialize, Serialize};

/// Names of the files in a folder of evidence. All but the first may be missing: then there is nothing to say.
pub mod files {
    /// One [`Meta`](super::Meta).
    pub const META: &str = "meta.json";
    /// [`Line`](super::Line)s: what clients asked, and what they were told.
    pub const HISTORY: &str = "history.jsonl";
    /// [`Snapshot`](super::Snapshot)s: each database, several times a second.
    pub const SNAPSHOTS: &str = "snapshots.jsonl";
    /// [`Heard`](super::Heard)s: live streams.
    pub const STREAMS: &str = "streams.jsonl";
    /// [`Event`](super::Event)s: redemption events, as a consumer read them.
    pub const EVENTS: &str = "events.jsonl";
    /// [`Mark`](super::Mark)s: when faults began and ended.
    pub const MARKS: &str = "marks.jsonl";
    /// [`Capture`](super::Capture)s: metrics and cache keys.
    pub const CAPTURES: &str = "captures.jsonl";
    /// A file for each process: what it logged.
    pub const LOGS: &str = "logs";
    /// `dumps/<number>/<database>/<table>.jsonl`; the highest number is the state in the end, after everything was
    /// quiet. Earlier dumps need only hold what must not change.
    pub const DUMPS: &str = "dumps";
}

/// What the rest is to be read by.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Meta {
    /// Who was served.
    pub businesses: Vec<Business>,
    /// What must not be in a log.
    pub secrets: Vec<String>,
    /// Redis was away: balances may be five seconds old, and live streams as late.
    pub redis_was_away: bool,
    /// A database has lost what it had acknowledged: what anybody was told before may not be so any more.
    #[serde(default)]
    pub database_forgot: bool,
}

/// A retailer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Business {
    /// Its name.
    pub name: String,
    /// A text that is in its requests, and must not be in anything of another.
    pub canary: String,
}

/// One step of one call. A call begins with `invoke` and has at most one other line; one without is as good as `info`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    /// When.
    pub at: u64,
    /// Who calls. A process has one call at a time.
    pub process: String,
    /// Which call.
    pub call: u64,
    /// What happened.
    #[serde(flatten)]
    pub step: Step,
}

/// What happened to a call.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Step {
    /// It is about to be sent.
    Invoke(Call),
    /// It has a definite answer.
    Ok(Answer),
    /// It certainly did nothing.
    Fail,
    /// It may or may not have done something, and may still.
    Info,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "f", rename_all = "snake_case")]
pub enum Call {
    /// To take from several tenders, all or nothing.
    Redeem {
        /// Whose customer.
        business: String,
        /// The idempotency key.
        key: String,
        /// Whose wallet.
        customer: String,
        /// Units of each tender, in the order of the request.
        legs: Vec<Leg>,
        /// To set them aside only, until a capture takes them.
        #[serde(default)]
        hold: bool,
        /// Which sale of which till it is: location, terminal, order and sequence in one text. Another key with the same
        /// one is for the same sale.
        #[serde(default)]
        place: Option<String>,
    },
    /// To take what a redeem has set aside; the rest is free again.
    Capture {
        /// Whose redemption.
        business: String,
        /// The capture's own idempotency key.
        key: String,
        /// The key of the redeem.
        of: String,
        /// How much of it, in minor units.
        amount: i64,
    },
    /// To free what a redeem has set aside.
    Void {
        /// Whose redemption.
        business: String,
        /// The void's own idempotency key.
        key: String,
        /// The key of the redeem.
        of: String,
    },
    /// To cancel a redeem by its key.
    Cancel {
        /// Whose key.
        business: String,
        /// The key of the redeem.
        key: String,
    },
    /// To give value to a customer.
    Credit {
        /// Whose customer.
        business: String,
        /// Who receives it.
        customer: String,
        /// What, and how much.
        #[serde(flatten)]
        leg: Leg,
    },
    /// To read an account from its ledger.
    Read {
        /// Whose customer.
        business: String,
        /// Whose account.
        customer: String,
        /// Which tender: `points`, `store_credit` or `digital_reward`.
        tender: String,
    },
    /// To read a wallet's balance, which may come from a cache.
    Balance {
        /// Whose customer.
        business: String,
        /// Whose wallet.
        customer: String,
    },
}

/// Units of a tender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg {
    /// `points`, `store_credit` or `digital_reward`.
    pub tender: String,
    /// How much.
    pub units: i64,
}

/// What a call was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The very bytes of the body.
    pub body: String,
}

/// One consistent view of one database.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    /// Not taken before.
    pub from: u64,
    /// Not taken after.
    pub until: u64,
    /// `wallet`, `points`, `store_credit` or `digital_rewards`.
    pub database: String,
    /// Of a tender: sums over everything.
    #[serde(default)]
    pub totals: Vec<Total>,
    /// Of a tender: the accounts that are watched.
    #[serde(default)]
    pub accounts: Vec<Seen>,
    /// Of the wallet: sagas that are not over.
    #[serde(default)]
    pub sagas: Vec<Open>,
}

/// Sums of one business in one asset.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Total {
    /// The retailer.
    pub business_id: String,
    /// The asset.
    pub asset: String,
    /// What its accounts hold.
    pub posted: i64,
    /// What is in lots, set aside or not.
    pub lots: i64,
    /// The sum of entries on accounts.
    pub entries: i64,
    /// The sum of entries on the other side.
    pub contra: i64,
}

/// An account, as a snapshot saw it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Seen {
    /// The retailer.
    pub business_id: String,
    /// The customer.
    pub owner: String,
    /// What it holds.
    pub posted: i64,
    /// Its version.
    pub version: i64,
    /// The sum of its entries.
    pub entries: i64,
    /// What is in its lots.
    pub lots: i64,
}

/// A saga that is not over, as a snapshot saw it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Open {
    /// Its id.
    pub saga_id: String,
    /// Its state: 0 running, 1 compensating, 4 dead letter.
    pub state: i16,
    /// Its epoch.
    pub epoch: i64,
    /// How long ago its owner's heart beat, in milliseconds; absent where it has no owner.
    pub beat_ago_ms: Option<i64>,
}

/// What a subscriber of live balances heard.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Heard {
    /// When.
    pub at: u64,
    /// Who: one subscriber has one connection at a time.
    pub subscriber: String,
    /// Which of its connections.
    pub connection: u64,
    /// Whose customer.
    pub business: String,
    /// Whose balances.
    pub customer: String,
    /// The message; absent where the connection ended.
    pub message: Option<String>,
}

/// A redemption event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event {
    /// When it was read.
    pub at: u64,
    /// Where it lies in the stream.
    pub id: String,
    /// Its own id.
    pub event_id: String,
    /// The event.
    pub event: String,
}

/// A moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// When.
    pub at: u64,
    /// What.
    pub what: Moment,
}

/// What happened at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// No fault lasts any more.
    Healed,
    /// Every process says that it is ready.
    Ready,
    /// What is in Redis may be lost from here on.
    RedisLoses,
    /// It is kept from here on.
    RedisKeeps,
    /// Everything is over.
    Quiet,
}

/// Something else that was seen in the end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Capture {
    /// Where it is from.
    pub from: Source,
    /// What was seen.
    pub text: String,
}

/// Where something was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The metrics of a process, which are everybody's.
    Metrics,
    /// A key in Redis with its value: that of the business which it names.
    Cache,
}
