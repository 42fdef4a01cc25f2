//! Where the time of a scenario goes.

use std::{
    fmt,
    ops::AddAssign,
    time::{Duration, Instant},
};

/// How long each of its phases took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// Customers were funded, and everybody began to watch.
    pub(crate) begun: Duration,
    /// Load, and faults.
    pub(crate) load: Duration,
    /// Faults ended, and every process became ready.
    pub(crate) healed: Duration,
    /// Sagas ended, answers were asked for again, and the last messages came.
    pub(crate) quiet: Duration,
    /// Rows were written down and everything was checked.
    pub(crate) checked: Duration,
}

impl Spent {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.begun + self.load + self.healed + self.quiet + self.checked
    }
}

impl AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.begun += other.begun;
        self.load += other.load;
        self.healed += other.healed;
        self.quiet += other.quiet;
        self.checked += other.checked;
    }
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [begun, load, healed, quiet, checked] =
            [self.begun, self.load, self.healed, self.quiet, self.checked].map(|spent| spent.as_secs());
        write!(
            f,
            "{begun} s to begin, {load} s under load and fault, {healed} s to heal, {quiet} s until quiet, {checked} s to check"
        )
    }
}

/// Tells how long it was since it was last asked.
pub(crate) struct Watch(Instant);

impl Watch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn lap(&mut self) -> Duration {
        let before = std::mem::replace(&mut self.0, Instant::now());
        self.0.duration_since(before)
    }
}
