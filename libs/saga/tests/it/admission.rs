//! One unreachable participant neither takes the others' room nor is sent everything at once when it answers again.

use std::time::Duration;

use saga::{Config, SagaId, StoreError, Submitted, machine::Kind};
use uuid::Uuid;

use crate::toy::{Does, Process, WITHIN, World, new_saga, quick};

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
    assert!(process.engine.is_full_for("unreachable", "demo"));
    assert_eq!(process.submit("5", 1, &["other", "unreachable"]).await.1, Err(StoreError::Unavailable));
    for key in 0..20 {
        assert_eq!(process.run(&format!("other-{key}"), &["other", "third"]).await, Some(201));
    }
    assert!(!process.engine.is_full_for("other", "demo"), "a leg that was answered counts no more");
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
    testkit::until(WITHIN, async || process.engine.is_unreachable("a")).await;
    process.domain.set("a", Does::Applies);
    world.until("SELECT count(*) = 40 FROM saga.saga WHERE state = 2").await;
    assert!(!process.engine.is_unreachable("a"));
}

/// Hands in a saga that does not end while its participant hangs.
async fn submit_stuck(
    process: &Process<false>,
    key: &str,
    business: &str,
    kind: Kind,
) -> Result<Submitted, StoreError> {
    let mut new = new_saga(SagaId(Uuid::now_v7()), key, 1, &["silent"]);
    business.clone_into(&mut new.key.business_id);
    new.kind = kind;
    process.engine.submit(new).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_business_leaves_room_for_the_others() {
    let world = World::start().await;
    let mut config = Config { in_flight: 8, ..quick() };
    config.forward_timeout = Duration::from_secs(20);
    let process = world.process::<false>(config).await;
    process.domain.set("silent", Does::Hangs);
    for key in 0..7 {
        let submitted = submit_stuck(&process, &key.to_string(), "loud", Kind::Compensable).await;
        assert_eq!(submitted, Ok(Submitted::Running));
    }
    assert_eq!(
        submit_stuck(&process, "one more", "loud", Kind::Compensable).await,
        Err(StoreError::Unavailable)
    );
    assert_eq!(process.run("quiet", &["other"]).await, Some(201), "another business is served");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_on_with_what_exists_takes_no_room_of_new_work() {
    let world = World::start().await;
    let mut config = Config { in_flight: 8, ..quick() };
    config.cancel_timeout = Duration::from_secs(20);
    let process = world.process::<false>(config).await;
    process.domain.set("silent", Does::Hangs);
    for key in 0..20 {
        let submitted = submit_stuck(&process, &key.to_string(), "demo", Kind::ForwardOnly).await;
        assert_eq!(submitted, Ok(Submitted::Running));
    }
    assert_eq!(process.run("new", &["other"]).await, Some(201));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_on_with_what_exists_has_room_of_its_own_and_no_more() {
    let world = World::start().await;
    let process = world.process::<false>(Config { unanswered_legs: 8, ..quick() }).await;
    process.domain.set("silent", Does::Hangs);
    let submit = async |key: &str, business, kind| submit_stuck(&process, key, business, kind).await;
    for key in ["1", "2", "3", "4", "5", "6", "7"] {
        assert_eq!(submit(key, "demo", Kind::ForwardOnly).await, Ok(Submitted::Running));
    }
    let full = Err(StoreError::Unavailable);
    assert_eq!(submit("8", "demo", Kind::ForwardOnly).await, full);
    assert_eq!(
        submit("8", "other", Kind::ForwardOnly).await,
        Ok(Submitted::Running),
        "an eighth is for others"
    );
    assert_eq!(submit("9", "other", Kind::ForwardOnly).await, full);
    for (key, business) in [("10", "demo"), ("11", "other")] {
        assert_eq!(
            submit(key, business, Kind::Compensable).await,
            Ok(Submitted::Running),
            "new work has its own"
        );
    }
    process.domain.set("silent", Does::Applies);
    world.until("SELECT count(*) = 10 FROM saga.saga WHERE state = 2").await;
    assert_eq!(submit("8", "demo", Kind::ForwardOnly).await, Ok(Submitted::Running));
}
