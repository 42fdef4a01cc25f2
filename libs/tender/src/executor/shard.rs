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
    batch::{self, Judged, Mode, Prepared},
    failure::Failure,
    job::{Cause, Job, Turn},
    progress::Progress,
    queue::Queue,
};
use crate::command::Command;

/// Longest that a batch may take before its COMMIT: a statement's own limit is 5 s.
const PREPARE_LIMIT: Duration = Duration::from_secs(6);
/// Longest that the answer to a COMMIT, or to a ROLLBACK, is waited for.
const COMMIT_LIMIT: Duration = Duration::from_secs(3);
/// How often a batch is run again for conflicts, or for a lost connection, before its callers hear 503.
const TRIES: u32 = 5;
/// How long a batch waits for rows that others have locked; then it leaves them out. Other instances' batches are done sooner, and
/// what is locked for longer has no right to keep everybody else waiting.
const LOCK_WAIT: &str = "200ms";
/// Pause between two attempts to reach a database that is away.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
/// Pause between two probes of a shard that is not known to be able to commit.
const PROBE_PAUSE: Duration = Duration::from_secs(1);
/// Most failures of one turn whose cause is looked for among the commands. A damaged row is found within nine; where more fail, it is
/// the server or the program that fails them.
const UNFIT_MAX: u32 = 24;
/// After `stop`, how long an unknown COMMIT may keep the process.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A shard of the executor.
pub struct Shard {
    queue: Queue,
    progress: Progress,
    tender: &'static str,
    /// Its number, as metrics name it.
    label: String,
    database: PgConnectOptions,
    wake: Arc<Notify>,
}

/// What became of a batch, or what is to become of its commands.
enum Verdict {
    /// It is committed.
    Done(Prepared),
    /// Each half is tried alone.
    Halve(Mode),
    /// Others have locked a row that it needs, other than the account.
    Locked,
    /// It is given up.
    Refused(ExecuteError),
}

/// What a failure leads to.
enum Next {
    Again(Mode),
    Over(Verdict),
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
    pub fn new(config: &ExecutorConfig, number: usize, wake: Arc<Notify>) -> Self {
        let queue = Queue::new(config.queue.max(1));
        let database = config.database.clone().options([("lock_timeout", LOCK_WAIT)]);
        Self {
            queue,
            progress: Progress::default(),
            tender: config.tender,
            label: number.to_string(),
            database,
            wake,
        }
    }

    pub fn is_available(&self) -> bool {
        self.queue.is_open()
    }

    pub fn is_committing(&self) -> bool {
        self.progress.is_proven() && self.progress.stalled_for() < STALLED_AFTER
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
        let mut probe_at = tokio::time::Instant::now();
        loop {
            if self.connect(&mut session).await.is_err() {
                tokio::select! {
                    () = tokio::time::sleep(RECONNECT_PAUSE) => continue,
                    () = stop.cancelled() => break,
                }
            }
            if self.queue.len() == (0, 0) {
                self.progress.rest();
            }
            // What waits is done even after `stop`: its callers are still there.
            let turn = tokio::select! {
                biased;
                turn = self.queue.take(BATCH_MAX) => turn,
                () = tokio::time::sleep_until(probe_at), if !self.progress.is_proven() => {
                    if self.probe(&mut session).await {
                        self.progress.committed();
                    }
                    probe_at = tokio::time::Instant::now() + PROBE_PAUSE;
                    continue;
                }
                () = stop.cancelled() => break,
            };
            self.show_depth();
            let (jobs, mode) = match turn {
                Turn::Shared(jobs) => (jobs, Mode::Shared),
                Turn::Isolated(jobs) => (jobs, Mode::Isolated),
                Turn::Alone(jobs) => (jobs, Mode::Alone),
            };
            self.progress.begin();
            self.settle_all(&mut session, jobs, mode, stop).await;
        }
        self.queue.close();
    }

    /// Commits a batch of nothing: whether the shard can. So that is known before there are commands, and after a failure; and where a
    /// batch failed for no command's sake, it tells whether the rows of that batch are at fault.
    async fn probe(&self, session: &mut Option<Session>) -> bool {
        let probed = async {
            let session = self.connect(session).await.map_err(|_| Failure::Disconnected)?;
            let connection = &mut session.connection;
            within(PREPARE_LIMIT, Failure::Late, batch::probe(connection, self.tender)).await?;
            within(COMMIT_LIMIT, Failure::CommitUnknown, batch::commit(connection)).await
        };
        match probed.await {
            Ok(()) => true,
            Err(failure) => {
                let class = failure.name();
                counter!("tender_batch_failures_total", "tender" => self.tender, "class" => class)
                    .increment(1);
                abandon(session, failure).await;
                false
            }
        }
    }

    fn show_depth(&self) {
        let (waiting, aside) = self.queue.len();
        let shard = &self.label;
        gauge!("tender_queue_depth", "tender" => self.tender, "shard" => shard.clone())
            .set(as_gauge(waiting));
        gauge!("tender_queue_aside", "tender" => self.tender, "shard" => shard.clone()).set(as_gauge(aside));
    }

