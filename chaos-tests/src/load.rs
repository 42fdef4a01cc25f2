//! Tills that sell, and remember what they were told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testkit::Tokens;
use tokio_util::task::TaskTracker;

use crate::{
    Cluster,
    cluster::{BUSINESS, client},
};

/// What a till was told in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Done.
    Completed,
    /// Not done, and never will be under this key.
    Declined,
    /// Its key was cancelled, by itself.
    Cancelled,
    /// Nothing: the till was still asking when the scenario ended, or heard what it must never hear.
    Nothing,
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
    /// What was asked, to be asked again.
    pub request: Value,
    /// What the till was told.
    pub told: Told,
    /// The very bytes of a definite answer to a redeem.
    pub answer: Option<Vec<u8>>,
    /// The longest that a single call took.
    pub slowest: Duration,
    /// Calls whose outcome the till had to ask for again.
    pub unknown: u32,
    /// What no till may ever hear.
    pub complaint: Option<String>,
}

/// Who sells what to whom.
pub struct Shop<'a> {
    /// Begins every key and every customer.
    pub name: &'a str,
    /// How many tills.
    pub tills: usize,
    /// Customers, and the reward of each.
    pub customers: &'a [(String, String)],
    /// How long a till waits for a connection that says nothing.
    pub patience: Duration,
}

/// Tills at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<Sale>>>,
}

/// How long a till lets the wallet work.
const DEADLINE_MS: u64 = 2_000;
/// A till that has asked for this long has found a saga that never ends.
const GIVES_UP: Duration = Duration::from_secs(90);
/// Pause before a till asks again.
const PAUSE: Duration = Duration::from_millis(100);
/// More than any customer has.
const TOO_MUCH: i64 = 1_000_000;

/// What one call came to.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    Told(Told, Option<Vec<u8>>),
    Unknown,
    Wrong(String),
}

/// Who sells.
#[derive(Clone)]
pub(crate) struct Till {
    shop: String,
    number: usize,
    wallets: Vec<String>,
    customers: Arc<Vec<(String, String)>>,
    client: reqwest::Client,
    tokens: Arc<Tokens>,
}

