//! A whole system in one process: three tenders, each behind a proxy, and as many orchestrators as a test wants.

use std::{sync::Arc, time::Duration};

use digital_rewards::{CodeIssuer, DigitalRewards, Pepper};
use events::{Outbox, Relay};
use reqwest::Method;
use saga::{Config, Engine};
use serde_json::{Value, json};
use service::{
    Supervisor,
    accept::{self, Limits},
    db, http,
};
use sqlx::{Connection as _, PgConnection};
pub use testkit::Answer;
use testkit::{Mode, Proxy, TestDatabase, TestTender, Tokens};
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use wallet::{
    App,
    live::{self, Live, cache::Cache},
    sagas::Sagas,
    tenders::{Addresses, Tenders},
};

pub const BUSINESS: &str = "demo";

/// Longest time that what was begun may take until it shows, on a machine that is busy with other tests.
pub const WITHIN: Duration = Duration::from_secs(15);
/// Longer than a proxy takes to close what is open.
pub const CUT: Duration = Duration::from_millis(100);
/// Twice as long as a process of [`quick`] may act without a heartbeat.
pub const LEASE_OVER: Duration = Duration::from_millis(1_200);
/// A statement that a trigger of the test has made slow is under way.
pub const IS_SLOWED: &str = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event = 'PgSleep')";
/// A redeem has been written, and is not decided.
pub const IS_RUNNING: &str =
    "SELECT EXISTS (SELECT 1 FROM saga.saga WHERE operation = 'redeem' AND state = 0)";

/// How much longer than the wallet tenders keep a hold here.
pub const HOLD_MARGIN: chrono::TimeDelta = chrono::TimeDelta::seconds(1);

/// Quick heartbeats, so that takeovers take a second in the place of four.
pub fn quick() -> Config {
    Config {
        heartbeat: Duration::from_millis(100),
        ttl: Duration::from_millis(600),
        scan: Duration::from_millis(100),
        ..Config::default()
    }
}

/// One orchestrator. Dropped, it crashes.
pub struct Wallet {
    pub url: String,
    pub engine: Arc<Engine<Sagas>>,
    pub app: App,
    _stop: DropGuard,
}

impl Drop for Wallet {
    fn drop(&mut self) {
        self.engine.crash();
    }
}

pub struct System {
    pub tokens: Tokens,
    pub points: Part,
    pub credit: Part,
    pub rewards: Part,
    pub database_proxy: Proxy,
    pub client: reqwest::Client,
    /// Redis, for tests of live balances; the others do without.
    pub redis_url: Option<String>,
    pub database: TestDatabase,
}

/// A tender behind its proxy.
pub struct Part {
    pub proxy: Proxy,
    pub tender: TestTender,
}

impl Part {
    async fn new(tender: TestTender) -> Self {
        let port = port_of(&tender.internal_url);
        Self { proxy: Proxy::start("127.0.0.1", port).await, tender }
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.proxy.port)
    }

    /// Closes the connections that are open; new ones pass.
    pub async fn cut_open(&self) {
        self.proxy.set(Mode::Cut);
        tokio::time::sleep(CUT).await;
        self.proxy.set(Mode::Pass);
    }

    /// Waits until a leg has had its effect here, whatever becomes of the answer.
    pub async fn until_applied(&self) {
        let mut admin =
            PgConnection::connect_with(&self.tender.database.admin()).await.expect("a connection");
        let legs = "SELECT EXISTS (SELECT 1 FROM tender.operation WHERE legs_id IS NOT NULL)";
        testkit::until(WITHIN, async || {
            sqlx::query_scalar::<_, bool>(legs).fetch_one(&mut admin).await.expect(legs)
        })
        .await;
    }
}

fn port_of(url: &str) -> u16 {
    url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
}

