//! The saga database's clock, as a type that cannot be mixed up with the clock of this process.
//!
//! Deadlines, holds and ends of lots are written by databases and judged by databases. A process whose own clock is wrong
//! must change none of those decisions, so it reads the database's clock with every heartbeat and counts on from there on a
//! clock that never jumps.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Instant,
};

use crate::machine::Millis;

/// No heartbeat has been answered yet.
const UNKNOWN: i64 = i64::MIN;

/// A moment on the saga database's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DatabaseTime(Millis);

impl DatabaseTime {
    /// Milliseconds since 1970.
    #[must_use]
    pub const fn millis(self) -> Millis {
        self.0
    }

    /// By how many milliseconds another database's clock is ahead of this one, if it says `other_ms` at this moment.
    #[must_use]
    pub const fn skew_of(self, other_ms: Millis) -> Millis {
        other_ms.saturating_sub(self.0)
    }

    /// As a timestamp.
    #[must_use]
    pub fn to_utc(self) -> chrono::DateTime<chrono::Utc> {
        chrono::DateTime::from_timestamp_millis(self.0).unwrap_or_default()
    }
}

/// Tells the saga database's time without asking it. Cheap to clone; all clones tell the same.
#[derive(Debug, Clone)]
pub struct DatabaseClock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    origin: Instant,
    /// The database's clock minus milliseconds since `origin`.
    offset: AtomicI64,
}

impl Default for DatabaseClock {
    fn default() -> Self {
        Self(Arc::new(Inner { origin: Instant::now(), offset: AtomicI64::new(UNKNOWN) }))
    }
}

impl DatabaseClock {
    /// The database's time as of the last heartbeat, counted on; `None` before the first heartbeat was answered.
    #[must_use]
    pub fn now(&self) -> Option<DatabaseTime> {
        match self.0.offset.load(Ordering::Acquire) {
            UNKNOWN => None,
            offset => Some(DatabaseTime(self.local() + offset)),
        }
    }

    /// Milliseconds since this clock was made: a process that is stopped and continued finds them passed.
    pub(crate) fn local(&self) -> Millis {
        i64::try_from(self.0.origin.elapsed().as_millis()).unwrap_or(i64::MAX / 4)
    }

    /// The database said `database_now` between the local times `sent` and now.
    pub(crate) fn set(&self, sent: Millis, database_now: Millis) {
        let middle = sent.midpoint(self.local());
        self.0.offset.store(database_now - middle, Ordering::Release);
    }
}

/// The database's time in one run of a saga: as of when its row was read or written, and counted on from there. It never steps, so
/// setting the database's clock neither ends the time of a saga that runs nor makes it longer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunClock {
    database: Millis,
    since: Instant,
}

impl RunClock {
    /// The database has just said this, or said it at `since`.
    pub(crate) const fn new(database: Millis, since: Instant) -> Self {
        Self { database, since }
    }

    pub(crate) fn now(self) -> Millis {
        self.database.saturating_add(i64::try_from(self.since.elapsed().as_millis()).unwrap_or(i64::MAX / 4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_nothing_before_it_was_told() {
        let clock = DatabaseClock::default();
        assert_eq!(clock.now(), None);
        clock.set(clock.local(), 1_000_000);
        let now = clock.now().expect("told");
        assert!((1_000_000..1_005_000).contains(&now.millis()));
        assert_eq!(clock.clone().now().map(|t| t.millis() / 10_000), Some(100));
    }

    #[test]
    fn skew_is_how_far_the_other_clock_is_ahead() {
        let clock = DatabaseClock::default();
        clock.set(clock.local(), 50_000);
        let now = clock.now().expect("told");
        assert_eq!(now.skew_of(now.millis() + 13_000), 13_000);
        assert_eq!(now.skew_of(now.millis() - 3_600_000), -3_600_000);
    }
}
