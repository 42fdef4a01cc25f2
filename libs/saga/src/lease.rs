//! One heartbeat a process, instead of a lease a saga.
//!
//! A process whose heartbeat is older than the TTL by the database's clock has lost its sagas to the process that claims them.
//! So a process that could not renew for as long stops sending by itself, measured from *before* the last heartbeat was
//! sent on a clock that goes on while the process is stopped. Back from such a gap, it waits one TTL before it claims
//! anything: others may have had the same gap and deserve to renew first.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant},
};

use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

use crate::{
    clock::DatabaseClock,
    machine::Millis,
    pending::{NAMED_AFTER, PendingKeys},
};

/// Pending keys are named only in a beat that the database takes within this time after they were gathered. A beat that was held up
/// on its way says that it cannot name them.
pub(crate) const NAMED_WITHIN: Duration = Duration::from_millis(100);

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

/// The connection that heartbeats go over: its own, so that no other wait can delay them.
pub(crate) struct Heartbeat {
    pub options: PgConnectOptions,
    pub process: Uuid,
    pub name: String,
    pub connection: Option<PgConnection>,
    /// The database's time in its last answer, and when that came.
    pub answered: Option<(Millis, Instant)>,
}

impl Heartbeat {
    /// Beats once, within `limit`, and names the keys whose inserts may still come.
    pub(crate) async fn beat(
        &mut self,
        lease: &Lease,
        pending: &PendingKeys,
        limit: Duration,
    ) -> Result<(), sqlx::Error> {
        let sent = lease.local();
        match tokio::time::timeout(limit, self.write(pending)).await {
            Ok(Ok((connection, database_now))) => {
                self.connection = Some(connection);
                self.answered = Some((database_now, Instant::now()));
                lease.renewed(sent, database_now);
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        }
    }

    /// The connection is kept only if the beat went through.
    async fn write(&mut self, pending: &PendingKeys) -> sqlx::Result<(PgConnection, Millis)> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.options.connect().await?,
        };
        // By the database's clock it is this time at least. Before the first answer no insert is sent that could be named.
        let gathered = self.answered.map(|(at, since)| at + millis(since.elapsed()));
        let now: i64 = sqlx::query_scalar(
            "INSERT INTO saga.process (process_id, name, beat_at, pending_keys)
             SELECT $1, $2, now.at,
                 CASE WHEN $3::text[] IS NOT NULL
                     AND ($4::bigint IS NULL OR abs(extract(epoch FROM now.at) * 1000 - $4) <= $5)
                 THEN ARRAY(SELECT hashtextextended(pending, 0) FROM unnest($3::text[]) AS pending) END
             FROM (SELECT clock_timestamp() AS at OFFSET 0) AS now
             ON CONFLICT (process_id) DO UPDATE SET beat_at = excluded.beat_at, pending_keys = excluded.pending_keys
             RETURNING (extract(epoch FROM clock_timestamp()) * 1000)::bigint",
        )
        .bind(self.process)
        .bind(&self.name)
        .bind(pending.older_than(NAMED_AFTER))
        .bind(gathered)
        .bind(millis(NAMED_WITHIN))
        .fetch_one(&mut connection)
        .await?;
        Ok((connection, now))
    }
}

fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX / 4)
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
