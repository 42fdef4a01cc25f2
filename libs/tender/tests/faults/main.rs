//! An executor that panics, wherever it does, costs nobody their value and nobody waits for ever.
//!
//! Fail points belong to the whole process, so these tests have a binary of their own, and take turns in it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[expect(dead_code, reason = "the other tests use the rest")]
#[path = "../it/support.rs"]
mod support;

use std::time::{Duration, Instant};

use api::legs::LegState;
use fail::FailScenario;
use tender::executor::ExecuteError;

use crate::support::{Server, cancel, credit, debit, insist, run};

#[tokio::test]
async fn a_panic_anywhere_in_a_batch_is_survived() {
    let turn = FailScenario::setup();
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 100, None)).await;
    for (number, point) in ["before_begin", "locked", "written", "committed"].into_iter().enumerate() {
        let key = format!("k{number}");
        fail::cfg(format!("tender::{point}"), "1*panic").unwrap();
        let began = Instant::now();
        let lost = server.executor().submit(debit("cus", &key, 10)).await;
        assert_eq!(lost, Err(ExecuteError::Unknown), "{point}");
        assert!(began.elapsed() < Duration::from_secs(1), "{point}: {:?}", began.elapsed());
        // Whether it was done is told by asking again, and never twice.
        assert_eq!(insist(server.executor(), debit("cus", &key, 10)).await.state, LegState::Applied);
    }
    let view = server.get("pos", "/points/accounts/cus").await.json();
    assert_eq!((view["available"].as_i64(), view["version"].as_i64()), (Some(60), Some(5)));
    assert_eq!(insist(server.executor(), cancel("cus", "k3")).await.state, LegState::Reversed);
    turn.teardown();
}

#[tokio::test]
async fn a_panic_in_the_decision_fails_its_command_only() {
    let turn = FailScenario::setup();
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 100, None)).await;
    fail::cfg("tender::fold", "1*panic").unwrap();
    // Alone in its batch it is the poison; nothing is written, and the executor goes on.
    assert_eq!(server.executor().submit(debit("cus", "k", 10)).await, Err(ExecuteError::Failed));
    assert_eq!(run(server.executor(), debit("cus", "k", 10)).await.state, LegState::Applied);
    turn.teardown();
}

#[tokio::test]
async fn a_full_queue_is_said_at_once() {
    let turn = FailScenario::setup();
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 100, None)).await;
    fail::cfg("tender::locked", "sleep(400)").unwrap();
    let began = Instant::now();
    let submits = (0..6_000).map(|number| {
        let executor = server.executor().clone();
        async move {
            let reply = executor.submit(debit("cus", &format!("k{number}"), 0)).await;
            (reply.is_err(), began.elapsed())
        }
    });
    let replies = futures_util::future::join_all(submits);
    let counted = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        fail::remove("tender::locked");
    };
    let (replies, ()) = tokio::join!(replies, counted);
    let refused: Vec<Duration> =
        replies.into_iter().filter(|(is_refused, _)| *is_refused).map(|(_, after)| after).collect();
    assert!(refused.len() > 1_000, "{} of 6000 were refused", refused.len());
    assert!(refused.iter().all(|after| *after < Duration::from_secs(1)), "{:?}", refused.iter().max());
    turn.teardown();
}
