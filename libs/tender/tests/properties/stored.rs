//! Two executors on one database. Between two barriers all commands come at the same moment, to either of them.
//!
//! Whatever order the database chose, it tells: every reply carries the clock as read behind the last lock, so of two
//! commands that could not run together the earlier has the smaller time. The model is asked in that order, and has to agree
//! with every answer.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use chrono::TimeDelta;
use futures_util::future::join_all;
use proptest::{
    prelude::*,
    test_runner::{TestCaseError, TestRunner},
};
use schema::Database;
use sqlx::{Connection, PgConnection};
use tender::{
    command::{AccountKey, Command},
    executor::{ExecuteError, Executor, Reply},
    fold::working_set::Status,
};
use testkit::TestDatabase;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    config,
    model::{Account, Entry, Model},
    observed::Listener,
    steps::{CUSTOMERS, Step, Tender, World, sequence},
};

/// Fewer than an executor takes into one batch, so that what is sent together runs together.
const ROUND_MAX: usize = 24;

/// A tender's database and two instances of it.
struct Bench {
    tender: Tender,
    kind: Database,
    _database: TestDatabase,
    admin: PgConnection,
    executors: [Executor; 2],
}

impl Bench {
    async fn open(tender: Tender, stop: &CancellationToken) -> Self {
        let (kind, name) = match tender {
            Tender::Points => (Database::Points, "points"),
            Tender::StoreCredit => (Database::StoreCredit, "store_credit"),
            Tender::DigitalRewards => (Database::DigitalRewards, "digital_reward"),
        };
        let database = TestDatabase::create(kind).await;
        let admin = PgConnection::connect_with(&database.admin()).await.unwrap();
        let executors = [(); 2].map(|()| testkit::executor(&database, name, stop));
        Self { tender, kind, _database: database, admin, executors }
    }

