//! What one row costs the others that are written with it.

use std::time::{Duration, Instant};

use saga::{CompensateOutcome, Reason, Submitted};
use sqlx::{Connection, PgConnection};

use crate::toy::{Does, World, quick};

const WAITS_FOR_A_LOCK: &str = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock')";

/// The row that the saga needs which is kept waiting.
const LOCKS_THE_ROW: &str =
    "INSERT INTO toy.thing (saga_id, status) VALUES ('00000000-0000-7000-8000-000000000001', 'locked')";

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_locked_by_hand_does_not_take_its_batch_along() {
    let world = World::start().await;
    let process = world.process::<false>(quick()).await;
    assert_eq!(process.run("before", &["a"]).await, Some(201));
    let mut hand = PgConnection::connect_with(&world.database.admin()).await.expect("a connection");
    let mut locking = hand.begin().await.expect("a transaction");
    // The domain's rows of sagas with this key cannot be written until the lock is given up.
    sqlx::query(LOCKS_THE_ROW).execute(&mut *locking).await.expect("done");
    let stuck = saga_that_needs(&process, "00000000-0000-7000-8000-000000000001");
    let others = async {
        world.until(WAITS_FOR_A_LOCK).await;
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

const COMMITTING: &str = "SELECT count(*) = 1 FROM pg_stat_activity
    WHERE datname = current_database() AND query = 'COMMIT' AND state = 'active'";
const END_COMMITS: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND query = 'COMMIT' AND state = 'active'";

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_whose_commit_was_lost_is_not_taken_for_a_compensation_that_cancelled_no_key() {
    let world = World::start().await;
    let process = world.process::<false>(quick()).await;
    process.domain.set("a", Does::Hangs);
    let (id, submitted) = process.submit("k", 1, &["a"]).await;
    assert_eq!(submitted, Ok(Submitted::Running));
    world
        .execute(
            "CREATE FUNCTION saga.hanging() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_sleep(4); RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER hanging AFTER UPDATE ON saga.saga DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW WHEN (NEW.key_cancelled) EXECUTE FUNCTION saga.hanging()",
        )
        .await;
    let stored = process.engine.find_by_id(id).await.expect("a database").expect("a saga");
    let meanwhile = async {
        world.until(COMMITTING).await;
        // Behind the cancel's lock and in front of its second attempt, the same process takes the saga over and compensates it.
        let other = world.execute(
            "UPDATE saga.saga SET state = 1, backward = true, epoch = epoch + 1, budget_from = clock_timestamp()",
        );
        let lost = async {
            world
                .until("SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
                .await;
            world.execute(END_COMMITS).await;
        };
        tokio::join!(other, lost);
    };
    let (told, ()) = tokio::join!(process.engine.compensate(&stored, Reason::Cancelled, true), meanwhile);
    assert_eq!(told, Ok(CompensateOutcome::Moved), "the caller looks again");
    assert!(!world.sql::<bool>("SELECT key_cancelled FROM saga.saga").await);
}

/// Ends the connections that were not used yet, of the lane at least, and that of one writer if both have written.
const END_SOME: &str = "WITH toy AS (
        SELECT pid, query FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'toy'
    )
    SELECT pg_terminate_backend(pid) FROM toy
    WHERE query = '' OR pid = (SELECT max(pid) FROM toy WHERE query = 'COMMIT' HAVING count(*) = 2)";
const NO_MORE_CONNECTIONS: &str = "DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I CONNECTION LIMIT 1', current_database()); END $$";

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_cannot_connect_closes_the_door_for_nobody() {
    let world = World::start().await;
    let process = world.process::<false>(quick()).await;
    assert_eq!(process.run("before", &["a"]).await, Some(201));
    world
        .until(
            "SELECT count(*) >= 1 FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'toy' AND query = ''",
        )
        .await;
    world.execute(NO_MORE_CONNECTIONS).await;
    world.execute(END_SOME).await;
    let mut hand = PgConnection::connect_with(&world.database.admin()).await.expect("a connection");
    let mut locking = hand.begin().await.expect("a transaction");
    sqlx::query(LOCKS_THE_ROW).execute(&mut *locking).await.expect("done");
    let stuck = saga_that_needs(&process, "00000000-0000-7000-8000-000000000001");
    let others = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        for key in 0..60 {
            let (_, submitted) = process.submit(&format!("other-{key}"), 1, &["a"]).await;
            assert_eq!(submitted, Ok(Submitted::Running), "{key}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Not asked of the process: its look-ups can connect no more than its writers.
        world.until("SELECT count(*) = 60 FROM saga.saga WHERE key LIKE 'other-%' AND state = 2").await;
    };
    let (stuck, ()) = tokio::join!(stuck, others);
    assert!(stuck.is_err(), "it is told that it was not written");
    locking.rollback().await.expect("done");
}
