//! A redemption over HTTP from three real tenders, against a workflow engine whose three steps do nothing.

use std::time::Duration;

use hyper::Method;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use rand_distr::{Distribution as _, Zipf};
use serde_json::json;

use super::{Effort, Rounds};
use crate::{
    cost::Meter,
    http::Connection,
    load::{Caller, Outcome, Sample, closed},
    report::Row,
    rivals::dbos::Dbos,
    system::{BUSINESS, PLENTY, System, customer, reward},
};

const TILLS: usize = 64;
const CUSTOMERS: u64 = 100_000;
const RATIO: f64 = 2.5;

/// Which customer comes next.
#[derive(Debug, Clone, Copy)]
pub enum Pick {
    /// One of so many, each as likely.
    Uniform(u64),
    /// One of so many, some far more likely than others (Zipf, exponent 1).
    Zipf(u64),
    /// Always the same.
    One,
}

/// What tills ask for.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    /// Whose wallets.
    pub pick: Pick,
    /// How many tenders pay: 1 to 3.
    pub tenders: usize,
    /// Of a hundred redemptions, so many ask for more store credit than there is.
    pub declined: u64,
}

impl Mix {
    /// Three tenders, nothing declined.
    #[must_use]
    pub const fn of(pick: Pick) -> Self {
        Self { pick, tenders: 3, declined: 0 }
    }
}

/// A till: one connection to one orchestrator.
pub struct Till {
    connection: Connection,
    bearer: String,
    mix: Mix,
    dice: SmallRng,
}

impl Till {
    /// Tills that share the orchestrators evenly.
    #[must_use]
    pub fn many(system: &System, mix: Mix, count: usize) -> Vec<Self> {
        let bearer = format!("Bearer {}", system.tokens.staff(BUSINESS, "pos"));
        let till = |number: usize| Self {
            connection: Connection::to(system.wallets[number % system.wallets.len()].public),
            bearer: bearer.clone(),
            mix,
            dice: SmallRng::seed_from_u64(number as u64),
        };
        (0..count).map(till).collect()
    }

    fn customer(&mut self) -> u64 {
        match self.mix.pick {
            Pick::Uniform(count) => self.dice.random_range(0..count),
            Pick::Zipf(count) => self.zipf_customer(count),
            Pick::One => 0,
        }
    }

    /// The first is called most often.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number from 1 to the count"
    )]
    fn zipf_customer(&mut self, count: u64) -> u64 {
        Zipf::new(count as f64, 1.0).map_or(0, |zipf| zipf.sample(&mut self.dice) as u64 - 1)
    }
}

impl Caller for Till {
    async fn call(&mut self, _: u64) -> Outcome {
        let number = self.customer();
        let credit = if self.dice.random_range(0..100) < self.mix.declined { 2 * PLENTY } else { 1 };
        let key = uuid::Uuid::new_v4().to_string();
        let mut tenders = vec![
            json!({ "type": "store_credit", "amount": credit }),
            json!({ "type": "points", "points": 1 }),
            json!({ "type": "digital_reward", "reward_id": reward(number), "amount": 1 }),
        ];
        tenders.truncate(self.mix.tenders);
        let body = json!({
            "customer_id": customer(number), "order_id": key, "currency": "USD",
            "amount": credit + self.mix.tenders as i64 - 1, "tenders": tenders,
        });
        let headers = [("authorization", self.bearer.as_str()), ("idempotency-key", key.as_str())];
        let body = body.to_string().into_bytes();
        let answer = self.connection.send(Method::POST, "/api/v1/wallet/redeem", &headers, body).await;
        answer.map_or(Outcome::Failed, |answer| answer.outcome())
    }
}

/// Measures both by turns.
///
/// # Errors
/// When one does not start.
pub async fn run(effort: Effort) -> anyhow::Result<Row> {
    let system = System::start(1).await?;
    system.fund(CUSTOMERS).await?;
    let dbos = Dbos::start().await?;
    load(&system, effort.warm).await;
    dbos.load(TILLS, effort.warm).await;
    let (mut ours, mut theirs) = (Rounds::default(), Rounds::default());
    let mut cost = None;
    for _ in 0..effort.rounds {
        theirs.push(&dbos.load(TILLS, effort.round).await);
        let meter = Meter::read(Some(&system)).await?;
        let sample = load(&system, effort.round).await;
        cost = Some(meter.cost(Some(&system), sample.answered).await?);
        ours.push(&sample);
    }
    dbos.stop().await;
    let (figures, rival) = (ours.all.figures(), theirs.all.figures());
    let (ratio, half) = (ours.rate() / theirs.rate(), rival.p99 / 2.0);
    Ok(Row {
        name: "redeem, 3 tenders, 64 tills".to_owned(),
        rival: "dbos, 3 idle steps".to_owned(),
        goal: format!("≥ {RATIO}×, p99 < half of its"),
        reached: format!("{ratio:.1}×, p99 {:.0} of {half:.0} ms", figures.p99),
        of_goal: (ratio / RATIO).min(half / figures.p99),
        ours: Some(figures),
        theirs: Some(rival),
        cost,
    })
}

async fn load(system: &System, lasts: Duration) -> Sample {
    closed(Till::many(system, Mix::of(Pick::Uniform(CUSTOMERS)), TILLS), lasts).await
}
