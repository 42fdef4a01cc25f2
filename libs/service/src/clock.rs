//! The only place that asks the machine for the time of day.
//!
//! It serves tokens and logs. Whether a lot has expired or a hold has ended is judged by the database
//! that stores it, so that a process with a wrong clock decides nothing about value.

use chrono::{DateTime, Utc};

/// A handle on the time of day.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock;

impl Clock {
    /// The time now, by this machine.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that owns the call")]
    pub fn now(self) -> DateTime<Utc> {
        Utc::now()
    }

    /// Seconds since 1970 now, as tokens count them.
    #[must_use]
    pub fn unix_seconds(self) -> i64 {
        self.now().timestamp()
    }
}
