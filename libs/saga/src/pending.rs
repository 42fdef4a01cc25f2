//! The keys of this process under which an insert may still come: from the moment at which a call begins to the answer of
//! the store.
//!
//! A call says by its [`Intent`] that it may insert its key. The insert that the store gets carries [`Terms`]: it is sent, and
//! sent again after a COMMIT without an answer, only
//! - while its call waits. Once the caller has hung up, or has been told that its time is over, nothing is begun for it;
//! - while the process has held its lease without a gap since the call began. After a gap others may have said that nothing
//!   of this process is still to come.
//!
//! What was sent and never answered stays in doubt for [`LANDING`], after which the server has ended its transaction.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{domain::Key, lease::Lease};

/// How long a transaction may go on of which this process hears nothing more: a batch is given up after 8 s, and a session
/// that says nothing inside a transaction is ended after 2 s.
pub(crate) const LANDING: Duration = Duration::from_secs(10);
/// Keys that have been pending for longer are named to other processes. Most are settled within a few milliseconds.
pub(crate) const NAMED_AFTER: Duration = Duration::from_millis(100);
/// Most keys that are named to other processes; past that all keys are in doubt.
const NAMED: usize = 4_096;
/// Between the parts of a key's name; no part has it.
const SEPARATOR: &str = "\u{1f}";

/// A key in one word.
pub(crate) fn name(key: &Key) -> Arc<str> {
    [key.business_id.as_str(), &key.operation, &key.scope, &key.key].join(SEPARATOR).into()
}

/// The keys under which an insert of this process may still come. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct PendingKeys(Arc<Mutex<HashMap<Arc<str>, Calls>>>);

struct Calls {
    count: usize,
    since: Instant,
    /// An insert that was sent has no answer, and may land until then.
    lands_until: Option<Instant>,
}

/// A call that may insert its key. Given up ([`crate::Engine::withdraw`]) or dropped, it will not.
pub struct Intent {
    pub(crate) key: Key,
    pending: Pending,
    waiting: Arc<()>,
    /// By the lease's clock.
    pub(crate) since: i64,
}

/// Under which terms an insert may be sent.
pub(crate) struct Terms {
    pending: Pending,
    waiting: Weak<()>,
    since: i64,
    lease: Arc<Lease>,
    is_sent: AtomicBool,
}

/// One reason for which a key is pending.
struct Pending {
    keys: PendingKeys,
    name: Arc<str>,
}

impl PendingKeys {
    /// From now on an insert under this key may come.
    pub(crate) fn intend(&self, key: &Key, lease: &Lease) -> Intent {
        let pending = self.enter(name(key));
        Intent { key: key.clone(), pending, waiting: Arc::new(()), since: lease.local() }
    }

