//! One unreachable participant neither takes the others' room nor is sent everything at once when it answers again.

use std::time::Duration;

use saga::{Config, StoreError};

use crate::toy::{Does, World, quick};

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_participant_leaves_room_for_the_others() {
    let world = World::start().await;
    let mut config = Config { unanswered_legs: 4, in_flight: 64, ..quick() };
    // They stay for the whole test.
    config.forward_timeout = Duration::from_secs(20);
    let process = world.process::<false>(config).await;
    process.domain.set("unreachable", Does::Hangs);
    for key in ["1", "2", "3", "4"] {
        process.submit(key, 1, &["unreachable", "other"]).await.1.expect("written");
    }
    assert!(process.engine.is_full_for("unreachable"));
    assert_eq!(process.submit("5", 1, &["other", "unreachable"]).await.1, Err(StoreError::Unavailable));
    for key in 0..20 {
        assert_eq!(process.run(&format!("other-{key}"), &["other", "third"]).await, Some(201));
    }
    assert!(!process.engine.is_full_for("other"), "a leg that was answered counts no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_participant_that_answers_again_ends_the_wait_of_all() {
    let world = World::start().await;
    let mut config = quick();
    config.forward_timeout = Duration::from_millis(100);
    // Without a release they would sleep for longer than the test waits.
    config.forward_retry.first = Duration::from_secs(60);
    config.forward_retry.cap = Duration::from_secs(60);
    let process = world.process::<false>(config).await;
    process.domain.set("a", Does::Hangs);
    for key in 0..40 {
        process.submit(&key.to_string(), 1, &["a"]).await.1.expect("written");
    }
    while !process.engine.is_unreachable("a") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    process.domain.set("a", Does::Applies);
    world.until("SELECT count(*) = 40 FROM saga.saga WHERE state = 2").await;
    assert!(!process.engine.is_unreachable("a"));
}
