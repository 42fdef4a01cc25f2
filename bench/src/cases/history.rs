//! What a redemption costs when there are many of them already: rows are added as redemptions leave them, but all at once.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::{
    Effort,
    redeem::{Mix, Pick, Till},
};
use crate::{cost::Meter, database, load::closed, report::Row, system::System};

const CUSTOMERS: u64 = 100_000;
const TILLS: usize = 64;
/// Redemptions that are there.
const SIZES: [i64; 3] = [100_000, 1_000_000, 5_000_000];
/// Of what a redemption costs at the smallest size.
const GROWTH: f64 = 1.2;
/// Paid with store credit alone, so that two databases are filled and not four.
const MIX: Mix = Mix { pick: Pick::Uniform(CUSTOMERS), tenders: 1, declined: 0 };

/// Fills the databases step by step, and measures at each.
///
/// # Errors
/// When something does not start.
pub async fn run(effort: Effort) -> anyhow::Result<Vec<Row>> {
    let system = System::start(1).await?;
    system.fund(CUSTOMERS).await?;
    let (mut rows, mut there, mut least) = (Vec::new(), 0, None);
    for size in SIZES {
        fill(&system, there, size).await?;
        there = size;
        database::checkpoint().await?;
        closed(Till::many(&system, MIX, TILLS), effort.warm).await;
        let meter = Meter::read(Some(&system)).await?;
        let sample = closed(Till::many(&system, MIX, TILLS), effort.round).await;
        let cost = meter.cost(Some(&system), sample.answered).await?;
        let micros: f64 =
            cost.cpu_micros.iter().filter(|(name, _)| name != "load").map(|(_, micros)| micros).sum();
        let growth = micros / *least.get_or_insert(micros);
        rows.push(Row {
            name: format!("history of {size} redemptions"),
            rival: String::new(),
            goal: format!("< {GROWTH}× of {}", SIZES[0]),
            reached: format!("{growth:.2}×, {micros:.0} µs each"),
            of_goal: GROWTH / growth,
            ours: Some(sample.figures()),
            theirs: None,
            cost: Some(cost),
        });
    }
    Ok(rows)
}

/// Adds what redemptions number `from` to `to` left, to the wallet's database and to store credit's at the same time.
async fn fill(system: &System, from: i64, to: i64) -> anyhow::Result<()> {
    let credit = run_on(system, 2, from, to, &[OPERATIONS, ALLOCATIONS, ENTRIES, ACCOUNTS, LOTS]);
    tokio::try_join!(run_on(system, 0, from, to, &[SAGAS, REDEMPTIONS]), credit)?;
    Ok(())
}

async fn run_on(
    system: &System,
    database: usize,
    from: i64,
    to: i64,
    statements: &[&str],
) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect_with(&system.databases[database].admin()).await?;
    sqlx::raw_sql("SET synchronous_commit = off; SET work_mem = '256MB'").execute(&mut connection).await?;
    for statement in statements {
        let statement = statement.replace("$FROM", &from.to_string()).replace("$TO", &(to - 1).to_string());
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
    }
    sqlx::raw_sql("VACUUM ANALYZE").execute(&mut connection).await?;
    Ok(())
}

/// Ids that grow with time, as those of sagas do; a redemption a millisecond until an hour ago.
const SAGAS: &str = r#"
INSERT INTO saga.saga (saga_id, business_id, operation, scope, key, request_hash, kind, version, legs_id, plan, state, epoch,
                       owner, response_status, response, trace_id, created_at, deadline_at, budget_from, due_at, ended_at)
SELECT (lpad(to_hex(1700000000000 + n), 12, '0') || '7000' || '8000' || lpad(to_hex(n), 12, '0'))::uuid, 'bench', 'redeem', '',
       md5('key' || n)::uuid::text, sha256(n::text::bytea), 0, 1, md5('legs' || n)::uuid,
       jsonb_build_object('kind', 'redeem', 'customer_id', 'customer-' || n % 100000, 'order_id', md5('key' || n)::uuid,
                          'currency', 'USD', 'amount', 1, 'metadata', '{}'::jsonb, 'legs', jsonb_build_array(
           jsonb_build_object('leg', 0, 'tender', 'store_credit', 'amount', 1, 'units', 1, 'account', jsonb_build_object(
               'business_id', 'bench', 'customer_id', 'customer-' || n % 100000, 'asset', 'USD')))),
       2, 1, md5('owner')::uuid, 201, repeat('x', 600)::bytea, md5('trace' || n),
       t.at, t.at + interval '10 s', t.at, t.at + interval '20 s', t.at + interval '20 ms'
FROM generate_series($FROM, $TO) AS n, LATERAL (SELECT to_timestamp((1700000000000 + n) / 1000.0) AS at) AS t"#;

const REDEMPTIONS: &str = r#"
INSERT INTO wallet.redemption (redemption_id, business_id, customer_id, order_id, currency, amount, redeemed, status, tenders,
                               created_at, completed_at)
SELECT (lpad(to_hex(1700000000000 + n), 12, '0') || '7000' || '8000' || lpad(to_hex(n), 12, '0'))::uuid, 'bench',
       'customer-' || n % 100000, md5('key' || n)::uuid, 'USD', 1, 1, 'completed',
       jsonb_build_array(jsonb_build_object('leg', 0, 'type', 'store_credit', 'status', 'applied', 'amount', 1, 'lots',
           jsonb_build_array(jsonb_build_object('lot_id', md5('lot' || n % 100000)::uuid, 'amount', 1)))),
       t.at, t.at + interval '20 ms'
FROM generate_series($FROM, $TO) AS n, LATERAL (SELECT to_timestamp((1700000000000 + n) / 1000.0) AS at) AS t"#;

const OPERATIONS: &str = r#"
INSERT INTO tender.operation (operation_id, business_id, account_no, kind, state, amount, request_hash, response, legs_id, leg,
                              epoch, order_id, created_at, updated_at)
SELECT md5('leg' || n)::uuid, 'bench', a.account_no, 'debit', 'applied', 1, sha256(n::text::bytea),
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
