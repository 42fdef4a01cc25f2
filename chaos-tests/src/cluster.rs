//! Three tenders and two orchestrators, each a process with a database of its own, and a proxy on every way between them.

use std::{
    collections::HashSet,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use schema::Database;
use testkit::{TestDatabase, Tokens};

use crate::{
    business::PEPPER,
    evidence::Evidence,
    links::Links,
    process::Process,
    server::{Server, servers, url_for},
    who::{WALLET, Who, older},
};

/// The tenders' binaries, in the order of [`Cluster::tenders`].
const TENDERS: [&str; 3] = ["points", "store-credit", "digital-rewards"];

/// Longest wait for a process's metrics.
const METRICS_LIMIT: Duration = Duration::from_secs(6);

/// A service's process.
pub struct Node {
    /// Its name, which is also its log's: `wallet-1`, `points`…
    pub name: String,
    /// Where its callers reach it: through a proxy.
    pub url: String,
    /// Its internal listener, without a proxy.
    pub internal: String,
    /// The process.
    pub process: Process,
}

impl Node {
    /// The port of its internal listener.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn internal_port(&self) -> u16 {
        self.internal.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port")
    }
}

/// The system under test. Dropped, its processes end before its databases are checked and dropped.
pub struct Cluster {
    /// The orchestrators.
    pub wallets: Vec<Node>,
    /// Points, store credit, digital rewards.
    pub tenders: Vec<Node>,
    /// Redis.
    pub redis: Process,
    /// Where Redis listens, without a proxy.
    pub redis_port: u16,
    /// The ways between the processes.
    pub links: Links,
    /// Makes tokens.
    pub tokens: Arc<Tokens>,
    /// For calls.
    pub client: reqwest::Client,
    /// Wallet, points, store credit, digital rewards.
    pub databases: Vec<(Database, TestDatabase)>,
    /// The servers that they are on.
    pub servers: Vec<Server>,
    /// Where what happens is written down.
    pub evidence: Evidence,
    /// Sagas that are not what their legs are, for ever, since a database has lost something.
    pub lost: HashSet<String>,
    folder: PathBuf,
    keeps_logs: bool,
}

/// The place of a process's database in [`Cluster::databases`].
const fn database_of(who: Who) -> usize {
    if who < WALLET { who + 1 } else { 0 }
}

/// Where one process listens.
#[derive(Clone, Copy)]
struct Ports {
    public: u16,
    internal: u16,
}

impl Cluster {
    /// Starts everything with its defaults and waits until it is ready.
    ///
    /// # Panics
    /// When something does not start.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts everything, every process with these settings as well, and waits until it is ready.
    ///
    /// # Panics
    /// When something does not start.
    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        let folder = std::env::temp_dir().join(format!("chaos-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let tokens = Arc::new(Tokens::new());
        write_keys(&folder, &tokens);
        let mut databases = Vec::new();
        for database in Database::ALL {
            databases.push((database, TestDatabase::create_on(url_for(database), database).await));
        }
        let redis_port = free_port();
        let ports: Vec<Ports> =
            (0..5).map(|_| Ports { public: free_port(), internal: free_port() }).collect();
        let public: Vec<u16> = ports.iter().map(|ports| ports.public).collect();
        let internal: Vec<u16> = ports.iter().map(|ports| ports.internal).collect();
        let places: Vec<(String, u16)> = (0..ports.len())
            .map(|who| databases[database_of(who)].1.admin())
            .map(|options| (options.get_host().to_owned(), options.get_port()))
            .collect();
        let links = Links::start(&public[WALLET..], &internal[..WALLET], &places, redis_port).await;
        let mut cluster = Self {
            wallets: Vec::new(),
            tenders: Vec::new(),
            redis: start_redis(redis_port, &folder),
            redis_port,
            links,
            tokens,
            client: client(Duration::from_secs(35)),
            servers: servers(&databases),
            databases,
            evidence: Evidence::default(),
            lost: HashSet::new(),
            folder,
            keeps_logs: false,
        };
        for (index, ports) in ports.iter().enumerate() {
            let node = cluster.node(index, *ports, settings);
            if index < WALLET { cluster.tenders.push(node) } else { cluster.wallets.push(node) }
        }
        cluster.until_all_ready().await;
        cluster
    }

    /// The `index`th process: three tenders, then the orchestrators.
    fn node(&self, index: usize, ports: Ports, settings: &[(&str, &str)]) -> Node {
        let wallet = index.checked_sub(WALLET);
        let file = |name: &str| self.folder.join(name).display().to_string();
        let database = &self.databases[database_of(index)].1;
        let direct = format!(":{}/", database.admin().get_port());
        let through = format!(":{}/", self.links.databases[index].port);
        let database = database.url().expose().replace(&direct, &through);
        let cache = format!("redis://127.0.0.1:{}", self.links.caches[index].port);
        let mut environment = vec![
            ("PUBLIC_ADDR", format!("127.0.0.1:{}", ports.public)),
            ("INTERNAL_ADDR", format!("127.0.0.1:{}", ports.internal)),
            ("DATABASE_URL", database),
            ("REDIS_URL", cache),
            ("JWKS_FILE", file("public.jwks.json")),
            ("INTERNAL_JWKS_FILE", file("internal.jwks.json")),
            ("SERVICE_KEY_FILE", file("test-internal.pem")),
            ("REWARD_CODE_PEPPER", PEPPER.to_owned()),
            ("RUST_LOG", "info".to_owned()),
        ];
        let names = ["POINTS_INTERNAL_URL", "STORE_CREDIT_INTERNAL_URL", "DIGITAL_REWARDS_INTERNAL_URL"];
        if let Some(wallet) = wallet {
            for (tender, name) in names.into_iter().enumerate() {
                environment.push((name, format!("http://127.0.0.1:{}", self.links.leg(wallet, tender).port)));
            }
        }
        environment.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let environment = environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let (name, binary, port) = match wallet {
            Some(wallet) => (format!("wallet-{}", wallet + 1), "wallet", self.links.tills[wallet].port),
            None => (TENDERS[index].to_owned(), TENDERS[index], ports.public),
        };
        let log = self.folder.join(format!("{name}.log"));
        let process = Process::start(binary, older(index), environment, &log);
        Node {
            name,
            url: format!("http://127.0.0.1:{port}"),
            internal: format!("http://127.0.0.1:{}", ports.internal),
            process,
        }
    }

    /// The process of this number.
    pub fn node_mut(&mut self, who: Who) -> &mut Node {
        if who < WALLET { &mut self.tenders[who] } else { &mut self.wallets[who - WALLET] }
    }

    /// The server of a database.
    ///
    /// # Panics
    /// Never: every database is on one.
    #[must_use]
    pub fn server(&self, database: Database) -> &Server {
        self.servers.iter().find(|server| server.has(database)).expect("a server")
    }

    /// Tenders, then orchestrators.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.tenders.iter().chain(&self.wallets)
    }

