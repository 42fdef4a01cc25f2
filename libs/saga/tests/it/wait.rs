//! Waiting for a saga that another process runs.

use std::time::Duration;

use saga::{SagaId, Submitted, Waited};
use sqlx::{Connection, PgConnection};
use testkit::Proxy;
use tokio::time::Instant;
use uuid::Uuid;

use crate::toy::{Does, World, quick};

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_another_process_reads_no_plan() {
    let world = World::start().await;
    let (process, other) = (world.process::<false>(quick()).await, world.process::<false>(quick()).await);
    process.domain.set("a", Does::Hangs);
    let (id, submitted) = process.submit("k", 1, &["a"]).await;
    submitted.expect("written");
    // Everything but the plan, which may be as large as a request.
    world
        .execute(
            "DO $$ BEGIN
                 REVOKE SELECT ON saga.saga FROM wallet_writer;
                 EXECUTE (SELECT format('GRANT SELECT (%s) ON saga.saga TO wallet_writer', string_agg(quote_ident(attname), ', '))
                     FROM pg_attribute WHERE attrelid = 'saga.saga'::regclass AND attnum > 0 AND NOT attisdropped AND attname <> 'plan');
             END $$",
        )
        .await;
    let wait = |time| other.engine.wait(id, Instant::now() + time);
    let pending = wait(Duration::from_millis(300)).await.expect("a look without the plan");
    assert!(matches!(pending, Waited::Pending(_)), "{pending:?}");
    process.domain.set("a", Does::Applies);
    let answered = wait(Duration::from_secs(10)).await.expect("a look without the plan");
    assert!(matches!(answered, Waited::Answered(response) if response.status == 201));
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_a_saga_that_is_locked_hold_no_connection_that_others_need() {
    let world = World::start().await;
    let process = world.process::<false>(quick()).await;
    process.domain.set("a", Does::HangsOnCancel);
    process.domain.set("b", Does::Declines);
    let (id, submitted) = process.submit("k", 1, &["a", "b"]).await;
    assert_eq!(submitted, Ok(Submitted::Running));
    world.until("SELECT state = 1 FROM saga.saga").await;
    let mut hand = PgConnection::connect_with(&world.database.admin()).await.expect("a connection");
    let mut locking = hand.begin().await.expect("a transaction");
    sqlx::query("SELECT FROM saga.saga FOR UPDATE").execute(&mut *locking).await.expect("locked");
    let until = Instant::now() + Duration::from_secs(2);
    let callers = (0..16).map(|_| async {
        while Instant::now() < until {
            let waited = process.engine.wait(id, Instant::now() + Duration::from_millis(50)).await;
            assert!(waited.is_err() || matches!(waited, Ok(Waited::Pending(_))), "{waited:?}");
        }
    });
    let others = async {
        let mut longest = Duration::ZERO;
        while Instant::now() < until {
            let began = Instant::now();
            process.engine.find_by_id(SagaId(Uuid::now_v7())).await.expect("a connection");
            longest = longest.max(began.elapsed());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        longest
    };
    let (_, longest) = tokio::join!(futures_util::future::join_all(callers), others);
    assert!(longest < Duration::from_millis(500), "{longest:?}");
    locking.rollback().await.expect("done");
}

#[tokio::test(flavor = "multi_thread")]
async fn look_ups_go_on_beside_connections_that_hang() {
    let world = World::start().await;
    let admin = world.database.admin();
    let proxy = Proxy::start(admin.get_host(), admin.get_port()).await;
    let process =
        world.process_with::<false>(quick(), |options| options.host("127.0.0.1").port(proxy.port)).await;
    let look_up = || process.engine.find_by_id(SagaId(Uuid::now_v7()));
    for found in futures_util::future::join_all((0..8).map(|_| look_up())).await {
        found.expect("a database");
    }
    // As many statements as there are connections for look-ups, and a few of others, are never answered.
    proxy.hold_next(14);
    let began = Instant::now();
    let hanging = (0..8).map(|_| look_up());
    let another = async {
        while !proxy.is_holding() || look_up().await.is_err() {
            assert!(began.elapsed() < Duration::from_secs(15), "no look-up was answered");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (hung, ()) = tokio::join!(futures_util::future::join_all(hanging), another);
    assert!(hung.iter().any(Result::is_err), "some of them hung");
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
}
