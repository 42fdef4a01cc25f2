//! A balance from the cache, against a plain handler behind the same listener and tokens that does one Redis GET.

use std::time::Duration;

use anyhow::Context;
use hyper::Method;

use super::{Effort, Rounds};
use crate::{
    cost::Meter,
    http::Connection,
    load::{Caller, Outcome, Sample, closed},
    report::Row,
    rivals::redis_get::{Rival, key},
    system::{self, BUSINESS, System},
};

const CALLERS: usize = 64;
const CUSTOMERS: usize = 500;
const RATIO: f64 = 0.7;

struct Reads {
    connection: Connection,
    bearer: String,
    next: usize,
}

fn path(customer: usize) -> String {
    format!("/api/v1/wallet/balance?customer_id={}", system::customer((customer % CUSTOMERS) as u64))
}

impl Caller for Reads {
    async fn call(&mut self, _: u64) -> Outcome {
        self.next += 1;
        let headers = [("authorization", self.bearer.as_str())];
        let answer = self.connection.send(Method::GET, &path(self.next), &headers, Vec::new()).await;
        match answer {
            Ok(answer) if answer.status == 200 => Outcome::Done,
            _ => Outcome::Failed,
        }
    }
}

async fn load(system: &System, port: u16, lasts: Duration) -> Sample {
    let bearer = format!("Bearer {}", system.tokens.staff(BUSINESS, "pos"));
    let caller = |number: usize| Reads {
        connection: Connection::to(port),
        bearer: bearer.clone(),
        next: number * CUSTOMERS / CALLERS,
    };
    closed((0..CALLERS).map(caller).collect(), lasts).await
}

/// Measures both by turns.
///
/// # Errors
/// When one does not start.
pub async fn run(effort: Effort) -> anyhow::Result<Row> {
    let system = System::start(1).await?;
    system.fund(CUSTOMERS as u64).await?;
    copy_to_redis(&system).await?;
    let rival = Rival::start(system.keys()).await?;
    let own = system.wallets[0].public;
    load(&system, own, effort.warm).await;
    load(&system, rival.port, effort.warm).await;
    let (mut ours, mut theirs) = (Rounds::default(), Rounds::default());
    let mut cost = None;
    for _ in 0..effort.rounds {
        theirs.push(&load(&system, rival.port, effort.round).await);
        let meter = Meter::read(Some(&system)).await?;
        let sample = load(&system, own, effort.round).await;
        cost = Some(meter.cost(Some(&system), sample.answered).await?);
        ours.push(&sample);
    }
    rival.stop().await;
    let ratio = ours.rate() / theirs.rate();
    Ok(Row {
        name: "balance from the cache, 64 callers".to_owned(),
        rival: "one Redis GET".to_owned(),
        goal: format!("≥ {RATIO}×"),
        reached: format!("{ratio:.2}×"),
        of_goal: ratio / RATIO,
        ours: Some(ours.all.figures()),
        theirs: Some(theirs.all.figures()),
        cost,
    })
}

/// The rival answers with the very bytes of the wallet.
async fn copy_to_redis(system: &System) -> anyhow::Result<()> {
    let bearer = format!("Bearer {}", system.tokens.staff(BUSINESS, "pos"));
    let client = redis::Client::open(std::env::var("TEST_REDIS_URL").context("TEST_REDIS_URL")?)?;
    let mut redis = client.get_multiplexed_async_connection().await?;
    let mut connection = Connection::to(system.wallets[0].public);
    for customer in 0..CUSTOMERS {
        let headers = [("authorization", bearer.as_str())];
        let answer = connection.send(Method::GET, &path(customer), &headers, Vec::new()).await?;
        anyhow::ensure!(answer.status == 200, "no balance: {}", answer.status);
        let key = key(&system::customer(customer as u64));
        let _: () = redis::cmd("SET").arg(key).arg(answer.body.as_ref()).query_async(&mut redis).await?;
    }
    Ok(())
}
