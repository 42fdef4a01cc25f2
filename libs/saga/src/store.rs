//! The group-commit store: transitions of concurrent sagas become one transaction.
//!
//! Each writer task owns one connection, which is never cancelled half-way by a caller. When it takes what waits, and that no
//! saga is with two writers at once, is in [`crate::queue`].
//!
//! Phases of a batch: BEGIN, the statements of [`crate::write`], COMMIT, answers. What can fail:
//! - before COMMIT is sent: nothing is durable. 40P01 and 40001 run again a few times. What waits for a lock (55P03) or a statement
//!   (57014) for long, or goes on being refused, is put aside at once: the lane finds out there what is kept ([`crate::aside`]),
//!   and the writer goes on with the others. Data errors halve the batch;
//! - at COMMIT: **unknown**. The whole batch is written again until an attempt is answered, because only the locks
//!   and unique keys of a second attempt wait for the first transaction to end; reading alone would not. Put aside, its writes are
//!   tried until they are answered.
//!
//! Inserts have [`crate::pending::Terms`], judged in each attempt: those whose caller is gone are not made, only looked for.

use std::{
    collections::HashSet,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use fail::fail_point;
use futures_util::FutureExt;
use metrics::{counter, gauge, histogram};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, postgres::PgConnectOptions};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    aside::{About, Subject},
    domain::{Domain, NewSaga, SagaId},
    error::StoreError,
    pending::Terms,
    queue::{Batch, CloseOnDrop, OfSaga, Queue},
    registry::Registry,
    write::{Write, Written, write_batch},
};

/// Writers of a process. With two, one's batch is made ready and answered while the other's is with the server.
const WRITERS: usize = 2;
/// Attempts at a batch that meets deadlocks or serialisation failures.
const ATTEMPTS: u32 = 4;
/// Attempts at a batch whose connection is lost, or whose server cannot work.
const LOST_ATTEMPTS: u32 = 2;
/// How long a batch waits for a lock: other processes hold theirs for milliseconds. The writers' own setting, in the place of the
/// session's.
const LOCK_WAIT: &str = "100ms";
/// How long what is aside waits for a lock: others are waiting for their turn there, and it is tried again.
const LOCK_WAIT_ASIDE: &str = "5ms";
/// A batch that takes longer than this has lost its connection, whatever the socket says.
const BATCH_TIMEOUT: Duration = Duration::from_secs(8);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection may take between two transactions: to roll back, or to forget its plans. Else it is dropped.
const RESET_TIMEOUT: Duration = Duration::from_secs(1);
pub(crate) const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// A write, and who waits for it.
pub(crate) struct Request<D: Domain> {
    pub write: Write<D>,
    pub caller: Caller,
    /// An earlier attempt may have committed.
    pub is_in_doubt: bool,
}

/// Who waits for a write, and under which terms an insert may be sent.
pub(crate) struct Caller {
    done: oneshot::Sender<Result<Written, StoreError>>,
    terms: Option<Terms>,
}

impl Caller {
    /// `unknown`: an attempt may have committed of which this answer says nothing.
    pub(crate) fn answer(self, answer: Result<Written, StoreError>, unknown: bool) {
        let is_settled = match &answer {
            Ok(Written::Withheld)
            | Err(StoreError::Unavailable | StoreError::Busy(_) | StoreError::Refused(_)) => !unknown,
            Ok(_) => true,
            Err(StoreError::Unknown) => false,
        };
        if let Some(terms) = self.terms
            && is_settled
        {
            terms.settle();
        }
        let _ = self.done.send(answer);
    }
}

impl<D: Domain> OfSaga for Request<D> {
    fn saga(&self) -> SagaId {
        self.write.id()
    }
}

impl<D: Domain> About for Request<D> {
    fn subject(&self) -> Subject {
        match &self.write {
            Write::Insert(new) => new.parent_id.map_or_else(|| Subject::Key(new.key.clone()), Subject::Saga),
            Write::Move(change) => Subject::Saga(change.id),
        }
    }

