//! Tills that sell, and remember what they were told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testkit::Tokens;
use tokio_util::task::TaskTracker;

use crate::{Cluster, cluster::BUSINESS};

/// What a till was told in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Done.
    Completed,
    /// Not done, and never will be under this key.
    Declined,
    /// Its key was cancelled, by itself.
    Cancelled,
}

/// One sale of one till.
#[derive(Debug, Clone)]
pub struct Sale {
    /// Its key.
    pub key: String,
    /// Whose wallet paid.
    pub customer: String,
    /// Units taken from each tender, if it was completed.
    pub units: i64,
    /// What the till was told.
    pub told: Told,
    /// The longest that a single call took.
    pub slowest: Duration,
    /// Calls whose outcome the till had to ask for again.
    pub unknown: u32,
}

/// Tills at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Vec<Sale>>>,
}

/// How long a till waits for one call.
const DEADLINE_MS: u64 = 2_000;
/// A till that has asked this often has found a saga that never ends.
const ASKS: u32 = 120;

struct Till {
    number: usize,
    wallets: Vec<String>,
    customers: Vec<(String, String)>,
    client: reqwest::Client,
    tokens: Arc<Tokens>,
}

impl Load {
    /// Starts `tills` that sell to `customers` (id, reward) through all orchestrators, until they are stopped.
    #[must_use]
    pub fn start(
        cluster: &Cluster,
        tokens: &Arc<Tokens>,
        customers: &[(String, String)],
        tills: usize,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let wallets: Vec<String> = cluster.wallets.iter().map(|(url, _)| url.clone()).collect();
        let tracker = TaskTracker::new();
        let tasks = (0..tills).map(|number| {
            let till = Till {
                number,
                wallets: wallets.clone(),
                customers: customers.to_vec(),
                client: cluster.client.clone(),
                tokens: tokens.clone(),
            };
            let stop = stop.clone();
            tracker.spawn(async move {
                let mut sales = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    sales.push(till.sell(sales.len()).await);
                }
                sales
            })
        });
        Self { tasks: tasks.collect(), stop }
    }

    /// No new sales; every till ends the one it is at. All sales.
    ///
    /// # Panics
    /// When a till did: what it was told contradicts itself.
    pub async fn finish(self) -> Vec<Sale> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sales = Vec::new();
        for task in self.tasks {
            sales.extend(task.await.expect("a till"));
        }
        sales
    }
}

impl Till {
    /// One sale, asked for under one key until the answer is definite. One in eight tills gives up and cancels instead.
    async fn sell(&self, nth: usize) -> Sale {
        let (customer, reward) = &self.customers[(self.number + nth) % self.customers.len()];
        let key = format!("till{}-{nth}", self.number);
        let units = 1;
        let body = json!({
            "customer_id": customer, "order_id": key, "currency": "USD", "amount": 3 * units, "deadline_ms": DEADLINE_MS,
            "tenders": [{ "type": "points", "points": units }, { "type": "store_credit", "amount": units },
                        { "type": "digital_reward", "reward_id": reward }],
        });
        let gives_up = self.number % 8 == 7;
        let mut sale = Sale {
            key,
            customer: customer.clone(),
            units,
            told: Told::Declined,
            slowest: Duration::ZERO,
            unknown: 0,
        };
        loop {
            let wallet = &self.wallets[(self.number + nth + sale.unknown as usize) % self.wallets.len()];
            let began = Instant::now();
            let answer = if gives_up && sale.unknown > 0 {
                self.cancel(wallet, &sale.key).await
            } else {
                self.redeem(wallet, &sale.key, &body).await
            };
            sale.slowest = sale.slowest.max(began.elapsed());
            if let Some(told) = answer {
                sale.told = told;
                return sale;
            }
            sale.unknown += 1;
            assert!(sale.unknown < ASKS, "{} has no answer after {ASKS} calls", sale.key);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// `None`: unknown, ask again.
    async fn redeem(&self, wallet: &str, key: &str, body: &Value) -> Option<Told> {
        let request = self
            .client
            .post(format!("{wallet}/api/v1/wallet/redeem"))
            .bearer_auth(self.tokens.staff(BUSINESS, "pos"));
        let answer = request.header("idempotency-key", key).json(body).send().await.ok()?;
        match answer.status().as_u16() {
            200 | 201 => Some(Told::Completed),
            422 => Some(Told::Declined),
            409 => Some(Told::Cancelled),
            202 | 503 => None,
            status => panic!("{key}: status {status}: {}", answer.text().await.unwrap_or_default()),
        }
    }

    async fn cancel(&self, wallet: &str, key: &str) -> Option<Told> {
        let request = self
            .client
            .post(format!("{wallet}/api/v1/wallet/redemptions/cancel-by-key"))
            .bearer_auth(self.tokens.staff(BUSINESS, "pos"));
        let answer = request.json(&json!({ "idempotency_key": key })).send().await.ok()?;
        (answer.status() == 200).then_some(Told::Cancelled)
    }
}
