//! The services as they are released: real processes with databases of their own.

use std::{
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use hyper::Method;
use schema::Database;
use sqlx::{Connection as _, PgConnection};
use testkit::{TestDatabase, Tokens};

use crate::http::Connection;

/// The business of every case.
pub const BUSINESS: &str = "bench";
/// Every funded customer has so many units in each tender.
pub const PLENTY: i64 = 1_000_000_000;
/// Binary, and the variable that tells the orchestrator where it listens.
const TENDERS: [(&str, &str); 3] = [
    ("points", "POINTS_INTERNAL_URL"),
    ("store-credit", "STORE_CREDIT_INTERNAL_URL"),
    ("digital-rewards", "DIGITAL_REWARDS_INTERNAL_URL"),
];

/// A service.
pub struct Service {
    /// Its name.
    pub name: String,
    /// Where callers come in.
    pub public: u16,
    /// Where other services come in.
    pub internal: u16,
    /// Its process.
    pub child: Child,
}

/// Three tenders and some orchestrators. Dropped, they end.
pub struct System {
    /// Points, store credit, digital rewards.
    pub tenders: Vec<Service>,
    /// The orchestrators.
    pub wallets: Vec<Service>,
    /// Signs tokens.
    pub tokens: Tokens,
    /// Wallet, points, store credit, digital rewards.
    pub databases: Vec<TestDatabase>,
    folder: PathBuf,
}

impl System {
    /// Starts everything and waits until it is ready.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(wallets: usize) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("bench-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder)?;
        let mut databases = Vec::new();
        for database in Database::ALL {
            // Invariants are what tests check; here the rows are too many.
            databases.push(TestDatabase::create(database).await.without_checks());
        }
        let mut system =
            Self { tenders: Vec::new(), wallets: Vec::new(), tokens: Tokens::new(), databases, folder };
        system.write_keys()?;
        for (number, (binary, _)) in TENDERS.iter().enumerate() {
            let service = system.spawn(binary, binary, number + 1, &[])?;
            system.tenders.push(service);
        }
        for number in 0..wallets {
            let addresses: Vec<(String, String)> = TENDERS
                .iter()
                .zip(&system.tenders)
                .map(|((_, name), tender)| {
                    ((*name).to_owned(), format!("http://127.0.0.1:{}", tender.internal))
                })
                .collect();
            let service = system.spawn("wallet", &format!("wallet-{}", number + 1), 0, &addresses)?;
            system.wallets.push(service);
        }
        for service in system.services() {
            until_ready(service).await?;
        }
        Ok(system)
    }

    fn write_keys(&self) -> anyhow::Result<()> {
        for (name, text) in [
            ("public.jwks.json", self.tokens.public_jwks()),
            ("internal.jwks.json", self.tokens.internal_jwks()),
            ("test-internal.pem", self.tokens.internal_pem()),
        ] {
            std::fs::write(self.folder.join(name), text)?;
        }
        Ok(())
    }

    fn spawn(
        &self,
        binary: &str,
        name: &str,
        database: usize,
        more: &[(String, String)],
    ) -> anyhow::Result<Service> {
        let (public, internal) = (free_port()?, free_port()?);
        let file = |name: &str| self.folder.join(name).display().to_string();
        let log = File::create(self.folder.join(format!("{name}.log")))?;
        let child = Command::new(binaries()?.join(binary))
            .env_clear()
            .env("PUBLIC_ADDR", format!("127.0.0.1:{public}"))
            .env("INTERNAL_ADDR", format!("127.0.0.1:{internal}"))
            .env("DATABASE_URL", self.databases[database].url().expose())
            .env("REDIS_URL", std::env::var("TEST_REDIS_URL").context("TEST_REDIS_URL")?)
            .env("JWKS_FILE", file("public.jwks.json"))
            .env("INTERNAL_JWKS_FILE", file("internal.jwks.json"))
            .env("SERVICE_KEY_FILE", file("test-internal.pem"))
            .env("REWARD_CODE_PEPPER", "a pepper that only benchmarks know")
            .env("RUST_LOG", "info")
            .envs(more.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{binary}: run script/bench, which builds it"))?;
        Ok(Service { name: name.to_owned(), public, internal, child })
    }

    /// Stops all processes where they are: nothing looks at the databases.
    ///
    /// # Errors
    /// When they cannot be signalled.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal("-STOP")
    }

    /// Lets them go on, and waits until they are ready and have caught up with what is due.
    ///
    /// # Errors
    /// When one is not ready in time.
    pub async fn resume(&self) -> anyhow::Result<()> {
        self.signal("-CONT")?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        for service in self.services() {
            until_ready(service).await?;
        }
        Ok(())
    }

    fn signal(&self, name: &str) -> anyhow::Result<()> {
        for service in self.services() {
            let done = Command::new("kill").args([name, &service.child.id().to_string()]).status()?;
            anyhow::ensure!(done.success(), "{} cannot be signalled", service.name);
        }
        Ok(())
    }

    /// Tenders, then orchestrators.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.tenders.iter().chain(&self.wallets)
    }

    /// Where the key files are.
    #[must_use]
    pub fn keys(&self) -> &Path {
        &self.folder
    }

    /// Gives each of so many customers [`PLENTY`] in each tender, as credits would leave it, but all at once. The customers are
    /// [`customer`]s, their rewards [`reward`]s.
    ///
    /// # Errors
    /// Of the databases.
    pub async fn fund(&self, customers: u64) -> anyhow::Result<()> {
        for (database, (asset, kind)) in
            self.databases[1..].iter().zip([("points", "earn"), ("USD", "issue"), ("USD", "issue")])
        {
            let mut connection = PgConnection::connect_with(&database.admin()).await?;
            sqlx::query(ACCOUNTS)
                .bind(BUSINESS)
                .bind(PLENTY)
                .bind(i64::try_from(customers)?)
                .bind(asset)
                .bind(kind)
                .bind(database.admin().get_database().is_some_and(|name| name.contains("digital")))
                .execute(&mut connection)
                .await?;
            sqlx::raw_sql("ANALYZE").execute(&mut connection).await?;
        }
        Ok(())
    }
}

