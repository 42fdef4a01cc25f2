//! The wallet as a process of its own: what it does with its sockets, its log and its place among others.

use std::{
    io::Read as _,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tokio::net::TcpListener;

use crate::support::{Answer, BUSINESS, System, WITHIN};

/// Longest time that an answer may take which must not wait for anybody.
pub const SOON: Duration = Duration::from_secs(3);
/// Longest time that a stop takes in which nothing is left to be done: less than background work is waited for.
const STOP_LIMIT: Duration = Duration::from_secs(8);

/// What was dropped of a log is told once a second.
const NOTICE: Duration = Duration::from_millis(1_500);
/// How often a process is asked for its readiness while reads hang.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// A wallet of a system, in a process that ends with this value.
pub struct WalletProcess {
    pub url: String,
    internal_url: String,
    child: Child,
    folder: PathBuf,
}

impl Drop for WalletProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    listener.local_addr().expect("an address").port()
}

impl WalletProcess {
    fn command(system: &System, folder: &std::path::Path, environment: &[(&str, &str)]) -> Command {
        system.tokens.write_files(folder);
        let mut command = Command::new(env!("CARGO_BIN_EXE_wallet"));
        command
            .env_clear()
            .env("DATABASE_URL", system.database.url().expose())
            .env("JWKS_FILE", folder.join("public.jwks.json"))
            .env("INTERNAL_JWKS_FILE", folder.join("internal.jwks.json"))
            .env("SERVICE_KEY_FILE", folder.join("test-internal.pem"))
            .env("POINTS_INTERNAL_URL", system.points.address())
            .env("STORE_CREDIT_INTERNAL_URL", system.credit.address())
            .env("DIGITAL_REWARDS_INTERNAL_URL", system.rewards.address())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command
    }

