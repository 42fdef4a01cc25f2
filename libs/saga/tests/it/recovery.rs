//! Taking up what nobody has in memory, and handing over what runs.

use std::time::Duration;

use saga::{Config, SagaId, Submitted, machine::Kind};
use sqlx::{Connection, PgConnection, PgTransaction};
use uuid::Uuid;

use crate::toy::{Does, Process, World, new_saga, quick};

/// Two sagas whose participant hangs.
async fn two_stuck(process: &Process<false>) -> (SagaId, SagaId) {
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

/// Hands in sagas under keys that begin with their participant's name, which does not answer.
async fn submit_stuck(process: &Process<false>, participant: &str, sagas: usize) {
    process.domain.set(participant, Does::Hangs);
    for nth in 0..sagas {
        let id = SagaId(Uuid::now_v7());
        let mut new = new_saga(id, &format!("{participant} {nth}"), 1, &[participant]);
        new.kind = Kind::ForwardOnly;
        assert_eq!(process.engine.submit(new).await, Ok(Submitted::Running));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_claimed_than_there_is_room_for() {
    let world = World::start().await;
    let first = world.process::<false>(Config { drain_grace: Duration::ZERO, ..patient() }).await;
    // In this order: what can be claimed comes after many pages of what cannot.
    submit_stuck(&first, "silent", 40).await;
    submit_stuck(&first, "other", 3).await;
    let small = Config { in_flight: 8, unanswered_legs: 2, claim_batch: 4, ..quick() };
    let second = world.process::<false>(small).await;
    second.domain.set("silent", Does::Hangs);
    first.engine.drain().await;
    world.until("SELECT count(*) = 3 FROM saga.saga WHERE key LIKE 'other %' AND state = 2").await;
    for _ in 0..10 {
        let claimed = "SELECT count(*) FROM saga.saga WHERE key LIKE 'silent %' AND owner IS NOT NULL";
        assert_eq!(world.sql::<i64>(claimed).await, 2, "as many as of new work");
        tokio::time::sleep(quick().scan).await;
    }
    second.domain.set("silent", Does::Applies);
    world.until("SELECT count(*) = 43 FROM saga.saga WHERE state = 2").await;
}
