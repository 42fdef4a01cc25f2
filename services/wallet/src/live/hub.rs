//! Who watches which customer, and what is known of each.
//!
//! For every watched customer the hub keeps the latest state of each account, and nothing else: a client holds a
//! receiver of that state and its own versions, so that a slow client skips what it was too slow for, and costs the same
//! memory as a quick one. States are replaced by higher versions only, from whichever side they come: a message, a
//! comparison, or a client's own snapshot.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use api::{
    live::{BalanceUpdated, LiveBalance},
    tender::{Owner, Totals},
    wallet::TenderKind,
};
use metrics::gauge;
use money::Asset;
use service::ApiError;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{
    account_balance::AccountBalance,
    admission::{Admission, Admitted, ClientLimits},
};

/// A client that was told of changes is told of the next ones this much later: however busy an account is, its clients
/// cost no more than this, and none of them sees the delay.
const PACE: Duration = Duration::from_millis(50);
/// How long a new client waits for Redis to say that the customer's changes will come; without that word a comparison
/// finds what is missed.
const SUBSCRIBE_LIMIT: Duration = Duration::from_millis(100);

/// The hub of one process. Clones share it.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    admission: Admission,
    watched: Mutex<Watched>,
    /// Owners have come or gone.
    changed: Notify,
    /// A comparison is due before its time.
    behind: Notify,
}

#[derive(Debug, Default)]
struct Watched {
    owners: HashMap<Owner, Entry>,
    /// Owners that have come or gone since the subscriber looked; empty while it has no connection.
    changed: HashSet<Owner>,
    is_connected: bool,
}

#[derive(Debug)]
struct Entry {
    state: watch::Sender<State>,
    clients: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Redis has said that it will send this customer's changes.
    is_subscribed: bool,
    accounts: BTreeMap<(TenderKind, Asset), Totals>,
}

