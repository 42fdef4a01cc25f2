//! The ways between processes: a proxy on each.

use std::fmt::Write as _;

use testkit::Proxy;

/// Which ways a fault is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From tills to all orchestrators.
    Tills,
    /// From tills to one orchestrator.
    Till(usize),
    /// From all orchestrators to all tenders.
    Legs,
    /// From all orchestrators to one tender.
    Tender(usize),
    /// From one orchestrator to all tenders.
    From(usize),
    /// From all orchestrators to their database.
    Sagas,
    /// From one orchestrator to its database.
    Saga(usize),
    /// From all tenders to their databases.
    Ledgers,
    /// From one tender to its database.
    Ledger(usize),
    /// From every process to its database.
    Databases,
    /// From every process to Redis.
    Caches,
}

/// A proxy on every way. Processes are counted from 0: points, store credit, digital rewards, wallet-1, wallet-2.
pub struct Links {
    /// To each orchestrator's public listener.
    pub tills: Vec<Proxy>,
    /// From each orchestrator to each tender; see [`Links::leg`].
    pub legs: Vec<Proxy>,
    /// From each process to its database.
    pub databases: Vec<Proxy>,
    /// From each process to Redis.
    pub caches: Vec<Proxy>,
}

impl Links {
    /// `databases`: where the database of each process is, tenders first.
    pub(crate) async fn start(
        wallets: &[u16],
        tenders: &[u16],
        databases: &[(String, u16)],
        redis: u16,
    ) -> Self {
        let mut links =
            Self { tills: Vec::new(), legs: Vec::new(), databases: Vec::new(), caches: Vec::new() };
        for wallet in wallets {
            links.tills.push(Proxy::start("127.0.0.1", *wallet).await);
            for tender in tenders {
                links.legs.push(Proxy::start("127.0.0.1", *tender).await);
            }
        }
        for (host, port) in databases {
            links.databases.push(Proxy::start(host, *port).await);
            links.caches.push(Proxy::start("127.0.0.1", redis).await);
        }
        links
    }

    /// From an orchestrator to a tender.
    #[must_use]
    pub fn leg(&self, wallet: usize, tender: usize) -> &Proxy {
        &self.legs[wallet * self.tenders() + tender]
    }

    fn tenders(&self) -> usize {
        self.legs.len() / self.tills.len()
    }

    /// The proxies on these ways.
    #[must_use]
    pub fn on(&self, way: Way) -> Vec<&Proxy> {
        let tenders = self.tenders();
        match way {
            Way::Tills => self.tills.iter().collect(),
            Way::Till(wallet) => vec![&self.tills[wallet]],
            Way::Legs => self.legs.iter().collect(),
            Way::Tender(tender) => (0..self.tills.len()).map(|wallet| self.leg(wallet, tender)).collect(),
            Way::From(wallet) => (0..tenders).map(|tender| self.leg(wallet, tender)).collect(),
            Way::Sagas => self.databases[tenders..].iter().collect(),
            Way::Saga(wallet) => vec![&self.databases[tenders + wallet]],
            Way::Ledgers => self.databases[..tenders].iter().collect(),
            Way::Ledger(tender) => vec![&self.databases[tender]],
            Way::Databases => self.databases.iter().collect(),
            Way::Caches => self.caches.iter().collect(),
        }
    }

    /// How often faults on these ways have hit something since the start.
    #[must_use]
    pub fn fired(&self, way: Way) -> u64 {
        self.on(way).into_iter().map(Proxy::fired).sum()
    }

    /// What passed and what was hit on every way, for whoever looks for what is stuck.
    #[must_use]
    pub fn state(&self) -> String {
        let mut text = String::new();
        let all = [
            ("tills", &self.tills),
            ("legs", &self.legs),
            ("databases", &self.databases),
            ("caches", &self.caches),
        ];
        for (name, proxies) in all {
            for (number, proxy) in proxies.iter().enumerate() {
                let _ = writeln!(text, "{name}[{number}]: {} pieces, {} hit", proxy.pieces(), proxy.fired());
            }
        }
        text
    }
}
