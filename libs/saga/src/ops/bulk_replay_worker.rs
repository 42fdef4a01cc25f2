//! Carrying replays of many out: claimed like sagas, paced by the database's clock, one transaction a member.
//!
//! A member's transaction checks that this process still owns the replay, takes the dead letter up again, and writes what
//! came of it: a process that dies leaves each member either done or not yet its turn, and one that was taken over from
//! does nothing more. The pace counts the members done within the last second, in the database: it holds across takeovers.
//!
//! No business waits for another's replays: of each business the first few that are unfinished are carried out, whichever process owns
//! them, and all that one process carries take turns at the database.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream, stream::FuturesUnordered};
use metrics::counter;
use sqlx::Row;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};
use uuid::Uuid;

use super::dead_letter_actions::{ActionOutcome, DeadLetterAction, OperatorCommand};
use crate::{domain::Domain, engine::Engine, statement::in_time};

/// Most replays that one process carries out at the same time.
const CARRIED_MAX: usize = 64;
/// Most replays of one business that are carried out at the same time; later ones begin as these end.
const OF_A_BUSINESS: i64 = 2;
/// Members of one replay that wait for a turn at the same time.
const AT_ONCE: usize = 4;
/// Turns that all replays of a process have at the same time, given in the order of asking: the rest of the connections for
/// operators is for those who look.
const TURNS: usize = 2;
/// Batches a second, where the rate allows more than one.
const BATCHES: i64 = 10;
/// How long a member's transaction may take before it is given up; its turn comes again.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(5);
/// Wait after a failure of the database, and while this process has as many sagas as it takes.
const PAUSE: Duration = Duration::from_millis(500);

/// A replay that this process carries out.
#[derive(Debug)]
struct Job {
    bulk_id: i64,
    rate: i64,
    business_id: String,
    operation_id: String,
    actor: String,
    reason: String,
    turns: Arc<Semaphore>,
}

impl Job {
    /// Waits for a turn at the database: the semaphore gives them in the order of asking, and is never closed.
    async fn turn(&self) -> sqlx::Result<SemaphorePermit<'_>> {
        self.turns.acquire().await.map_err(|_| sqlx::Error::PoolClosed)
    }
}

/// What a batch came to.
enum Step {
    /// There is more.
    More,
    /// Every member is dealt with, or the replay is somebody else's.
    Over,
}

