//! What a redemption costs when there are many of them already, and what those read who ask for some of them. Rows are added
//! as redemptions leave them, but all at once.

use std::path::Path;

use anyhow::Context as _;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::{
    Effort,
    redeem::{Mix, Pick, Till},
};
use crate::{
    cost::{Cost, Meter},
    database::{self, Loading},
    load::{Figures, closed},
    plans,
    report::Row,
    system::System,
};

const CUSTOMERS: u64 = 100_000;
const TILLS: usize = 64;
/// Of what a redemption costs at the smallest size.
const GROWTH: f64 = 1.2;
/// How often each system is measured.
const TURNS: u32 = 2;
/// So many are added after the last checkpoint, one row after the other as redemptions add them: what they touched is not
/// written in full again, as it is not for most redemptions of a busy server. It is what 64 tills make in a minute or two.
const SINCE_CHECKPOINT: i64 = 100_000;
/// Paid with store credit alone, so that two databases are filled and not four.
const MIX: Mix = Mix { pick: Pick::Uniform(CUSTOMERS), tenders: 1, declined: 0 };

/// Fills the databases of one system step by step, measures it at each by turns with another that stays small, and has a look at
/// the plans of what is asked at the last. The plans are kept in `results`.
///
/// Each size is measured twice: while the server works as it does most of the time, which has a goal, and behind a checkpoint,
/// where the first change of each page writes all of it.
///
/// # Errors
/// When something does not start.
pub async fn run(effort: Effort, results: &Path) -> anyhow::Result<Vec<Row>> {
    database::stop_vacuuming().await?;
    let [least, sizes @ ..] = effort.history;
    let small = start().await?;
    grow(&small, &[&small], 0, least).await?;
    let large = start().await?;
    let (mut rows, mut there) = (Vec::new(), 0);
    for size in sizes {
        grow(&large, &[&small, &large], there, size).await?;
        there = size;
        for system in [&small, &large] {
            closed(Till::many(system, MIX, TILLS), effort.warm).await;
        }
        let usual = Compared::measure(&small, &large, effort, At::AnyTime).await?;
        let of_goal = GROWTH / usual.growth();
        rows.push(usual.row(format!("history of {size}"), format!("< {GROWTH}× of {least}"), of_goal));
        let behind = Compared::measure(&small, &large, effort, At::BehindCheckpoint).await?;
        rows.push(behind.row("  behind a checkpoint".to_owned(), "–".to_owned(), 1.0));
    }
    rows.push(plans::run(&large, there, results).await?);
    Ok(rows)
}

async fn start() -> anyhow::Result<System> {
    let system = System::start(1).await?;
    system.fund(CUSTOMERS).await?;
    Ok(system)
}

/// Adds redemptions number `from` to `to`, the last of them as redemptions add them, while nobody else works.
async fn grow(system: &System, all: &[&System], from: i64, to: i64) -> anyhow::Result<()> {
    for system in all {
        system.pause()?;
    }
    load(system, from, to - SINCE_CHECKPOINT).await?;
    add(system, to - SINCE_CHECKPOINT, to, With::Indexes).await?;
    for system in all {
        system.resume().await?;
    }
    Ok(())
}

/// When something is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    AnyTime,
    BehindCheckpoint,
}

/// What redemptions cost by turns in a small and in a large system: microseconds of processor time, without those of who asked.
struct Compared {
    small: f64,
    large: f64,
    figures: Figures,
    cost: Cost,
}

impl Compared {
    async fn measure(small: &System, large: &System, effort: Effort, at: At) -> anyhow::Result<Self> {
        let (mut of_small, mut of_large, mut last) = (0.0, 0.0, None);
        for _ in 0..TURNS {
            of_small += measure(small, effort, at).await?.2;
            let (figures, cost, micros) = measure(large, effort, at).await?;
            of_large += micros;
            last = Some((figures, cost));
        }
        let (figures, cost) = last.context("no turns")?;
        let turns = f64::from(TURNS);
        Ok(Self { small: of_small / turns, large: of_large / turns, figures, cost })
    }

    fn growth(&self) -> f64 {
        self.large / self.small
    }

    fn row(self, name: String, goal: String, of_goal: f64) -> Row {
        Row {
            name,
            rival: String::new(),
            goal,
            reached: format!("{:.2}×, {:.0} of {:.0} µs", self.growth(), self.large, self.small),
            of_goal,
            ours: Some(self.figures),
            theirs: None,
            cost: Some(self.cost),
        }
    }
}