    /// Brings every job to an answer, or puts it aside; what cannot be written is halved until the poison is alone.
    async fn settle_all(
        &self,
        session: &mut Option<Session>,
        jobs: Vec<Job>,
        mode: Mode,
        stop: &CancellationToken,
    ) {
        let (mut parts, mut unfit) = (vec![(jobs, mode)], 0);
        while let Some((jobs, mode)) = parts.pop() {
            let mut jobs = self.queue.divert(jobs);
            if jobs.len() > BATCH_MAX {
                parts.push((jobs.split_off(BATCH_MAX), mode));
            }
            if jobs.is_empty() {
                continue;
            }
            match self.settle(session, &mut jobs, mode, &mut unfit, stop).await {
                Verdict::Done(prepared) => self.answer(jobs, prepared),
                Verdict::Locked => self.put_aside(jobs, Cause::RowLocked),
                Verdict::Halve(mode) => {
                    let later = jobs.split_off(jobs.len() / 2);
                    parts.push((later, mode));
                    parts.push((jobs, mode));
                }
                Verdict::Refused(error) => {
                    if error == ExecuteError::Unavailable {
                        self.progress.failed();
                    }
                    if error == ExecuteError::Failed {
                        jobs.iter().for_each(|job| batch::report_poison(&job.command, self.tender));
                    }
                    jobs.into_iter().for_each(|job| job.refuse(error));
                }
            }
        }
    }

    fn answer(&self, jobs: Vec<Job>, prepared: Prepared) {
        let (mut locked, mut overdue) = (Vec::new(), Vec::new());
        for (job, judged) in jobs.into_iter().zip(prepared.judged) {
            match judged {
                Judged::Done(outcome) => job.answer(Reply { outcome, at: prepared.now }),
                Judged::Locked => locked.push(job),
                Judged::Overdue => overdue.push(job),
            }
        }
        self.put_aside(locked, Cause::AccountLocked);
        self.put_aside(overdue, Cause::Overdue);
    }

    fn put_aside(&self, jobs: Vec<Job>, cause: Cause) {
        let count = u64::try_from(jobs.len()).unwrap_or(u64::MAX);
        counter!("tender_put_aside_total", "tender" => self.tender, "reason" => cause.name())
            .increment(count);
        self.queue.put_aside(jobs, cause);
    }

    /// Runs one batch until it is known what became of it.
    async fn settle(
        &self,
        session: &mut Option<Session>,
        jobs: &mut [Job],
        mut mode: Mode,
        unfit: &mut u32,
        stop: &CancellationToken,
    ) -> Verdict {
        let mut tries = 0;
        let stopped = async {
            stop.cancelled().await;
            tokio::time::sleep(STOP_LIMIT).await;
        };
        tokio::pin!(stopped);
        loop {
            let commands: Vec<&Command> = jobs.iter().map(|job| &job.command).collect();
            let failure = match self.attempt(session, &commands, mode).await {
                Ok(prepared) => return Verdict::Done(prepared),
                Err(failure) => failure,
            };
            tries += 1;
            let failure = match failure {
                Failure::Unfit if *unfit < UNFIT_MAX && self.probe(session).await => {
                    *unfit += 1;
                    Failure::Poison
                }
                failure => failure,
            };
            match self.after(failure, tries, jobs, mode) {
                Next::Again(next) => mode = next,
                Next::Over(verdict) => return verdict,
            }
            counter!("tender_batch_reruns_total", "tender" => self.tender).increment(1);
            tokio::select! {
                () = tokio::time::sleep(pause(failure, tries)) => {}
                () = &mut stopped => return Verdict::Refused(ExecuteError::Unknown),
            }
        }
    }

    /// What a failed batch leads to. A doubt belongs to its jobs: whatever part of the batch they are in later, it goes along.
    fn after(&self, failure: Failure, tries: u32, jobs: &mut [Job], mode: Mode) -> Next {
        let halve = |mode| Next::Over(Verdict::Halve(mode));
        let refuse = |error| Next::Over(Verdict::Refused(error));
        match failure {
            Failure::Duplicate if tries < TRIES => Next::Again(mode),
            Failure::Poison | Failure::Duplicate if jobs.len() > 1 => halve(mode),
            Failure::Poison | Failure::Duplicate => refuse(ExecuteError::Failed),
            Failure::Unfit => refuse(ExecuteError::Unavailable),
            Failure::Conflict if mode == Mode::Shared => Next::Again(Mode::Isolated),
            Failure::Conflict if mode == Mode::Isolated && jobs.len() > 1 => halve(mode),
            Failure::Late if jobs.len() > 1 => halve(mode),
            Failure::Conflict | Failure::Late => Next::Over(Verdict::Locked),
            Failure::CommitUnknown => {
                jobs.iter_mut().for_each(Job::doubt);
                counter!("tender_commits_unknown_total", "tender" => self.tender).increment(1);
                Next::Again(mode)
            }
            Failure::Disconnected => {
                let has_doubt = jobs.iter().any(Job::is_in_doubt);
                let is_enough = tries >= TRIES || !self.queue.is_open();
                if is_enough && !has_doubt { refuse(ExecuteError::Unavailable) } else { Next::Again(mode) }
            }
        }
    }

