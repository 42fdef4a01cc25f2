//! Legs that their tender answers late, beside those that it answers at once.

use std::{convert::Infallible, sync::Arc, time::Duration};

use api::{
    BusinessId, LegsId,
    client::CallError,
    legs::{
        Account, Batch, BatchLine, Forward, LegAction, LegAnswer, LegCommand, LegState, Mode, Take as HowMuch,
    },
    wallet::TenderKind,
};
use axum::{Json, Router, body::Body, routing::post};
use futures_util::{future::BoxFuture, stream::FuturesUnordered};
use money::Asset;
use testkit::Tokens;
use tokio::{net::TcpListener, time::timeout};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use wallet::tenders::{Addresses, BalanceObserver, Tender, Tenders};

/// The customer whose legs are answered late.
const LATE: &str = "late";
/// Later than anything of a batch is waited for.
const ANSWERED_AFTER: Duration = Duration::from_secs(8);
/// What the engine gives an attempt.
const ATTEMPT: Duration = Duration::from_secs(2);
/// More legs than a lane may leave to themselves if it counts them, each in a batch of its own.
const LATE_LEGS: u16 = 70;
const BETWEEN: Duration = Duration::from_millis(25);
/// By then nothing is waited for any more of the first batch.
const FIRST_IS_OVER: Duration = Duration::from_millis(4_700);
const AT_ONCE: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct Unobserved;

impl BalanceObserver for Unobserved {
    fn reached<'a>(&'a self, _: TenderKind, _: &'a [(&'a Account, i64)]) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
}

/// Answers batches, line by line; it knows no single legs.
async fn run_batch(Json(batch): Json<Batch>) -> Body {
    let lines = batch.commands.into_iter().enumerate().map(|(index, command)| async move {
        if command.account.customer_id == LATE {
            tokio::time::sleep(ANSWERED_AFTER).await;
        }
        let answer =
            LegAnswer { state: LegState::Applied, amount: 1, lots: Vec::new(), after: None, decline: None };
        let line = BatchLine { index, at_ms: 0, answer: Some(answer), problem: None };
        Ok::<_, Infallible>(serde_json::to_string(&line).expect("JSON") + "\n")
    });
    Body::from_stream(lines.collect::<FuturesUnordered<_>>())
}

/// A client of such a tender, which stops with the guard.
async fn tender() -> (Tender, DropGuard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let routes = Router::new().route("/internal/v1/legs/batch", post(run_batch));
    tasks.spawn(stop.clone().run_until_cancelled_owned(axum::serve(listener, routes).into_future()));
    let addresses = Addresses { points: url.clone(), store_credit: url.clone(), digital_rewards: url };
    let tokens = Tokens::new().service("wallet");
    let clock = saga::DatabaseClock::default();
    let tenders = Tenders::init(&addresses, tokens, Arc::new(Unobserved), &clock, &tasks).expect("clients");
    (tenders.get(TenderKind::Points).clone(), stop.drop_guard())
}

fn leg_of(customer: &str, leg: u16, action: LegAction) -> LegCommand {
    let business_id = BusinessId::try_from("demo".to_owned()).expect("a business");
    let account = Account { business_id, customer_id: customer.to_owned(), asset: Asset::Points };
    let legs_id = LegsId(uuid::Uuid::new_v4());
    LegCommand { legs_id, leg, account, action, epoch: None, trace: None, sent_at: None }
}

fn debit() -> LegAction {
    LegAction::Forward(Forward {
        mode: Mode::Debit,
        amount: 1,
        take: HowMuch::Exact,
        step: 1,
        reward_id: None,
        of: None,
        hold_until: None,
        not_after: None,
        order_id: None,
    })
}

/// Sends legs that are answered late, each in a batch of its own, whose callers give up; then what comes beside them is answered at
/// once, and in batches still when the lane has given up as well.
async fn what_comes_beside_late_legs_is_answered(action: fn() -> LegAction) {
    let (tender, _stop) = tender().await;
    let callers = TaskTracker::new();
    for leg in 0..LATE_LEGS {
        let tender = tender.clone();
        callers.spawn(async move { timeout(ATTEMPT, tender.command(leg_of(LATE, leg, action()))).await });
        tokio::time::sleep(BETWEEN).await;
    }
    let answered = async || -> Result<LegAnswer, CallError> {
        timeout(AT_ONCE, tender.command(leg_of("other", 0, action()))).await.expect("an answer at once")
    };
    assert_eq!(answered().await.expect("an answer").amount, 1);
    tokio::time::sleep(FIRST_IS_OVER).await;
    for _ in 0..3 {
        assert_eq!(answered().await.expect("an answer in a batch").amount, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn legs_that_are_answered_late_do_not_hold_up_others() {
    what_comes_beside_late_legs_is_answered(debit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancels_that_are_answered_late_do_not_hold_up_others() {
    what_comes_beside_late_legs_is_answered(|| LegAction::Cancel).await;
}
