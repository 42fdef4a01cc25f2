//! One tender: debits over HTTP of 100,000 customers, against one SQL function call per debit under `pgbench`.

use std::time::Duration;

use api::legs::{Account, Forward, Mode, SingleForward, Take};
use hyper::Method;
use money::Asset;

use super::{Effort, Rounds, median};
use crate::{
    cost::Meter,
    http::Connection,
    load::{Caller, Outcome, Sample, closed},
    report::Row,
    rivals::pgbench,
    system::{BUSINESS, System, customer},
};

const CALLERS: usize = 64;
const CUSTOMERS: u64 = 100_000;
const RATIO: f64 = 0.8;

/// Somebody who debits single legs.
pub struct Debits {
    connection: Connection,
    bearer: String,
    asset: Asset,
    /// Whose account: one of so many, or always this one.
    accounts: Accounts,
    seed: u64,
}

#[derive(Clone, Copy)]
enum Accounts {
    Many(u64),
    One,
}

impl Debits {
    async fn debit(&mut self) -> anyhow::Result<Outcome> {
        // An even spread: the multiplier is odd, and the seeds are far apart.
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let owner = match self.accounts {
            Accounts::Many(count) => customer((self.seed >> 33) % count),
            Accounts::One => customer(0),
        };
        let body = SingleForward {
            account: Account {
                business_id: BUSINESS.to_owned().try_into()?,
                customer_id: owner,
                asset: self.asset,
            },
            forward: Forward {
                mode: Mode::Debit,
                amount: 1,
                take: Take::Exact,
                step: 1,
                reward_id: None,
                of: None,
                hold_until: None,
                not_after: None,
                order_id: None,
            },
            epoch: None,
            sent_at: None,
        };
        let path = format!("/internal/v1/legs/{}/0", uuid::Uuid::new_v4());
        let headers = [("authorization", self.bearer.as_str())];
        let answer = self.connection.send(Method::PUT, &path, &headers, serde_json::to_vec(&body)?).await?;
        let is_applied = answer.body.windows(9).any(|window| window == b"\"applied\"");
        Ok(if answer.status == 200 && is_applied { Outcome::Done } else { Outcome::Failed })
    }
}

impl Caller for Debits {
    async fn call(&mut self, _: u64) -> Outcome {
        self.debit().await.unwrap_or(Outcome::Failed)
    }
}

/// Debits of the points service, for so long.
///
/// # Errors
/// When no token can be had.
pub async fn load(system: &System, is_hot: bool, lasts: Duration) -> anyhow::Result<Sample> {
    let bearer = format!("Bearer {}", system.tokens.service("wallet").token()?);
    let asset: Asset = "points".parse()?;
    let caller = |number: usize| Debits {
        connection: Connection::to(system.tenders[0].internal),
        bearer: bearer.clone(),
        asset,
        accounts: if is_hot { Accounts::One } else { Accounts::Many(CUSTOMERS) },
        seed: (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
    };
    Ok(closed((0..CALLERS).map(caller).collect(), lasts).await)
}

/// Measures both by turns.
///
/// # Errors
/// When one does not start.
pub async fn run(effort: Effort) -> anyhow::Result<Row> {
    let system = System::start(0).await?;
    system.fund(CUSTOMERS).await?;
    load(&system, false, effort.warm).await?;
    let (mut ours, mut rates) = (Rounds::default(), Vec::new());
    let mut cost = None;
    for _ in 0..effort.rounds {
        rates.push(pgbench::rate(effort.round).await?.0);
        let meter = Meter::read(Some(&system)).await?;
        let sample = load(&system, false, effort.round).await?;
        cost = Some(meter.cost(Some(&system), sample.answered).await?);
        ours.push(&sample);
    }
    let rival = median(&rates);
    let ratio = ours.rate() / rival;
    Ok(Row {
        name: "one tender, debit, 100k customers".to_owned(),
        rival: format!("pgbench, SQL function: {rival:.0}/s"),
        goal: format!("≥ {RATIO}×"),
        reached: format!("{ratio:.2}×"),
        of_goal: ratio / RATIO,
        ours: Some(ours.all.figures()),
        theirs: None,
        cost,
    })
}
