//! Rewards and their codes, over the real router and a real database.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;

use digital_rewards::{CodeIssuer, DigitalRewards, Pepper, Peppers, RecordError, routes};
use reqwest::StatusCode;
use serde_json::{Value, json};
use service::{auth::KeyPair, config::AppEnv};
use sqlx::{Connection, PgConnection};
use testkit::{TestTender, Tokens};

struct Server {
    tender: TestTender,
    tokens: Tokens,
    client: reqwest::Client,
}

impl Server {
    async fn start() -> Self {
        Self::start_with("a pepper for tests").await
    }

    async fn start_with(peppers: &str) -> Self {
        let tokens = Tokens::new();
        let peppers = Peppers::read(peppers, AppEnv::Production).unwrap();
        let finish = |app: tender::App| {
            let issuer = CodeIssuer::new(app.pool().clone(), peppers.clone());
            let more = routes(app.pool().clone(), peppers.clone());
            (app.with_issuer(Arc::new(issuer)), more)
        };
        let database = schema::Database::DigitalRewards;
        let tender = TestTender::start_with(database, Arc::new(DigitalRewards), &tokens, finish).await;
        Self { tender, tokens, client: reqwest::Client::new() }
    }

    async fn issue(&self, key: &str, body: &Value) -> (StatusCode, String) {
        let request = self
            .client
            .post(format!("{}/api/v1/digital-rewards/credits", self.tender.public_url))
            .bearer_auth(self.tokens.staff("demo", "manager"))
            .header("idempotency-key", key)
            .json(body);
        let response = request.send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    }

    async fn internal(&self, method: reqwest::Method, path: &str, body: &Value) -> Value {
        let request = self
            .client
            .request(method, format!("{}/internal/v1{path}", self.tender.internal_url))
            .bearer_auth(self.tokens.peer())
            .json(body);
        request.send().await.unwrap().json().await.unwrap()
    }

    async fn resolve(&self, business: &str, customer: &str, by: Value) -> Value {
        let mut body = json!({ "business_id": business, "customer_id": customer });
        body.as_object_mut().unwrap().extend(by.as_object().unwrap().clone());
        self.internal(reqwest::Method::POST, "/rewards/resolve", &body).await
    }
}

fn reward(customer: Option<&str>, amount: i64, reference: &str) -> Value {
    let mut body = json!({ "amount": amount, "currency": "USD", "kind": "issue", "funding": "paid",
                           "reference": reference });
    if let Some(customer) = customer {
        body["customer_id"] = json!(customer);
    }
    body
}

#[tokio::test]
async fn a_code_is_shown_to_its_own_request_and_stored_nowhere() {
    let server = Server::start().await;
    let (status, first) = server.issue("k1", &reward(Some("cus"), 2250, "r1")).await;
    assert_eq!(status, 201, "{first}");
    let made: Value = serde_json::from_str(&first).unwrap();
    let code = made["code"].as_str().unwrap();
    assert!(code.len() >= 16, "{code}");
    assert_eq!(made["lot"]["reward_id"], made["reward_id"]);
    assert_eq!(server.issue("k1", &reward(Some("cus"), 2250, "r1")).await, (StatusCode::OK, first.clone()));

    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'tender'",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    assert!(tables.len() >= 8);
    for table in tables {
        let found = format!("SELECT count(*) FROM tender.{table} t WHERE t::text LIKE '%' || $1 || '%'");
        let count: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(found)).bind(code).fetch_one(&mut admin).await.unwrap();
        assert_eq!(count, 0, "{table} has the code");
    }
}

