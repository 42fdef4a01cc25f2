//! One queue, one connection, one batch at a time.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use fail::fail_point;
use futures_util::FutureExt as _;
use metrics::{counter, gauge, histogram};
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    BATCH_MAX, ExecuteError, ExecutorConfig, Reply, STALLED_AFTER,
    batch::{self, Prepared},
    failure::Failure,
    progress::Progress,
    queue::{Job, Queue},
};
use crate::command::Command;

/// Longest that a batch may take before its COMMIT: a statement's own limit is 5 s.
const PREPARE_LIMIT: Duration = Duration::from_secs(6);
/// Longest that the answer to a COMMIT, or to a ROLLBACK, is waited for.
const COMMIT_LIMIT: Duration = Duration::from_secs(3);
/// How often a batch is run again for conflicts, or for a lost connection, before its callers hear 503.
const TRIES: u32 = 5;
/// Pause between two attempts to reach a database that is away.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
/// After `stop`, how long an unknown COMMIT may keep the process.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A shard of the executor.
pub struct Shard {
    queue: Queue,
    progress: Progress,
    tender: &'static str,
    database: PgConnectOptions,
    wake: Arc<Notify>,
}

/// A connection and how many batches it has seen.
struct Session {
    connection: PgConnection,
    batches: u64,
}

/// Serves until `stop`; a panic costs the batch in hand, whose callers hear that its outcome is unknown.
pub async fn supervise(shard: Arc<Shard>, stop: CancellationToken) {
    // Shown before they happen: a figure that appears with its first event has no rise to alarm on.
    for name in ["tender_executor_panics_total", "tender_commits_unknown_total", "tender_batch_reruns_total"]
    {
        counter!(name, "tender" => shard.tender).increment(0);
    }
    while AssertUnwindSafe(shard.serve(&stop)).catch_unwind().await.is_err() {
        counter!("tender_executor_panics_total", "tender" => shard.tender).increment(1);
        tracing::error!(tender = shard.tender, "the executor panicked and begins again");
    }
}

impl Shard {
    pub fn new(config: &ExecutorConfig, wake: Arc<Notify>) -> Self {
        let queue = Queue::new(config.queue.max(1));
        Self {
            queue,
            progress: Progress::default(),
            tender: config.tender,
            database: config.database.clone(),
            wake,
        }
    }

    pub fn is_available(&self) -> bool {
        self.queue.is_open()
    }

    pub fn is_committing(&self) -> bool {
        self.progress.stalled_for() < STALLED_AFTER
    }

    /// Queues a command.
    ///
    /// # Errors
    /// [`ExecuteError::Unavailable`] at once when the database is away or the queue is full.
    pub fn submit(
        &self,
        command: Command,
    ) -> Result<oneshot::Receiver<Result<Reply, ExecuteError>>, ExecuteError> {
        let (job, answer) = Job::new(command);
        self.queue.push(job)?;
        Ok(answer)
    }

    async fn serve(&self, stop: &CancellationToken) {
        let mut session = None;
        loop {
            if self.connect(&mut session).await.is_err() {
                tokio::select! {
                    () = tokio::time::sleep(RECONNECT_PAUSE) => continue,
                    () = stop.cancelled() => break,
                }
            }
            if self.queue.len() == 0 {
                self.progress.rest();
            }
            // What waits is done even after `stop`: its callers are still there.
            let jobs = tokio::select! {
                biased;
                jobs = self.queue.take(BATCH_MAX) => jobs,
                () = stop.cancelled() => break,
            };
            gauge!("tender_queue_depth", "tender" => self.tender).set(as_gauge(self.queue.len()));
            self.progress.begin();
            self.settle_all(&mut session, jobs, stop).await;
        }
        self.queue.close();
    }

    /// Brings every job to an answer, halving what cannot be written until the poison is alone.
    async fn settle_all(&self, session: &mut Option<Session>, jobs: Vec<Job>, stop: &CancellationToken) {
        let mut parts = vec![jobs];
        while let Some(mut jobs) = parts.pop() {
            match self.settle(session, &jobs, stop).await {
                Ok(prepared) => {
                    for (job, outcome) in jobs.into_iter().zip(prepared.outcomes) {
                        job.answer(Ok(Reply { outcome, at: prepared.now }));
                    }
                }
                Err(ExecuteError::Failed) if jobs.len() > 1 => {
                    let later = jobs.split_off(jobs.len() / 2);
                    parts.push(later);
                    parts.push(jobs);
                }
                Err(error) => {
                    for job in jobs {
                        job.answer(Err(error));
                    }
                }
            }
        }
    }