    async fn world(&mut self) -> World {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let start = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut self.admin).await.unwrap();
        let name = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
        let world = World { tender: self.tender, name, start, tick: TimeDelta::milliseconds(4) };
        // An account that is not stored has no lock, and so no moments: commands of two instances that meet there are in no order.
        for customer in 0..CUSTOMERS {
            self.set_status(&world.account(customer), Status::Active).await;
        }
        world
    }

    async fn agree(&mut self, steps: &[(Step, bool)]) -> Result<(), TestCaseError> {
        let world = self.world().await;
        let (mut model, mut listener) = (Model::default(), Listener::default());
        let is_barrier = |step: &Step| matches!(step, Step::Wait { .. } | Step::Status { .. });
        let mut rest = steps;
        while !rest.is_empty() {
            let together = rest.iter().take(ROUND_MAX).take_while(|(step, _)| !is_barrier(step)).count();
            let (round, after) = rest.split_at(together);
            self.round(&world, round, &mut model, &mut listener).await?;
            rest = match after.split_first() {
                Some(((step, _), after)) if is_barrier(step) => {
                    self.pass(&world, step, &mut model).await;
                    after
                }
                _ => after,
            };
        }
        for (key, account) in &model.accounts {
            self.compare(key, account).await?;
        }
        self.check().await
    }

    /// What must hold whatever was asked.
    async fn check(&mut self) -> Result<(), TestCaseError> {
        let findings = schema::check(&mut self.admin, self.kind).await.unwrap();
        let broken = findings.into_iter().find(|finding| finding.violations > 0);
        prop_assert!(broken.is_none(), "{:#?}", broken);
        Ok(())
    }

    async fn pass(&mut self, world: &World, step: &Step, model: &mut Model) {
        match step {
            Step::Wait { ticks } => {
                let milliseconds = u64::try_from(*ticks).unwrap() * 4;
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            }
            Step::Status { customer, status } => {
                let key = world.account(*customer);
                self.set_status(&key, *status).await;
                model.accounts.entry(key).or_default().status = *status;
            }
            _ => unreachable!("the caller asked whether it is a barrier"),
        }
    }

    async fn set_status(&mut self, key: &AccountKey, status: Status) {
        let status = match status {
            Status::Active => "active",
            Status::Frozen => "frozen",
            Status::Closed => "closed",
        };
        let query = "INSERT INTO tender.account (business_id, owner, asset, status) VALUES ($1, $2, $3, $4)
                     ON CONFLICT (business_id, owner, asset) DO UPDATE SET status = excluded.status";
        let query = sqlx::query(query).bind(key.business_id.as_str()).bind(&key.owner);
        query.bind(key.asset.as_str()).bind(status).execute(&mut self.admin).await.unwrap();
    }

    async fn round(
        &self,
        world: &World,
        steps: &[(Step, bool)],
        model: &mut Model,
        listener: &mut Listener,
    ) -> Result<(), TestCaseError> {
        let commands: Vec<(Command, usize)> = steps
            .iter()
            .map(|(step, instance)| (world.command(step).unwrap(), usize::from(*instance)))
            .collect();
        let replies =
            join_all(commands.iter().map(|(command, instance)| insist(&self.executors[*instance], command)));
        let mut done: Vec<_> = replies.await.into_iter().zip(&commands).collect();
        // Within a batch what is urgent goes first, the rest as it came: the sort is stable.
        done.sort_by_key(|(reply, (command, instance))| (reply.at, *instance, !command.action.is_urgent()));
        for (reply, (command, _)) in done {
            let observed = listener.hear(command, &reply.outcome)?;
            prop_assert_eq!(observed, model.apply(command, reply.at), "{:?}", command);
        }
        Ok(())
    }

    async fn compare(&mut self, key: &AccountKey, expected: &Account) -> Result<(), TestCaseError> {
        let query = "SELECT account_no, posted, held, version FROM tender.account
                     WHERE business_id = $1 AND owner = $2 AND asset = $3";
        let query = sqlx::query_as(query).bind(key.business_id.as_str()).bind(&key.owner);
        let (number, posted, held, version): (i64, i64, i64, i64) =
            query.bind(key.asset.as_str()).fetch_one(&mut self.admin).await.unwrap();
        prop_assert_eq!(
            (posted, held, version),
            (expected.posted(), expected.held(), expected.version()),
            "{:?}",
            key
        );

        let query = "SELECT lot_id, remaining, held FROM tender.lot WHERE account_no = $1";
        let lots: Vec<(Uuid, i64, i64)> =
            sqlx::query_as(query).bind(number).fetch_all(&mut self.admin).await.unwrap();
        let lots: BTreeMap<_, _> =
            lots.into_iter().map(|(id, remaining, held)| (id, (remaining, held))).collect();
        prop_assert_eq!(lots, expected.lots.iter().map(|lot| (lot.id, (lot.remaining, lot.held))).collect());

        let query = "SELECT kind, amount, balance_after, held_after FROM tender.entry
                     WHERE account_no = $1 ORDER BY version";
        let entries: Vec<(String, i64, i64, i64)> =
            sqlx::query_as(query).bind(number).fetch_all(&mut self.admin).await.unwrap();
        let is_same = |((kind, amount, posted, held), entry): (&(String, i64, i64, i64), &Entry)| {
            (kind.as_str(), *amount, *posted, *held) == (entry.kind, entry.amount, entry.posted, entry.held)
        };
        prop_assert!(
            entries.len() == expected.entries.len() && entries.iter().zip(&expected.entries).all(is_same),
            "{:?} instead of {:?}",
            entries,
            expected.entries
        );
        Ok(())
    }
}

/// Batches of two instances may meet in a way that one of them gives up: nothing was done then.
async fn insist(executor: &Executor, command: &Command) -> Reply {
    loop {
        match executor.submit(command.clone()).await {
            Ok(reply) => return reply,
            Err(ExecuteError::Unavailable) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => panic!("{error:?}: {command:?}"),
        }
    }
}

fn agree(tender: Tender) {
    // One thread: commands of a round are all queued before an executor looks.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stop = CancellationToken::new();
    let bench = std::cell::RefCell::new(runtime.block_on(Bench::open(tender, &stop)));

    let result = TestRunner::new(config(60))
        .run(&sequence(false, 100), |steps| runtime.block_on(bench.borrow_mut().agree(&steps)));
    stop.cancel();
    drop(runtime);
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn points_agree_with_the_model() {
    agree(Tender::Points);
}

#[test]
fn store_credit_agrees_with_the_model() {
    agree(Tender::StoreCredit);
}

#[test]
fn digital_rewards_agree_with_the_model() {
    agree(Tender::DigitalRewards);
}