    fn is_in_doubt(&self) -> bool {
        self.is_in_doubt
    }
}

impl<D: Domain> Request<D> {
    /// Answers a write that ends here. It may be durable only if an earlier attempt is in doubt.
    pub(crate) fn fail(self, failure: &Failure) {
        let saga_id = self.write.id();
        let error = match failure {
            failure if self.is_in_doubt => {
                tracing::error!(?failure, %saga_id, "what became of a write is not known");
                StoreError::Unknown
            }
            Failure::Data(error) => {
                tracing::error!(%error, %saga_id, "a write is refused by the database");
                StoreError::Refused(error.to_string())
            }
            Failure::Panicked => StoreError::Refused("panic".to_owned()),
            _ => StoreError::Unavailable,
        };
        self.caller.answer(Err(error), self.is_in_doubt);
    }
}

/// Hands writes to the writers.
pub(crate) struct Store<D: Domain> {
    queue: Arc<Queue<Request<D>>>,
    connected: Arc<Connected>,
}

/// Which of the writers can reach the database. The lane of what is aside says nothing of it.
struct Connected([AtomicBool; WRITERS]);

impl Connected {
    fn any(&self) -> bool {
        self.0.iter().any(|writer| writer.load(Ordering::Relaxed))
    }
}

impl<D: Domain> Store<D> {
    /// The store, its writers, and the one that tries what is aside, for the caller to run.
    pub(crate) fn new(
        options: &PgConnectOptions,
        domain: &Arc<D>,
        owner: Uuid,
        batch: usize,
        registry: Registry,
    ) -> (Self, [Writer<D>; WRITERS], Writer<D>) {
        let queue = Arc::new(Queue::new(batch, registry));
        let open = Arc::new(CloseOnDrop(queue.clone()));
        let connected = Arc::new(Connected(std::array::from_fn(|_| AtomicBool::new(true))));
        let writer = |place: Option<usize>, lock_wait: &str| Writer {
            place,
            options: options.clone().options([("lock_timeout", lock_wait)]),
            domain: domain.clone(),
            owner,
            open: open.clone(),
            connected: connected.clone(),
            connection: None,
            batches: 0,
        };
        let writers = std::array::from_fn(|place| writer(Some(place), LOCK_WAIT));
        let lane = writer(None, LOCK_WAIT_ASIDE);
        (Self { queue, connected }, writers, lane)
    }

    /// Makes a write durable. Waits for as long as the outcome is unknown.
    pub(crate) async fn write(&self, write: Write<D>) -> Result<Written, StoreError> {
        self.write_on(write, None).await
    }

    /// Makes a new saga durable, as long as its terms allow it.
    pub(crate) async fn insert(&self, new: NewSaga<D>, terms: Terms) -> Result<Written, StoreError> {
        self.write_on(Write::Insert(Box::new(new)), Some(terms)).await
    }

    async fn write_on(&self, write: Write<D>, terms: Option<Terms>) -> Result<Written, StoreError> {
        if !self.is_available() {
            return Err(StoreError::Unavailable);
        }
        let (done, answer) = oneshot::channel();
        self.queue.push(Request { write, caller: Caller { done, terms }, is_in_doubt: false })?;
        answer.await.unwrap_or(Err(StoreError::Unknown))
    }

    /// The database answered somebody else: the writers may try again.
    pub(crate) fn reachable(&self) {
        self.connected.0.iter().for_each(|writer| writer.store(true, Ordering::Relaxed));
    }

    /// Whether the last attempt of any writer reached the database.
    pub(crate) fn is_available(&self) -> bool {
        self.connected.any()
    }
}

