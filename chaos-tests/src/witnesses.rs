//! Everybody who watches a scenario from outside: subscribers, readers, observers of the databases, a consumer of events.

use std::{fs, io, path::PathBuf, time::Duration};

use checker::format::{Capture, Source, files};
use schema::Database;
use sqlx::{Connection, PgConnection};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    business::{BUSINESS, OTHER},
    cluster::Cluster,
    consumer::Consumer,
    dumps::copy_log,
    evidence::Evidence,
    funding::TENDERS,
    readers::Reader,
    snapshots::Observer,
    subscribers::{Subscriber, Versions},
};

/// Customers of the business whose streams are listened to, at each orchestrator; and one of the other business.
const WATCHED: usize = 4;
/// Longest wait for the last messages and events once everything else is quiet. The checker says who was late.
const LAST: Duration = Duration::from_secs(6);
const LOOK: Duration = Duration::from_millis(20);

/// Those who watch.
pub(crate) struct Witnesses {
    evidence: Evidence,
    readers: JoinSet<()>,
    listeners: JoinSet<()>,
    /// Whose stream, and what its subscriber was told last.
    subscribers: Vec<(&'static str, String, Versions)>,
    observers: Vec<Observer>,
    consumer: JoinHandle<Consumer>,
    stop: CancellationToken,
    /// Each process's log, and how long it was.
    logs: Vec<(String, PathBuf, u64)>,
    /// How often each process had failed to tell Redis of a change.
    untold: Vec<u64>,
}

impl Witnesses {
    /// Begins to watch. `customers` are the business's, those of the other business have the same names.
    pub(crate) async fn start(cluster: &Cluster, tag: &str, customers: &[(String, String)]) -> Self {
        let evidence = cluster.evidence.clone();
        let (mut readers, mut listeners, mut subscribers) = (JoinSet::new(), JoinSet::new(), Vec::new());
        for wallet in 0..cluster.wallets.len() {
            readers.spawn(Reader::new(cluster, wallet, customers).run());
            let own = customers.iter().take(WATCHED).map(|(customer, _)| (BUSINESS, customer));
            for (business, customer) in own.chain(customers.first().map(|(customer, _)| (OTHER, customer))) {
                let subscriber = Subscriber::new(cluster, wallet, business, customer);
                subscribers.push((business, customer.clone(), subscriber.versions()));
                listeners.spawn(subscriber.run());
            }
        }
        let observer = |tag: &str| {
            let databases = cluster.databases.iter();
            let new = |(database, test): &(Database, testkit::TestDatabase)| {
                Observer::new(*database, test.admin(), tag, evidence.clone())
            };
            databases.map(new).collect::<Vec<_>>()
        };
        for observer in observer(tag) {
            listeners.spawn(async move { observer.run().await });
        }
        let stop = CancellationToken::new();
        let mut consumer = Consumer::new(cluster.redis_port, evidence.clone()).await;
        let stopped = stop.clone();
        let consumer = TaskTracker::new().spawn(async move {
            let _ = stopped.run_until_cancelled(consumer.run()).await;
            consumer
        });
        let log = |name: &str| {
            let path = cluster.log_file(name);
            let length = fs::metadata(&path).map_or(0, |log| log.len());
            (name.to_owned(), path, length)
        };
        let logs = cluster.nodes().map(|node| log(&node.name)).collect();
        let untold = metrics(cluster).await.iter().map(|text| untold(text)).collect();
        Self {
            untold,
            readers,
            listeners,
            subscribers,
            observers: observer(tag),
            consumer,
            stop,
            logs,
            evidence,
        }
    }

    /// Waits for the last messages and events, has a last look, and goes.
    ///
    /// # Panics
    /// When what everybody has said cannot be written down.
    pub(crate) async fn finish(
        mut self,
        cluster: &Cluster,
        connections: &mut [(Database, PgConnection)],
    ) -> io::Result<()> {
        self.readers.shutdown().await;
        let until = Instant::now() + LAST;
        while Instant::now() < until && !self.is_up_to_date(connections).await {
            sleep(LOOK).await;
        }
        self.listeners.shutdown().await;
        for (observer, (_, connection)) in self.observers.iter().zip(connections.iter_mut()) {
            observer.look(connection).await;
        }
        self.stop.cancel();
        let mut consumer = (&mut self.consumer).await.expect("a consumer");
        consumer.drain().await;
        self.capture(cluster).await;
        let Some(folder) = self.evidence.folder().map(|folder| folder.join(files::LOGS)) else {
            return Ok(());
        };
        fs::create_dir_all(&folder)?;
        for (name, log, from) in &self.logs {
            copy_log(log, *from, &folder.join(format!("{name}.log")))?;
        }
        Ok(())
    }

    /// Whether every subscriber was told of the latest version of everything, and every event is published.
    async fn is_up_to_date(&self, connections: &mut [(Database, PgConnection)]) -> bool {
        for (database, connection) in connections {
            if *database == Database::Wallet {
                let waiting = sqlx::query_scalar::<_, bool>("SELECT EXISTS (SELECT FROM wallet.outbox)");
                if waiting.fetch_one(connection).await.unwrap_or(true) {
                    return false;
                }
                continue;
            }
            let Some(tender) = tender(*database) else { continue };
            for (business, customer, versions) in &self.subscribers {
                let version = sqlx::query_scalar::<_, i64>(
                    "SELECT version FROM tender.account WHERE business_id = $1 AND owner = $2",
                );
                let version = version.bind(business).bind(customer).fetch_one(&mut *connection).await;
                if !version.is_ok_and(|version| versions.has(tender, version)) {
                    return false;
                }
            }
        }
        true
    }

    /// What else might show one business to another: metrics, and what is in the cache.
    async fn capture(&self, cluster: &Cluster) {
        let metrics = metrics(cluster).await;
        // A process that was started again counts from nothing.
        let failed = |(text, before): (&String, &u64)| untold(text) != *before && untold(text) > 0;
        if metrics.iter().zip(&self.untold).any(failed) {
            self.evidence.redis_was_away();
        }
        for text in metrics {
            self.evidence.capture(&Capture { from: Source::Metrics, text });
        }
        let cached = crate::redis::everything(cluster.redis_port).await;
        for (key, value) in cached.unwrap_or_default() {
            self.evidence.capture(&Capture { from: Source::Cache, text: format!("{key}\n{value}") });
        }
    }
}

/// The metrics of every process; nothing of one that gives none.
async fn metrics(cluster: &Cluster) -> Vec<String> {
    let mut all = Vec::new();
    for node in cluster.nodes() {
        all.push(cluster.metrics(node).await);
    }
    all
}

/// How often a process could not tell Redis of a change in time: what is cached may be shown for as long as it lives.
fn untold(metrics: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix("cache_raises_failed_total "));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// The tender whose database it is, by the name that requests know it by.
fn tender(database: Database) -> Option<&'static str> {
    let place = Database::ALL.iter().position(|other| *other == database)?;
    Some(TENDERS.get(place.checked_sub(1)?)?.1)
}

/// A connection to every database, past the proxies.
///
/// # Panics
/// When one cannot be reached.
pub(crate) async fn connect(cluster: &Cluster) -> Vec<(Database, PgConnection)> {
    let mut connections = Vec::new();
    for (database, test) in &cluster.databases {
        let options = test.admin().application_name("chaos");
        connections.push((*database, PgConnection::connect_with(&options).await.expect("a connection")));
    }
    connections
}
