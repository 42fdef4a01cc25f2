//! Rewards and their codes, over the real router and a real database.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod blocked;

use std::{sync::Arc, time::Duration};

use digital_rewards::{CodeIssuer, DigitalRewards, Pepper, Peppers, RecordError, routes};
use reqwest::StatusCode;
use serde_json::{Value, json};
use service::{
    auth::KeyPair,
    config::AppEnv,
    db::{Probe, for_executor},
};
use sqlx::{Connection, PgConnection, PgPool};
use tender::rules::Issuer;
use testkit::{Answer, TestTender, Tokens, snapshot};

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

    fn probe(&self) -> Probe {
        Probe::new(for_executor(self.tender.app.pool().connect_options().as_ref().clone()))
    }

    /// What becomes of a process with these peppers in its first seconds.
    async fn starts(&self, peppers: &str) -> (Option<i32>, String) {
        let url = self.tender.database.url();
        let variables = [("DATABASE_URL", url.expose()), ("REWARD_CODE_PEPPER", peppers)];
        ends(&variables, Duration::from_secs(4)).await
    }

    async fn issue(&self, key: &str, body: &Value) -> (StatusCode, String) {
        let answer = self.credit(key, body).await;
        (answer.status, answer.text())
    }

    async fn credit(&self, key: &str, body: &Value) -> Answer {
        let request = self
            .client
            .post(format!("{}/api/v1/digital-rewards/credits", self.tender.public_url))
            .bearer_auth(self.tokens.staff("demo", "manager"))
            .header("idempotency-key", key)
            .json(body);
        Answer::read(request.send().await.unwrap()).await
    }

    async fn account(&self, customer: &str) -> Answer {
        let url = format!("{}/api/v1/digital-rewards/accounts/{customer}", self.tender.public_url);
        let request = self.client.get(url).bearer_auth(self.tokens.staff("demo", "manager"));
        Answer::read(request.send().await.unwrap()).await
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
async fn a_reward_that_is_issued_and_one_that_is_refused() {
    let server = Server::start().await;
    snapshot!(server.credit("k1", &reward(Some("cus"), 2250, "r1")).await, @r#"
        201 application/json
        {
          "balance_after": { "amount": 2250, "currency": "USD", "version": 1 },
          "code": "[code]",
          "customer_id": "cus",
          "lot": {
            "currency": "USD",
            "expires_at": null,
            "funding": "paid",
            "held": 0,
            "kind": "issue",
            "lot_id": "[id 1]",
            "original": 2250,
            "remaining": 2250,
            "reward_id": "[id 2]"
          },
          "operation_id": "[id 3]",
          "reward_id": "[id 2]"
        }
        "#);
    snapshot!(server.credit("k2", &reward(Some("cus"), 0, "r2")).await, @r#"
        400 application/problem+json
        {
          "code": "invalid_field",
          "detail": "A field is missing or out of its range.",
          "errors": [{ "code": "invalid_field", "detail": "must be above zero", "pointer": "/amount" }],
          "instance": "/api/v1/digital-rewards/credits",
          "outcome": "not_applied",
          "retryable": false,
          "status": 400,
          "suggestion": "Correct the request; this is a fault of the till's software.",
          "title": "A field is missing or invalid",
          "trace_id": "[trace]",
          "type": "/problems/invalid_field"
        }
        "#);
}

#[tokio::test]
async fn an_account_with_two_rewards() {
    let server = Server::start().await;
    for (key, amount) in [("k1", 2250), ("k2", 100)] {
        assert_eq!(server.credit(key, &reward(Some("cus"), amount, key)).await.status, 201);
    }
    snapshot!(server.account("cus").await, @r#"
        200 application/json
        {
          "accounts": [{ "available": 2350, "currency": "USD", "held": 0, "posted": 2350, "version": 2 }],
          "available": 2350,
          "customer_id": "cus",
          "held": 0,
          "lots": [
            {
              "currency": "USD",
              "expires_at": null,
              "funding": "paid",
              "held": 0,
              "kind": "issue",
              "lot_id": "[id 1]",
              "original": 2250,
              "remaining": 2250,
              "reward_id": "[id 2]"
            },
            {
              "currency": "USD",
              "expires_at": null,
              "funding": "paid",
              "held": 0,
              "kind": "issue",
              "lot_id": "[id 3]",
              "original": 100,
              "remaining": 100,
              "reward_id": "[id 4]"
            }
          ],
          "posted": 2350,
          "status": "active",
          "version": 2
        }
        "#);
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
    let hash = first.hash(&"demo".to_owned().try_into().unwrap(), &code).unwrap();
    made_under(server.tender.app.pool(), FIRST).await.unwrap();
    sqlx::query("DELETE FROM tender.reward_code WHERE reward_id <> $1")
        .bind(reward_id)
        .execute(&mut admin)
        .await
        .unwrap();
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

fn read(text: &str) -> Peppers {
    Peppers::read(text, AppEnv::Production).unwrap()
}

/// Makes a code as a process with these peppers.
async fn made_under(pool: &PgPool, peppers: &str) -> Result<String, service::ApiError> {
    let business = "demo".to_owned().try_into().unwrap();
    let issuer = CodeIssuer::new(pool.clone(), read(peppers));
    issuer.issue(&business, uuid::Uuid::new_v4()).await.map(|issued| issued.code)
}

async fn count(pool: &PgPool, table: &'static str) -> i64 {
    sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM tender.{table}")))
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn peppers_that_do_not_fit_those_that_made_codes_are_seen() {
    let server = Server::start_with(BOTH).await;
    let (pool, probe) = (server.tender.app.pool(), server.probe());
    made_under(pool, FIRST).await.unwrap();
    read(FIRST).compare(&probe).await.expect("a second one may be given out before it is used");
    made_under(pool, BOTH).await.unwrap();
    read(BOTH).compare(&probe).await.unwrap();
    read(&format!("3:a third pepper of many\n{BOTH}")).compare(&probe).await.expect("one more is no harm");
    let missing = read("3:a third pepper of many\n2:the second pepper of all").compare(&probe).await;
    assert!(matches!(missing, Err(RecordError::Missing(1))), "{missing:?}");
    let missing = read(FIRST).compare(&probe).await;
    assert!(matches!(missing, Err(RecordError::Missing(2))), "{missing:?}");
    let other = read("3:a third pepper of many\n2:the second pepper of all\n1:another first pepper")
        .compare(&probe)
        .await;
    assert!(matches!(other, Err(RecordError::Other(1))), "{other:?}");
}

#[tokio::test]
async fn a_pepper_without_codes_can_be_withdrawn() {
    let server = Server::start_with(BOTH).await;
    let (pool, probe) = (server.tender.app.pool(), server.probe());
    made_under(pool, FIRST).await.unwrap();
    let (code, said) = server.starts("2:a mistyped pepper of all\n1:the first pepper of all").await;
    assert_eq!(code, None, "it serves: {said}");
    assert_eq!(count(pool, "reward_pepper").await, 1, "nothing is recorded before the first code");
    read(FIRST).compare(&probe).await.expect("those that have not got it go on");
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    sqlx::query("INSERT INTO tender.reward_pepper (version, fingerprint) VALUES (7, sha256('x'))")
        .execute(&mut admin)
        .await
        .unwrap();
    assert_eq!(read(FIRST).compare(&probe).await.unwrap(), [7], "on record, and no code was made with it");
}

#[tokio::test]
async fn codes_whose_pepper_is_not_on_record_need_theirs_as_well() {
    let server = Server::start_with("2:the second pepper of all").await;
    let (pool, probe) = (server.tender.app.pool(), server.probe());
    made_under(pool, "2:the second pepper of all").await.unwrap();
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    for statement in [
        "ALTER TABLE tender.reward_code DROP CONSTRAINT reward_code_pepper_on_record",
        "UPDATE tender.reward_code SET pepper_version = 1",
    ] {
        sqlx::query(statement).execute(&mut admin).await.unwrap();
    }
    let missing = read("2:the second pepper of all").compare(&probe).await;
    assert!(matches!(missing, Err(RecordError::Missing(1))), "{missing:?}");
    read(BOTH).compare(&probe).await.unwrap();
}

#[tokio::test]
async fn no_code_is_made_with_another_secret_than_the_one_on_record() {
    let server = Server::start_with(FIRST).await;
    let pool = server.tender.app.pool();
    // The first code of a pepper, made by several at once.
    let first = futures_util::future::join_all((0..4).map(|_| made_under(pool, FIRST))).await;
    assert!(first.iter().all(Result::is_ok), "{first:?}");
    made_under(pool, "another pepper of version 1").await.expect_err("nobody could use the code");
    assert_eq!((count(pool, "reward_code").await, count(pool, "reward_pepper").await), (4, 1));
}

/// Runs the service until it ends by itself, or is killed after some seconds (`None`); exit code and what it said.
async fn ends(variables: &[(&str, &str)], limit: Duration) -> (Option<i32>, String) {
    let dir = std::env::temp_dir().join(format!("rewards-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&dir).unwrap();
    let jwks = dir.join("keys.jwks.json");
    std::fs::write(&jwks, KeyPair::generate("k1").unwrap().public_jwks).unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_digital-rewards"));
    command.env_clear().envs(variables.iter().copied()).env("PUBLIC_ADDR", "127.0.0.1:0");
    command.env("INTERNAL_ADDR", "127.0.0.1:0").env("JWKS_FILE", &jwks).env("INTERNAL_JWKS_FILE", &jwks);
    let output = tokio::time::timeout(limit, command.kill_on_drop(true).output()).await;
    std::fs::remove_dir_all(dir).unwrap();
    output.map_or((None, String::new()), |output| {
        let output = output.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    })
}

#[tokio::test]
async fn a_process_with_the_wrong_pepper_does_not_start() {
    let server = Server::start_with(BOTH).await;
    for peppers in [FIRST, BOTH] {
        made_under(server.tender.app.pool(), peppers).await.unwrap();
    }
    let known = include_str!("../../../../deploy/development/reward-code-pepper");
    for (pepper, says) in [
        (known, "the one for development"),
        ("1:the first pepper of all", "pepper version 2"),
        ("2:the second pepper of all\n1:another first pepper", "another pepper of version 1"),
    ] {
        let (code, said) = server.starts(pepper).await;
        assert!(code.is_some_and(|code| code != 0) && said.contains(says), "{pepper:?}: {code:?} {said}");
    }
}

#[tokio::test]
async fn a_reward_whose_code_cannot_be_kept_now_does_not_say_that_its_key_was_not_used() {
    let server = Server::start().await;
    let body = reward(Some("cus"), 2250, "r1");
    let (status, first) = server.issue("k", &body).await;
    assert_eq!(status, 201, "{first}");
    // Each connection for codes is taken.
    let pool = server.tender.app.pool();
    let mut taken = Vec::new();
    for _ in 0..pool.options().get_max_connections() {
        taken.push(pool.acquire().await.unwrap());
    }
    let (status, told) = server.issue("k", &body).await;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((status.as_u16(), &told["outcome"]), (503, &json!("unknown")), "{told}");
    drop(taken);
    assert_eq!(server.issue("k", &body).await, (StatusCode::OK, first));
}