/// How an attempt at a batch failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing was sent: the database cannot be reached.
    Unreachable,
    /// Nothing is durable; the same batch may succeed at once.
    Again(sqlx::Error),
    /// A lock or a statement took too long: nothing is durable, and some row may be locked for longer.
    Slow(sqlx::Error),
    /// The server says that it cannot work now: nothing is durable.
    Server(sqlx::Error),
    /// Nothing is durable; some write in it is at fault.
    Data(sqlx::Error),
    /// The connection broke before COMMIT was sent: nothing is durable.
    Lost(String),
    /// The domain's part panicked before COMMIT: nothing is durable.
    Panicked,
    /// COMMIT was sent and not answered.
    Unknown(String),
}

/// One connection, and one batch at a time.
pub(crate) struct Writer<D: Domain> {
    options: PgConnectOptions,
    domain: Arc<D>,
    owner: Uuid,
    pub(crate) open: Arc<CloseOnDrop<Request<D>>>,
    connected: Arc<Connected>,
    /// Which of the writers it is; none is the lane of what is aside.
    place: Option<usize>,
    pub(crate) connection: Option<PgConnection>,
    batches: u64,
}

impl<D: Domain> Writer<D> {
    /// Runs until `stop`, which is heeded between batches only: a COMMIT is never abandoned.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.make_ready() => {}
            }
            let taken = tokio::select! {
                biased;
                taken = self.open.0.take() => Some(taken),
                // What waits already is written.
                () = stop.cancelled() => self.open.0.take_now(),
            };
            let Some((batch, behind)) = taken else { return };
            let size = batch.requests.len();
            histogram!("saga_batch_size").record(f64::from(u32::try_from(size).unwrap_or(u32::MAX)));
            gauge!("saga_store_queue").set(f64::from(u32::try_from(behind).unwrap_or(u32::MAX)));
            let Batch { requests, at_work } = batch;
            if AssertUnwindSafe(self.write(requests, false)).catch_unwind().await.is_err() {
                // Its callers hear that the outcome is unknown; the writer goes on with a connection of its own.
                tracing::error!("a writer panicked");
                counter!("background_restarts_total", "task" => "saga_writer").increment(1);
                self.connection = None;
            }
            drop(at_work);
        }
    }

    /// Writes a batch and answers everybody in it, or puts them aside.
    async fn write(&mut self, batch: Vec<Request<D>>, mut unknown: bool) {
        let (writes, callers): (Vec<_>, Vec<_>) = batch.into_iter().map(|r| (r.write, r.caller)).unzip();
        let mut attempt = 0;
        let failure = loop {
            attempt += 1;
            match self.attempt(&writes, &callers, unknown).await {
                Ok(written) => {
                    for (caller, written) in callers.into_iter().zip(written) {
                        caller.answer(Ok(written), unknown);
                    }
                    return;
                }
                Err(Failure::Unknown(error)) => {
                    counter!("saga_commit_unknown_total").increment(1);
                    tracing::warn!(error, "outcome of a commit is unknown; the batch is written again");
                    unknown = true;
                }
                Err(Failure::Again(error)) if attempt < ATTEMPTS => {
                    counter!("saga_batch_rerun_total").increment(1);
                    tracing::debug!(%error, "the batch runs again");
                }
                Err(Failure::Unreachable | Failure::Lost(_)) if unknown => {}
                Err(Failure::Lost(error)) if attempt < LOST_ATTEMPTS => {
                    tracing::warn!(error, "connection lost; reconnecting");
                }
                Err(Failure::Server(error)) if attempt < LOST_ATTEMPTS => {
                    tracing::warn!(%error, "the server cannot write; reconnecting");
                }
                Err(failure) => break failure,
            }
            if unknown && self.connection.is_none() && attempt > 1 {
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        };
        let requests = writes.into_iter().zip(callers);
        let batch: Vec<_> =
            requests.map(|(write, caller)| Request { write, caller, is_in_doubt: unknown }).collect();
        self.give_up(batch, failure, unknown).await;
    }

    async fn give_up(&mut self, mut batch: Vec<Request<D>>, failure: Failure, unknown: bool) {
        match failure {
            failure @ (Failure::Data(_) | Failure::Panicked) if batch.len() > 1 => {
                tracing::warn!(?failure, size = batch.len(), "a write in the batch is at fault; halving");
                let second = batch.split_off(batch.len() / 2);
                Box::pin(self.write(batch, unknown)).await;
                Box::pin(self.write(second, unknown)).await;
            }
            // The others have a connection: it is this writer alone, which takes nothing more until it has one.
            Failure::Unreachable if !unknown && self.others_are_connected() => self.open.0.give_back(batch),
            Failure::Slow(error) | Failure::Again(error) | Failure::Server(error) => {
                counter!("saga_writes_aside_total").increment(batch.len() as u64);
                tracing::warn!(%error, size = batch.len(), "something keeps the batch; its writes are put aside");
                self.open.0.put_aside(batch);
            }
            failure => {
                tracing::warn!(?failure, size = batch.len(), "a batch has failed");
                batch.into_iter().for_each(|request| request.fail(&failure));
            }
        }
    }

    pub(crate) async fn attempt(
        &mut self,
        writes: &[Write<D>],
        callers: &[Caller],
        again: bool,
    ) -> Result<Vec<Written>, Failure> {
        let mut connection = self.connection().await?;
        let committing = AtomicBool::new(false);
        let started = Instant::now();
        let batch = (writes, callers);
        let work = transaction(&mut connection, &*self.domain, self.owner, batch, again, &committing);
        let result = match tokio::time::timeout(BATCH_TIMEOUT, AssertUnwindSafe(work).catch_unwind()).await {
            Ok(Ok(result)) => result,
            // A panic in the domain's part comes before COMMIT; the broken connection is dropped.
            Ok(Err(_)) => Err(Failure::Panicked),
            Err(_) if committing.load(Ordering::Relaxed) => {
                Err(Failure::Unknown("timed out at COMMIT".to_owned()))
            }
            Err(_) => Err(Failure::Lost("timed out before COMMIT".to_owned())),
        };
        histogram!("saga_commit_seconds").record(started.elapsed().as_secs_f64());
        match &result {
            Err(Failure::Unknown(_) | Failure::Lost(_) | Failure::Server(_) | Failure::Panicked) => {} // dropping the connection ends its transaction
            Err(Failure::Again(_) | Failure::Slow(_) | Failure::Data(_)) => {
                let rolled_back = tokio::time::timeout(RESET_TIMEOUT, connection.execute("ROLLBACK")).await;
                if rolled_back.is_ok_and(|done| done.is_ok()) {
                    self.connection = Some(connection);
                }
            }
            _ => self.connection = Some(connection),
        }
        result
    }

    async fn connection(&mut self) -> Result<PgConnection, Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        self.batches += 1;
        if self.batches.is_power_of_two() {
            // Plans prepared while tables were empty would stay; new ones see what has grown meanwhile.
            let cleared = tokio::time::timeout(RESET_TIMEOUT, connection.clear_cached_statements()).await;
            if !cleared.is_ok_and(|done| done.is_ok()) {
                return Err(Failure::Lost("its plans were not forgotten in time".to_owned()));
            }
        }
        Ok(connection)
    }

    /// Connects before anything is taken, as long as the others are connected: what waits is theirs.
    async fn make_ready(&mut self) {
        while self.connection.is_none() {
            match self.connect().await {
                Ok(connection) => self.connection = Some(connection),
                Err(_) if self.others_are_connected() => tokio::time::sleep(RECONNECT_PAUSE).await,
                Err(_) => return,
            }
        }
    }

    pub(crate) async fn connect(&self) -> Result<PgConnection, Failure> {
        match tokio::time::timeout(CONNECT_TIMEOUT, self.options.connect()).await {
            Ok(Ok(connection)) => {
                self.set_connected(true);
                Ok(connection)
            }
            Ok(Err(error)) => Err(self.unreachable(&error)),
            Err(_) => Err(self.unreachable(&sqlx::Error::PoolTimedOut)),
        }
    }

    /// Whether any other writer can reach the database, as far as is known.
    pub(crate) fn others_are_connected(&self) -> bool {
        let mut writers = self.connected.0.iter().enumerate();
        writers.any(|(place, writer)| Some(place) != self.place && writer.load(Ordering::Relaxed))
    }

    /// Once that is so of all writers, callers are refused at the door, until the heartbeat finds the database again.
    fn unreachable(&self, error: &sqlx::Error) -> Failure {
        tracing::warn!(%error, "the saga database cannot be reached");
        self.set_connected(false);
        Failure::Unreachable
    }

    fn set_connected(&self, connected: bool) {
        if let Some(writer) = self.place.and_then(|place| self.connected.0.get(place)) {
            writer.store(connected, Ordering::Relaxed);
        }
    }
}