    /// Starts it and waits until it is ready.
    pub async fn start(system: &System, environment: &[(&str, &str)]) -> Self {
        let folder = std::env::temp_dir().join(format!("wallet-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).expect("a folder");
        let addresses = [free_port().await, free_port().await].map(|port| format!("127.0.0.1:{port}"));
        let child = Self::command(system, &folder, environment)
            .env("PUBLIC_ADDR", &addresses[0])
            .env("INTERNAL_ADDR", &addresses[1])
            .spawn()
            .expect("it starts");
        let [url, internal_url] = addresses.map(|address| format!("http://{address}"));
        let process = Self { url, internal_url, child, folder };
        until_ready(system, &process, 200).await;
        process
    }

    /// What it says of its readiness, on its public listener and on a connection of its own.
    pub async fn health(&self, client: &reqwest::Client) -> Option<u16> {
        let answer = client.get(format!("{}/health/ready", self.url)).header("connection", "close").send();
        Some(tokio::time::timeout(SOON, answer).await.ok()?.ok()?.status().as_u16())
    }

    pub async fn metric(&self, client: &reqwest::Client, name: &str) -> f64 {
        let text = client.get(format!("{}/metrics", self.internal_url)).send().await.expect("an answer");
        let text = text.text().await.expect("metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}"));
        line.trim().parse().expect("a number")
    }

    /// A sale of one point, as a till makes it: over a connection that it has just opened.
    pub async fn sell(&self, system: &System) -> Answer {
        let key = uuid::Uuid::new_v4().to_string();
        let body = json!({
            "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 1,
            "tenders": [{ "type": "points", "points": 1 }],
        });
        let sale = fresh_client()
            .post(format!("{}/api/v1/wallet/redeem", self.url))
            .bearer_auth(system.tokens.staff(BUSINESS, "pos"))
            .header("idempotency-key", key)
            .json(&body)
            .send();
        Answer::read(tokio::time::timeout(SOON, sale).await.expect("in time").expect("an answer")).await
    }

    /// What it says on standard error when it does not start.
    pub fn refuses_to_start(system: &System, environment: &[(&str, &str)]) -> String {
        let folder = std::env::temp_dir().join(format!("wallet-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).expect("a folder");
        let output = Self::command(system, &folder, environment).output().expect("it runs");
        let _ = std::fs::remove_dir_all(&folder);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn output(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("its output")
    }

    fn terminate(&self) {
        let done = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(done.expect("kill").success());
    }
}

/// A client with no connection yet.
pub fn fresh_client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().expect("a client")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_stops_nothing_and_says_later_what_it_lacks() {
    let system = System::start().await;
    system.fund("c", 100_000, 0, 0).await;
    let mut wallet = WalletProcess::start(&system, &[("RUST_LOG", "trace")]).await;
    // The pipe takes 64 KiB, the buffer behind it 4 MiB and as much again.
    let begun = Instant::now();
    while wallet.metric(&system.client, "log_lines_dropped_total").await == 0.0 {
        assert!(begun.elapsed() < Duration::from_secs(180), "the log never filled up");
        let sales = futures_util::future::join_all((0..16).map(|_| wallet.sell(&system))).await;
        assert!(sales.iter().all(|sale| sale.status == 201), "{:?}", sales.first());
    }
    for _ in 0..20 {
        assert_eq!(wallet.sell(&system).await.status, 201);
    }
    assert_eq!(wallet.health(&system.client).await, Some(200));

    let mut output = wallet.output();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).map(|_| text)
    });
    tokio::time::sleep(NOTICE).await;
    wallet.terminate();
    let begun = Instant::now();
    let text = reader.join().expect("read").expect("text");
    assert!(begun.elapsed() < STOP_LIMIT, "{:?}", begun.elapsed());
    assert!(text.contains("log lines were dropped"), "the log says that it lacks lines");
    assert!(text.contains("\"stopped\""), "an orderly stop writes what it logged last");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_stop_waits_for_a_log_that_nobody_reads_no_longer_than_it_says() {
    let system = System::start().await;
    let mut wallet = WalletProcess::start(&system, &[("RUST_LOG", "trace")]).await;
    for _ in 0..300 {
        assert_eq!(wallet.health(&system.client).await, Some(200));
    }
    wallet.terminate();
    testkit::until(STOP_LIMIT, async || wallet.child.try_wait().expect("a child")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_is_ready_whatever_reads_do_and_not_without_its_engine() {
    let system = System::start().await;
    let wallet = WalletProcess::start(&system, &[]).await;
    let mut admin = PgConnection::connect_with(&system.database.admin()).await.expect("a connection");
    // Reads wait for this table until their own limit: twice as many as the pool has connections.
    let mut lock = admin.begin().await.expect("a transaction");
    let slow = "LOCK TABLE wallet.redemption IN ACCESS EXCLUSIVE MODE";
    sqlx::query(slow).execute(&mut *lock).await.expect("locked");
    let begun = Instant::now();
    let reads = futures_util::future::join_all((0..20).map(async |_| {
        while begun.elapsed() < Duration::from_secs(4) {
            let request =
                fresh_client().get(format!("{}/api/v1/wallet/redemptions?customer_id=c", wallet.url));
            let answer = request.bearer_auth(system.tokens.staff(BUSINESS, "pos")).send().await;
            assert_eq!(answer.expect("an answer").status(), 503);
        }
    }));
    let watch = async {
        while begun.elapsed() < Duration::from_secs(4) {
            assert_eq!(wallet.health(&system.client).await, Some(200), "after {:?}", begun.elapsed());
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    };
    tokio::join!(reads, watch);
    lock.rollback().await.expect("rolled back");

    // Its heartbeat waits, so that the engine may write nothing; the database itself answers.
    let mut lock = admin.begin().await.expect("a transaction");
    let heart = "LOCK TABLE saga.process IN ACCESS EXCLUSIVE MODE";
    sqlx::query(heart).execute(&mut *lock).await.expect("locked");
    until_ready(&system, &wallet, 503).await;
    lock.rollback().await.expect("rolled back");
    until_ready(&system, &wallet, 200).await;
}

async fn until_ready(system: &System, wallet: &WalletProcess, status: u16) {
    testkit::until(WITHIN, async || {
        let health = wallet.health(&system.client).await;
        if health == Some(status) { Ok(()) } else { Err(format!("{health:?} and not {status}")) }
    })
    .await;
}
