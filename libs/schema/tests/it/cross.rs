//! What `walletctl verify` finds between databases, however many rows they have.

use std::num::NonZeroU32;

use schema::{Compared, Database, compare};
use sqlx::{Connection, PgConnection};
use testkit::TestDatabase;

use crate::run;

/// Sagas with a leg at each tender.
const SAGAS: u32 = 3_000;

struct World {
    connections: Vec<(Database, PgConnection)>,
    _databases: Vec<TestDatabase>,
}

impl World {
    /// Sagas that completed an hour ago, each with three legs that were applied; ids are hashes, as real ones are.
    async fn new() -> Self {
        let (mut connections, mut databases) = (Vec::new(), Vec::new());
        for database in Database::ALL {
            let made = TestDatabase::create(database).await.without_checks();
            let mut connection = PgConnection::connect_with(&made.admin()).await.unwrap();
            let fill = match database {
                Database::Wallet => format!(
                    "INSERT INTO saga.saga (saga_id, business_id, operation, scope, key, request_hash, kind, version, legs_id, plan,
                         state, epoch, deadline_at, budget_from, due_at, ended_at)
                     SELECT md5('saga' || i)::uuid, 'b', 'redeem', '', 'k' || i, '', 0, 1, md5(i::text)::uuid,
                            '{{\"legs\": [1, 2, 3]}}', 2, 1, now(), now(), now(), now() - interval '1 hour'
                     FROM generate_series(1, {SAGAS}) i"
                ),
                _ => format!(
                    "INSERT INTO tender.operation (operation_id, business_id, account_no, kind, state, amount, response, legs_id, leg,
                         created_at, updated_at)
                     SELECT md5('leg' || i)::uuid, 'b', 1, 'debit', 'applied', 5, '{{}}', md5(i::text)::uuid, {leg}, now(), now()
                     FROM generate_series(1, {SAGAS}) i;
                     INSERT INTO tender.allocation (operation_id, position, lot_id, amount)
                     SELECT operation_id, 0, gen_random_uuid(), 5 FROM tender.operation;
                     -- What no service could write: the test does.
                     ALTER TABLE tender.operation DISABLE TRIGGER operation_state_guarded",
                    leg = connections.len() - 1
                ),
            };
            run(&mut connection, &fill).await.unwrap();
            connections.push((database, connection));
            databases.push(made);
        }
        Self { connections, _databases: databases }
    }

    async fn run(&mut self, database: Database, statement: &str) {
        let found = self.connections.iter_mut().find(|(of, _)| *of == database).unwrap();
        run(&mut found.1, statement).await.unwrap();
    }

    async fn compare(&mut self, ranges: u32) -> Compared {
        compare(&mut self.connections, NonZeroU32::new(ranges), 20).await.unwrap()
    }
}

fn violations(compared: &Compared) -> Vec<(&str, usize)> {
    let broken = compared.findings.iter().filter(|finding| finding.violations > 0);
    broken.map(|finding| (finding.name.as_str(), finding.violations)).collect()
}

#[tokio::test]
async fn what_is_broken_is_found_in_every_range_and_memory_does_not_grow() {
    let mut world = World::new().await;
    let whole = world.compare(1).await;
    assert_eq!(violations(&whole), []);
    assert_eq!((whole.rows, whole.is_whole), (u64::from(SAGAS) * 4, true));
    assert!(whole.rows_held < 1_600, "{} rows in memory", whole.rows_held);

    // The first and the last id of all, and one on either side of the middle, where two ranges meet.
    world
        .run(
            Database::Points,
            "UPDATE tender.operation SET state = 'declined' WHERE legs_id IN (
                 (SELECT min(legs_id::text)::uuid FROM tender.operation), (SELECT max(legs_id::text)::uuid FROM tender.operation),
                 (SELECT max(legs_id::text)::uuid FROM tender.operation WHERE legs_id < '80000000-0000-0000-0000-000000000000'),
                 (SELECT min(legs_id::text)::uuid FROM tender.operation WHERE legs_id >= '80000000-0000-0000-0000-000000000000'))",
        )
        .await;
    world
        .run(
            Database::Wallet,
            "UPDATE saga.saga SET legs_id = '80000000-0000-0000-0000-000000000000' WHERE key = 'k1'",
        )
        .await;
    for ranges in [1, 2, 7, 64] {
        let compared = world.compare(ranges).await;
        let expected = [("completed_means_every_leg_applied", 5), ("no_leg_without_a_saga", 1)];
        assert_eq!(violations(&compared), expected, "{ranges} ranges");
        assert!(compared.rows_held < 1_600, "{} rows in memory", compared.rows_held);
    }
}

