//! The saga engine alone: three legs in parallel that do nothing, against a workflow engine whose steps do nothing.

use std::{sync::Arc, time::Duration};

use saga::{
    Admission, Begin, Call, TransitionEffect, Config, DatabaseClock, Domain, Ending, Engine, Key, NewSaga, Replied, RequestHash,
    Response, Saga, SagaId, Submitted, Waited,
    machine::{Kind, Reply},
};
use schema::Database;
use sqlx::PgConnection;
use testkit::TestDatabase;
use tokio::time::Instant;

use super::{Effort, Rounds};
use crate::{
    cost::Meter,
    load::{Caller, Outcome, Sample, closed},
    report::Row,
    rivals::dbos::Dbos,
};

const CALLERS: usize = 64;
const LEGS: usize = 3;
const RATIO: f64 = 20.0;
const P99_MS: f64 = 20.0;

/// A domain whose legs do nothing, and which stores nothing of its own.
#[derive(Debug)]
struct Idle;

impl Domain for Idle {
    type Plan = usize;
    type Answer = ();
    type Change = ();

    const VERSIONS: &'static [i16] = &[1];

    fn version(_: &Self::Plan) -> i16 {
        1
    }

    fn legs(&self, plan: &usize) -> usize {
        *plan
    }

    fn participant<'a>(&self, _: &'a usize, _: usize) -> &'a str {
        "idle"
    }

    async fn send(&self, _: Call<'_, usize>) -> Replied<()> {
        Replied { reply: Reply::Done, answer: Some(()), note: None }
    }

    async fn probe(&self, _: &str) -> bool {
        true
    }

    fn on_transition(&self, _: &Saga<usize>, _: Ending<'_, ()>) -> TransitionEffect<()> {
        TransitionEffect { response: Some(Response { status: 201, body: b"{}".to_vec() }), change: None }
    }

    fn on_parked(&self, _: SagaId, _: bool) -> Option<()> {
        None
    }

    async fn admit(&self, _: &mut PgConnection, new: &[&NewSaga<Self>]) -> sqlx::Result<Vec<Admission<()>>> {
        Ok(new.iter().map(|_| Admission::Admitted).collect())
    }

    async fn record(&self, _: &mut PgConnection, _: &[(SagaId, ())]) -> sqlx::Result<()> {
        Ok(())
    }
}

struct Asks(Arc<Engine<Idle>>);

impl Caller for Asks {
    async fn call(&mut self, _: u64) -> Outcome {
        let id = SagaId(uuid::Uuid::now_v7());
        let key = Key {
            business_id: "bench".to_owned(),
            operation: "idle".to_owned(),
            scope: String::new(),
            key: id.0.to_string(),
        };
        let new = NewSaga {
            id,
            key,
            request_hash: Some(RequestHash { version: 1, bytes: [0; 32] }),
            kind: Kind::Compensable,
            legs_id: id.0,
            parent_id: None,
            plan: Arc::new(LEGS),
            deadline: Duration::from_secs(10),
            trace_id: None,
            change: None,
            begin: Begin::Run,
            cancel_parent_key: false,
        };
        let until = Instant::now() + Duration::from_secs(30);
        match self.0.submit(new).await {
            Ok(Submitted::Running) => match self.0.wait(id, until).await {
                Ok(Waited::Answered(_)) => Outcome::Done,
                _ => Outcome::Failed,
            },
            _ => Outcome::Failed,
        }
    }
}

/// Measures both by turns.
///
/// # Errors
/// When one does not start.
pub async fn run(effort: Effort) -> anyhow::Result<Row> {
    let database = TestDatabase::create(Database::Wallet).await.without_checks();
    let options = service::db::connect_options(&database.url(), "bench")?;
    let engine = Engine::start(Config::default(), Arc::new(Idle), options, DatabaseClock::default());
    while !engine.is_ready() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let dbos = Dbos::start().await?;
    let load = |lasts: Duration| -> futures_util::future::BoxFuture<'_, Sample> {
        Box::pin(closed((0..CALLERS).map(|_| Asks(engine.clone())).collect(), lasts))
    };
    load(effort.warm).await;
    dbos.load(CALLERS, effort.warm).await;
    let (mut ours, mut theirs) = (Rounds::default(), Rounds::default());
    let mut cost = None;
    for _ in 0..effort.rounds {
        theirs.push(&dbos.load(CALLERS, effort.round).await);
        let meter = Meter::read(None).await?;
        let sample = load(effort.round).await;
        cost = Some(meter.cost(None, sample.answered).await?);
        ours.push(&sample);
    }
    engine.drain().await;
    dbos.stop().await;
    let (figures, ratio) = (ours.all.figures(), ours.rate() / theirs.rate());
    Ok(Row {
        name: "saga engine, 3 idle legs, 64 callers".to_owned(),
        rival: "dbos, 3 idle steps".to_owned(),
        goal: format!("≥ {RATIO:.0}×, p99 < {P99_MS:.0} ms"),
        reached: format!("{ratio:.1}×, p99 {:.1} ms", figures.p99),
        of_goal: (ratio / RATIO).min(P99_MS / figures.p99),
        ours: Some(figures),
        theirs: Some(theirs.all.figures()),
        cost,
    })
}
