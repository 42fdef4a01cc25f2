//! Two releases on one database: each runs the sagas that it can read, and leaves the others alone.

use std::time::Duration;

use saga::{Reason, StoreError, Submitted};

use crate::toy::{Does, World, quick};

/// Many scans for what may be taken up, and twice the time after which its owner counts as dead.
const SCANS: Duration = Duration::from_millis(1_200);
const DEAD_LETTERS: &str = "SELECT count(*) FROM saga.dead_letter";

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_the_next_release_waits_for_a_process_that_reads_it() {
    let world = World::start().await;
    let old = world.process::<false>(quick()).await;
    let new = world.process::<true>(quick()).await;
    new.domain.set("a", Does::Hangs);
    let (id, submitted) = new.submit("k", 2, &["a"]).await;
    assert_eq!(submitted, Ok(Submitted::Running));
    // The new release is rolled back: it hands over in order.
    new.engine.drain().await;
    assert!(world.sql::<bool>("SELECT owner IS NULL AND state IN (0, 1) FROM saga.saga").await);
    tokio::time::sleep(SCANS).await;
    assert_eq!(world.sql::<i64>(DEAD_LETTERS).await, 0, "no dead letter because an old process saw it");
    assert!(world.sql::<bool>("SELECT owner IS NULL AND epoch = 2 FROM saga.saga").await, "nobody took it");
    assert_eq!(old.domain.attempts("a"), 0);
    // A cancel that meets the old release is told to come again, not that anything is broken.
    let stored = old.engine.find_by_id(id).await.expect("a database").expect("a saga");
    let told = old.engine.compensate(&stored, Reason::Cancelled, true).await;
    assert_eq!(told, Err(StoreError::Unavailable));
    // Rolled forward again.
    let next = world.process::<true>(quick()).await;
    world.until("SELECT state = 2 FROM saga.saga").await;
    assert!(next.domain.attempts("a") > 0);
    assert_eq!(world.sql::<i64>(DEAD_LETTERS).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_reads_more_takes_over_what_an_old_one_left() {
    let world = World::start().await;
    let old = world.process::<false>(quick()).await;
    old.domain.set("a", Does::Hangs);
    old.submit("k", 1, &["a"]).await.1.expect("written");
    old.engine.crash();
    let _new = world.process::<true>(quick()).await;
    world.until("SELECT state = 2 FROM saga.saga").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_its_own_release_cannot_read_is_parked() {
    let world = World::start().await;
    let process = world.process::<false>(quick()).await;
    process.domain.set("a", Does::Hangs);
    process.submit("k", 1, &["a"]).await.1.expect("written");
    process.engine.crash();
    world.execute("UPDATE saga.saga SET plan = '{\"version\": 1}'").await;
    let _next = world.process::<false>(quick()).await;
    world.until("SELECT state = 4 FROM saga.saga").await;
    assert_eq!(world.sql::<String>("SELECT code FROM saga.dead_letter").await, "unreadable");
}

/// A saga that an owner with another release has begun to compensate, for this reason.
async fn compensated_because(cause: &'static str) {
    let world = World::start().await;
    let process = world.process::<false>(quick()).await;
    process.domain.set("a", Does::Declines);
    process.domain.set("b", Does::HangsOnCancel);
    process.submit("k", 1, &["a", "b"]).await.1.expect("written");
    world.until("SELECT state = 1 FROM saga.saga").await;
    process.engine.crash();
    world.execute(format!("UPDATE saga.saga SET cause = '{cause}'").leak()).await;
    let _next = world.process::<false>(quick()).await;
    world.until("SELECT state <> 1 FROM saga.saga").await;
    assert_eq!(world.sql::<i16>("SELECT state FROM saga.saga").await, 3, "its legs are cancelled");
    assert_eq!(world.sql::<i64>(DEAD_LETTERS).await, 0);
    let kept = format!("SELECT cause = '{cause}' FROM saga.saga").leak();
    assert!(world.sql::<bool>(kept).await, "the cause stays as its release wrote it");
    let answer = "SELECT convert_from(response, 'UTF8') FROM saga.saga";
    assert_eq!(world.sql::<String>(answer).await, "k going back", "and so does the answer that it led to");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reason_of_the_next_release_stops_no_compensation() {
    compensated_because(r#"{"reason": "newer", "leg": 0, "answer": "Refused"}"#).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_the_next_release_stops_no_compensation() {
    compensated_because(r#"{"reason": "refused", "leg": 0, "answer": {"state": "newer"}}"#).await;
}
