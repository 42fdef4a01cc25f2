//! From the outbox to Redis.
//!
//! One pass is one transaction: take up to [`BATCH`] rows that no other relay has locked (deleting them),
//! publish them in one round trip, commit. A crash before the commit publishes them again; a cursor over
//! their ids instead would lose rows, since ids are given out in another order than they are committed.

use std::{sync::Arc, time::Duration};

use deadpool_redis::{Pool, Runtime};
use fail::fail_point;
use redis::Pipeline;
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::Outbox;

/// Most rows of one pass; each holds the messages of one batch, of which a batch has 256 at most.
const BATCH: i64 = 50;
/// How often the outbox is looked at when nobody says that there is something: another process may have died with
/// rows in it.
const SCAN_INTERVAL: Duration = Duration::from_secs(1);
/// Pause between two passes under load: changes that come within it share a pass, and nobody sees the delay.
const COALESCE: Duration = Duration::from_millis(25);
/// Longest time that publishing may take. It is well below the two seconds after which Postgres ends an idle
/// transaction.
const PUBLISH_LIMIT: Duration = Duration::from_millis(800);
/// Pause after the first failure in a row; it doubles up to [`PAUSE_CAP`].
const PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between two tries.
const PAUSE_CAP: Duration = Duration::from_secs(5);

/// Why a pass published nothing. The rows are still there.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The database cannot be used.
    #[error("the outbox cannot be read")]
    Database(#[from] sqlx::Error),
    /// No connection to Redis.
    #[error("no connection to Redis")]
    Pool(#[from] deadpool_redis::PoolError),
    /// Redis refused.
    #[error("Redis refused")]
    Redis(#[from] redis::RedisError),
    /// Redis did not answer in time.
    #[error("Redis did not answer in time")]
    Late,
    /// The URL of Redis cannot be read.
    #[error("the URL of Redis cannot be read")]
    Url(#[from] deadpool_redis::CreatePoolError),
    /// What is in the outbox is no list of messages.
    #[error("a row of the outbox cannot be read")]
    Row(#[from] serde_json::Error),
}

/// What a pass came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// So many messages were published.
    pub messages: usize,
    /// It took as much as a pass takes: there may be more.
    pub is_full: bool,
}

/// Publishes one database's outbox. Several may work on the same one; clones share the connections.
#[derive(Clone)]
pub struct Relay {
    outbox: Outbox,
    database: PgPool,
    redis: Option<Pool>,
    wake: Arc<Notify>,
}

impl Relay {
    /// A relay of an outbox in `database` to the Redis at `redis_url`; without one, messages are discarded, since nobody
    /// can listen. `wake` is notified when rows were written.
    ///
    /// # Errors
    /// When the URL cannot be read. Whether Redis answers is not asked: a relay starts without it.
    pub fn new(
        outbox: Outbox,
        database: PgPool,
        redis_url: Option<&str>,
        wake: Arc<Notify>,
    ) -> Result<Self, RelayError> {
        let pool = |url| deadpool_redis::Config::from_url(url).create_pool(Some(Runtime::Tokio1));
        Ok(Self { outbox, database, redis: redis_url.map(pool).transpose()?, wake })
    }

    /// Publishes until `stop`, then once more what the last requests left.
    pub async fn run(self, stop: CancellationToken) {
        let mut pause = PAUSE;
        loop {
            let is_last = stop.is_cancelled();
            let (wait, is_redis_there) = match self.pass().await {
                Ok(passed) => {
                    pause = PAUSE;
                    // A full pass says that there is more.
                    (if passed.is_full { Duration::ZERO } else { SCAN_INTERVAL }, true)
                }
                Err(error) => {
                    self.report(&error).await;
                    pause = (pause * 2).min(PAUSE_CAP);
                    (pause, matches!(error, RelayError::Database(_)))
                }
            };
            if is_last {
                return;
            }
            // Whoever wakes has just written to the database, so it is there again; of Redis that says nothing.
            let coalesce = if pause == PAUSE { COALESCE } else { PAUSE };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.wake.notified(), if is_redis_there => tokio::time::sleep(coalesce).await,
                () = stop.cancelled() => {}
            }
        }
    }

    /// One pass.
    ///
    /// # Errors
    /// When nothing was published: the rows are still there.
    pub async fn pass(&self) -> Result<Passed, RelayError> {
        let mut transaction = self.database.begin().await?;
        let rows: Vec<(String, f64)> =
            sqlx::query_as(self.outbox.take()).bind(BATCH).fetch_all(&mut *transaction).await?;
        let mut pipeline = redis::pipe();
        let (mut messages, mut oldest) = (0, 0.0_f64);
        for (payload, age) in &rows {
            messages += self.outbox.tell(payload, &mut pipeline)?;
            oldest = oldest.max(*age);
        }
        if let (Some(redis), false) = (&self.redis, rows.is_empty()) {
            let publish = publish(redis, &pipeline);
            tokio::time::timeout(PUBLISH_LIMIT, publish).await.map_err(|_| RelayError::Late)??;
            fail_point!("events::published");
        }
        transaction.commit().await?;
        metrics::gauge!("outbox_lag_seconds").set(oldest);
        metrics::counter!("outbox_published_total").increment(messages as u64);
        Ok(Passed { messages, is_full: i64::try_from(rows.len()) == Ok(BATCH) })
    }

    async fn report(&self, error: &RelayError) {
        tracing::warn!(%error, cause = ?std::error::Error::source(error), "events wait in the outbox");
        metrics::counter!("outbox_failed_total").increment(1);
        if let Ok(age) = sqlx::query_scalar::<_, f64>(self.outbox.oldest()).fetch_one(&self.database).await {
            metrics::gauge!("outbox_lag_seconds").set(age);
        }
    }
}

async fn publish(redis: &Pool, pipeline: &Pipeline) -> Result<(), RelayError> {
    let mut connection = redis.get().await?;
    pipeline.query_async::<()>(&mut connection).await?;
    Ok(())
}
