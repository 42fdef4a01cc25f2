//! The saga database's clock, as a type that cannot be mixed up with the clock of this process.
//!
//! Deadlines, holds and ends of lots are written by databases and judged by databases. A process whose own clock is wrong
//! must change none of those decisions, so it reads the database's clock with every heartbeat and counts on from there on a
//! clock that never jumps.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Instant,
};

use metrics::counter;

use crate::machine::Millis;

/// No heartbeat has been answered yet.
const UNKNOWN: i64 = i64::MIN;

/// By how many milliseconds the database's clock may differ from what was expected of it,
const SLACK_MS: Millis = 250;
/// and by which part of the time that has passed: a clock that is slewed goes wrong by less than a tenth of it.
const SLEW: Millis = 10;
/// No slew makes up for more.
const SLEW_MAX_MS: Millis = 2_500;

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
    steps: Mutex<Steps>,
}

/// What the database's clock was last seen to say, and when it was last seen to have been set.
#[derive(Debug, Default)]
struct Steps {
    last: Option<Reading>,
    /// In local milliseconds.
    stepped_at: Option<Millis>,
}

/// The database said `said` between two local times.
#[derive(Debug, Clone, Copy)]
struct Reading {
    sent: Millis,
    answered: Millis,
    said: Millis,
}

impl Reading {
    /// Whether the database's clock was set between this reading and another: what it went by differs from every time that can have
    /// passed between the two, by more than a slew explains. However long an answer takes, it is no step.
    fn shows_step_since(self, other: Self) -> bool {
        let (shortest, longest) = (self.sent - other.answered, self.answered - other.sent);
        let slack = SLACK_MS + (shortest.abs().max(longest.abs()) / SLEW).min(SLEW_MAX_MS);
        !(shortest - slack..=longest + slack).contains(&(self.said - other.said))
    }
}

impl Default for DatabaseClock {
    fn default() -> Self {
        Self(Arc::new(Inner {
            origin: Instant::now(),
            offset: AtomicI64::new(UNKNOWN),
            steps: Mutex::default(),
        }))
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

    /// The database said `said` between the local times `sent` and now. Notes whether its clock was set since the last reading.
    pub(crate) fn observe(&self, sent: Millis, said: Millis) {
        let reading = Reading { sent, answered: self.local(), said };
        let mut steps = self.0.steps.lock().unwrap_or_else(PoisonError::into_inner);
        if steps.last.is_some_and(|last| reading.shows_step_since(last)) {
            tracing::warn!(said, "the database's clock was set");
            counter!("saga_database_clock_steps_total").increment(1);
            steps.stepped_at = Some(reading.answered);
        }
        steps.last = Some(reading);
    }

    /// Whether the database's clock was seen to have been set less than this many milliseconds ago.
    pub(crate) fn has_stepped_within(&self, limit: Millis) -> bool {
        let steps = self.0.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.stepped_at.is_some_and(|at| self.local() - at < limit)
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
    fn a_clock_that_is_set_has_stepped_and_one_that_is_slewed_or_answers_late_has_not() {
        let before = Reading { sent: 1_000, answered: 1_020, said: 50_000 };
        let after = |sent, answered, said| Reading { sent, answered, said }.shows_step_since(before);
        for said in [50_500, 50_550, 50_450] {
            assert!(!after(1_510, 1_520, said), "slewed to {said}");
        }
        assert!(!after(1_510, 4_000, 52_900) && !after(1_510, 4_000, 50_500), "the answer took long");
        assert!(!after(900, 1_030, 49_900), "it came later, and says what was before");
        assert!(!after(61_000, 61_010, 107_600), "slewed for a minute without a reading");
        for said in [51_000, 50_000 - 13_000, 50_000 + 3_600_000, 49_900] {
            assert!(after(1_510, 1_520, said), "set to {said}");
        }
        assert!(after(61_000, 61_010, 107_000), "no slew makes up for three seconds");
    }

    #[test]
    fn a_step_is_remembered_for_as_long_as_it_matters() {
        let clock = DatabaseClock::default();
        clock.observe(clock.local(), 1_000_000);
        assert!(!clock.has_stepped_within(60_000), "of what was before nothing is known");
        clock.observe(clock.local(), 1_013_000);
        clock.observe(clock.local(), 1_013_000);
        assert!(clock.has_stepped_within(60_000) && !clock.has_stepped_within(0));
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