async fn transaction<D: Domain>(
    connection: &mut PgConnection,
    domain: &D,
    owner: Uuid,
    (writes, callers): (&[Write<D>], &[Caller]),
    again: bool,
    committing: &AtomicBool,
) -> Result<Vec<Written>, Failure> {
    connection.execute("BEGIN").await.map_err(before_commit)?;
    // Judged here and no earlier: should this process stop from now on, the server ends the idle transaction.
    let withheld = withheld(writes, callers);
    let written =
        write_batch(connection, domain, owner, writes, again, &withheld).await.map_err(before_commit)?;
    fail_point!("saga::written");
    committing.store(true, Ordering::Relaxed);
    connection.execute("COMMIT").await.map_err(at_commit)?;
    fail_point!("saga::committed");
    Ok(written)
}

/// The inserts whose terms do not allow them any more.
fn withheld<D: Domain>(writes: &[Write<D>], callers: &[Caller]) -> HashSet<SagaId> {
    let is_withheld = |caller: &Caller| caller.terms.as_ref().is_some_and(|terms| !terms.allow());
    let of = writes.iter().zip(callers).filter(|(_, caller)| is_withheld(caller));
    of.map(|(write, _)| write.id()).collect()
}

fn before_commit(error: sqlx::Error) -> Failure {
    match &error {
        sqlx::Error::Database(db) => match db.code().as_deref() {
            Some("40P01" | "40001") => Failure::Again(error),
            Some("55P03" | "57014") => Failure::Slow(error),
            Some(code) if is_servers(code) => Failure::Server(error),
            _ => Failure::Data(error),
        },
        sqlx::Error::Encode(_) => Failure::Data(error),
        _ => Failure::Lost(error.to_string()),
    }
}