#[tokio::test]
async fn every_reward_that_cannot_be_used_is_one_answer() {
    let server = Server::start().await;
    let issue = async |key: &str, body: Value| -> Value {
        serde_json::from_str(&server.issue(key, &body).await.1).unwrap()
    };
    let own = issue("k1", reward(Some("cus"), 100, "r1")).await;
    let code = json!({ "code": own["code"] });
    let id = json!({ "reward_id": own["reward_id"] });
    for by in [&code, &id] {
        let resolved = server.resolve("demo", "cus", by.clone()).await;
        assert_eq!(resolved["reward_id"], own["reward_id"], "{resolved}");
        assert_eq!((&resolved["owner"], &resolved["available"]), (&json!("cus"), &json!(100)));
        assert_eq!(resolved["last_four"], own["code"].as_str().unwrap()[16..]);
    }

    let mut expiring = reward(Some("cus"), 100, "r2");
    expiring["expires_at"] = json!("2999-01-01T00:00:00Z");
    let expired = issue("k2", expiring).await;
    let blocked = issue("k3", reward(Some("cus"), 100, "r3")).await;
    let spent = issue("k4", reward(Some("cus"), 100, "r4")).await;
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    for (statement, reward) in [
        ("UPDATE tender.lot SET expires_at = now() WHERE reward_id = $1", &expired),
        ("UPDATE tender.reward_code SET blocked = true WHERE reward_id = $1", &blocked),
    ] {
        let id: uuid::Uuid = reward["reward_id"].as_str().unwrap().parse().unwrap();
        let done = sqlx::query(statement).bind(id).execute(&mut admin).await.unwrap();
        assert_eq!(done.rows_affected(), 1, "{statement}");
    }
    assert_eq!(spend(&server, "cus", &spent, 100).await["state"], "applied");

    let refused = [
        server.resolve("demo", "other", code.clone()).await,
        server.resolve("another", "cus", code.clone()).await,
        server.resolve("another", "cus", id.clone()).await,
        server.resolve("demo", "cus", json!({ "code": "00000000000000000000" })).await,
        server.resolve("demo", "cus", json!({ "code": "no code" })).await,
        server.resolve("demo", "cus", json!({ "reward_id": uuid::Uuid::nil() })).await,
        server.resolve("demo", "cus", json!({ "code": expired["code"] })).await,
        server.resolve("demo", "cus", json!({ "code": blocked["code"] })).await,
        server.resolve("demo", "cus", json!({ "reward_id": spent["reward_id"] })).await,
    ];
    for mut answer in refused {
        answer.as_object_mut().unwrap().remove("trace_id");
        assert_eq!(answer["code"], "reward_not_usable");
        assert_eq!(answer["detail"], "This reward cannot be used.");
    }
    for by in [json!({}), json!({ "code": "x", "reward_id": own["reward_id"] })] {
        assert_eq!(server.resolve("demo", "cus", by).await["code"], "invalid_field");
    }
}

async fn spend(server: &Server, owner: &str, reward: &Value, amount: i64) -> Value {
    let body = json!({
        "account": { "business_id": "demo", "customer_id": owner, "asset": "USD" },
        "forward": { "mode": "debit", "amount": amount, "take": "exact", "reward_id": reward["reward_id"] },
    });
    let path = format!("/legs/{}/0", uuid::Uuid::new_v4());
    server.internal(reqwest::Method::PUT, &path, &body).await
}

#[tokio::test]
async fn a_leg_takes_from_its_reward_only() {
    let server = Server::start().await;
    let one: Value =
        serde_json::from_str(&server.issue("k1", &reward(Some("cus"), 100, "r1")).await.1).unwrap();
    let two: Value =
        serde_json::from_str(&server.issue("k2", &reward(Some("cus"), 900, "r2")).await.1).unwrap();
    let declined = spend(&server, "cus", &one, 101).await;
    assert_eq!(declined["decline"], json!({ "code": "insufficient_balance", "available": 100 }));
    let applied = spend(&server, "cus", &one, 60).await;
    assert_eq!((&applied["state"], &applied["after"]["available"]), (&json!("applied"), &json!(40)));
    assert_eq!(applied["lots"][0]["lot_id"], one["lot"]["lot_id"]);
    assert_eq!(spend(&server, "cus", &two, 900).await["after"]["available"], 0);
    let unknown = json!({ "reward_id": uuid::Uuid::nil() });
    assert_eq!(spend(&server, "cus", &unknown, 1).await["decline"]["code"], "reward_not_usable");
    assert_eq!(spend(&server, "cus", &json!({}), 1).await["code"], "invalid_field");
}

#[tokio::test]
async fn a_bearers_reward_is_whoevers_has_the_code() {
    let server = Server::start().await;
    let (status, text) = server.issue("k1", &reward(None, 500, "r1")).await;
    assert_eq!(status, 201, "{text}");
    let made: Value = serde_json::from_str(&text).unwrap();
    assert!(made.get("customer_id").is_none());
    for customer in ["one", "two"] {
        let resolved = server.resolve("demo", customer, json!({ "code": made["code"] })).await;
        assert_eq!(resolved["available"], 500, "{resolved}");
        let owner = resolved["owner"].as_str().unwrap();
        assert_eq!(spend(&server, owner, &made, 0).await["state"], "applied");
    }
}

const FIRST: &str = "the first pepper of all";
const BOTH: &str = "2:the second pepper of all\n1:the first pepper of all";

