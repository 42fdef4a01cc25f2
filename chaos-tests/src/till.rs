//! A till: how it asks, and what it makes of the answers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use checker::format::Call;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use testkit::Tokens;
use tokio::time::timeout;

use crate::{
    cluster::{Cluster, client},
    evidence::{Asked, Evidence},
    readers::read_balance,
    sale::{Sale, Told, Wanted},
};

/// How long a till lets the wallet work.
const DEADLINE_MS: u64 = 2_000;
/// A till that has asked for this long has found a saga that never ends.
pub(crate) const GIVES_UP: Duration = Duration::from_secs(90);
/// Pause before a till asks again.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);
/// Answers that are asked for again at the same time.
const AT_ONCE: usize = 16;

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

/// What one call came to.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    Told(Told),
    Unknown,
    Wrong(String),
}

/// What becomes of what is set aside.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// So much is taken, in minor units.
    Capture(i64),
    /// All of it is free again.
    Void,
}

/// Who sells.
#[derive(Clone)]
pub(crate) struct Till {
    business: &'static str,
    evidence: Evidence,
    shop: String,
    pub(crate) number: usize,
    pub(crate) wallets: Vec<String>,
    customers: Arc<Vec<(String, String)>>,
    client: reqwest::Client,
    tokens: Arc<Tokens>,
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

    /// Another till of the same shop.
    pub(crate) fn as_number(&self, number: usize) -> Self {
        Self { number, ..self.clone() }
    }

    /// The `nth` sale of this till, of so many units of points and of a reward, and so many of store credit.
    pub(crate) fn sale_of(&self, nth: usize, units: i64, credit: i64) -> Sale {
        let wanted = Wanted {
            business: self.business,
            key: format!("{}-{}-{nth}", self.shop, self.number),
            from: &self.customers[(self.number + nth) % self.customers.len()],
            units,
            credit,
            turned: nth,
            deadline_ms: DEADLINE_MS,
        };
        wanted.sale()
    }

    /// The same as a sale of this terminal.
    pub(crate) fn numbered(&self, sale: Sale, nth: usize) -> Sale {
        sale.at(&format!("till-{}", self.number), nth)
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

    /// Asks again for sales that have their answers. What comes has to be the same; the checker sees to that.
    pub(crate) async fn replay(&self, sales: impl Iterator<Item = &Sale>) {
        let again =
            sales.enumerate().map(|(nth, sale)| self.redeem(&self.wallets[nth % self.wallets.len()], sale));
        futures_util::stream::iter(again).buffer_unordered(AT_ONCE).for_each(async |_| ()).await;
    }

    /// Looks at a customer's balance.
    pub(crate) async fn look(&self, wallet: &str, customer: &str) {
        let call = Call::Balance { business: self.business.to_owned(), customer: customer.to_owned() };
        let token = self.tokens.staff(self.business, "pos");
        read_balance(&self.client, self.ask(call), wallet, &token, customer).await;
    }

    pub(crate) async fn cancel(&self, wallet: &str, key: &str) -> Heard {
        let request = self.post(&format!("{wallet}/api/v1/wallet/redemptions/cancel-by-key"));
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
    pub(crate) async fn redeem(&self, wallet: &str, sale: &Sale) -> Heard {
        self.redeem_within(wallet, sale, None).await.0
    }

    /// The same, and the redemption's id; the till hangs up after `limit`.
    pub(crate) async fn redeem_within(
        &self,
        wallet: &str,
        sale: &Sale,
        limit: Option<Duration>,
    ) -> (Heard, Option<String>) {
        let request = self.post(&format!("{wallet}/api/v1/wallet/redeem"));
        let request = request.header("idempotency-key", &sale.key).json(&sale.request);
        let asked = self.ask(Call::Redeem {
            business: self.business.to_owned(),
            key: sale.key.clone(),
            customer: sale.customer.clone(),
            legs: sale.legs.clone(),
            hold: sale.is_hold(),
            place: sale.place(),
        });
        let answer = match limit {
            Some(limit) => timeout(limit, whole(request)).await.ok().flatten(),
            None => whole(request).await,
        };
        let Some((status, said, body)) = answer.and_then(read) else {
            asked.info();
            return (Heard::Unknown, None);
        };
        let told = match (status, said["code"].as_str()) {
            (200 | 201, _) => Told::Completed,
            (409, Some("key_cancelled")) => Told::Cancelled,
            (422, _) | (409, Some("duplicate_reference")) => Told::Declined,
            _ => {
                asked.info();
                return (not_definite(status, &said), None);
            }
        };
        asked.ok(status, &body);
        (Heard::Told(told), said["id"].as_str().map(str::to_owned))
    }

    /// Takes what a redemption has set aside, or frees it. A refusal says that there is nothing set aside any more.
    pub(crate) async fn settle(&self, wallet: &str, sale: &Sale, redemption: &str, step: Step) -> Heard {
        let business = self.business.to_owned();
        let (of, key) = (sale.key.clone(), format!("{}-settled", sale.key));
        let (action, body, call) = match step {
            Step::Capture(amount) => (
                "capture",
                json!({ "amount": amount }),
                Call::Capture { business, key: key.clone(), of, amount },
            ),
            Step::Void => ("void", json!({}), Call::Void { business, key: key.clone(), of }),
        };
        let request = self.post(&format!("{wallet}/api/v1/wallet/redemptions/{redemption}/{action}"));
        let asked = self.ask(call);
        let answer = whole(request.header("idempotency-key", key).json(&body)).await;
        let Some((status, said, body)) = answer.and_then(read) else {
            asked.info();
            return Heard::Unknown;
        };
        let told = match status {
            200 | 201 => Told::Completed,
            404 | 409 | 422 => Told::Declined,
            _ => {
                asked.info();
                return not_definite(status, &said);
            }
        };
        asked.ok(status, &body);
        Heard::Told(told)
    }

    fn post(&self, url: &str) -> reqwest::RequestBuilder {
        self.client.post(url).bearer_auth(self.tokens.staff(self.business, "pos"))
    }

    fn ask(&self, call: Call) -> Asked {
        self.evidence.ask(&format!("{}-{}-{}", self.business, self.shop, self.number), call)
    }
}

/// A whole answer: its status and its body.
async fn whole(request: reqwest::RequestBuilder) -> Option<(u16, Vec<u8>)> {
    let answer = request.send().await.ok()?;
    let status = answer.status().as_u16();
    Some((status, answer.bytes().await.ok()?.to_vec()))
}

/// An answer whose body is JSON.
fn read((status, body): (u16, Vec<u8>)) -> Option<(u16, Value, Vec<u8>)> {
    Some((status, serde_json::from_slice(&body).ok()?, body))
}

fn not_definite(status: u16, said: &Value) -> Heard {
    match status {
        202 | 503 => Heard::Unknown,
        // Something failed, and the service says itself that it does not know what became of it.
        500 if said["outcome"] == "unknown" => Heard::Unknown,
        _ => Heard::Wrong(format!("status {status}: {said}")),
    }
}
