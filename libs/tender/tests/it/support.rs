//! Rules for tests, commands in short, and a client that speaks JSON.

use api::{
    BusinessId, LegsId,
    derive::public_operation_id,
    legs::{Forward, LegAnswer, LegKey, Mode, Take},
};
use chrono::{DateTime, Utc};
use money::Asset;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use service::openapi::About;
use tender::{
    command::{AccountKey, Action, Answer, Command, Credit, ForwardLeg, Outcome},
    executor::{ExecuteError, Executor},
    rules::Rules,
    testing::{self, plan},
};
use testkit::{TestTender, Tokens};
use uuid::Uuid;

/// A tender of points, as plain as can be.
#[derive(Debug)]
pub struct PointRules;

impl Rules for PointRules {
    fn about(&self) -> About {
        About { title: "Test", description: "A tender of tests." }
    }

    fn name(&self) -> &'static str {
        "points"
    }

    fn path(&self) -> &'static str {
        "points"
    }

    fn accepts(&self, asset: Asset) -> bool {
        asset == Asset::Points
    }

    fn credit_kinds(&self) -> &'static [&'static str] {
        &["earn", "bonus"]
    }

    fn till_kinds(&self) -> &'static [&'static str] {
        &["earn"]
    }
}

/// A tender of money.
#[derive(Debug)]
pub struct MoneyRules;

impl Rules for MoneyRules {
    fn about(&self) -> About {
        About { title: "Test", description: "A tender of tests." }
    }

    fn name(&self) -> &'static str {
        "store_credit"
    }

    fn path(&self) -> &'static str {
        "store-credits"
    }

    fn accepts(&self, asset: Asset) -> bool {
        asset.currency().is_some()
    }

    fn credit_kinds(&self) -> &'static [&'static str] {
        &["issue"]
    }
}

pub fn business() -> BusinessId {
    BusinessId::try_from("demo".to_owned()).unwrap()
}

pub fn account(customer: &str) -> AccountKey {
    AccountKey { business_id: business(), owner: customer.to_owned(), asset: Asset::Points }
}

pub fn legs_id(key: &str) -> LegsId {
    LegsId::derive(&business(), "test", "", key)
}

fn leg_key(key: &str) -> LegKey {
    LegKey { legs_id: legs_id(key), leg: 0 }
}

pub fn forward(customer: &str, key: &str, plan: Forward) -> Command {
    let forward = testing::forward(&account(customer), leg_key(key), plan);
    let forward = ForwardLeg { epoch: Some(1), ..forward };
    testing::leg(account(customer), leg_key(key), Action::Forward(forward))
}

pub fn debit(customer: &str, key: &str, amount: i64) -> Command {
    forward(customer, key, plan(Mode::Debit, amount, Take::Exact))
}

pub fn cancel(customer: &str, key: &str) -> Command {
    testing::leg(account(customer), leg_key(key), Action::Cancel(leg_key(key)))
}

pub fn credit(customer: &str, key: &str, amount: i64, expires_at: Option<DateTime<Utc>>) -> Command {
    let credit = Credit {
        expires_at,
        customer_id: Some(customer.to_owned()),
        details: json!({ "actor": "test" }),
        ..testing::credit(Uuid::now_v7(), &format!("ref-{key}"), amount)
    };
    Command {
        operation_id: public_operation_id(&business(), customer, "credit", key),
        account: account(customer),
        action: Action::Credit(credit),
    }
}

/// Runs a command that is expected to have an answer.
pub async fn run(executor: &Executor, command: Command) -> Answer {
    match executor.submit(command).await.expect("a reply").outcome {
        Outcome::Recorded(answer) | Outcome::Replayed(answer) => answer,
        Outcome::Rejected(reason) => panic!("rejected: {reason:?}"),
    }
}

/// Runs a command until there is a reply, as the wallet does.
pub async fn insist(executor: &Executor, command: Command) -> Answer {
    for _ in 0..200 {
        match executor.submit(command.clone()).await {
            Ok(reply) => match reply.outcome {
                Outcome::Recorded(answer) | Outcome::Replayed(answer) => return answer,
                Outcome::Rejected(reason) => panic!("rejected: {reason:?}"),
            },
            Err(ExecuteError::Failed) => panic!("failed"),
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(25)).await,
        }
    }
    panic!("no reply after many tries");
}

pub fn leg_answer(answer: &Answer) -> LegAnswer {
    serde_json::from_str(&answer.body).unwrap()
}

/// An HTTP answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: StatusCode,
    pub is_replayed: bool,
    pub text: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// A tender with a client.
pub struct Server {
    pub tender: TestTender,
    pub tokens: Tokens,
    client: reqwest::Client,
}

impl Server {
    pub async fn points() -> Self {
        Self::start(schema::Database::Points, std::sync::Arc::new(PointRules)).await
    }

    pub async fn money() -> Self {
        Self::start(schema::Database::StoreCredit, std::sync::Arc::new(MoneyRules)).await
    }

    async fn start(database: schema::Database, rules: std::sync::Arc<dyn Rules>) -> Self {
        let tokens = Tokens::new();
        let tender = TestTender::start(database, rules, &tokens).await;
        Self { tender, tokens, client: reqwest::Client::new() }
    }

    pub fn executor(&self) -> &Executor {
        self.tender.app.executor()
    }

    pub async fn get(&self, role: &str, path: &str) -> Reply {
        let token = self.tokens.staff("demo", role);
        self.send(Method::GET, &format!("{}/api/v1{path}", self.tender.public_url), &token, &[], None).await
    }

    pub async fn get_as_customer(&self, customer: &str, path: &str) -> Reply {
        let token = self.tokens.customer("demo", customer);
        self.send(Method::GET, &format!("{}/api/v1{path}", self.tender.public_url), &token, &[], None).await
    }

    pub async fn post(&self, role: &str, path: &str, key: &str, body: &Value) -> Reply {
        let token = self.tokens.staff("demo", role);
        let url = format!("{}/api/v1{path}", self.tender.public_url);
        self.send(Method::POST, &url, &token, &[("idempotency-key", key)], Some(body.to_string())).await
    }

    pub async fn internal(&self, method: Method, path: &str, body: Option<Value>) -> Reply {
        let url = format!("{}/internal/v1{path}", self.tender.internal_url);
        self.send(method, &url, &self.tokens.peer(), &[], body.map(|body| body.to_string())).await
    }

    pub async fn send(
        &self,
        method: Method,
        url: &str,
        token: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> Reply {
        let mut request = self.client.request(method, url).bearer_auth(token);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let response = request.send().await.expect("an answer");
        let is_replayed = response.headers().get("idempotent-replayed").is_some_and(|value| value == "true");
        Reply { status: response.status(), is_replayed, text: response.text().await.expect("a body") }
    }
}
