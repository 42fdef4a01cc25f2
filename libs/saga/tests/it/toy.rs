//! A domain whose participants do what a test tells them, and whose one row a saga is what its state means.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use saga::{
    Admission, Begin, Call, Config, DatabaseClock, Domain, Ending, Engine, Key, NewSaga, Replied, Response,
    Saga, SagaId, StoreError, Submitted, TransitionEffect, Waited,
    machine::{Direction, Kind, Reply},
};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use testkit::TestDatabase;
use tokio::time::Instant;
use uuid::Uuid;

/// Longest time that what was begun may take until it shows.
pub const WITHIN: Duration = Duration::from_secs(30);

/// What a participant does with attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    Applies,
    Declines,
    /// Never answers.
    Hangs,
    /// Takes everything back but never confirms it.
    HangsOnCancel,
    /// Answers what the protocol does not allow.
    Nonsense,
}

/// One leg a participant; a version of its own, as a release that knows more variants would have.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    pub version: i16,
    pub legs: Vec<String>,
}

/// A release of the domain that reads version 1, and 2 if it is new.
#[derive(Debug)]
pub struct Toy<const NEW: bool> {
    does: Mutex<HashMap<String, Does>>,
    /// How many attempts there were.
    pub attempts: Mutex<HashMap<String, usize>>,
}

/// What the domain's row becomes.
pub type Change = &'static str;

impl<const NEW: bool> Default for Toy<NEW> {
    fn default() -> Self {
        Self { does: Mutex::default(), attempts: Mutex::default() }
    }
}

impl<const NEW: bool> Toy<NEW> {
    pub fn set(&self, participant: &str, does: Does) {
        self.does.lock().expect("a lock").insert(participant.to_owned(), does);
    }

    fn does(&self, participant: &str) -> Does {
        self.does.lock().expect("a lock").get(participant).copied().unwrap_or(Does::Applies)
    }

    pub fn attempts(&self, participant: &str) -> usize {
        self.attempts.lock().expect("a lock").get(participant).copied().unwrap_or_default()
    }
}

fn answered(reply: Reply) -> Replied<String> {
    Replied { reply, answer: Some(format!("{reply:?}")), note: None }
}

impl<const NEW: bool> Domain for Toy<NEW> {
    type Plan = Plan;
    type Answer = String;
    type Change = Change;

    const VERSIONS: &'static [i16] = if NEW { &[1, 2] } else { &[1] };

    fn version(plan: &Plan) -> i16 {
        plan.version
    }

    fn legs(&self, plan: &Plan) -> usize {
        plan.legs.len()
    }

    fn participant<'a>(&self, plan: &'a Plan, leg: usize) -> &'a str {
        &plan.legs[leg]
    }

    async fn send(&self, call: Call<'_, Plan>) -> Replied<String> {
        let participant = &call.saga.plan.legs[call.leg];
        *self.attempts.lock().expect("a lock").entry(participant.clone()).or_default() += 1;
        match (self.does(participant), call.direction) {
            (Does::Hangs, _) | (Does::HangsOnCancel, Direction::Cancel) => std::future::pending().await,
            (Does::Declines, Direction::Forward) => answered(Reply::Refused),
            (Does::Nonsense, _) => {
                Replied { reply: Reply::Wrong, answer: None, note: Some("a \u{0}".to_owned()) }
            }
            _ => answered(Reply::Done),
        }
    }

    async fn probe(&self, participant: &str) -> bool {
        self.does(participant) != Does::Hangs
    }

    fn on_transition(&self, saga: &Saga<Plan>, ending: Ending<'_, String>) -> TransitionEffect<Change> {
        let (status, change) = match ending {
            Ending::Completed(_) => (Some(201), "completed"),
            Ending::Compensating(_) => (Some(422), "going back"),
            Ending::Compensated(..) => (Some(422), "back"),
            Ending::Parked => (None, "parked"),
            Ending::Reopened(_) => (None, "reopened"),
            Ending::Resolved => (None, "resolved"),
        };
        let body = format!("{} {change}", saga.key.key).into_bytes();
        TransitionEffect { response: status.map(|status| Response { status, body }), change: Some(change) }
    }

    fn on_parked(&self, _: SagaId, is_resolved: bool) -> Option<Change> {
        Some(if is_resolved { "resolved" } else { "parked" })
    }

    async fn admit(
        &self,
        _: &mut PgConnection,
        new: &[&NewSaga<Self>],
    ) -> sqlx::Result<Vec<Admission<Change>>> {
        Ok(new.iter().map(|_| Admission::Admitted).collect())
    }

    async fn record(&self, conn: &mut PgConnection, changes: &[(SagaId, Change)]) -> sqlx::Result<()> {
        for (id, change) in changes {
            sqlx::query(
                "INSERT INTO toy.thing (saga_id, status) VALUES ($1, $2) ON CONFLICT (saga_id) DO UPDATE SET status = excluded.status",
            )
            .bind(id)
            .bind(*change)
            .execute(&mut *conn)
            .await?;
        }
        Ok(())
    }
}

/// A database with the toy's table.
pub struct World {
    pub database: TestDatabase,
}