#[tokio::test]
async fn a_pepper_is_replaced_and_what_it_made_is_as_good_as_before() {
    let server = Server::start_with(BOTH).await;
    let old = server.issue("k1", &reward(Some("cus"), 100, "r1")).await;
    assert_eq!(old.0, 201, "{}", old.1);
    // As the first pepper made it, before there was a second one.
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    let first = Pepper::try_new(FIRST).unwrap();
    let reward_id: uuid::Uuid =
        sqlx::query_scalar("SELECT reward_id FROM tender.reward_code").fetch_one(&mut admin).await.unwrap();
    let code = first.code(reward_id);
    Peppers::from(first.clone()).record(server.tender.app.pool()).await.unwrap_err();
    let recorded = Peppers::read(BOTH, AppEnv::Production).unwrap();
    recorded.record(server.tender.app.pool()).await.unwrap();
    let hash = first.hash(&"demo".to_owned().try_into().unwrap(), &code).unwrap();
    sqlx::query("UPDATE tender.reward_code SET code_hmac = $1, pepper_version = 1")
        .bind(hash.as_slice())
        .execute(&mut admin)
        .await
        .unwrap();

    let (status, again) = server.issue("k1", &reward(Some("cus"), 100, "r1")).await;
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!((status, again["code"].as_str().unwrap()), (StatusCode::OK, code.as_str()));
    let new: Value =
        serde_json::from_str(&server.issue("k2", &reward(Some("cus"), 70, "r2")).await.1).unwrap();
    for (code, available) in [(&json!(code), 100), (&new["code"], 70)] {
        let resolved = server.resolve("demo", "cus", json!({ "code": code })).await;
        assert_eq!(resolved["available"], available, "{resolved}");
    }
    let versions: Vec<i16> = sqlx::query_scalar("SELECT pepper_version FROM tender.reward_code ORDER BY 1")
        .fetch_all(&mut admin)
        .await
        .unwrap();
    assert_eq!(versions, [1, 2]);
}

#[tokio::test]
async fn peppers_that_do_not_fit_those_on_record_are_seen() {
    let server = Server::start_with(BOTH).await;
    let pool = server.tender.app.pool();
    let read = |text: &str| Peppers::read(text, AppEnv::Production).unwrap();
    read(FIRST).record(pool).await.unwrap();
    read(&format!("1:{FIRST}\n2:the second pepper of all")).record(pool).await.unwrap();
    read(FIRST).record(pool).await.expect("it may be given out before it is used");
    read(BOTH).record(pool).await.unwrap();
    read(&format!("3:a third pepper of many\n{BOTH}")).record(pool).await.expect("one more is no harm");
    let missing = read("3:a third pepper of many\n2:the second pepper of all").compare(pool).await;
    assert!(matches!(missing, Err(RecordError::Missing(1))), "{missing:?}");
    let other = read("3:a third pepper of many\n2:the second pepper of all\n1:another first pepper")
        .compare(pool)
        .await;
    assert!(matches!(other, Err(RecordError::Other(1))), "{other:?}");
}

/// Runs the service until it ends by itself; exit code and what it said. Killed after some seconds.
async fn ends(variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let dir = std::env::temp_dir().join(format!("rewards-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&dir).unwrap();
    let jwks = dir.join("keys.jwks.json");
    std::fs::write(&jwks, KeyPair::generate("k1").unwrap().public_jwks).unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_digital-rewards"));
    command.env_clear().envs(variables.iter().copied()).env("PUBLIC_ADDR", "127.0.0.1:0");
    command.env("INTERNAL_ADDR", "127.0.0.1:0").env("JWKS_FILE", &jwks).env("INTERNAL_JWKS_FILE", &jwks);
    let output = command.kill_on_drop(true).output();
    let output =
        tokio::time::timeout(std::time::Duration::from_secs(20), output).await.expect("it ends").unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn a_process_with_the_wrong_pepper_does_not_start() {
    let server = Server::start_with(BOTH).await;
    for peppers in [FIRST, BOTH] {
        Peppers::read(peppers, AppEnv::Production).unwrap().record(server.tender.app.pool()).await.unwrap();
    }
    let url = server.tender.database.url();
    let database = ("DATABASE_URL", url.expose());
    let known = include_str!("../../../deploy/development/reward-code-pepper");
    for (pepper, says) in [
        (known, "the one for development"),
        ("1:the first pepper of all", "pepper version 2"),
        ("2:the second pepper of all\n1:another first pepper", "another pepper of version 1"),
    ] {
        let (code, said) = ends(&[database, ("REWARD_CODE_PEPPER", pepper)]).await;
        assert!(code != Some(0) && said.contains(says), "{pepper:?}: {code:?} {said}");
    }
}
