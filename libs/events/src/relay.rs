//! From the outbox to Redis.
//!
//! One pass is one transaction: take up to [`BATCH`] rows that no other relay has locked (deleting them),
//! publish them in one round trip, commit. A crash before the commit publishes them again; a cursor over
//! their ids instead would lose rows, since ids are given out in another order than they are committed.
//! A pass that does not fit its time is rolled back, though Redis may have carried it out: the next one takes half as many rows, so
//! that each row is published a few times at most, whatever the link carries.
//!
//! No row stops the others: one that cannot be read is moved to a table of its own in the same transaction. And no balance
//! waits for ever: what has lost its worth is deleted. While Redis is away a pass of nothing else deletes it all the same, and what
//! waits is what was written within that time, and fewer rows than a pass takes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool_redis::{Pool, Runtime};
use fail::fail_point;
use metrics::{counter, gauge};
use redis::Pipeline;
use sqlx::{Connection, PgConnection, PgPool};
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
/// Longest that a pass may take with the database. Its server ends a statement earlier; this one ends what never answers.
const PASS_LIMIT: Duration = Duration::from_secs(7);
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
    /// The database gave no answer in time.
    #[error("the database gave no answer in time")]
    Stuck,
    /// The URL of Redis cannot be read.
    #[error("the URL of Redis cannot be read")]
    Url(#[from] deadpool_redis::CreatePoolError),
}

impl RelayError {
    /// Whether Redis took too long, by the limit of a pass or by the client's own for one answer.
    fn is_late(&self) -> bool {
        match self {
            Self::Late => true,
            Self::Redis(error) => error.is_timeout(),
            _ => false,
        }
    }
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
    passes: Arc<AtomicU64>,
    /// Most rows of the next pass.
    rows: Arc<AtomicI64>,
}

impl Relay {
    /// A relay of an outbox in `database`, whose sessions have the planner settings of an executor, to the Redis at
    /// `redis_url`. Without one, nobody can listen: balances are discarded, and events of redemptions stay in the outbox.
    /// `wake` is notified when rows were written.
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
        let redis = redis_url.map(pool).transpose()?;
        let rows = Arc::new(AtomicI64::new(BATCH));
        Ok(Self { outbox, database, redis, wake, passes: Arc::default(), rows })
    }

    /// Publishes until `stop`, then once more what the last requests left.
    pub async fn run(self, stop: CancellationToken) {
        for name in ["outbox_failed_total", "outbox_set_aside_total", "outbox_discarded_total"] {
            counter!(name).increment(0);
        }
        if self.only_keeps() {
            tracing::warn!("there is no Redis: events stay in the outbox, and reach nobody");
        }
        let mut pause = PAUSE;
        loop {
            let is_last = stop.is_cancelled();
            let passed =
                tokio::time::timeout(PASS_LIMIT, self.pass()).await.unwrap_or(Err(RelayError::Stuck));
            let (wait, heeds_wakes) = match passed {
                Ok(passed) => {
                    pause = PAUSE;
                    // A full pass says that there is more.
                    (if passed.is_full { Duration::ZERO } else { SCAN_INTERVAL }, !self.only_keeps())
                }
                Err(error) => {
                    self.report(&error).await;
                    pause = (pause * 2).min(PAUSE_CAP);
                    // The waker has just written to the database, so that is there again; of Redis it says nothing.
                    (pause, matches!(error, RelayError::Database(_) | RelayError::Stuck))
                }
            };
            if is_last {
                return;
            }
            let coalesce = if pause == PAUSE { COALESCE } else { PAUSE };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.wake.notified(), if heeds_wakes => tokio::time::sleep(coalesce).await,
                () = stop.cancelled() => {}
            }
        }
    }

    /// Whether rows are neither published nor worthless.
    fn only_keeps(&self) -> bool {
        self.redis.is_none() && self.outbox.worth().is_none()
    }

    /// One pass.
    ///
    /// # Errors
    /// When nothing was published: the rows are still there.
    pub async fn pass(&self) -> Result<Passed, RelayError> {
        if self.only_keeps() {
            self.measure().await?;
            return Ok(Passed { messages: 0, is_full: false });
        }
        let mut transaction = self.database.begin().await?;
        if self.passes.fetch_add(1, Ordering::Relaxed).saturating_add(1).is_power_of_two() {
            // A statement that was planned on an empty outbox is planned anew as it fills.
            transaction.clear_cached_statements().await?;
        }
        let most = self.rows.load(Ordering::Relaxed);
        let rows: Vec<Row> =
            sqlx::query_as(self.outbox.statements().take).bind(most).fetch_all(&mut *transaction).await?;
        let batch = Batch::of(self.outbox, &rows);
        self.set_aside(&mut transaction, &batch.unreadable).await?;
        if let (Some(redis), true) = (&self.redis, batch.messages > 0) {
            let published = publish(redis, &batch.pipeline).await;
            self.rows.store(next_rows(most, &published), Ordering::Relaxed);
            published?;
            fail_point!("events::published");
        }
        transaction.commit().await?;
        let is_full = i64::try_from(rows.len()) == Ok(most);
        batch.tell(is_full);
        Ok(Passed { messages: batch.messages, is_full })
    }

    async fn set_aside(&self, connection: &mut PgConnection, rows: &[Unreadable<'_>]) -> sqlx::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        sqlx::query(self.outbox.statements().set_aside)
            .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.payload).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.error.to_string()).collect::<Vec<_>>())
            .execute(connection)
            .await
            .map(drop)
    }

    async fn report(&self, error: &RelayError) {
        tracing::warn!(%error, cause = ?std::error::Error::source(error), "events wait in the outbox");
        counter!("outbox_failed_total").increment(1);
        let measured = tokio::time::timeout(PASS_LIMIT, self.measure()).await;
        if let Err(error) = measured.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
            tracing::warn!(%error, "what waits in the outbox cannot be measured");
        }
    }

    async fn measure(&self) -> sqlx::Result<()> {
        let waiting: Option<(f64, i64)> =
            sqlx::query_as(self.outbox.statements().measure).fetch_optional(&self.database).await?;
        let (age, rows) = waiting.unwrap_or_default();
        gauge!("outbox_lag_seconds").set(age);
        gauge!("outbox_rows").set(f64::from(u32::try_from(rows).unwrap_or(u32::MAX)));
        Ok(())
    }
}

