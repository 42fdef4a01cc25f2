//! Taking up what nobody has in memory, and handing over what runs.

use std::time::Duration;

use saga::Config;
use sqlx::{Connection, PgConnection, PgTransaction};

use crate::toy::{Does, Process, World, quick};

/// Two sagas whose participant hangs.
async fn two_stuck(process: &Process<false>) -> (saga::SagaId, saga::SagaId) {
    process.domain.set("silent", Does::Hangs);
    let (first, submitted) = process.submit("1", 1, &["silent"]).await;
    submitted.expect("written");
    let (second, submitted) = process.submit("2", 1, &["silent"]).await;
    submitted.expect("written");
    (first, second)
}

/// Locks the row of the saga under key 1, as a session does that is left open.
async fn lock_the_first(hand: &mut PgConnection) -> PgTransaction<'_> {
    let mut locking = hand.begin().await.expect("a transaction");
    let lock = "SELECT FROM saga.saga WHERE key = '1' FOR UPDATE";
    sqlx::query(lock).execute(&mut *locking).await.expect("locked");
    locking
}

fn patient() -> Config {
    // The sagas stay for the whole test.
    Config { forward_timeout: Duration::from_secs(60), ..quick() }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_locked_row_keeps_no_other_saga_from_being_adopted() {
    let world = World::start().await;
    let process = world.process::<false>(patient()).await;
    let (locked, free) = two_stuck(&process).await;
    let mut hand = PgConnection::connect_with(&world.database.admin()).await.expect("a connection");
    let locking = lock_the_first(&mut hand).await;
    process.engine.lose_run(locked);
    process.engine.lose_run(free);
    world.until("SELECT epoch > 1 FROM saga.saga WHERE key = '2'").await;
    locking.rollback().await.expect("done");
    world.until("SELECT epoch > 1 FROM saga.saga WHERE key = '1'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_locked_row_keeps_no_other_saga_from_being_handed_over() {
    let world = World::start().await;
    let process = world.process::<false>(patient()).await;
    two_stuck(&process).await;
    let mut hand = PgConnection::connect_with(&world.database.admin()).await.expect("a connection");
    let locking = lock_the_first(&mut hand).await;
    process.engine.drain().await;
    assert!(world.sql::<bool>("SELECT owner IS NULL FROM saga.saga WHERE key = '2'").await);
    assert_eq!(
        world.sql::<i64>("SELECT count(*) FROM saga.process").await,
        0,
        "nobody is in doubt for its sake"
    );
    locking.rollback().await.expect("done");
    let other = world.process::<false>(patient()).await;
    world
        .until("SELECT count(*) = 2 FROM saga.saga WHERE owner IN (SELECT process_id FROM saga.process)")
        .await;
    drop(other);
}
