//! One heartbeat a process, instead of a lease a saga.
//!
//! A process whose heartbeat is older than the TTL by the database's clock has lost its sagas to the process that claims them.
//! So a process that could not renew for as long stops sending by itself, measured from *before* the last heartbeat was
//! sent on a clock that goes on while the process is stopped. Back from such a gap, it waits one TTL before it claims
//! anything: others may have had the same gap and deserve to renew first.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use crate::{clock::DatabaseClock, machine::Millis};

const NEVER: i64 = i64::MIN / 2;

#[derive(Debug)]
pub(crate) struct Lease {
    clock: DatabaseClock,
    ttl_ms: i64,
    /// In local milliseconds of `clock`.
    valid_until: AtomicI64,
    /// Since when it has been held without a gap.
    held_from: AtomicI64,
    claim_from: AtomicI64,
}

impl Lease {
    pub(crate) fn new(ttl: Duration, clock: DatabaseClock) -> Self {
        Self {
            clock,
            ttl_ms: i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX / 4),
            valid_until: AtomicI64::new(NEVER),
            held_from: AtomicI64::new(NEVER),
            claim_from: AtomicI64::new(0),
        }
    }

    /// Milliseconds since its clock was made.
    pub(crate) fn local(&self) -> i64 {
        self.clock.local()
    }

    /// Whether this process may still act on what it owns.
    pub(crate) fn holds(&self) -> bool {
        self.local() < self.valid_until.load(Ordering::Acquire)
    }

    /// Whether this process has held it without a gap since `local`.
    pub(crate) fn has_held_since(&self, local: i64) -> bool {
        self.holds() && self.held_from.load(Ordering::Acquire) <= local
    }

    /// Whether it may take what others have left.
    pub(crate) fn may_claim(&self) -> bool {
        self.holds() && self.local() >= self.claim_from.load(Ordering::Acquire)
    }

    /// The database's time as the timeline shows it. Before the first heartbeat no saga runs here.
    pub(crate) fn now(&self) -> Millis {
        self.clock.now().map_or(0, crate::clock::DatabaseTime::millis)
    }

    /// A heartbeat that was sent at `sent` (by [`Lease::local`]) is durable. One that took longer than the lease lasts renews nothing,
    /// and tells the database's time too late to go by.
    pub(crate) fn renewed(&self, sent: i64, database_now: Millis) {
        self.clock.observe(sent, database_now);
        if self.local() >= sent + self.ttl_ms {
            return;
        }
        let before = self.valid_until.load(Ordering::Acquire);
        if self.local() >= before {
            // Before it is valid again: nobody may take the new lease for the old one.
            self.held_from.store(self.local(), Ordering::Release);
        }
        if before != NEVER && self.local() >= before {
            self.claim_from.store(self.local() + self.ttl_ms, Ordering::Release);
        }
        self.clock.set(sent, database_now);
        self.valid_until.store(sent + self.ttl_ms, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_one_ttl_after_its_last_beat_was_sent() {
        let lease = Lease::new(Duration::from_millis(500), DatabaseClock::default());
        assert!(!lease.holds(), "not before the first beat");
        lease.renewed(lease.local(), 1_000_000);
        assert!(lease.holds() && lease.may_claim());
        std::thread::sleep(Duration::from_millis(600));
        assert!(!lease.holds());
        lease.renewed(lease.local(), 1_000_100);
        assert!(lease.holds());
        assert!(!lease.may_claim(), "others may have had the same gap");
        std::thread::sleep(Duration::from_millis(400));
        lease.renewed(lease.local(), 1_000_200);
        std::thread::sleep(Duration::from_millis(150));
        assert!(lease.may_claim());
    }

    #[test]
    fn a_beat_that_took_longer_than_the_lease_changes_nothing() {
        let lease = Lease::new(Duration::from_millis(50), DatabaseClock::default());
        lease.renewed(lease.local() - 60, 1_000_000);
        assert!(!lease.holds());
        assert_eq!(lease.clock.now(), None, "such a beat tells no time");
        lease.renewed(lease.local(), 1_000_000);
        assert!(lease.may_claim(), "it was no lease that had a gap");
    }
}