async fn measure(system: &System, effort: Effort, at: At) -> anyhow::Result<(Figures, Cost, f64)> {
    if at == At::BehindCheckpoint {
        database::checkpoint().await?;
    }
    let meter = Meter::read(Some(system)).await?;
    let sample = closed(Till::many(system, MIX, TILLS), effort.round).await;
    let cost = meter.cost(Some(system), sample.answered).await?;
    let micros = cost.cpu_micros.iter().filter(|(name, _)| name != "load").map(|(_, micros)| micros).sum();
    Ok((sample.figures(), cost, micros))
}

/// Adds what redemptions number `from` to `to` left, without indexes meanwhile, and writes everything out.
async fn load(system: &System, from: i64, to: i64) -> anyhow::Result<()> {
    if from == to {
        return database::checkpoint().await;
    }
    let loading = Loading::begin().await?;
    add(system, from, to, With::NoIndexes).await?;
    loading.end().await
}

/// Whether indexes are there while rows are added. Making them again is faster where there are many rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum With {
    Indexes,
    NoIndexes,
}

/// Adds rows to the wallet's database and to store credit's at the same time.
async fn add(system: &System, from: i64, to: i64, with: With) -> anyhow::Result<()> {
    let (wallet, credit): (&[&str], &[&str]) = match with {
        With::Indexes => (&[], &[]),
        With::NoIndexes => {
            (&["saga.saga", "wallet.redemption"], &["tender.operation", "tender.allocation", "tender.entry"])
        }
    };
    let wallet = run_on(system, 0, (from, to), wallet, &WALLET);
    let credit = run_on(system, 2, (from, to), credit, &CREDIT);
    tokio::try_join!(wallet, credit)?;
    Ok(())
}

/// Runs statements, while some tables have no indexes, and no triggers fire.
async fn run_on(
    system: &System,
    database: usize,
    (from, to): (i64, i64),
    tables: &[&str],
    statements: &[&str],
) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect_with(&system.databases[database].admin()).await?;
    sqlx::raw_sql(
        "SET synchronous_commit = off; SET work_mem = '256MB'; SET maintenance_work_mem = '1GB';
         SET session_replication_role = replica",
    )
    .execute(&mut connection)
    .await?;
    let stripped = database::strip(&mut connection, tables).await?;
    for statement in statements {
        let statement = statement.replace("$FROM", &from.to_string()).replace("$TO", &(to - 1).to_string());
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
    }
    for statement in stripped {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
    }
    sqlx::raw_sql("ANALYZE").execute(&mut connection).await?;
    Ok(())
}

const WALLET: [&str; 4] = [SAGAS, REDEMPTIONS, DEAD_LETTERS, ACTIONS];
const CREDIT: [&str; 7] = [OPERATIONS, ALLOCATIONS, ENTRIES, ACCOUNTS, LOTS, VACUUM_ACCOUNTS, VACUUM_LOTS];
/// Lots and accounts were all written again.
const VACUUM_ACCOUNTS: &str = "VACUUM tender.account";
const VACUUM_LOTS: &str = "VACUUM tender.lot";

/// Ids that grow with time, as those of sagas do; a redemption a millisecond. Documents are all alike: only their size matters.
const SAGAS: &str = r#"
INSERT INTO saga.saga (saga_id, business_id, operation, scope, key, request_hash, hash_version, kind, version, legs_id, plan, state, epoch,
                       owner, response_status, response, trace_id, created_at, deadline_at, budget_from, due_at, ended_at)
SELECT (lpad(to_hex(1700000000000 + n), 12, '0') || '7000' || '8000' || lpad(to_hex(n), 12, '0'))::uuid, 'bench', 'redeem', '',
       md5('key' || n)::uuid::text, sha256(n::text::bytea), 1, 0, 1, md5('legs' || n)::uuid,
       '{"kind": "redeem", "customer_id": "customer-12345", "order_id": "9e107d9d-372b-4b68-a6bc-4c9bbf3c9a1f", "currency": "USD",
         "amount": 1, "metadata": {}, "legs": [{"leg": 0, "tender": "store_credit", "amount": 1, "units": 1, "account": {
         "business_id": "bench", "customer_id": "customer-12345", "asset": "USD"}}]}',
       CASE WHEN n % 1000 = 0 THEN 3 ELSE 2 END, 1, md5('owner')::uuid, 201, repeat('x', 600)::bytea, md5('trace' || n),
       t.at, t.at + interval '10 s', t.at, t.at + interval '20 s', t.at + interval '20 ms'
FROM generate_series($FROM, $TO) AS n, LATERAL (SELECT to_timestamp((1700000000000 + n) / 1000.0) AS at) AS t"#;

const REDEMPTIONS: &str = r#"
INSERT INTO wallet.redemption (redemption_id, business_id, customer_id, order_id, currency, amount, leg_taken, status, tenders,
                               created_at, completed_at, reversal)
