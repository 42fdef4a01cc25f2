//! The batching executor: commands wait in a queue, and whatever waits becomes one transaction.
//!
//! There is no timer: a command alone is a batch of one at once, load forms batches by itself. Each shard has one
//! connection and one queue; an owner's accounts all belong to one shard. Instances share nothing but the
//! database, whose row locks decide between them.
//!
//! One batch, in order (`batch`):
//! 1. BEGIN; lock the accounts in the order of their keys, and read the clock behind the last lock;
//! 2. read operations, lots, and what reversals, rewards and credits need;
//! 3. fold the commands, in the order in which they came: pure, nothing awaited (`fold`);
//! 4. write what changed, in one statement for all that every batch has; COMMIT; answer every caller.
//!
//! That is six round trips for a batch of debits. What an account costs is bounded whatever it has: its lapsed lots, at most 500 and
//! at most its part of 2,048 for the whole batch, and the lots that cover what is asked for. One with more lapsed lots is put aside
//! and runs alone, swept 500 at a time, in turns with the batches of others; then its commands are judged.
//!
//! What can go wrong, and what is done (`failure`, `shard`):
//!
//! | failure | before COMMIT | at COMMIT |
//! |---|---|---|
//! | conflict, lock or statement timeout | again without the accounts that others have locked; if that is not enough, halved | – |
//! | an account that others have locked | put aside, and tried for 1.5 s with all others that are; then 503 for its commands | – |
//! | connection lost, no answer in time | reconnect and again; no database: 503 | **unknown**: reconnect and run the whole batch again |
//! | more work than a batch has time for | reconnect; halved, and a lone command is put aside | – |
//! | data error, panic | the batch is halved until the poison is alone; it fails, the others do not | the same |
//! | an error that is no command's: a column that is not there, a page that cannot be read | a batch of nothing tells: if it fails too, 503 for all of it; else the batch's own rows are at fault, and it is halved as for a data error | unknown |
//!
//! A shard counts as able to commit once it has, and after a batch that was given up for no command's sake once it has again. Until
//! then it commits a batch of nothing once a second, which sends what every batch sends: no caller's command is needed to find out.
//!
//! An unknown COMMIT is never resolved by reading alone: the old transaction may still be on its way. The second run
//! waits for the same locks, so it begins after the first has ended, and then the stored operations answer.
//!
//! Metrics, by tender: `tender_batch_size`, `tender_batch_seconds`, `tender_batch_reruns_total`, `tender_batch_failures_total` (by
//! class), `tender_put_aside_total` (by reason), `tender_commits_unknown_total`, `tender_executor_panics_total`,
//! `tender_corrupt_data_total`; by shard too: `tender_queue_depth`, and of it `tender_queue_aside`.
//!
//! The fail points `tender::{before_begin,locked,fold,written,committed}` are where tests make it panic, wait or die;
//! without the feature `fail/failpoints` they are nothing.

mod aside;
mod batch;
mod failure;
mod job;
mod progress;
mod queue;
mod shard;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnectOptions;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::command::{AccountKey, Action, Command, Outcome};
use shard::Shard;

/// Most commands in one batch.
pub const BATCH_MAX: usize = 256;

/// Longest that a caller waits. Longer than any batch should take; afterwards the outcome is unknown.
pub const WAIT_LIMIT: Duration = Duration::from_secs(8);

/// A shard that has had commands in hand for so long without a commit is stalled: each of their callers has given up.
pub const STALLED_AFTER: Duration = Duration::from_secs(10);

/// How an executor is set up. Not `Debug`: the options hold a password.
#[derive(Clone)]
pub struct ExecutorConfig {
    /// The tender's name in messages and metrics: `points`, `store_credit`, `digital_reward`.
    pub tender: &'static str,
    /// Connections, each with a queue of its own; 1 unless the machine has cores to spare.
    pub shards: usize,
    /// Most commands of one business that wait in one shard, and a fourth of what waits of all; past that the answer is 503 at once.
    pub queue: usize,
    /// Where the database is: an executor's session settings are expected (`service::db::for_executor`).
    pub database: PgConnectOptions,
}

/// The outcome of a command, and when by the database's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The outcome.
    pub outcome: Outcome,
    /// The database's clock in its batch.
    pub at: DateTime<Utc>,
}

/// Why there is no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExecuteError {
    /// The queue is full, the account locked or the database away: this command was not carried out. Its key was not looked up:
    /// the same command may have been carried out before.
    #[error("the executor cannot take this now")]
    Unavailable,
    /// It may have been done; the same command again will tell.
    #[error("the outcome is unknown")]
    Unknown,
    /// It was not carried out: this command makes every batch fail that it is in. Its key may have been used before.
    #[error("the command cannot be executed")]
    Failed,
}

/// A handle on the shards. Clones share them.
#[derive(Clone)]
pub struct Executor {
    shards: Arc<[Arc<Shard>]>,
    wake: Arc<Notify>,
}

impl Executor {
    /// Starts the shards on `tracker`. Once `stop` is cancelled they finish what waits, and end.
    #[must_use]
    pub fn start(config: &ExecutorConfig, tracker: &TaskTracker, stop: &CancellationToken) -> Self {
        let wake = Arc::new(Notify::new());
        let shards: Arc<[Arc<Shard>]> = (0..config.shards.max(1))
            .map(|number| Arc::new(Shard::new(config, number, wake.clone())))
            .collect();
        for shard in shards.iter() {
            tracker.spawn(shard::supervise(shard.clone(), stop.clone()));
        }
        Self { shards, wake }
    }

    /// Notified after each batch that left something in the outbox.
    #[must_use]
    pub fn outbox_wake(&self) -> Arc<Notify> {
        self.wake.clone()
    }

    /// Whether every shard can take commands.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.shards.iter().all(|shard| shard.is_available())
    }

    /// Whether each shard has shown that it can commit, and none has had commands in hand for [`STALLED_AFTER`] without a commit.
    #[must_use]
    pub fn is_committing(&self) -> bool {
        self.shards.iter().all(|shard| shard.is_committing())
    }

    /// Queues a command and waits for its outcome. Dropping the future does not take the command back: it is
    /// left undone only while its account is put aside.
    ///
    /// # Errors
    /// See [`ExecuteError`].
    pub async fn submit(&self, command: Command) -> Result<Reply, ExecuteError> {
        let answer = self.shard(&command).submit(command)?;
        match tokio::time::timeout(WAIT_LIMIT, answer).await {
            Ok(Ok(reply)) => reply,
            // Too late, or the executor's task died with the batch in hand.
            Ok(Err(_)) | Err(_) => Err(ExecuteError::Unknown),
        }
    }

    /// Has what has lapsed of an account moved out: whatever meets it does so, and a question that finds nothing does no more.
    ///
    /// # Errors
    /// See [`ExecuteError`].
    pub async fn sweep(&self, account: AccountKey) -> Result<(), ExecuteError> {
        let question = Command { operation_id: Uuid::nil(), account, action: Action::Query };
        self.submit(question).await.map(drop)
    }

    fn shard(&self, command: &Command) -> &Shard {
        let mut hasher = DefaultHasher::new();
        (&command.account.business_id, &command.account.owner).hash(&mut hasher);
        let shards = u64::try_from(self.shards.len()).unwrap_or(1);
        let index = usize::try_from(hasher.finish() % shards).unwrap_or_default();
        &self.shards[index]
    }
}