impl System {
    pub async fn start() -> Self {
        let tokens = Tokens::new();
        let points = TestTender::start(schema::Database::Points, Arc::new(points::Points), &tokens).await;
        let credit =
            TestTender::start(schema::Database::StoreCredit, Arc::new(store_credit::StoreCredit), &tokens)
                .await;
        let rewards = TestTender::start_with(
            schema::Database::DigitalRewards,
            Arc::new(DigitalRewards),
            &tokens,
            |app| {
                let pepper = Pepper::try_new("a pepper that only tests know").expect("a pepper");
                let issuer = CodeIssuer::new(app.pool().clone(), pepper.clone());
                let routes = digital_rewards::routes(app.pool().clone(), pepper);
                (app.with_issuer(Arc::new(issuer)), routes)
            },
        )
        .await;
        let database = TestDatabase::create(schema::Database::Wallet).await;
        let admin = database.admin();
        Self {
            points: Part::new(points).await,
            credit: Part::new(credit).await,
            rewards: Part::new(rewards).await,
            database_proxy: Proxy::start(admin.get_host(), admin.get_port()).await,
            client: reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(40))
                .build()
                .expect("a client"),
            redis_url: None,
            database,
            tokens,
        }
    }

    pub async fn wallet(&self) -> Wallet {
        self.wallet_with(quick()).await
    }

    pub async fn wallet_with(&self, config: Config) -> Wallet {
        let options = db::connect_options(&self.database.url(), "wallet").expect("a URL");
        self.wallet_on(config, options).await
    }

    /// An orchestrator whose saga store loses COMMITs when the test says so.
    pub async fn wallet_behind_proxy(&self) -> Wallet {
        let options = db::connect_options(&self.database.url(), "wallet").expect("a URL");
        self.wallet_on(quick(), options.host("127.0.0.1").port(self.database_proxy.port)).await
    }

    pub async fn wallet_on(&self, config: Config, options: sqlx::postgres::PgConnectOptions) -> Wallet {
        let addresses = Addresses {
            points: self.points.address(),
            store_credit: self.credit.address(),
            digital_rewards: self.rewards.address(),
        };
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let redis = live::redis(self.redis_url.as_deref()).expect("a URL");
        let clock = saga::DatabaseClock::default();
        let supervisor = Supervisor::new(tasks.clone(), stop.clone());
        let cache = Cache::start(redis.clone(), &supervisor);
        let tokens = self.tokens.service("wallet");
        let tenders =
            Tenders::init(&addresses, tokens, Arc::new(cache.clone()), &clock, &tasks).expect("clients");
        let live = live::Options { redis, ..live::Options::default() };
        let live = Live::start(live, cache, tenders.clone(), &supervisor, stop.child_token());
        let written = Arc::new(Notify::new());
        let sagas = Sagas::new(tenders.clone(), written.clone(), clock.clone()).with_hold_margin(HOLD_MARGIN);
        let engine = Engine::start(config, Arc::new(sagas), db::for_executor(options.clone()), clock);
        let app = App::new(engine.clone(), tenders, db::pool(options.clone(), 4), live);
        let redis_url = self.redis_url.as_deref();
        let relay = Relay::new(Outbox::Redemptions, db::pool(options, 1), redis_url, written).expect("a URL");
        TaskTracker::new().spawn(relay.run(stop.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let routes = http::finish(wallet::http::routes(app.clone()), self.tokens.public_verifier());
        let sweep = stop.clone().run_until_cancelled_owned(wallet::hold_expiry::sweep(app.clone()));
        TaskTracker::new().spawn(sweep);
        let follow =
            stop.clone().run_until_cancelled_owned(wallet::redemption::follow::follow(app.pool.clone()));
        TaskTracker::new().spawn(follow);
        let pauses = stop.clone().run_until_cancelled_owned(app.paused.clone().follow(app.pool.clone()));
        TaskTracker::new().spawn(pauses);
        TaskTracker::new().spawn(accept::serve(listener, routes, Limits::default(), stop.clone()));
        testkit::until(WITHIN, async || engine.is_ready()).await;
        Wallet { url, engine, app, _stop: stop.drop_guard() }
    }

    /// Points, store credit and a reward for a customer; the reward's id.
    pub async fn fund(&self, customer: &str, points: i64, credit: i64, reward: i64) -> String {
        let token = self.tokens.staff(BUSINESS, "admin");
        let mut reward_id = String::new();
        let credits = [
            (&self.points.tender, "points", json!({ "points": points, "kind": "earn" })),
            (
                &self.credit.tender,
                "store-credits",
                json!({ "amount": credit, "currency": "USD", "kind": "issue" }),
            ),
            (
                &self.rewards.tender,
                "digital-rewards",
                json!({ "amount": reward, "currency": "USD", "kind": "issue" }),
            ),
        ];
        for (tender, path, mut body) in credits {
            if [&body["points"], &body["amount"]].iter().any(|units| **units == json!(0)) {
                continue;
            }
            let reference = uuid::Uuid::new_v4().to_string();
            body["customer_id"] = json!(customer);
            body["funding"] = json!("paid");
            body["reference"] = json!(reference);
            let request =
                self.client.post(format!("{}/api/v1/{path}/credits", tender.public_url)).bearer_auth(&token);
            let answer =
                request.header("idempotency-key", &reference).json(&body).send().await.expect("an answer");
            assert_eq!(answer.status(), 201, "{path}");
            let answer: Value = answer.json().await.expect("JSON");
            if let Some(id) = answer["reward_id"].as_str() {
                reward_id = id.to_owned();
            }
        }
        reward_id
    }

    pub async fn call(
        &self,
        wallet: &Wallet,
        role: &str,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> Answer {
        let token = self.tokens.staff(BUSINESS, role);
        let mut request =
            self.client.request(method, format!("{}/api/v1{path}", wallet.url)).bearer_auth(token);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        Answer::read(request.send().await.expect("an answer")).await
    }

    pub async fn redeem(&self, wallet: &Wallet, key: &str, body: &Value) -> Answer {
        self.call(wallet, "pos", Method::POST, "/wallet/redeem", Some(key), Some(body)).await
    }

    pub async fn get(&self, wallet: &Wallet, path: &str) -> Answer {
        self.call(wallet, "pos", Method::GET, path, None, None).await
    }

    pub async fn ops(&self, wallet: &Wallet, method: Method, path: &str, body: Option<&Value>) -> Answer {
        self.call(wallet, "ops", method, path, None, body).await
    }

    pub async fn ask_to_cancel(&self, wallet: &Wallet, key: &str) -> Answer {
        let (path, body) = ("/wallet/redemptions/cancel-by-key", json!({ "idempotency_key": key }));
        self.call(wallet, "pos", Method::POST, path, None, Some(&body)).await
    }

    pub async fn cancel(&self, wallet: &Wallet, key: &str) -> Value {
        let answer = self.ask_to_cancel(wallet, key).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Spendable units: (points, store credit, rewards).
    pub async fn balances(&self, wallet: &Wallet, customer: &str) -> (i64, i64, i64) {
        let answer = self.get(wallet, &format!("/wallet/balance?customer_id={customer}")).await.json();
        let available = |tender: &str| {
            let lines = answer["balances"].as_array().expect("balances");
            lines
                .iter()
                .filter(|line| line["tender"] == tender)
                .map(|line| line["available"].as_i64().expect("units"))
                .sum()
        };
        (available("points"), available("store_credit"), available("digital_reward"))
    }

    /// Every lot of a customer with value, as the tenders show it.
    pub async fn lots(&self, customer: &str) -> Vec<Value> {
        let token = self.tokens.staff(BUSINESS, "admin");
        let mut lots = Vec::new();
        for (tender, path) in
            [(&self.points, "points"), (&self.credit, "store-credits"), (&self.rewards, "digital-rewards")]
        {
            let url = format!("{}/api/v1/{path}/accounts/{customer}", tender.tender.public_url);
            let account: Value = self
                .client
                .get(url)
                .bearer_auth(&token)
                .send()
                .await
                .expect("an answer")
                .json()
                .await
                .expect("JSON");
            lots.extend(account["lots"].as_array().expect("lots").clone());
        }
        lots
    }

    /// The redemption under a key, once it has reached this status.
    pub async fn until_status(&self, wallet: &Wallet, key: &str, status: &str) -> Value {
        let path = format!("/wallet/redemptions?idempotency_key={key}");
        testkit::until(WITHIN, async || {
            let shown = self.get(wallet, &path).await.json()["data"][0].clone();
            let is_over = shown.get("reversal").is_none_or(|reversal| reversal == "done");
            if shown["status"] == status && is_over { Ok(shown) } else { Err(shown) }
        })
        .await
    }

    pub async fn sql<T>(&self, query: &'static str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        let pool = sqlx::PgPool::connect_with(self.database.admin()).await.expect("a pool");
        let value = sqlx::query_scalar(query).fetch_one(&pool).await.expect("a value");
        pool.close().await;
        value
    }

    /// So many parked sagas that no version can read, without going through a wallet.
    pub async fn park_unreadable(&self, count: i32) {
        self.park_unreadable_of(BUSINESS, count).await;
    }

    /// The same of another business.
    pub async fn park_unreadable_of(&self, business: &str, count: i32) {
        let pool = sqlx::PgPool::connect_with(self.database.admin()).await.expect("a pool");
        let parked = sqlx::query(
            "WITH parked AS (
                 INSERT INTO saga.saga (saga_id, business_id, operation, scope, key, request_hash, kind, version, legs_id, plan,
                     state, epoch, deadline_at, budget_from, due_at)
                 SELECT gen_random_uuid(), $2, 'redeem', '', 'k' || n, '', 0, 99, gen_random_uuid(), '{}',
                     4, 1, now(), now(), now() FROM generate_series(1, $1) n RETURNING saga_id
             )
             INSERT INTO saga.dead_letter (saga_id, business_id, code, detail)
             SELECT saga_id, $2, 'unreadable', '{}' FROM parked",
        );
        parked.bind(count).bind(business).execute(&pool).await.expect("done");
        pool.close().await;
    }

    /// From now on the COMMIT of a new saga takes 400 ms.
    pub async fn slow_t1(&self) {
        self.execute(
            "CREATE FUNCTION saga.slow() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_sleep(0.4); RETURN NULL; END $$",
        )
        .await;
        self.execute(
            "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON saga.saga DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION saga.slow()",
        )
        .await;
    }

    pub async fn execute(&self, statement: &'static str) {
        let pool = sqlx::PgPool::connect_with(self.database.admin()).await.expect("a pool");
        sqlx::raw_sql(statement).execute(&pool).await.expect("done");
        pool.close().await;
    }
}

/// The order of the README: points and store credit exactly, the reward takes the rest.
pub fn order(customer: &str, reward_id: &str) -> Value {
    json!({
        "customer_id": customer, "order_id": "S042-77120", "currency": "USD", "amount": 4250,
        "tenders": [
            { "type": "points", "points": 500 },
            { "type": "digital_reward", "reward_id": reward_id },
            { "type": "store_credit", "amount": 1500 },
        ],
    })
}

/// A till whose call runs beside the test.
pub fn redeem(system: &System, wallet: &Wallet, key: &'static str, body: Value) -> JoinHandle<Answer> {
    let request = system
        .client
        .post(format!("{}/api/v1/wallet/redeem", wallet.url))
        .bearer_auth(system.tokens.staff("demo", "pos"))
        .header("idempotency-key", key)
        .json(&body);
    TaskTracker::new().spawn(async move { Answer::read(request.send().await.expect("an answer")).await })
}

/// Waits until a query on the wallet's database is true.
pub async fn until(system: &System, query: &'static str) {
    let mut admin = PgConnection::connect_with(&system.database.admin()).await.expect("a connection");
    testkit::until(WITHIN, async || {
        let holds: bool = sqlx::query_scalar(query).fetch_one(&mut admin).await.expect(query);
        holds.then_some(()).ok_or(query)
    })
    .await;
}