SELECT (lpad(to_hex(1700000000000 + n), 12, '0') || '7000' || '8000' || lpad(to_hex(n), 12, '0'))::uuid, 'bench',
       'customer-' || n % 100000, md5('key' || n)::uuid, 'USD', 1, CASE WHEN n % 1000 = 0 THEN '{}' ELSE '{1}' END::bigint[],
       CASE WHEN n % 1000 = 0 THEN 'declined' ELSE 'completed' END,
       '[{"leg": 0, "type": "store_credit", "status": "applied", "amount": 1, "lots": [
         {"lot_id": "9e107d9d-372b-4b68-a6bc-4c9bbf3c9a1f", "amount": 1}]}]',
       t.at, t.at + interval '20 ms', CASE WHEN n % 1000 = 0 THEN 'done' END
FROM generate_series($FROM, $TO) AS n, LATERAL (SELECT to_timestamp((1700000000000 + n) / 1000.0) AS at) AS t"#;

/// One redemption in ten thousand was parked for a while, and replayed.
const DEAD_LETTERS: &str = "
INSERT INTO saga.dead_letter (dead_letter_id, saga_id, business_id, code, participant, detail, opened_at, closed_at, closed_as)
SELECT md5('letter' || n)::uuid,
       (lpad(to_hex(1700000000000 + n), 12, '0') || '7000' || '8000' || lpad(to_hex(n), 12, '0'))::uuid,
       'bench', 'participant_unreachable', 'store_credit', '{}', t.at, t.at + interval '1 h', 'replayed'
FROM generate_series($FROM, $TO) AS n, LATERAL (SELECT to_timestamp((1700000000000 + n) / 1000.0) AS at) AS t
WHERE n % 10000 = 1";

const ACTIONS: &str = "
INSERT INTO saga.operator_action (business_id, operation_id, at, actor, action, dead_letter_id, saga_id, reason, accepted, before,
                                  after)
SELECT 'bench', 'replay-' || n, t.at + interval '1 h', 'operator', 'replay', md5('letter' || n)::uuid,
       (lpad(to_hex(1700000000000 + n), 12, '0') || '7000' || '8000' || lpad(to_hex(n), 12, '0'))::uuid,
       'the tender is back', true, '{}', '{}'
FROM generate_series($FROM, $TO) AS n, LATERAL (SELECT to_timestamp((1700000000000 + n) / 1000.0) AS at) AS t
WHERE n % 10000 = 1";

const OPERATIONS: &str = r#"
INSERT INTO tender.operation (operation_id, business_id, account_no, kind, state, amount, request_hash, hash_version, response, legs_id, leg,
                              epoch, order_id, created_at, updated_at)
SELECT md5('leg' || n)::uuid, 'bench', a.account_no, 'debit', 'applied', 1, sha256(n::text::bytea), 1,
       ('{"state":"applied","amount":1,"lots":[{"lot_id":"' || md5('lot' || a.owner)::uuid
        || '","amount":1}],"after":{"version":2,"posted":1,"held":0,"available":1}}')::json,
       md5('legs' || n)::uuid, 0, 1, md5('key' || n)::uuid, t.at, t.at
FROM generate_series($FROM, $TO) AS n
JOIN tender.account a ON a.owner = 'customer-' || n % 100000,
LATERAL (SELECT to_timestamp((1700000000000 + n) / 1000.0) AS at) AS t"#;

const ALLOCATIONS: &str = "
INSERT INTO tender.allocation (operation_id, position, lot_id, amount)
SELECT md5('leg' || n)::uuid, 0, md5('lotcustomer-' || n % 100000)::uuid, 1 FROM generate_series($FROM, $TO) AS n";

const ENTRIES: &str = "
INSERT INTO tender.entry (operation_id, business_id, asset, kind, amount, account_no, version, balance_after, held_after, contra,
                          created_at)
SELECT md5('leg' || n)::uuid, 'bench', 'USD', 'debit', s.amount, s.account_no, s.version, s.balance, s.held, s.contra, t.at
FROM generate_series($FROM, $TO) AS n
JOIN (SELECT *, version - ($FROM / 100000) AS base FROM tender.account) a ON a.owner = 'customer-' || n % 100000,
LATERAL (SELECT to_timestamp((1700000000000 + n) / 1000.0) AS at) AS t,
LATERAL (VALUES (-1, a.account_no, a.base + n / 100000 + 1, a.posted, 0, NULL), (1, NULL, NULL, NULL, NULL, 'redeemed'))
    AS s(amount, account_no, version, balance, held, contra)";

const ACCOUNTS: &str = "
UPDATE tender.account SET version = version + ($TO + 1 - $FROM) / 100000, posted = posted - ($TO + 1 - $FROM) / 100000";

const LOTS: &str = "UPDATE tender.lot SET remaining = remaining - ($TO + 1 - $FROM) / 100000";