/// The customer of this number.
#[must_use]
pub fn customer(number: u64) -> String {
    format!("customer-{number}")
}

/// The reward of a customer: as `md5('reward' || customer)` in the statement below.
#[must_use]
pub fn reward(number: u64) -> uuid::Uuid {
    uuid::Uuid::from_bytes(md5::compute(format!("reward{}", customer(number))).0)
}

const ACCOUNTS: &str = "
WITH account AS (
    INSERT INTO tender.account (business_id, owner, asset, posted, version)
    SELECT $1, 'customer-' || n, $4, $2, 1 FROM generate_series(0, $3 - 1) n
    RETURNING account_no, owner
), lot AS (
    INSERT INTO tender.lot (account_no, lot_id, original, remaining, funding, kind, operation_id, reward_id, created_at)
    SELECT account_no, md5('lot' || owner)::uuid, $2, $2, 'paid', $5, md5('operation' || owner)::uuid,
           CASE WHEN $6 THEN md5('reward' || owner)::uuid END, now()
    FROM account
), operation AS (
    INSERT INTO tender.operation (operation_id, business_id, account_no, kind, state, amount, response, created_at, updated_at)
    SELECT md5('operation' || owner)::uuid, $1, account_no, 'credit', 'applied', $2, '{}', now(), now() FROM account
), own AS (
    INSERT INTO tender.entry (operation_id, business_id, asset, kind, amount, account_no, version, balance_after, held_after, created_at)
    SELECT md5('operation' || owner)::uuid, $1, $4, 'credit', $2, account_no, 1, $2, 0, now() FROM account
)
INSERT INTO tender.entry (operation_id, business_id, asset, kind, amount, contra, created_at)
SELECT md5('operation' || owner)::uuid, $1, $4, 'credit', -$2, 'issued:paid', now() FROM account";

impl Drop for System {
    fn drop(&mut self) {
        for service in self.tenders.iter_mut().chain(&mut self.wallets) {
            let _ = service.child.kill();
            let _ = service.child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn until_ready(service: &Service) -> anyhow::Result<()> {
    for _ in 0..200 {
        let answer =
            Connection::to(service.internal).send(Method::GET, "/health/ready", &[], Vec::new()).await;
        if answer.is_ok_and(|answer| answer.status == 200) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("{} did not become ready", service.name)
}

/// Where the services are, built for release: `BENCH_BINARIES`.
fn binaries() -> anyhow::Result<PathBuf> {
    let folder = std::env::var("BENCH_BINARIES").context("BENCH_BINARIES: run script/bench")?;
    Ok(Path::new(&folder).to_owned())
}

/// A port that is free now.
///
/// # Errors
/// When there is none.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