    /// Tenders, then orchestrators.
    pub fn nodes_mut(&mut self) -> impl Iterator<Item = &mut Node> {
        self.tenders.iter_mut().chain(&mut self.wallets)
    }

    /// What a process has logged so far: `wallet-1`, `points`…
    ///
    /// # Panics
    /// When there is no log of that name.
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.log_file(name)).expect("a log file")
    }

    /// The logs outlive this value; where they are.
    pub fn keep_logs(&mut self) -> &Path {
        self.keeps_logs = true;
        &self.folder
    }

    /// The metrics of a process; nothing if it gives none.
    pub async fn metrics(&self, node: &Node) -> String {
        let request = self.client.get(format!("{}/metrics", node.internal)).timeout(METRICS_LIMIT);
        let text = async { request.send().await?.text().await };
        text.await.unwrap_or_default()
    }

    /// Waits until every process is ready.
    ///
    /// # Panics
    /// When one is not within 20 s.
    pub async fn until_all_ready(&self) {
        for node in self.nodes() {
            self.until_ready(node).await;
        }
    }

    /// Waits until a process is ready.
    ///
    /// # Panics
    /// When it is not within 20 s.
    pub async fn until_ready(&self, node: &Node) {
        for _ in 0..400 {
            let request = self.client.get(format!("{}/health/ready", node.internal));
            let answer = request.timeout(Duration::from_secs(1)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} did not become ready; logs are in {}", node.name, self.folder.display());
    }

    /// Where a process logs: `wallet-1`, `points`…
    #[must_use]
    pub fn log_file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.wallets.clear();
        self.tenders.clear();
        if std::thread::panicking() {
            eprintln!("logs are kept in {}", self.folder.display());
        } else if !self.keeps_logs {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// A client that gives up after `limit`.
pub(crate) fn client(limit: Duration) -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(limit).build().expect("a client")
}

fn write_keys(folder: &Path, tokens: &Tokens) {
    let files = [
        ("public.jwks.json", tokens.public_jwks()),
        ("internal.jwks.json", tokens.internal_jwks()),
        ("test-internal.pem", tokens.internal_pem()),
    ];
    for (name, text) in files {
        std::fs::write(folder.join(name), text).expect("a key file");
    }
}

/// It keeps nothing: what is in Redis may be lost.
fn start_redis(port: u16, folder: &Path) -> Process {
    let arguments = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()];
    let arguments = arguments.into_iter().map(str::to_owned).collect();
    Process::of_system("redis-server", arguments, &folder.join("redis.log"))
}

/// A port that is free now, below those that the system hands to clients: a process that was killed has to get its own
/// back. Another process may take it before ours does, which then fails to start, loudly.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 1_000).unwrap_or(0) * 10;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