#[tokio::test]
async fn a_tender_without_its_legs_is_told_in_portions() {
    let mut world = World::new().await;
    world.run(Database::StoreCredit, "UPDATE tender.operation SET legs_id = NULL, leg = NULL").await;
    let compared = world.compare(2).await;
    assert_eq!(violations(&compared), [("completed_means_every_leg_applied", 3_000)]);
    assert!(compared.findings.iter().all(|finding| finding.rows.len() <= 20));
    assert!(compared.rows_held < 1_600, "{} rows in memory", compared.rows_held);
}

#[tokio::test]
async fn what_has_just_ended_is_not_judged_yet() {
    let mut world = World::new().await;
    world
        .run(
            Database::Points,
            "UPDATE tender.operation SET state = 'declined' WHERE legs_id = md5('7')::uuid",
        )
        .await;
    world.run(Database::Wallet, "UPDATE saga.saga SET ended_at = clock_timestamp() WHERE key = 'k7'").await;
    assert_eq!(violations(&world.compare(3).await), []);
}

/// How often a table was read from end to end.
async fn scans(connection: &mut PgConnection, table: &str) -> i64 {
    run(connection, "SELECT pg_stat_force_next_flush()").await.unwrap();
    sqlx::query_scalar("SELECT seq_scan FROM pg_stat_user_tables WHERE relid = to_regclass($1)")
        .bind(table)
        .fetch_one(connection)
        .await
        .unwrap()
}

#[tokio::test]
async fn no_table_is_read_from_end_to_end_for_each_range() {
    let mut world = World::new().await;
    for (database, table) in [(Database::Wallet, "saga.saga"), (Database::Points, "tender.operation")] {
        world.run(database, "ANALYZE").await;
        let of = |connections: &[(Database, PgConnection)]| {
            connections.iter().position(|(of, _)| *of == database).unwrap()
        };
        let place = of(&world.connections);
        let before = scans(&mut world.connections[place].1, table).await;
        world.compare(64).await;
        let read = scans(&mut world.connections[place].1, table).await - before;
        assert!(read <= 1, "{table} was read {read} times");
    }
}

#[tokio::test]
async fn what_was_taken_back_excuses_no_other_leg() {
    let mut world = World::new().await;
    // What no service could write: the test does.
    world.run(Database::Wallet, "ALTER TABLE saga.saga DISABLE TRIGGER USER").await;
    world.run(Database::Wallet, "UPDATE saga.saga SET operation = 'taken_back' WHERE key = 'k7'").await;
    assert_eq!(violations(&world.compare(3).await), [("no_leg_without_a_saga", 1)]);
    let stub = |state| {
        format!("UPDATE saga.saga SET operation = 'orphan', state = {state}, backward = true, plan = '{{\"legs\": [{{\"leg\": 1}}]}}'
                 WHERE key = 'k7'")
    };
    world
        .run(
            Database::Points,
            "UPDATE tender.allocation SET reversed = amount WHERE operation_id = md5('leg7')::uuid",
        )
        .await;
    world
        .run(
            Database::DigitalRewards,
            "UPDATE tender.allocation SET reversed = amount WHERE operation_id = md5('leg7')::uuid",
        )
        .await;
    world.run(Database::Wallet, &stub(4)).await;
    assert_eq!(violations(&world.compare(3).await), [], "the leg that is left is parked");
    world.run(Database::Wallet, &stub(3)).await;
    assert_eq!(
        violations(&world.compare(3).await),
        [("no_leg_without_a_saga", 1)],
        "it was to be given back"
    );
}
