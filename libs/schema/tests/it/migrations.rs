//! Migrations beside readers and writers, beside processes of a service, and on databases that are full.

use std::time::{Duration, Instant};

use schema::{Applied, Database, Target, check, migrate, provision};
use sqlx::{
    AssertSqlSafe, Connection, PgConnection, SqlSafeStr,
    migrate::{Migration, MigrationType},
    postgres::PgConnectOptions,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{run, server};

/// How long migrations may take here.
const WITHIN: Duration = Duration::from_secs(20);
/// How long a reader keeps a migration waiting: several attempts.
const READS_FOR: Duration = Duration::from_secs(4);

fn migration(version: i64, text: &str) -> Migration {
    let sql = AssertSqlSafe(text.to_owned()).into_sql_str();
    let no_tx = text.starts_with("-- no-transaction");
    Migration::new(version, "a step".into(), MigrationType::Simple, sql, no_tx)
}

/// A database of its own, with a login role that is a member of the writer role of its service.
struct Scratch {
    name: String,
    writer: String,
    role: String,
}

impl Scratch {
    async fn new() -> Self {
        let name = format!("t_migrate_{}", uuid::Uuid::new_v4().simple());
        let (writer, role) = (format!("{name}_writer"), format!("{name}_role"));
        let mut connection = PgConnection::connect_with(&server()).await.unwrap();
        for statement in [
            format!("CREATE DATABASE {name}"),
            format!("CREATE ROLE {writer}"),
            format!("CREATE ROLE {role} LOGIN PASSWORD 'x' IN ROLE {writer}"),
            format!(
                "REVOKE CONNECT ON DATABASE {name} FROM PUBLIC; GRANT CONNECT ON DATABASE {name} TO {role}"
            ),
        ] {
            run(&mut connection, &statement).await.unwrap();
        }
        Self { name, writer, role }
    }

    fn admin(&self) -> PgConnectOptions {
        server().database(&self.name)
    }

    async fn owner(&self) -> PgConnection {
        PgConnection::connect_with(&self.admin()).await.unwrap()
    }

    async fn service(&self) -> sqlx::Result<PgConnection> {
        let login = self.admin().username(&self.role).password("x").application_name("points");
        PgConnection::connect_with(&login).await
    }

    async fn migrate(&self, migrations: &[Migration], within: Duration) -> anyhow::Result<Vec<Applied>> {
        migrate(&mut self.owner().await, &self.writer, migrations, within).await
    }

    /// Waits until a migration sleeps, as its text says. Asked of the server: the database itself may be shut.
    async fn until_asleep(&self) {
        let mut connection = PgConnection::connect_with(&server()).await.unwrap();
        let asleep =
            "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = $1 AND wait_event = 'PgSleep')";
        testkit::until(WITHIN, async || {
            sqlx::query_scalar::<_, bool>(asleep).bind(&self.name).fetch_one(&mut connection).await.unwrap()
        })
        .await;
    }

    async fn drop(self) {
        let mut connection = PgConnection::connect_with(&server()).await.unwrap();
        for statement in [
            format!("DROP DATABASE {} WITH (FORCE)", self.name),
            format!("DROP ROLE {}", self.role),
            format!("DROP ROLE {}", self.writer),
        ] {
            run(&mut connection, &statement).await.unwrap();
        }
    }
}

fn filled() -> Migration {
    migration(
        1,
        "CREATE TABLE public.row (id bigint PRIMARY KEY, n bigint NOT NULL);
         INSERT INTO public.row SELECT i, i FROM generate_series(1, 10000) i;",
    )
}

/// Updates one row after the other, and tells how long the slowest update took.
async fn write(admin: PgConnectOptions, stop: CancellationToken) -> Duration {
    let mut connection = PgConnection::connect_with(&admin).await.unwrap();
    let mut slowest = Duration::ZERO;
    for id in (1..=10_000_i64).cycle() {
        if stop.is_cancelled() {
            break;
        }
        let begun = Instant::now();
        let update = sqlx::query("UPDATE public.row SET n = n + 1 WHERE id = $1").bind(id);
        update.execute(&mut connection).await.unwrap();
        slowest = slowest.max(begun.elapsed());
        // A writer that leaves room for others.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    slowest
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_pass_while_a_migration_waits_for_a_reader() {
    let scratch = Scratch::new().await;
    let mut steps = vec![filled()];
    scratch.migrate(&steps, WITHIN).await.unwrap();
    let mut reader = scratch.owner().await;
    run(&mut reader, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM public.row").await.unwrap();
    let stop = CancellationToken::new();
    let writer = TaskTracker::new().spawn(write(scratch.admin(), stop.clone()));

    steps.push(migration(2, "ALTER TABLE public.row ADD COLUMN note text"));
    steps.push(migration(
        3,
        "-- no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS row_n ON public.row (n)",
    ));
    let gone = async {
        tokio::time::sleep(READS_FOR).await;
        run(&mut reader, "COMMIT").await.unwrap();
        Instant::now()
    };
    let begun = Instant::now();
    let (applied, gone) = tokio::join!(scratch.migrate(&steps, WITHIN), gone);
    let applied = applied.unwrap();
    assert!(Instant::now() > gone && begun.elapsed() > READS_FOR, "it waited for the reader");
    assert_eq!(
        applied.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(),
        ["0002 a step", "0003 a step"]
    );
    assert!(applied[0].attempts > 2, "{applied:?}");
    stop.cancel();
    let slowest = writer.await.unwrap();
    assert!(slowest < Duration::from_millis(1_200), "a writer waited for {slowest:?}");
    scratch.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stays_is_named_when_the_time_is_over() {
    let scratch = Scratch::new().await;
    let steps = [filled(), migration(2, "ALTER TABLE public.row ADD COLUMN note text")];
    scratch.migrate(&steps[..1], WITHIN).await.unwrap();
    let mut reader = PgConnection::connect_with(&scratch.admin().application_name("a report")).await.unwrap();
    run(&mut reader, "BEGIN; SELECT count(*) FROM public.row").await.unwrap();
    let error = scratch.migrate(&steps, Duration::from_secs(6)).await.unwrap_err();
    let told = format!("{error:#}");
    assert!(told.contains("0002 a step") && told.contains("a report (pid "), "{told}");
    run(&mut reader, "COMMIT").await.unwrap();
    assert_eq!(scratch.migrate(&steps, WITHIN).await.unwrap().len(), 1);
    scratch.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_was_not_built_to_its_end_is_built_anew() {
    let scratch = Scratch::new().await;
    let mut steps = vec![filled()];
    scratch.migrate(&steps, WITHIN).await.unwrap();
    let mut owner = scratch.owner().await;
    run(&mut owner, "UPDATE public.row SET n = 1 WHERE id = 2").await.unwrap();
    steps.push(migration(
        2,
        "-- no-transaction\nCREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS row_n ON public.row (n)",
    ));
    let valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'public.row_n'::regclass";
    scratch.migrate(&steps, WITHIN).await.expect_err("two rows with one n");
    assert!(!sqlx::query_scalar::<_, bool>(valid).fetch_one(&mut owner).await.unwrap(), "it is left behind");
    run(&mut owner, "UPDATE public.row SET n = 2 WHERE id = 2").await.unwrap();
    assert_eq!(scratch.migrate(&steps, WITHIN).await.unwrap().len(), 1);
    assert!(sqlx::query_scalar::<_, bool>(valid).fetch_one(&mut owner).await.unwrap());
    scratch.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offline_migration_waits_until_the_service_is_gone() {
    let scratch = Scratch::new().await;
    let offline = "-- offline: rewrites the table\nALTER TABLE public.row ALTER COLUMN n TYPE numeric";
    let steps = [filled(), migration(2, offline)];
    let service = scratch.service().await.unwrap();
    scratch.migrate(&steps[..1], WITHIN).await.expect("an empty database is nobody's yet");
    let told = format!("{:#}", scratch.migrate(&steps, WITHIN).await.unwrap_err());
    for part in ["0002 a step is offline (rewrites the table)", "points as ", "stop every process"] {
        assert!(told.contains(part), "{told}");
    }
    scratch.service().await.expect("a refusal shuts nobody out").close().await.unwrap();
    service.close().await.unwrap();

    let steps = [steps[0].clone(), migration(2, &format!("{offline}; SELECT pg_sleep(1.5)"))];
    let late = async {
        scratch.until_asleep().await;
        scratch.service().await.map(drop)
    };
    let (migrated, late) = tokio::join!(scratch.migrate(&steps, WITHIN), late);
    assert_eq!(migrated.unwrap().len(), 1);
    late.expect_err("nobody connects while it runs");
    scratch.service().await.expect("afterwards the service is let in").close().await.unwrap();
    scratch.drop().await;
}

/// A run that is killed while the service is shut out takes its list of rights with it.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_run_that_was_killed_the_next_one_lets_the_service_in() {
    let mut scratch = Scratch::new().await;
    let target = Target {
        database: Database::Points,
        name: &scratch.name.clone(),
        role: &scratch.role.clone(),
        password: "x",
    };
    provision(&server(), &target, WITHIN).await.unwrap();
    scratch.writer = "tender_writer".to_owned();
    let mut steps = Database::Points.migrations();
    steps.push(migration(9_000, "-- offline: takes its time\nSELECT pg_sleep(60)"));
    let (admin, killed) = (scratch.admin(), steps.clone());
    let run_away = TaskTracker::new().spawn(async move {
        let mut owner = PgConnection::connect_with(&admin.application_name("killed")).await.unwrap();
        migrate(&mut owner, "tender_writer", &killed, WITHIN).await.map(drop)
    });
    let mut owner = scratch.owner().await;
    // Asked without connecting: a session of the service would be in the migration's way.
    let may_connect = "SELECT has_database_privilege($1, current_database(), 'CONNECT')";
    testkit::until(WITHIN, async || {
        !sqlx::query_scalar::<_, bool>(may_connect).bind(&scratch.role).fetch_one(&mut owner).await.unwrap()
    })
    .await;
    run_away.abort();
    // While its session is still at work, the service stays out.
    provision(&server(), &target, Duration::from_millis(300)).await.expect_err("another migration runs");
    scratch.service().await.expect_err("the first run is not over");
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'killed'
                   AND datname = current_database()";
    run(&mut owner, end).await.unwrap();
    // This run fails at once, and gives back all the same.
    run(&mut owner, "UPDATE _sqlx_migrations SET checksum = '' WHERE version = 1").await.unwrap();
    let told = format!("{:#}", provision(&server(), &target, WITHIN).await.unwrap_err());
    assert!(told.contains("was changed after it was applied"), "{told}");
    scratch.service().await.expect("it is let in").close().await.unwrap();
    owner.close().await.unwrap();
    scratch.writer = format!("{}_writer", scratch.name);
    scratch.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offline_migration_that_fails_says_why_and_lets_the_service_in() {
    let scratch = Scratch::new().await;
    let mut connection = PgConnection::connect_with(&server()).await.unwrap();
    run(&mut connection, &format!("GRANT CONNECT ON DATABASE {} TO PUBLIC", scratch.name)).await.unwrap();
    let steps = [filled(), migration(2, "-- offline: fails\nSELECT pg_sleep(2); SELECT 1 / 0")];
    scratch.migrate(&steps[..1], WITHIN).await.unwrap();
    let late = async {
        scratch.until_asleep().await;
        scratch.service().await.map(drop)
    };
    let (migrated, late) = tokio::join!(scratch.migrate(&steps, WITHIN), late);
    let told = format!("{:#}", migrated.unwrap_err());
    assert!(told.contains("division by zero"), "{told}");
    late.expect_err("nobody connects while it runs, whoever may");
    scratch.service().await.expect("afterwards the service is let in").close().await.unwrap();

    // The reason is told also where the connection is gone, and with it the way to let the service in.
    let ends = "-- offline: ends its session\nSELECT pg_terminate_backend(pg_backend_pid())";
    let error = scratch.migrate(&[filled(), migration(2, ends)], WITHIN).await.unwrap_err();
    let told = format!("{error:#}");
    assert!(
        told.contains("0002 a step") && told.contains("may not connect until the next migration"),
        "{told}"
    );
    scratch.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_an_earlier_release_are_refused_before_anything_is_done() {
    for (database, rows, last) in [
        (Database::Wallet, WALLET_ROWS, 12),
        (Database::Points, TENDER_ROWS, 6),
        (Database::DigitalRewards, TENDER_ROWS, 1002),
    ] {
        let scratch = Scratch::new().await;
        let target = Target { database, name: &scratch.name, role: &scratch.role, password: "x" };
        let mut owner = scratch.owner().await;
        let migrations = database.migrations();
        let base = migrations.iter().filter(|one| one.version < last).count();
        scratch.migrate(&migrations[..1], WITHIN).await.unwrap();
        run(&mut owner, rows).await.unwrap();
        scratch.migrate(&migrations[..base], WITHIN).await.unwrap();
        let told = format!("{:#}", provision(&server(), &target, WITHIN).await.unwrap_err());
        assert!(told.contains("cannot take over the rows of an earlier one"), "{told}");
        let applied = "SELECT count(*) FROM _sqlx_migrations";
        let applied: i64 = sqlx::query_scalar(applied).fetch_one(&mut owner).await.unwrap();
        assert_eq!(usize::try_from(applied), Ok(base), "{}", database.name());
        // The last of them applied, rows are taken over from then on.
        scratch.migrate(&migrations[..=base], WITHIN).await.unwrap();
        provision(&server(), &target, WITHIN).await.unwrap();
        owner.close().await.unwrap();
        scratch.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_stop_writers_is_refused_before_anything_is_done() {
    let scratch = Scratch::new().await;
    let steps = [
        filled(),
        migration(2, "ALTER TABLE public.row ADD COLUMN note text"),
        migration(3, "CREATE INDEX row_n ON public.row (n)"),
    ];
    scratch.migrate(&steps[..1], WITHIN).await.unwrap();
    let told = format!("{:#}", scratch.migrate(&steps, WITHIN).await.unwrap_err());
    assert!(told.contains("0003 a step is neither online nor declared"), "{told}");
    assert_eq!(scratch.migrate(&steps[..2], WITHIN).await.unwrap().len(), 1, "0002 was not applied before");
    let slow = migration(
        3,
        "ALTER TABLE public.row ADD COLUMN b text; INSERT INTO public.row (id, n) SELECT 0, 0 FROM pg_sleep(30)",
    );
    let steps = [steps[0].clone(), steps[1].clone(), slow];
    let begun = Instant::now();
    let told = format!("{:#}", scratch.migrate(&steps, WITHIN).await.unwrap_err());
    assert!(told.contains("with a lock that writers wait for") && begun.elapsed() < WITHIN, "{told}");
    let other = [filled(), migration(2, "ALTER TABLE public.row ADD COLUMN other text")];
    let told = format!("{:#}", scratch.migrate(&other, WITHIN).await.unwrap_err());
    assert!(told.contains("was changed after it was applied"), "{told}");
    let told = format!("{:#}", scratch.migrate(&other[..1], WITHIN).await.unwrap_err());
    assert!(told.contains("which this version does not know"), "{told}");
    scratch.drop().await;
}

/// Rows as the first migrations of a service allow them.
const TENDER_ROWS: &str = "
    INSERT INTO tender.account (business_id, owner, asset, posted, version)
    SELECT 'b', 'c' || i, 'points', 10, 1 FROM generate_series(1, 2000) i;
    INSERT INTO tender.lot (account_no, lot_id, original, remaining, funding, kind, operation_id, created_at)
    SELECT account_no, gen_random_uuid(), 10, 10, 'paid', 'earn', md5(account_no::text)::uuid, now() FROM tender.account;
    INSERT INTO tender.operation
        (operation_id, business_id, account_no, kind, state, amount, response, created_at, updated_at)
    SELECT operation_id, 'b', account_no, 'credit', 'applied', 10, '{}', now(), now() FROM tender.lot;
    INSERT INTO tender.entry (operation_id, business_id, asset, kind, amount,
        account_no, version, balance_after, held_after, contra, created_at)
    SELECT operation_id, 'b', 'points', 'credit', 10, account_no, 1, 10, 0, NULL, now() FROM tender.lot
    UNION ALL SELECT operation_id, 'b', 'points', 'credit', -10, NULL, NULL, NULL, NULL, 'issued:paid', now() FROM tender.lot;
    INSERT INTO tender.outbox (business_id, owner, asset, version, payload)
    SELECT 'b', owner, 'points', 1, '{}' FROM tender.account;";
const WALLET_ROWS: &str = "
    INSERT INTO saga.saga (saga_id, business_id, operation, scope, key, request_hash, kind, version, legs_id, plan, state,
                           epoch, deadline_at, budget_from, due_at)
    SELECT md5(i::text)::uuid, 'b', 'redeem', '', 'k' || i, '', 0, 1, gen_random_uuid(), '{}', 4, 1, now(), now(), now()
    FROM generate_series(1, 2000) i;
    INSERT INTO saga.dead_letter (saga_id, business_id, code, detail)
    SELECT saga_id, 'b', 'participant_unreachable', '{}' FROM saga.saga;
    INSERT INTO saga.operator_action (business_id, operation_id, actor, action, reason, accepted, before, after)
    SELECT 'b', key, 'o', 'pause', 'r', true, '{}', '{}' FROM saga.saga;";
const REWARD_ROWS: &str = "
    INSERT INTO tender.reward_code (business_id, code_hmac, reward_id, last_four)
    SELECT 'b', sha256(i::text::bytea), gen_random_uuid(), 'ABCD' FROM generate_series(1, 2000) i";

/// What stands in the tables is what each service wrote before the next step came.
#[tokio::test(flavor = "multi_thread")]
async fn each_step_is_applied_to_a_filled_database() {
    for (database, filled_after) in [
        (Database::Wallet, &[(1, WALLET_ROWS)][..]),
        (Database::Points, &[(1, TENDER_ROWS)]),
        (Database::DigitalRewards, &[(1, TENDER_ROWS), (1001, REWARD_ROWS)]),
    ] {
        let scratch = Scratch::new().await;
        let migrations = database.migrations();
        let mut owner = scratch.owner().await;
        for count in 1..=migrations.len() {
            let step = &migrations[count - 1];
            let applied = scratch.migrate(&migrations[..count], WITHIN).await;
            let applied =
                applied.unwrap_or_else(|error| panic!("{} {}: {error:#}", database.name(), step.version));
            assert_eq!(applied.len(), 1, "{} {}", database.name(), step.version);
            for (_, rows) in filled_after.iter().filter(|(version, _)| *version == step.version) {
                run(&mut owner, rows).await.unwrap();
            }
        }
        for finding in check(&mut owner, database).await.unwrap() {
            assert_eq!(finding.violations, 0, "{finding:#?}");
        }
        owner.close().await.unwrap();
        scratch.drop().await;
    }
}