impl Hub {
    /// A hub with room for so many clients.
    #[must_use]
    pub fn new(limits: ClientLimits) -> Self {
        for kind in ["sse", "ws"] {
            gauge!("hub_clients", "kind" => kind).increment(0.0);
        }
        Self(Arc::new(Inner {
            admission: Admission::new(limits),
            watched: Mutex::default(),
            changed: Notify::new(),
            behind: Notify::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        // A panic while the lock was held left maps that are still maps.
        self.0.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a client. Whatever changes from here on reaches it; what was before, it reads itself. `is_own` says that
    /// the client came with the customer's own token.
    ///
    /// # Errors
    /// 503 `overloaded` when this process serves as many clients as it takes, 429 `rate_limited` when this business or this
    /// customer has as many as it may.
    pub async fn watch(&self, owner: Owner, is_own: bool, kind: &'static str) -> Result<Watcher, ApiError> {
        let admitted = self.0.admission.admit(&owner, is_own)?;
        let (mut state, is_connected) = {
            let mut watched = self.lock();
            let is_connected = watched.is_connected;
            let is_new = !watched.owners.contains_key(&owner);
            let entry = watched
                .owners
                .entry(owner.clone())
                .or_insert_with(|| Entry { state: watch::Sender::default(), clients: 0 });
            entry.clients += 1;
            let state = entry.state.subscribe();
            if is_new && is_connected {
                watched.changed.insert(owner.clone());
                self.0.changed.notify_one();
            }
            (state, is_connected)
        };
        gauge!("hub_clients", "kind" => kind).increment(1.0);
        let watcher = Watcher {
            hub: self.clone(),
            owner,
            kind,
            state: state.clone(),
            seen: BTreeMap::new(),
            due: Vec::new(),
            rested_at: Instant::now(),
            _admitted: admitted,
        };
        if is_connected {
            let _ = timeout(SUBSCRIBE_LIMIT, state.wait_for(|state| state.is_subscribed)).await;
        }
        Ok(watcher)
    }

    /// Replaces what is known of an account, unless it is known already.
    pub fn learn(&self, owner: &Owner, kind: TenderKind, asset: Asset, totals: Totals) {
        let watched = self.lock();
        let Some(entry) = watched.owners.get(owner) else { return };
        entry.state.send_if_modified(|state| {
            let is_news =
                state.accounts.get(&(kind, asset)).is_none_or(|known| known.version < totals.version);
            if is_news {
                state.accounts.insert((kind, asset), totals);
            }
            is_news
        });
    }

    /// Whether what is known of an account is older than this version.
    #[must_use]
    pub fn is_behind(&self, owner: &Owner, kind: TenderKind, asset: Asset, version: i64) -> bool {
        let watched = self.lock();
        watched.owners.get(owner).is_some_and(|entry| {
            entry.state.borrow().accounts.get(&(kind, asset)).is_none_or(|known| known.version < version)
        })
    }

    /// Every customer whom somebody watches.
    #[must_use]
    pub fn owners(&self) -> Vec<Owner> {
        self.lock().owners.keys().cloned().collect()
    }

    /// A new connection to Redis: everybody who is watched, to be subscribed on it. From here on [`Hub::changes`]
    /// tells of others.
    pub(super) fn connected(&self) -> Vec<Owner> {
        let mut watched = self.lock();
        watched.is_connected = true;
        watched.changed.clear();
        watched.owners.keys().cloned().collect()
    }

    /// The connection to Redis is gone.
    pub(super) fn disconnected(&self) {
        let mut watched = self.lock();
        watched.is_connected = false;
        watched.changed.clear();
        for entry in watched.owners.values() {
            entry.state.send_if_modified(|state| {
                state.is_subscribed = false;
                false
            });
        }
    }

    /// Waits until owners have come or gone; who came, and who went.
    pub(super) async fn changes(&self) -> (Vec<Owner>, Vec<Owner>) {
        loop {
            self.0.changed.notified().await;
            let mut watched = self.lock();
            let changed = std::mem::take(&mut watched.changed);
            if !changed.is_empty() {
                return changed.into_iter().partition(|owner| watched.owners.contains_key(owner));
            }
        }
    }

    /// Redis sends these customers' changes from here on.
    pub(super) fn subscribed(&self, owners: &[Owner]) {
        let watched = self.lock();
        for entry in owners.iter().filter_map(|owner| watched.owners.get(owner)) {
            entry.state.send_modify(|state| state.is_subscribed = true);
        }
    }

    /// Has a comparison made now.
    pub(super) fn ask_for_comparison(&self) {
        self.0.behind.notify_one();
    }

    /// Waits until somebody asks for a comparison.
    pub(super) async fn comparison_asked_for(&self) {
        self.0.behind.notified().await;
    }

    /// Says how much is watched, in the metrics.
    pub(super) fn measure(&self) {
        let watched = self.lock();
        let accounts: usize = watched.owners.values().map(|entry| entry.state.borrow().accounts.len()).sum();
        gauge!("hub_watched_accounts").set(f64::from(u32::try_from(accounts).unwrap_or(u32::MAX)));
    }
}

/// One client's view of a customer. Dropped, the client is gone.
#[derive(Debug)]
pub struct Watcher {
    hub: Hub,
    owner: Owner,
    kind: &'static str,
    state: watch::Receiver<State>,
    /// What the client was told.
    seen: BTreeMap<(TenderKind, Asset), i64>,
    /// What it is to be told of now.
    due: Vec<(TenderKind, Asset)>,
    /// When it may be told of something again.
    rested_at: Instant,
    _admitted: Admitted,
}

impl Watcher {
    /// The client is told this as part of its snapshot; others learn from it.
    pub fn tell(&mut self, kind: TenderKind, line: &AccountBalance) {
        let Some(asset) = line.asset(kind) else { return };
        self.seen.insert((kind, asset), line.totals.version);
        self.hub.learn(&self.owner, kind, asset, line.totals);
    }

    /// The next account that has changed since the client was told of it. Dropping the future loses nothing.
    pub async fn next(&mut self) -> BalanceUpdated {
        loop {
            if let Some(updated) = self.take() {
                return updated;
            }
            sleep_until(self.rested_at).await;
            self.look();
            if !self.due.is_empty() {
                self.rested_at = Instant::now() + PACE;
            } else if self.state.changed().await.is_err() {
                // The sender lives as long as somebody watches; this client does.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Notes which accounts the client does not know the latest of.
    fn look(&mut self) {
        let state = self.state.borrow_and_update();
        let is_news = |(account, totals): &(&(TenderKind, Asset), &Totals)| {
            self.seen.get(account).is_none_or(|seen| *seen < totals.version)
        };
        self.due = state.accounts.iter().filter(is_news).map(|(account, _)| *account).collect();
    }

    fn take(&mut self) -> Option<BalanceUpdated> {
        let (tender, asset) = self.due.pop()?;
        let totals = *self.state.borrow().accounts.get(&(tender, asset))?;
        self.seen.insert((tender, asset), totals.version);
        Some(BalanceUpdated {
            customer_id: self.owner.customer_id.as_str().to_owned(),
            tender,
            currency: asset.currency(),
            version: totals.version,
            balance: LiveBalance { available: totals.available, held: totals.held, posted: totals.posted },
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        gauge!("hub_clients", "kind" => self.kind).decrement(1.0);
        let mut watched = self.hub.lock();
        let Some(entry) = watched.owners.get_mut(&self.owner) else { return };
        entry.clients -= 1;
        if entry.clients == 0 {
            watched.owners.remove(&self.owner);
            if watched.is_connected {
                watched.changed.insert(self.owner.clone());
                self.hub.0.changed.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(customer: &str) -> Owner {
        Owner {
            business_id: "b".to_owned().try_into().expect("an id"),
            customer_id: customer.to_owned().try_into().expect("an id"),
        }
    }

    fn totals(version: i64) -> Totals {
        Totals { version, posted: version, held: 0, available: version }
    }

    async fn watch(hub: &Hub, customer: &str) -> Watcher {
        hub.watch(owner(customer), true, "test").await.expect("room")
    }

    #[tokio::test]
    async fn versions_only_rise_and_a_slow_client_skips() {
        let hub = Hub::new(ClientLimits::default());
        let mut client = watch(&hub, "c").await;
        for version in [1, 4, 2, 4, 3] {
            hub.learn(&owner("c"), TenderKind::Points, Asset::Points, totals(version));
        }
        assert_eq!(client.next().await.version, 4);
        client.look();
        assert_eq!(client.due, []);
        hub.learn(&owner("c"), TenderKind::Points, Asset::Points, totals(3));
        client.look();
        assert_eq!(client.due, [], "older after newer");
        hub.learn(&owner("c"), TenderKind::Points, Asset::Points, totals(5));
        assert_eq!(client.next().await.version, 5);
    }

    #[tokio::test]
    async fn what_came_between_registration_and_snapshot_is_told_after_it() {
        let hub = Hub::new(ClientLimits::default());
        let mut client = watch(&hub, "c").await;
        hub.learn(&owner("c"), TenderKind::Points, Asset::Points, totals(8));
        let snapshot = AccountBalance { currency: None, totals: totals(7), expiring: Vec::new() };
        client.tell(TenderKind::Points, &snapshot);
        assert_eq!(client.next().await.version, 8);
        // A second client's newer snapshot is news to the first.
        let mut second = watch(&hub, "c").await;
        second.tell(TenderKind::Points, &AccountBalance { totals: totals(9), ..snapshot });
        assert_eq!(client.next().await.version, 9);
        second.look();
        assert_eq!(second.due, []);
    }

    #[tokio::test]
    async fn nobody_is_watched_in_the_end() {
        let hub = Hub::new(ClientLimits::default());
        let clients = [watch(&hub, "c").await, watch(&hub, "c").await, watch(&hub, "d").await];
        assert_eq!(hub.owners().len(), 2);
        drop(clients);
        assert_eq!(hub.owners(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_account_is_told_at_a_pace_and_a_quiet_one_at_once() {
        let hub = Hub::new(ClientLimits::default());
        let mut client = watch(&hub, "c").await;
        let news = |tender, version| hub.learn(&owner("c"), tender, Asset::Points, totals(version));
        let begun = Instant::now();
        news(TenderKind::Points, 1);
        news(TenderKind::StoreCredit, 1);
        client.next().await;
        client.next().await;
        assert_eq!(begun.elapsed(), Duration::ZERO, "all that has changed is told at once");
        news(TenderKind::Points, 2);
        news(TenderKind::Points, 3);
        assert_eq!((client.next().await.version, begun.elapsed()), (3, PACE));
        tokio::time::sleep(PACE * 3).await;
        news(TenderKind::Points, 4);
        client.next().await;
        assert_eq!(begun.elapsed(), PACE * 4);
    }

    #[tokio::test]
    async fn the_subscriber_hears_who_came_and_went() {
        let hub = Hub::new(ClientLimits::default());
        let _before = watch(&hub, "before").await;
        assert_eq!(hub.connected(), [owner("before")]);
        let came = watch(&hub, "came").await;
        assert_eq!(hub.changes().await, (vec![owner("came")], vec![]));
        drop(came);
        assert_eq!(hub.changes().await, (vec![], vec![owner("came")]));
    }
}
