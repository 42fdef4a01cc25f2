//! What one row costs the others that are written with it.

use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};

use crate::toy::{World, quick};

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_locked_by_hand_does_not_take_its_batch_along() {
    let world = World::start().await;
    let process = world.process::<false>(quick()).await;
    assert_eq!(process.run("before", &["a"]).await, Some(201));
    let mut hand = PgConnection::connect_with(&world.database.admin()).await.expect("a connection");
    let mut locking = hand.begin().await.expect("a transaction");
    // The domain's rows of sagas with this key cannot be written until the lock is given up.
    sqlx::query(
        "INSERT INTO toy.thing (saga_id, status) VALUES ('00000000-0000-7000-8000-000000000001', 'locked')",
    )
    .execute(&mut *locking)
    .await
    .expect("done");
    let stuck = saga_that_needs(&process, "00000000-0000-7000-8000-000000000001");
    let others = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut longest = Duration::ZERO;
        for key in 0..30 {
            let began = Instant::now();
            assert_eq!(process.run(&format!("other-{key}"), &["a"]).await, Some(201));
            longest = longest.max(began.elapsed());
        }
        longest
    };
    let (stuck, longest) = tokio::join!(stuck, others);
    assert!(stuck.is_err(), "it is told that it was not written");
    assert!(longest < Duration::from_secs(1), "a neighbour waited for {longest:?}");
    locking.rollback().await.expect("done");
}

async fn saga_that_needs(
    process: &crate::toy::Process<false>,
    id: &str,
) -> Result<saga::Submitted, saga::StoreError> {
    let id = saga::SagaId(id.parse().expect("an id"));
    process.submit_as(id, "stuck", 1, &["a"]).await
}