impl Load {
    /// Starts tills that sell through all orchestrators, until they are stopped.
    #[must_use]
    pub fn start(cluster: &Cluster, shop: &Shop<'_>) -> Self {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tracker = TaskTracker::new();
        let first = Till::first(cluster, shop);
        let tasks = (0..shop.tills).map(|number| {
            let till = Till { number, ..first.clone() };
            let (stop, answers) = (stop.clone(), answers.clone());
            tracker.spawn(async move {
                let mut sales = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    sales.push(till.sell(sales.len()).await);
                    answers.fetch_add(1, Ordering::Relaxed);
                }
                sales
            })
        });
        Self { tasks: tasks.collect(), stop, answers }
    }

    /// How many sales have ended so far.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// No new sales; every till ends the one it is at. All sales.
    ///
    /// # Panics
    /// When a till did.
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
    pub(crate) fn first(cluster: &Cluster, shop: &Shop<'_>) -> Self {
        Self {
            shop: shop.name.to_owned(),
            number: 0,
            wallets: cluster.wallets.iter().map(|node| node.url.clone()).collect(),
            customers: Arc::new(shop.customers.to_vec()),
            client: client(shop.patience),
            tokens: cluster.tokens.clone(),
        }
    }

    /// Asks one orchestrator until the answer is definite.
    pub(crate) async fn insist(&self, wallet: usize, sale: &Sale) -> Heard {
        let begun = Instant::now();
        loop {
            let heard = redeem(&self.client, &self.tokens, &self.wallets[wallet], sale).await;
            if heard != Heard::Unknown || begun.elapsed() > GIVES_UP {
                return heard;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One sale, asked for under one key until the answer is definite. One in eight tills gives up and cancels instead, and
    /// another takes every third of its sales back; one sale in five asks for more than there is, after its other
    /// legs may have been applied.
    async fn sell(&self, nth: usize) -> Sale {
        let mut sale = self.sale(nth);
        let (gives_up, takes_back) = (self.number % 8 == 7, self.number % 8 == 6 && nth % 3 == 2);
        let begun = Instant::now();
        loop {
            let wallet = &self.wallets[(self.number + nth + sale.unknown as usize) % self.wallets.len()];
            let called = Instant::now();
            let is_back = takes_back && sale.answer.is_some();
            let heard = if is_back || (gives_up && sale.unknown > 0) {
                self.cancel(wallet, &sale.key).await
            } else {
                redeem(&self.client, &self.tokens, wallet, &sale).await
            };
            sale.slowest = sale.slowest.max(called.elapsed());
            match heard {
                Heard::Told(told, answer) => {
                    sale.told = told;
                    sale.answer = answer;
                    if told == Told::Completed && takes_back {
                        continue;
                    }
                    return sale;
                }
                Heard::Wrong(complaint) => sale.complaint = Some(complaint),
                Heard::Unknown if begun.elapsed() > GIVES_UP => {
                    sale.complaint = Some(format!("no answer after {} calls", sale.unknown));
                }
                Heard::Unknown => {}
            }
            if sale.complaint.is_some() {
                sale.told = Told::Nothing;
                return sale;
            }
            sale.unknown += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The `nth` sale of this till.
    pub(crate) fn sale(&self, nth: usize) -> Sale {
        let (customer, reward) = &self.customers[(self.number + nth) % self.customers.len()];
        let key = format!("{}-{}-{nth}", self.shop, self.number);
        let (units, credit) = (1, if nth % 5 == 4 { TOO_MUCH } else { 1 });
        let mut tenders = vec![
            json!({ "type": "points", "points": units }),
            json!({ "type": "store_credit", "amount": credit }),
            json!({ "type": "digital_reward", "reward_id": reward }),
        ];
        // Not everybody names the tenders in the same order.
        tenders.rotate_left(nth % 3);
        if let Some(rest) = tenders.iter_mut().find(|tender| tender["type"] == "digital_reward") {
            rest["amount"] = json!(units);
        }
        let request = json!({
            "customer_id": customer, "order_id": key, "currency": "USD", "amount": 2 * units + credit,
            "deadline_ms": DEADLINE_MS, "tenders": tenders,
        });
        Sale {
            key,
            customer: customer.clone(),
            units,
            request,
            told: Told::Nothing,
            answer: None,
            slowest: Duration::ZERO,
            unknown: 0,
            complaint: None,
        }
    }

    async fn cancel(&self, wallet: &str, key: &str) -> Heard {
        let request = self
            .client
            .post(format!("{wallet}/api/v1/wallet/redemptions/cancel-by-key"))
            .bearer_auth(self.tokens.staff(BUSINESS, "pos"));
        let answer = request.json(&json!({ "idempotency_key": key })).send().await;
        match answer {
            Ok(answer) if answer.status() == 200 => Heard::Told(Told::Cancelled, None),
            _ => Heard::Unknown,
        }
    }
}

/// Asks for a sale. What is not a whole answer is none.
async fn redeem(client: &reqwest::Client, tokens: &Tokens, wallet: &str, sale: &Sale) -> Heard {
    let request =
        client.post(format!("{wallet}/api/v1/wallet/redeem")).bearer_auth(tokens.staff(BUSINESS, "pos"));
    let Ok(answer) = request.header("idempotency-key", &sale.key).json(&sale.request).send().await else {
        return Heard::Unknown;
    };
    let status = answer.status().as_u16();
    let Ok(body) = answer.bytes().await else { return Heard::Unknown };
    let Ok(said) = serde_json::from_slice::<Value>(&body) else { return Heard::Unknown };
    match status {
        200 | 201 => Heard::Told(Told::Completed, Some(body.to_vec())),
        422 => Heard::Told(Told::Declined, Some(body.to_vec())),
        409 => Heard::Told(Told::Cancelled, None),
        202 | 503 => Heard::Unknown,
        // Something failed, and the service says itself that it does not know what became of it.
        500 if said["outcome"] == "unknown" => Heard::Unknown,
        _ => Heard::Wrong(format!("status {status}: {said}")),
    }
}

/// Asks for a sale again that has its answer, and says what is wrong with what comes.
pub(crate) async fn replay(cluster: &Cluster, sale: &Sale) -> Option<String> {
    let first = sale.answer.as_ref()?;
    let wallet = &cluster.wallets[sale.key.len() % cluster.wallets.len()].url;
    match redeem(&cluster.client, &cluster.tokens, wallet, sale).await {
        Heard::Told(told, Some(again)) if told == sale.told && again == *first => None,
        Heard::Told(told, again) => Some(format!(
            "{} was told {:?} {}, and then {told:?} {}",
            sale.key,
            sale.told,
            String::from_utf8_lossy(first),
            String::from_utf8_lossy(&again.unwrap_or_default())
        )),
        Heard::Unknown => Some(format!("{}: no answer to a replay", sale.key)),
        Heard::Wrong(complaint) => Some(format!("{}: {complaint}", sale.key)),
    }
}