/// Whether a code says that the server, or this session of it, cannot work now: no write is at fault. Connection
/// exceptions, no more resources, operator intervention, I/O errors, internal errors and corrupted files; a transaction that
/// was idle for too long; a server that may only be read, as a standby is that has taken over and is not promoted yet.
fn is_servers(code: &str) -> bool {
    ["08", "53", "57", "58", "XX"].iter().any(|class| code.starts_with(class))
        || ["25P03", "25006"].contains(&code)
}

fn at_commit(error: sqlx::Error) -> Failure {
    match &error {
        // The server answered: it did not commit.
        sqlx::Error::Database(db) if matches!(db.code().as_deref(), Some("40P01" | "40001")) => {
            Failure::Again(error)
        }
        sqlx::Error::Database(db) if db.code().is_some_and(|c| c.starts_with("23")) => Failure::Data(error),
        _ => Failure::Unknown(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_cannot_work_is_no_fault_of_a_write() {
        for code in [
            "08006", "53100", "53300", "57014", "57P01", "57P03", "58030", "XX000", "XX001", "25P03", "25006",
        ] {
            assert!(is_servers(code), "{code}");
        }
        for code in ["23505", "23514", "22021", "25P02", "40001", ""] {
            assert!(!is_servers(code), "{code}");
        }
    }
}
