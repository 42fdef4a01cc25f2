//! Three tenders and two orchestrators, each a process with a database of its own.

use std::{net::TcpListener, path::PathBuf, time::Duration};

use schema::Database;
use serde_json::{Value, json};
use testkit::{TestDatabase, Tokens};

use crate::Process;

/// The business of every scenario.
pub const BUSINESS: &str = "chaos";
/// Every customer begins with so many units in each tender.
pub const OPENING: i64 = 1_000;

/// The system under test. Dropped, its processes end before its databases are checked and dropped.
pub struct Cluster {
    /// The orchestrators.
    pub wallets: Vec<(String, Process)>,
    /// Points, store credit, digital rewards: public URL and process.
    pub tenders: Vec<(String, Process)>,
    /// Makes tokens.
    pub tokens: Tokens,
    /// For calls.
    pub client: reqwest::Client,
    /// Wallet, points, store credit, digital rewards.
    pub databases: Vec<(Database, TestDatabase)>,
    folder: PathBuf,
}

impl Cluster {
    /// Starts everything and waits until it is ready.
    ///
    /// # Panics
    /// When something does not start.
    pub async fn start() -> Self {
        let folder = std::env::temp_dir().join(format!("chaos-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let tokens = Tokens::new();
        let files = [
            ("public.jwks.json", tokens.public_jwks()),
            ("internal.jwks.json", tokens.internal_jwks()),
            ("test-internal.pem", tokens.internal_pem()),
        ];
        for (name, text) in files {
            std::fs::write(folder.join(name), text).expect("a key file");
        }
        let mut databases = Vec::new();
        for database in Database::ALL {
            databases.push((database, TestDatabase::create(database).await));
        }
        let client =
            reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(35)).build().expect("a client");
        let mut cluster =
            Self { wallets: Vec::new(), tenders: Vec::new(), tokens, client, databases, folder };
        let mut internal = Vec::new();
        for (index, name) in ["points", "store-credit", "digital-rewards"].into_iter().enumerate() {
            let (tender, internal_port) = cluster.process(name, name, index + 1, Vec::new());
            cluster.tenders.push(tender);
            internal.push(format!("http://127.0.0.1:{internal_port}"));
        }
        for number in 1..=2 {
            let more = vec![
                ("POINTS_INTERNAL_URL".to_owned(), internal[0].clone()),
                ("STORE_CREDIT_INTERNAL_URL".to_owned(), internal[1].clone()),
                ("DIGITAL_REWARDS_INTERNAL_URL".to_owned(), internal[2].clone()),
            ];
            let (wallet, _) = cluster.process("wallet", &format!("wallet-{number}"), 0, more);
            cluster.wallets.push(wallet);
        }
        for url in cluster.urls() {
            cluster.until_ready(&url).await;
        }
        cluster
    }

    fn process(
        &self,
        binary: &str,
        log: &str,
        database: usize,
        more: Vec<(String, String)>,
    ) -> ((String, Process), u16) {
        let (public, internal) = (free_port(), free_port());
        let file = |name: &str| self.folder.join(name).display().to_string();
        let mut environment = vec![
            ("PUBLIC_ADDR".to_owned(), format!("127.0.0.1:{public}")),
            ("INTERNAL_ADDR".to_owned(), format!("127.0.0.1:{internal}")),
            ("DATABASE_URL".to_owned(), self.databases[database].1.url().expose().to_owned()),
            ("JWKS_FILE".to_owned(), file("public.jwks.json")),
            ("INTERNAL_JWKS_FILE".to_owned(), file("internal.jwks.json")),
            ("SERVICE_KEY_FILE".to_owned(), file("test-internal.pem")),
            ("REWARD_CODE_PEPPER".to_owned(), "a pepper that only tests know".to_owned()),
            ("RUST_LOG".to_owned(), "info".to_owned()),
        ];
        environment.extend(more);
        let process = Process::start(binary, environment, &self.folder.join(format!("{log}.log")));
        ((format!("http://127.0.0.1:{public}"), process), internal)
    }

    fn urls(&self) -> Vec<String> {
        self.tenders.iter().chain(&self.wallets).map(|(url, _)| url.clone()).collect()
    }

    /// What a process has logged so far: `wallet-1`, `points`…
    ///
    /// # Panics
    /// When there is no log of that name.
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.join(format!("{name}.log"))).expect("a log file")
    }

    /// Waits until a process is ready.
    ///
    /// # Panics
    /// When it is not within 20 s.
    pub async fn until_ready(&self, url: &str) {
        for _ in 0..400 {
            let answer =
                self.client.get(format!("{url}/health/ready")).timeout(Duration::from_secs(1)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{url} did not become ready; logs are in {}", self.folder.display());
    }

    /// Gives a customer [`OPENING`] units in each tender; the reward's id.
    ///
    /// # Panics
    /// When a tender refuses.
    pub async fn fund(&self, customer: &str) -> String {
        let mut reward = String::new();
        let bodies = [
            ("points", json!({ "points": OPENING, "kind": "earn" })),
            ("store-credits", json!({ "amount": OPENING, "currency": "USD", "kind": "issue" })),
            ("digital-rewards", json!({ "amount": OPENING, "currency": "USD", "kind": "issue" })),
        ];
        for ((url, _), (path, mut body)) in self.tenders.iter().zip(bodies) {
            body["customer_id"] = json!(customer);
            body["funding"] = json!("paid");
            body["reference"] = json!(customer);
            let request = self
                .client
                .post(format!("{url}/api/v1/{path}/credits"))
                .bearer_auth(self.tokens.staff(BUSINESS, "admin"));
            let answer =
                request.header("idempotency-key", customer).json(&body).send().await.expect("an answer");
            assert_eq!(answer.status(), 201, "{path}");
            let answer: Value = answer.json().await.expect("JSON");
            reward = answer["reward_id"].as_str().unwrap_or(&reward).to_owned();
        }
        reward
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.wallets.clear();
        self.tenders.clear();
        if std::thread::panicking() {
            eprintln!("logs are kept in {}", self.folder.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// A port that is free now. Another process may take it before ours does, which then fails to start, loudly.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    listener.local_addr().expect("an address").port()
}