    /// Whether an insert under this key may still come, or land.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.lock().get(name).is_some_and(|calls| calls.may_land(Instant::now()))
    }

    /// The names of the keys that have been pending for as long as `limit`; `None` if there are too many to name.
    pub(crate) fn older_than(&self, limit: Duration) -> Option<Vec<String>> {
        let now = Instant::now();
        let mut calls = self.lock();
        calls.retain(|_, calls| calls.may_land(now));
        let is_old = |calls: &Calls| calls.count == 0 || now.duration_since(calls.since) >= limit;
        let old: Vec<_> =
            calls.iter().filter(|(_, calls)| is_old(calls)).map(|(name, _)| name.to_string()).collect();
        (old.len() <= NAMED).then_some(old)
    }

    /// Whether an insert was sent whose answer is not known, or may still be sent.
    pub(crate) fn any_in_doubt(&self) -> bool {
        let now = Instant::now();
        self.lock().values().any(|calls| calls.may_land(now))
    }

    fn enter(&self, name: Arc<str>) -> Pending {
        let mut inner = self.lock();
        let calls = inner.entry(name.clone()).or_insert_with(|| Calls {
            count: 0,
            since: Instant::now(),
            lands_until: None,
        });
        calls.count += 1;
        drop(inner);
        Pending { keys: self.clone(), name }
    }

    fn in_doubt(&self, name: &str) {
        if let Some(calls) = self.lock().get_mut(name) {
            calls.lands_until = Some(Instant::now() + LANDING);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Calls>> {
        // Nothing that can panic runs under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Calls {
    fn may_land(&self, now: Instant) -> bool {
        self.count > 0 || self.lands_until.is_some_and(|until| now < until)
    }
}

impl Intent {
    /// The terms of an insert of this call.
    pub(crate) fn terms(&self, lease: &Arc<Lease>) -> Terms {
        Terms {
            pending: self.pending.keys.enter(self.pending.name.clone()),
            waiting: Arc::downgrade(&self.waiting),
            since: self.since,
            lease: lease.clone(),
            is_sent: AtomicBool::new(false),
        }
    }
}

impl std::fmt::Debug for Intent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intent").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Terms {
    /// Whether the insert may be sent now. If so it counts as sent.
    pub(crate) fn allow(&self) -> bool {
        let is_allowed = self.waiting.strong_count() > 0 && self.lease.has_held_since(self.since);
        self.is_sent.fetch_or(is_allowed, Ordering::Relaxed);
        is_allowed
    }

    /// What became of the insert is known: it is durable, or never will be.
    pub(crate) fn settle(self) {
        self.is_sent.store(false, Ordering::Relaxed);
    }
}

impl Drop for Terms {
    fn drop(&mut self) {
        if self.is_sent.load(Ordering::Relaxed) {
            self.pending.keys.in_doubt(&self.pending.name);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.keys.lock().entry(self.name.clone()) {
            entry.get_mut().count -= 1;
            if !entry.get().may_land(Instant::now()) {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::DatabaseClock;

    fn key(key: &str) -> Key {
        Key { business_id: "b".into(), operation: "o".into(), scope: String::new(), key: key.into() }
    }

    fn lease() -> Arc<Lease> {
        let lease = Lease::new(Duration::from_secs(60), DatabaseClock::default());
        lease.renewed(lease.local(), 0);
        Arc::new(lease)
    }

    #[test]
    fn a_key_is_pending_until_its_last_call_and_insert_are_over() {
        let (keys, lease) = (PendingKeys::default(), lease());
        let (first, second) = (keys.intend(&key("k"), &lease), keys.intend(&key("k"), &lease));
        let terms = first.terms(&lease);
        drop((first, second));
        assert!(keys.contains(&name(&key("k"))) && !keys.contains(&name(&key("l"))));
        terms.settle();
        assert!(!keys.contains(&name(&key("k"))));
        assert!(keys.0.lock().expect("no panic").is_empty());
    }

    #[test]
    fn an_insert_is_allowed_only_while_its_call_waits() {
        let (keys, lease) = (PendingKeys::default(), lease());
        let intent = keys.intend(&key("k"), &lease);
        let terms = intent.terms(&lease);
        assert!(terms.allow());
        drop(intent);
        assert!(!terms.allow());
    }

    #[test]
    fn what_was_sent_and_not_answered_stays_in_doubt() {
        let (keys, lease) = (PendingKeys::default(), lease());
        let name = name(&key("k"));
        drop(keys.intend(&key("k"), &lease).terms(&lease));
        assert!(!keys.contains(&name), "never sent");
        let intent = keys.intend(&key("k"), &lease);
        let terms = intent.terms(&lease);
        assert!(terms.allow());
        drop((intent, terms));
        assert!(keys.contains(&name));
        assert_eq!(keys.older_than(Duration::from_secs(60)), Some(vec![name.to_string()]));
    }

    #[test]
    fn only_what_is_old_is_named_and_not_without_end() {
        let (keys, lease) = (PendingKeys::default(), lease());
        let calls: Vec<_> = (0..=NAMED).map(|n| keys.intend(&key(&n.to_string()), &lease)).collect();
        assert_eq!(keys.older_than(Duration::from_secs(60)), Some(Vec::new()));
        assert_eq!(keys.older_than(Duration::ZERO), None);
        drop(calls);
        assert_eq!(keys.older_than(Duration::ZERO), Some(Vec::new()));
    }

    #[test]
    fn after_a_gap_in_the_lease_nothing_from_before_is_sent() {
        let lease = Arc::new(Lease::new(Duration::from_millis(50), DatabaseClock::default()));
        lease.renewed(lease.local(), 0);
        let keys = PendingKeys::default();
        let before = keys.intend(&key("k"), &lease);
        std::thread::sleep(Duration::from_millis(80));
        assert!(!before.terms(&lease).allow(), "the lease has ended");
        lease.renewed(lease.local(), 0);
        assert!(!before.terms(&lease).allow());
        assert!(keys.intend(&key("l"), &lease).terms(&lease).allow());
    }
}