    async fn attempt(
        &self,
        session: &mut Option<Session>,
        commands: &[&Command],
        mode: Mode,
    ) -> Result<Prepared, Failure> {
        let began = Instant::now();
        let done = self.run(session, commands, mode).await;
        if let Err(failure) = &done {
            let class = failure.name();
            counter!("tender_batch_failures_total", "tender" => self.tender, "class" => class).increment(1);
        }
        match &done {
            Ok(prepared) => {
                self.progress.committed();
                histogram!("tender_batch_size", "tender" => self.tender).record(as_gauge(commands.len()));
                histogram!("tender_batch_seconds", "tender" => self.tender).record(began.elapsed());
                if prepared.has_news {
                    self.wake.notify_one();
                }
            }
            Err(failure) => abandon(session, *failure).await,
        }
        done
    }

    async fn run(
        &self,
        session: &mut Option<Session>,
        commands: &[&Command],
        mode: Mode,
    ) -> Result<Prepared, Failure> {
        let session = self.connect(session).await.map_err(|_| Failure::Disconnected)?;
        session.begin_batch().await?;
        let connection = &mut session.connection;
        let prepare = batch::prepare(connection, commands, self.tender, mode);
        let prepared = within(PREPARE_LIMIT, Failure::Late, prepare).await?;
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

/// Ends the transaction of a batch that failed. A connection with an unfinished statement, or in an unknown state, is never used
/// again.
async fn abandon(session: &mut Option<Session>, failure: Failure) {
    match failure {
        Failure::Disconnected | Failure::Late | Failure::CommitUnknown => *session = None,
        Failure::Conflict | Failure::Duplicate | Failure::Poison | Failure::Unfit => roll_back(session).await,
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

#[cfg(test)]
mod tests {
    use money::Asset;
    use uuid::Uuid;

    use super::*;
    use crate::command::{AccountKey, Action};

    fn jobs(count: usize) -> Vec<Job> {
        let job = |_| {
            let business_id = api::BusinessId::try_from("demo".to_owned()).unwrap();
            let account = AccountKey { business_id, owner: "cus".to_owned(), asset: Asset::Points };
            Job::new(Command { operation_id: Uuid::nil(), account, action: Action::Query }).0
        };
        (0..count).map(job).collect()
    }

    fn shard() -> Shard {
        let config =
            ExecutorConfig { tender: "test", shards: 1, queue: 1, database: PgConnectOptions::new() };
        Shard::new(&config, 0, Arc::default())
    }

    #[test]
    fn the_doubt_of_a_commit_goes_along_with_each_half() {
        let shard = shard();
        let mut batch = jobs(4);
        assert!(matches!(shard.after(Failure::CommitUnknown, 1, &mut batch, Mode::Shared), Next::Again(_)));
        let halved = shard.after(Failure::Poison, 2, &mut batch, Mode::Shared);
        assert!(matches!(halved, Next::Over(Verdict::Halve(Mode::Shared))));
        let mut half = batch.split_off(2);
        // A batch without doubt would be refused as surely not done.
        for tries in 1..20 {
            let next = shard.after(Failure::Disconnected, tries, &mut half, Mode::Shared);
            assert!(matches!(next, Next::Again(_)), "after {tries} tries");
        }
        let sure = shard.after(Failure::Disconnected, TRIES, &mut jobs(2), Mode::Shared);
        assert!(matches!(sure, Next::Over(Verdict::Refused(ExecuteError::Unavailable))));
    }

    #[test]
    fn a_batch_that_takes_too_long_is_halved_and_waits_apart_with_its_doubt() {
        let shard = shard();
        let mut batch = jobs(2);
        batch.iter_mut().for_each(Job::doubt);
        let late = |jobs: &mut [Job]| shard.after(Failure::Late, 1, jobs, Mode::Shared);
        assert!(matches!(late(&mut batch), Next::Over(Verdict::Halve(Mode::Shared))));
        assert!(matches!(late(&mut batch[..1]), Next::Over(Verdict::Locked)));
    }

    #[test]
    fn a_conflict_leaves_locked_accounts_out_then_halves_and_then_waits_apart() {
        let shard = shard();
        let after = |count, mode| shard.after(Failure::Conflict, 1, &mut jobs(count), mode);
        assert!(matches!(after(2, Mode::Shared), Next::Again(Mode::Isolated)));
        assert!(matches!(after(2, Mode::Isolated), Next::Over(Verdict::Halve(Mode::Isolated))));
        assert!(matches!(after(1, Mode::Isolated), Next::Over(Verdict::Locked)));
        assert!(matches!(after(2, Mode::Alone), Next::Over(Verdict::Locked)));
    }
}
