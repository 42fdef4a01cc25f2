//! What tests of operators share: dead letters, and what an operator does with them.

use std::time::Duration;

use reqwest::Method;
use saga::{Config, SagaId, machine::Limits};
use serde_json::{Value, json};
use testkit::Answer;

use crate::support::{System, WITHIN, Wallet, quick};

/// An engine that gives up after a second, so that a dead letter takes no hour.
pub fn impatient() -> Config {
    Config {
        cancel_timeout: Duration::from_millis(300),
        cancel_retry: saga::Retry { first: Duration::from_millis(50), cap: Duration::from_millis(100) },
        limits: Limits { unreachable_for: 1_000, ..Config::default().limits },
        ..quick()
    }
}

impl System {
    /// All open dead letters, oldest first.
    pub async fn dead_letters(&self, wallet: &Wallet) -> Vec<Value> {
        let answer = self.ops(wallet, Method::GET, "/ops/dead-letters", None).await;
        answer.json()["data"].as_array().unwrap_or_else(|| panic!("{}", answer.text())).clone()
    }

    /// The first open dead letter, once there is one.
    pub async fn dead_letter(&self, wallet: &Wallet) -> Value {
        testkit::until(WITHIN, async || self.dead_letters(wallet).await.first().cloned()).await
    }

    /// Has an operator replay a dead letter.
    pub async fn replay(&self, wallet: &Wallet, letter: &Value) -> Answer {
        let body = json!({ "operation_id": "o", "reason": "it can be finished now" });
        self.ops(wallet, Method::POST, &of(letter, "replay"), Some(&body)).await
    }

    /// Has an operator replay every open dead letter, and compares what comes of each.
    pub async fn replay_all(&self, wallet: &Wallet, result: &str) {
        for letter in self.dead_letters(wallet).await {
            let replay = self.replay(wallet, &letter).await;
            assert_eq!(replay.json()["result"], result, "{}", replay.text());
        }
    }

    /// Has an operator settle a dead letter by hand.
    pub async fn resolve(&self, wallet: &Wallet, letter: &Value) -> Answer {
        let body = json!({ "operation_id": "r", "reason": "settled by hand", "reference": "CASE-7" });
        self.ops(wallet, Method::POST, &of(letter, "resolve"), Some(&body)).await
    }
}

/// The path of what can be done to a dead letter.
pub fn of(letter: &Value, action: &str) -> String {
    format!("/ops/dead-letters/{}/{action}", letter["dead_letter_id"].as_str().expect("an id"))
}

/// Loses the run of the only saga until it counts as poison.
pub async fn lose_until_parked(system: &System, wallet: &Wallet) {
    let id: uuid::Uuid = system.sql("SELECT saga_id FROM saga.saga").await;
    testkit::until(WITHIN, async || {
        wallet.engine.lose_run(SagaId(id));
        system.sql::<bool>("SELECT state = 4 FROM saga.saga").await
    })
    .await;
}