impl<D: Domain> Engine<D> {
    /// Looks for replays without a live owner, and carries out what this process owns.
    pub(crate) async fn bulk_replays(self: Arc<Self>) {
        let turns = Arc::new(Semaphore::new(TURNS));
        let mut carried = HashSet::new();
        let mut work = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(bulk_id) = work.next() => { carried.remove(&bulk_id); }
                () = tokio::time::sleep(self.config.scan) => {
                    if self.is_draining() || !self.lease.may_claim() {
                        continue;
                    }
                    match in_time(self.claim_bulk_replays(&carried, &turns)).await {
                        Ok(jobs) => for job in jobs {
                            carried.insert(job.bulk_id);
                            work.push(self.clone().run_job(job));
                        },
                        Err(error) => tracing::warn!(%error, "could not look for replays of dead letters"),
                    }
                }
            }
        }
    }

    /// Takes what has no live owner, and what this process owns without carrying it: its work was dropped, and begins again.
    async fn claim_bulk_replays(
        &self,
        carried: &HashSet<i64>,
        turns: &Arc<Semaphore>,
    ) -> sqlx::Result<Vec<Job>> {
        let ttl = i64::try_from(self.config.ttl.as_millis()).unwrap_or(i64::MAX);
        let room = i64::try_from(CARRIED_MAX.saturating_sub(carried.len())).unwrap_or(0);
        sqlx::query(
            "WITH free AS (
                 SELECT b.bulk_id FROM saga.bulk_replay b
                 WHERE b.finished_at IS NULL AND b.bulk_id <> ALL ($4)
                   AND (b.owner = $1 OR NOT EXISTS (
                     SELECT 1 FROM saga.process p
                     WHERE p.process_id = b.owner
                       AND abs(extract(epoch FROM clock_timestamp() - p.beat_at)) < $2 / 1000.0))
                   AND b.bulk_id = ANY (ARRAY(
                     SELECT r.bulk_id FROM (
                         SELECT u.bulk_id, row_number() OVER (PARTITION BY u.business_id ORDER BY u.bulk_id) AS place
                         FROM saga.bulk_replay u WHERE u.finished_at IS NULL) r
                     WHERE r.place <= $5))
                 ORDER BY b.bulk_id LIMIT $3 FOR UPDATE SKIP LOCKED
             )
             UPDATE saga.bulk_replay b SET owner = $1 FROM free WHERE b.bulk_id = free.bulk_id
             RETURNING b.bulk_id, b.rate, b.business_id, b.operation_id, b.actor, b.reason",
        )
        .bind(self.process)
        .bind(ttl)
        .bind(room)
        .bind(carried.iter().copied().collect::<Vec<i64>>())
        .bind(OF_A_BUSINESS)
        .fetch_all(&self.ops_pool)
        .await?
        .iter()
        .map(|row| {
            Ok(Job {
                bulk_id: row.try_get("bulk_id")?,
                rate: i64::from(row.try_get::<i32, _>("rate")?),
                business_id: row.try_get("business_id")?,
                operation_id: row.try_get("operation_id")?,
                actor: row.try_get("actor")?,
                reason: row.try_get("reason")?,
                turns: turns.clone(),
            })
        })
        .collect()
    }

    /// Carries a replay out until it is over, somebody else's, or this process may not act any more; its id.
    async fn run_job(self: Arc<Self>, job: Job) -> i64 {
        tracing::info!(operation_id = job.operation_id, "carrying out a replay of dead letters");
        while self.lease.holds() && !self.is_draining() {
            if self.is_laden() {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let began = Instant::now();
            match self.carry_batch(&job).await {
                Ok(Step::More) => tokio::time::sleep_until(began + pause(job.rate)).await,
                Ok(Step::Over) => break,
                Err(error) => {
                    tracing::warn!(operation_id = job.operation_id, %error, "a replay of dead letters waits for the database");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        job.bulk_id
    }

    async fn carry_batch(self: &Arc<Self>, job: &Job) -> sqlx::Result<Step> {
        let members = {
            let _turn = job.turn().await?;
            match in_time(self.members_in_turn(job)).await? {
                None => return Ok(Step::More),
                Some(members) if members.is_empty() => return in_time(self.finish(job)).await,
                Some(members) => members,
            }
        };
        let results = stream::iter(members).map(|member| self.carry_member(job, member));
        let results: Vec<sqlx::Result<Step>> = results.buffer_unordered(AT_ONCE).collect().await;
        results.into_iter().try_fold(Step::More, |step, result| {
            result.map(|of_member| if matches!(of_member, Step::Over) { Step::Over } else { step })
        })
    }

    /// The next members, as many as the pace allows now; `None` while it allows none.
    async fn members_in_turn(&self, job: &Job) -> sqlx::Result<Option<Vec<Uuid>>> {
        let done: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM saga.bulk_replay_item
             WHERE bulk_id = $1 AND done_at > clock_timestamp() - interval '1 s'",
        )
        .bind(job.bulk_id)
        .fetch_one(&self.ops_pool)
        .await?;
        let size = batch_size(job.rate).min(job.rate - done);
        if size <= 0 {
            return Ok(None);
        }
        sqlx::query_scalar(
            "SELECT dead_letter_id FROM saga.bulk_replay_item
             WHERE bulk_id = $1 AND outcome IS NULL ORDER BY position LIMIT $2",
        )
        .bind(job.bulk_id)
        .bind(size)
        .fetch_all(&self.ops_pool)
        .await
        .map(Some)
    }

    async fn finish(&self, job: &Job) -> sqlx::Result<Step> {
        sqlx::query(
            "UPDATE saga.bulk_replay SET finished_at = clock_timestamp(), owner = NULL
             WHERE bulk_id = $1 AND owner = $2 AND finished_at IS NULL",
        )
        .bind(job.bulk_id)
        .bind(self.process)
        .execute(&self.ops_pool)
        .await?;
        tracing::info!(operation_id = job.operation_id, "a replay of dead letters is finished");
        Ok(Step::Over)
    }

    async fn carry_member(self: &Arc<Self>, job: &Job, member: Uuid) -> sqlx::Result<Step> {
        let _turn = job.turn().await?;
        match tokio::time::timeout(MEMBER_TIMEOUT, self.try_member(job, member)).await {
            Ok(Ok(step)) => Ok(step),
            // What the database refuses is this member's own fault, and no reason to hold the others up.
            Ok(Err(error)) if is_data(&error) => {
                tracing::error!(dead_letter_id = %member, %error, "a dead letter cannot be replayed");
                in_time(self.refuse_member(job, member, "the database refuses what a replay would record"))
                    .await?;
                Ok(Step::More)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        }
    }

    async fn try_member(self: &Arc<Self>, job: &Job, member: Uuid) -> sqlx::Result<Step> {
        let mut tx = self.ops_pool.begin().await?;
        // Locked, so that a process that takes the replay over waits for this member.
        let owner: Option<Uuid> =
            sqlx::query_scalar("SELECT owner FROM saga.bulk_replay WHERE bulk_id = $1 FOR SHARE")
                .bind(job.bulk_id)
                .fetch_one(&mut *tx)
                .await?;
        if owner != Some(self.process) || !self.lease.holds() {
            return Ok(Step::Over);
        }
        let command = OperatorCommand {
            business_id: job.business_id.clone(),
            actor: job.actor.clone(),
            operation_id: job.operation_id.clone(),
            reason: job.reason.clone(),
            reference: None,
            dry_run: false,
        };
        let (outcome, row) =
            self.act_on_dead_letter_in(&mut tx, member, DeadLetterAction::Replay, &command).await?;
        let (name, detail) = outcome_name(&outcome);
        let moved = sqlx::query(MEMBER_DONE)
            .bind(job.bulk_id)
            .bind(member)
            .bind(name)
            .bind(detail)
            .execute(&mut *tx)
            .await?;
        if moved.rows_affected() == 0 {
            return Ok(Step::More); // its turn was over already, and nothing is to be told twice
        }
        tx.commit().await?;
        counter!("saga_bulk_replayed_total", "outcome" => name).increment(1);
        if let Some(row) = row {
            self.adopt(row);
        }
        Ok(Step::More)
    }

    async fn refuse_member(&self, job: &Job, member: Uuid, why: &str) -> sqlx::Result<()> {
        let query = sqlx::query(MEMBER_DONE).bind(job.bulk_id).bind(member).bind("refused").bind(why);
        query.execute(&self.ops_pool).await?;
        counter!("saga_bulk_replayed_total", "outcome" => "refused").increment(1);
        Ok(())
    }
}

const MEMBER_DONE: &str =
    "UPDATE saga.bulk_replay_item SET outcome = $3, detail = $4, done_at = clock_timestamp()
     WHERE bulk_id = $1 AND dead_letter_id = $2 AND outcome IS NULL";

/// What is written of a member.
fn outcome_name(outcome: &ActionOutcome) -> (&'static str, Option<&'static str>) {
    match outcome {
        // The same operation id: an attempt of this replay whose COMMIT was not answered cannot be told from this one.
        ActionOutcome::Done { .. } | ActionOutcome::AlreadyDone => ("replayed", None),
        ActionOutcome::AlreadyClosed => ("already_closed", None),
        ActionOutcome::NotFound => ("refused", Some("there is no such dead letter")),
        ActionOutcome::Reused => {
            ("refused", Some("the operation id was used for another action on this dead letter"))
        }
        ActionOutcome::SagaExists => {
            ("refused", Some("its saga has come back: nothing is to be taken back; resolve it"))
        }
        ActionOutcome::Unreadable => {
            ("refused", Some("this version cannot read its saga; it can only be resolved"))
        }
        ActionOutcome::WouldDo { .. } => ("refused", Some("it was a dry run")),
    }
}

/// Members of one batch.
fn batch_size(rate: i64) -> i64 {
    (rate / BATCHES).max(1)
}

/// From the beginning of a batch to that of the next.
fn pause(rate: i64) -> Duration {
    let micros = batch_size(rate) * 1_000_000 / rate.max(1);
    Duration::from_micros(u64::try_from(micros).unwrap_or(1_000_000))
}

/// Whether an error is about this member's rows, rather than about the database, a lock or the connection.
fn is_data(error: &sqlx::Error) -> bool {
    use sqlx::Error::{ColumnDecode, Database, Decode, Encode, RowNotFound};
    match error {
        Database(error) => error.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23")),
        ColumnDecode { .. } | Decode(_) | Encode(_) | RowNotFound => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_make_up_the_rate() {
        for (rate, size, pause_ms) in [(1, 1, 1_000), (7, 1, 142), (20, 2, 100), (50, 5, 100), (500, 50, 100)]
        {
            assert_eq!((batch_size(rate), pause(rate).as_millis()), (size, pause_ms), "{rate}");
        }
    }
}
