//! Tills that sell, and write down what they were told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use checker::format::{Call, Leg};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use testkit::Tokens;
use tokio_util::task::TaskTracker;

use crate::{
    Cluster, Evidence,
    cluster::{BUSINESS, client},
    evidence::{Asked, CONTACT, canary},
    readers::read_balance,
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
    /// What was asked of each tender, in this order.
    pub legs: Vec<Leg>,
    /// What was asked, to be asked again.
    pub request: Value,
    /// What the till was told.
    pub told: Told,
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

/// One sale in so many is followed by a look at the balance, through the other orchestrator.
const LOOKS: usize = 3;
/// Answers that are asked for again at the same time.
const AT_ONCE: usize = 16;

/// What one call came to.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    Told(Told),
    Unknown,
    Wrong(String),
}

/// Who sells.
#[derive(Clone)]
pub(crate) struct Till {
    business: &'static str,
    evidence: Evidence,
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
        Self::start_for(cluster, BUSINESS, shop)
    }

    /// The same, for a business.
    #[must_use]
    pub fn start_for(cluster: &Cluster, business: &'static str, shop: &Shop<'_>) -> Self {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tracker = TaskTracker::new();
        let first = Till::first(cluster, business, shop);
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
    pub(crate) fn first(cluster: &Cluster, business: &'static str, shop: &Shop<'_>) -> Self {
        Self {
            business,
            evidence: cluster.evidence.clone(),
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
            let heard = self.redeem(&self.wallets[wallet], sale).await;
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
            let place = self.number + nth + sale.unknown as usize;
            let wallet = &self.wallets[place % self.wallets.len()];
            let called = Instant::now();
            let is_back = takes_back && sale.told == Told::Completed;
            let heard = if is_back || (gives_up && sale.unknown > 0) {
                self.cancel(wallet, &sale.key).await
            } else {
                self.redeem(wallet, &sale).await
            };
            sale.slowest = sale.slowest.max(called.elapsed());
            match heard {
                Heard::Told(told) => {
                    sale.told = told;
                    if told == Told::Completed && nth.is_multiple_of(LOOKS) {
                        self.look(&self.wallets[(place + 1) % self.wallets.len()], &sale.customer).await;
                    }
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
        let credit = match nth % 5 {
            4 => TOO_MUCH,
            // So that something goes on while store credit is away.
            2 => 0,
            _ => 1,
        };
        self.sale_of(nth, 1, credit)
    }

    /// The same, of so many units of each tender, and so many of store credit; of none, that is left out.
    pub(crate) fn sale_of(&self, nth: usize, units: i64, credit: i64) -> Sale {
        let (customer, reward) = &self.customers[(self.number + nth) % self.customers.len()];
        let key = format!("{}-{}-{nth}", self.shop, self.number);
        let mut legs = [("points", units), ("store_credit", credit), ("digital_reward", units)]
            .map(|(tender, units)| Leg { tender: tender.to_owned(), units });
        // Not everybody names the tenders in the same order.
        legs.rotate_left(nth % 3);
        let legs: Vec<Leg> = legs.into_iter().filter(|leg| leg.units > 0).collect();
        let tender = |Leg { tender, units }: &Leg| match tender.as_str() {
            "points" => json!({ "type": tender, "points": units }),
            "digital_reward" => json!({ "type": tender, "amount": units, "reward_id": reward }),
            _ => json!({ "type": tender, "amount": units }),
        };
        let request = json!({
            "customer_id": customer, "order_id": format!("{}.{key}", canary(self.business)), "currency": "USD",
            "amount": 2 * units + credit, "deadline_ms": DEADLINE_MS, "metadata": { "contact": CONTACT },
            "tenders": legs.iter().map(tender).collect::<Vec<_>>(),
        });
        Sale {
            key,
            customer: customer.clone(),
            legs,
            request,
            told: Told::Nothing,
            slowest: Duration::ZERO,
            unknown: 0,
            complaint: None,
        }
    }

    /// Asks again for sales that have their answers. What comes has to be the same; the checker sees to that.
    pub(crate) async fn replay(&self, sales: impl Iterator<Item = &Sale>) {
        let again =
            sales.enumerate().map(|(nth, sale)| self.redeem(&self.wallets[nth % self.wallets.len()], sale));
        futures_util::stream::iter(again).buffer_unordered(AT_ONCE).for_each(async |_| ()).await;
    }

    fn ask(&self, call: Call) -> Asked {
        self.evidence.ask(&format!("{}-{}-{}", self.business, self.shop, self.number), call)
    }

    async fn look(&self, wallet: &str, customer: &str) {
        let call = Call::Balance { business: self.business.to_owned(), customer: customer.to_owned() };
        let token = self.tokens.staff(self.business, "pos");
        read_balance(&self.client, self.ask(call), wallet, &token, customer).await;
    }

    async fn cancel(&self, wallet: &str, key: &str) -> Heard {
        let request = self
            .client
            .post(format!("{wallet}/api/v1/wallet/redemptions/cancel-by-key"))
            .bearer_auth(self.tokens.staff(self.business, "pos"));
        let asked = self.ask(Call::Cancel { business: self.business.to_owned(), key: key.to_owned() });
        match whole(request.json(&json!({ "idempotency_key": key }))).await {
            Some((200, body)) => {
                asked.ok(200, &body);
                Heard::Told(Told::Cancelled)
            }
            _ => {
                asked.info();
                Heard::Unknown
            }
        }
    }

    /// Asks for a sale. What is not a whole answer is none.
    async fn redeem(&self, wallet: &str, sale: &Sale) -> Heard {
        let request = self
            .client
            .post(format!("{wallet}/api/v1/wallet/redeem"))
            .bearer_auth(self.tokens.staff(self.business, "pos"))
            .header("idempotency-key", &sale.key);
        let asked = self.ask(Call::Redeem {
            business: self.business.to_owned(),
            key: sale.key.clone(),
            customer: sale.customer.clone(),
            legs: sale.legs.clone(),
        });
        let answer = whole(request.json(&sale.request)).await;
        let said = answer
            .and_then(|(status, body)| Some((status, serde_json::from_slice::<Value>(&body).ok()?, body)));
        let Some((status, said, body)) = said else {
            asked.info();
            return Heard::Unknown;
        };
        let told = match status {
            200 | 201 => Told::Completed,
            422 => Told::Declined,
            409 => Told::Cancelled,
            _ => {
                asked.info();
                return not_definite(status, &said);
            }
        };
        asked.ok(status, &body);
        Heard::Told(told)
    }
}

/// A whole answer: its status and its body.
async fn whole(request: reqwest::RequestBuilder) -> Option<(u16, Vec<u8>)> {
    let answer = request.send().await.ok()?;
    let status = answer.status().as_u16();
    Some((status, answer.bytes().await.ok()?.to_vec()))
}

fn not_definite(status: u16, said: &Value) -> Heard {
    match status {
        202 | 503 => Heard::Unknown,
        // Something failed, and the service says itself that it does not know what became of it.
        500 if said["outcome"] == "unknown" => Heard::Unknown,
        _ => Heard::Wrong(format!("status {status}: {said}")),
    }
}