    /// Runs one batch until it is known what became of it.
    async fn settle(
        &self,
        session: &mut Option<Session>,
        jobs: &[Job],
        stop: &CancellationToken,
    ) -> Result<Prepared, ExecuteError> {
        let commands: Vec<&Command> = jobs.iter().map(|job| &job.command).collect();
        // Once a COMMIT was sent without an answer, every later failure leaves it open.
        let mut may_be_committed = false;
        let mut tries = 0;
        let stopped = async {
            stop.cancelled().await;
            tokio::time::sleep(STOP_LIMIT).await;
        };
        tokio::pin!(stopped);
        loop {
            let failure = match self.attempt(session, &commands).await {
                Ok(prepared) => return Ok(prepared),
                Err(failure) => failure,
            };
            tries += 1;
            match failure {
                Failure::Poison => return Err(ExecuteError::Failed),
                Failure::Duplicate if tries >= TRIES => return Err(ExecuteError::Failed),
                Failure::CommitUnknown => {
                    may_be_committed = true;
                    counter!("tender_commits_unknown_total", "tender" => self.tender).increment(1);
                }
                Failure::Disconnected | Failure::Conflict if !may_be_committed => {
                    if tries >= TRIES || !self.queue.is_open() {
                        return Err(ExecuteError::Unavailable);
                    }
                }
                Failure::Disconnected | Failure::Conflict | Failure::Duplicate => {}
            }
            counter!("tender_batch_reruns_total", "tender" => self.tender).increment(1);
            tokio::select! {
                () = tokio::time::sleep(pause(failure, tries)) => {}
                () = &mut stopped => return Err(ExecuteError::Unknown),
            }
        }
    }

    async fn attempt(
        &self,
        session: &mut Option<Session>,
        commands: &[&Command],
    ) -> Result<Prepared, Failure> {
        let began = Instant::now();
        let done = self.run(session, commands).await;
        match &done {
            Ok(prepared) => {
                self.progress.committed();
                histogram!("tender_batch_size", "tender" => self.tender).record(as_gauge(commands.len()));
                histogram!("tender_batch_seconds", "tender" => self.tender).record(began.elapsed());
                if prepared.has_news {
                    self.wake.notify_one();
                }
            }
            // A connection with an unfinished statement, or in an unknown state, is never used again.
            Err(Failure::Disconnected | Failure::CommitUnknown) => *session = None,
            Err(Failure::Conflict | Failure::Duplicate | Failure::Poison) => roll_back(session).await,
        }
        done
    }

    async fn run(&self, session: &mut Option<Session>, commands: &[&Command]) -> Result<Prepared, Failure> {
        let session = self.connect(session).await.map_err(|_| Failure::Disconnected)?;
        session.begin_batch().await?;
        let connection = &mut session.connection;
        let prepared =
            within(PREPARE_LIMIT, Failure::Disconnected, batch::prepare(connection, commands, self.tender))
                .await?;
        within(COMMIT_LIMIT, Failure::CommitUnknown, batch::commit(connection)).await?;
        fail_point!("tender::committed");
        Ok(prepared)
    }

    /// The session, opened if there is none. While none can be opened, commands are refused at once.
    async fn connect<'s>(&self, session: &'s mut Option<Session>) -> Result<&'s mut Session, sqlx::Error> {
        if session.is_none() {
            match service::db::connect(&self.database).await {
                Ok(connection) => *session = Some(Session { connection, batches: 0 }),
                Err(error) => {
                    if self.queue.is_open() {
                        tracing::warn!(%error, tender = self.tender, "the executor cannot reach its database");
                    }
                    self.queue.close();
                    return Err(error);
                }
            }
            self.queue.open();
        }
        session.as_mut().ok_or(sqlx::Error::PoolClosed)
    }
}

impl Session {
    /// Statements that were planned while the tables were small are planned anew after 1, 2, 4, 8… batches.
    async fn begin_batch(&mut self) -> Result<(), Failure> {
        self.batches += 1;
        if !self.batches.is_power_of_two() {
            return Ok(());
        }
        let clear =
            self.connection.clear_cached_statements().map(|done| done.map_err(|_| Failure::Disconnected));
        within(COMMIT_LIMIT, Failure::Disconnected, clear).await
    }
}

async fn roll_back(session: &mut Option<Session>) {
    if let Some(open) = session {
        let done = tokio::time::timeout(COMMIT_LIMIT, batch::roll_back(&mut open.connection)).await;
        if !matches!(done, Ok(Ok(()))) {
            *session = None;
        }
    }
}

/// The work, or `late` after `limit`.
async fn within<T>(
    limit: Duration,
    late: Failure,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(limit, work).await.unwrap_or(Err(late))
}

/// What is in the way of a conflict is gone at once; a database that went away needs time.
fn pause(failure: Failure, tries: u32) -> Duration {
    match failure {
        Failure::Conflict | Failure::Duplicate => Duration::from_millis(1 << tries.min(6)),
        _ => RECONNECT_PAUSE.min(Duration::from_millis(10 << tries.min(5))),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count for a metric")]
fn as_gauge(count: usize) -> f64 {
    count as f64
}
