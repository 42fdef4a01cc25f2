//! Readers of balances: from the wallet, which may show what it has cached, and from each tender's ledger.

use std::{sync::Arc, time::Duration};

use checker::format::Call;
use testkit::Tokens;

use crate::{
    business::BUSINESS,
    cluster::{Cluster, client},
    evidence::{Asked, Evidence},
    funding::TENDERS,
};

/// Between two reads of one reader.
const PAUSE: Duration = Duration::from_millis(40);
/// A read that takes longer is given up.
const LIMIT: Duration = Duration::from_secs(1);

/// Reads the wallets of all customers, and their accounts, over and over.
pub(crate) struct Reader {
    name: String,
    /// The orchestrator that it asks.
    wallet: String,
    tenders: Vec<String>,
    customers: Vec<String>,
    client: reqwest::Client,
    tokens: Arc<Tokens>,
    evidence: Evidence,
}

impl Reader {
    /// One that asks this orchestrator.
    pub(crate) fn new(cluster: &Cluster, wallet: usize, customers: &[(String, String)]) -> Self {
        Self {
            name: format!("reader-{}", wallet + 1),
            wallet: cluster.wallets[wallet].url.clone(),
            tenders: cluster.tenders.iter().map(|node| node.url.clone()).collect(),
            customers: customers.iter().map(|(customer, _)| customer.clone()).collect(),
            client: client(LIMIT),
            tokens: cluster.tokens.clone(),
            evidence: cluster.evidence.clone(),
        }
    }

    /// Reads until dropped.
    pub(crate) async fn run(self) {
        let (business, token) = (BUSINESS.to_owned(), self.tokens.staff(BUSINESS, "pos"));
        for nth in 0.. {
            let customer = &self.customers[nth % self.customers.len()];
            let call = Call::Balance { business: business.clone(), customer: customer.clone() };
            let asked = self.evidence.ask(&self.name, call);
            read_balance(&self.client, asked, &self.wallet, &token, customer).await;
            let (path, tender) = TENDERS[nth % TENDERS.len()];
            let call = Call::Read {
                business: business.clone(),
                customer: customer.clone(),
                tender: tender.to_owned(),
            };
            let asked = self.evidence.ask(&self.name, call);
            let url = format!("{}/api/v1/{path}/accounts/{customer}", self.tenders[nth % TENDERS.len()]);
            read(self.client.get(url).bearer_auth(&token), asked).await;
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Reads a customer's balance from an orchestrator.
pub(crate) async fn read_balance(
    client: &reqwest::Client,
    asked: Asked,
    wallet: &str,
    token: &str,
    customer: &str,
) {
    let url = format!("{wallet}/api/v1/wallet/balance?customer_id={customer}");
    read(client.get(url).bearer_auth(token), asked).await;
}

/// What is not a whole balance is none: a read leaves nothing behind.
async fn read(request: reqwest::RequestBuilder, asked: Asked) {
    match request.send().await {
        Ok(answer) if answer.status() == 200 => match answer.bytes().await {
            Ok(body) => asked.ok(200, &body),
            Err(_) => asked.fail(),
        },
        _ => asked.fail(),
    }
}