/// A row of the outbox: id, payload, age in seconds.
type Row = (i64, String, f64);

/// A row that no version of this relay reads.
struct Unreadable<'a> {
    id: i64,
    payload: &'a str,
    error: serde_json::Error,
}

/// What is to be done with the rows of one pass.
#[derive(Default)]
struct Batch<'a> {
    pipeline: Pipeline,
    messages: usize,
    worthless: u64,
    unreadable: Vec<Unreadable<'a>>,
    oldest: f64,
}

impl<'a> Batch<'a> {
    fn of(outbox: Outbox, rows: &'a [Row]) -> Self {
        let mut batch = Self::default();
        for (id, payload, age) in rows {
            batch.oldest = batch.oldest.max(*age);
            if outbox.worth().is_some_and(|worth| *age > worth.as_secs_f64()) {
                batch.worthless += 1;
                continue;
            }
            match outbox.read(payload) {
                Ok(messages) => {
                    batch.messages += messages.len();
                    messages.iter().for_each(|message| message.add_to(&mut batch.pipeline));
                }
                Err(error) => batch.unreadable.push(Unreadable { id: *id, payload, error }),
            }
        }
        batch
    }

    /// Says in log and metrics what a pass came to; `is_full` if more may wait.
    fn tell(&self, is_full: bool) {
        for Unreadable { id, error, .. } in &self.unreadable {
            tracing::error!(id, %error, "a row of the outbox cannot be read, and is set aside");
        }
        counter!("outbox_set_aside_total").increment(self.unreadable.len() as u64);
        counter!("outbox_discarded_total").increment(self.worthless);
        counter!("outbox_published_total").increment(self.messages as u64);
        gauge!("outbox_lag_seconds").set(self.oldest);
        if !is_full {
            gauge!("outbox_rows").set(0.0);
        }
    }
}

/// Publishes the messages of a pass; how long that took.
async fn publish(redis: &Pool, pipeline: &Pipeline) -> Result<Duration, RelayError> {
    let began = Instant::now();
    let publishing = async {
        let mut connection = redis.get().await?;
        Ok::<_, RelayError>(pipeline.query_async::<()>(&mut connection).await?)
    };
    tokio::time::timeout(PUBLISH_LIMIT, publishing).await.map_err(|_| RelayError::Late)??;
    Ok(began.elapsed())
}

/// Most rows of the pass after one of `rows`: half as many after one that did not fit its time, twice as many after one that would
/// have fitted twice.
fn next_rows(rows: i64, published: &Result<Duration, RelayError>) -> i64 {
    match published {
        Err(error) if error.is_late() => (rows / 2).max(1),
        Ok(took) if *took < PUBLISH_LIMIT / 4 => (rows * 2).min(BATCH),
        _ => rows,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_that_is_too_much_is_halved_until_it_fits_and_grows_again() {
        let mut rows = BATCH;
        for halved in [25, 12, 6, 3, 1, 1] {
            rows = next_rows(rows, &Err(RelayError::Late));
            assert_eq!(rows, halved);
        }
        assert_eq!(next_rows(6, &Ok(PUBLISH_LIMIT / 2)), 6, "twice as many might not fit");
        for doubled in [2, 4, 8, 16, 32, BATCH, BATCH] {
            rows = next_rows(rows, &Ok(Duration::ZERO));
            assert_eq!(rows, doubled);
        }
        let refused = redis::RedisError::from((redis::ErrorKind::Io, "closed"));
        assert_eq!(next_rows(8, &Err(RelayError::Redis(refused))), 8, "the size has nothing to do with it");
    }
}