impl World {
    pub async fn start() -> Self {
        let database = TestDatabase::create(schema::Database::Wallet).await;
        let world = Self { database };
        world
            .execute(
                "CREATE SCHEMA toy; GRANT USAGE ON SCHEMA toy TO wallet_writer;
                 CREATE TABLE toy.thing (saga_id uuid PRIMARY KEY, status text NOT NULL, forbidden text,
                     CONSTRAINT thing_is_allowed CHECK (status IS DISTINCT FROM forbidden));
                 GRANT SELECT, INSERT, UPDATE ON toy.thing TO wallet_writer",
            )
            .await;
        world
    }

    /// Runs statements as the owner of the database.
    pub async fn execute(&self, sql: &'static str) {
        let mut connection = PgConnection::connect_with(&self.database.admin()).await.expect("a connection");
        sqlx::raw_sql(sql).execute(&mut connection).await.expect("done");
        connection.close().await.expect("closed");
    }

    pub async fn sql<T>(&self, sql: &'static str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        let mut connection = PgConnection::connect_with(&self.database.admin()).await.expect("a connection");
        let value = sqlx::query_scalar(sql).fetch_one(&mut connection).await.expect(sql);
        connection.close().await.expect("closed");
        value
    }

    /// Waits until a query is true.
    pub async fn until(&self, sql: &'static str) {
        testkit::until(WITHIN, async || {
            let holds = self.sql::<Option<bool>>(sql).await;
            holds.filter(|holds| *holds).ok_or(sql)
        })
        .await;
    }

    pub async fn process<const NEW: bool>(&self, config: Config) -> Process<NEW> {
        self.process_with(config, |options| options).await
    }

    /// A process with other options for its connections.
    pub async fn process_with<const NEW: bool>(
        &self,
        config: Config,
        change: impl FnOnce(PgConnectOptions) -> PgConnectOptions,
    ) -> Process<NEW> {
        let options = service::db::connect_options(&self.database.url(), "toy").expect("a URL");
        let domain = Arc::new(Toy::default());
        let options = change(service::db::for_executor(options));
        let engine = Engine::start(config, domain.clone(), options, DatabaseClock::default());
        testkit::until(WITHIN, async || engine.is_ready()).await;
        Process { engine, domain }
    }
}

/// One process of a release.
pub struct Process<const NEW: bool> {
    pub engine: Arc<Engine<Toy<NEW>>>,
    pub domain: Arc<Toy<NEW>>,
}

impl<const NEW: bool> Drop for Process<NEW> {
    fn drop(&mut self) {
        self.engine.crash();
    }
}

impl<const NEW: bool> Process<NEW> {
    pub async fn submit(
        &self,
        key: &str,
        version: i16,
        legs: &[&str],
    ) -> (SagaId, Result<Submitted, StoreError>) {
        let id = SagaId(Uuid::now_v7());
        (id, self.submit_as(id, key, version, legs).await)
    }

    pub async fn submit_as(
        &self,
        id: SagaId,
        key: &str,
        version: i16,
        legs: &[&str],
    ) -> Result<Submitted, StoreError> {
        self.engine.submit(new_saga(id, key, version, legs)).await
    }

    /// Submits a saga of version 1 that has this time.
    pub async fn submit_within(&self, key: &str, deadline: Duration, legs: &[&str]) {
        let new = new_saga(SagaId(Uuid::now_v7()), key, 1, legs);
        assert_eq!(self.engine.submit(NewSaga { deadline, ..new }).await, Ok(Submitted::Running));
    }

    /// Submits a saga of version 1 and waits for its answer.
    pub async fn run(&self, key: &str, legs: &[&str]) -> Option<u16> {
        let (id, submitted) = self.submit(key, 1, legs).await;
        assert_eq!(submitted, Ok(Submitted::Running));
        match self.engine.wait(id, Instant::now() + Duration::from_secs(10)).await.expect("a database") {
            Waited::Answered(response) => Some(response.status),
            Waited::KeyCancelled | Waited::Settled | Waited::Pending(_) => None,
        }
    }
}

/// A saga of the business `demo` that may be compensated.
pub fn new_saga<const NEW: bool>(id: SagaId, key: &str, version: i16, legs: &[&str]) -> NewSaga<Toy<NEW>> {
    let key = Key {
        business_id: "demo".to_owned(),
        operation: "toy".to_owned(),
        scope: String::new(),
        key: key.to_owned(),
    };
    NewSaga {
        id,
        key,
        request_hash: None,
        kind: Kind::Compensable,
        legs_id: Uuid::new_v4(),
        parent_id: None,
        plan: Arc::new(Plan { version, legs: legs.iter().map(|leg| (*leg).to_owned()).collect() }),
        deadline: Duration::from_secs(10),
        trace_id: None,
        change: Some("begun"),
        begin: Begin::Run,
        cancel_parent_key: false,
    }
}

/// Limits with which nothing takes long.
pub fn quick() -> Config {
    let mut config = Config {
        heartbeat: Duration::from_millis(100),
        ttl: Duration::from_millis(600),
        scan: Duration::from_millis(100),
        forward_timeout: Duration::from_millis(300),
        cancel_timeout: Duration::from_millis(300),
        ..Config::default()
    };
    config.forward_retry.cap = Duration::from_millis(100);
    config.cancel_retry.cap = Duration::from_millis(100);
    config
}
