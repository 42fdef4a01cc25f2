//! Clients of live balances, which write down what they hear.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use checker::format::Heard;
use serde_json::Value;
use testkit::Tokens;
use tokio::time::{sleep, timeout};

use crate::{cluster::Cluster, evidence::Evidence};

/// A connection has so long to begin.
const BEGINS: Duration = Duration::from_secs(2);
/// Streams have a heartbeat of 15 s: one that says nothing for longer is dead.
const SILENCE: Duration = Duration::from_secs(20);
/// Before it connects again.
const PAUSE: Duration = Duration::from_millis(100);

/// One client of one customer's stream at one orchestrator, which comes back whenever it is cut off.
pub(crate) struct Subscriber {
    name: String,
    business: &'static str,
    customer: String,
    url: String,
    client: reqwest::Client,
    tokens: Arc<Tokens>,
    evidence: Evidence,
    versions: Versions,
}

/// The version of each tender that a subscriber was told last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Versions(Arc<Mutex<HashMap<String, i64>>>);

impl Subscriber {
    pub(crate) fn new(cluster: &Cluster, wallet: usize, business: &'static str, customer: &str) -> Self {
        let node = &cluster.wallets[wallet];
        let client = reqwest::Client::builder().no_proxy().connect_timeout(BEGINS).build().expect("a client");
        Self {
            name: format!("{business}/{customer} at {}", node.name),
            business,
            customer: customer.to_owned(),
            url: format!("{}/api/v1/wallet/stream?customer_id={customer}", node.url),
            client,
            tokens: cluster.tokens.clone(),
            evidence: cluster.evidence.clone(),
            versions: Versions::default(),
        }
    }

    /// What it was told last, as it goes.
    pub(crate) fn versions(&self) -> Versions {
        self.versions.clone()
    }

    /// Listens until dropped.
    pub(crate) async fn run(self) {
        loop {
            let request = self.client.get(&self.url).bearer_auth(self.tokens.staff(self.business, "pos"));
            if let Ok(Ok(answer)) = timeout(BEGINS, request.send()).await
                && answer.status() == 200
            {
                self.listen(answer).await;
            }
            sleep(PAUSE).await;
        }
    }

    async fn listen(&self, mut answer: reqwest::Response) {
        let connection = self.evidence.connection();
        let mut text = String::new();
        while let Ok(Ok(Some(bytes))) = timeout(SILENCE, answer.chunk()).await {
            text.push_str(&String::from_utf8_lossy(&bytes));
            while let Some((event, rest)) = text.split_once("\n\n") {
                let data = event.lines().find_map(|line| line.strip_prefix("data: ")).map(str::to_owned);
                text = rest.to_owned();
                if let Some(message) = data {
                    self.versions.note(&message);
                    self.write(connection, Some(message));
                }
            }
        }
        self.write(connection, None);
    }

    fn write(&self, connection: u64, message: Option<String>) {
        self.evidence.heard(&Heard {
            at: self.evidence.now(),
            subscriber: self.name.clone(),
            connection,
            business: self.business.to_owned(),
            customer: self.customer.clone(),
            message,
        });
    }
}

impl Versions {
    fn note(&self, message: &str) {
        let said: Value = serde_json::from_str(message).unwrap_or(Value::Null);
        let lines = said["balances"].as_array().cloned().unwrap_or_else(|| vec![said.clone()]);
        let mut versions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for line in lines {
            if let (Some(tender), Some(version)) = (line["tender"].as_str(), line["version"].as_i64()) {
                versions.insert(tender.to_owned(), version);
            }
        }
    }

    /// Whether it was told this version of a tender, or a later one.
    pub(crate) fn has(&self, tender: &str, version: i64) -> bool {
        let versions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        versions.get(tender).is_some_and(|known| *known >= version)
    }
}
