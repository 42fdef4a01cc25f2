//! The durable state of a saga: its number in the database, its name everywhere else.

/// The durable state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Legs are being sent forward.
    Running,
    /// Legs are being cancelled.
    Compensating,
    /// Terminal: every leg is in force.
    Completed,
    /// Terminal: no leg is in force, and none ever will be.
    Compensated,
    /// Parked for an operator.
    DeadLetter,
    /// Terminal: an operator settled it by hand.
    Resolved,
}

impl State {
    /// Whether somebody must be working on it.
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Compensating)
    }

    /// The name in rows of history, metrics, logs and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Compensating => "compensating",
            Self::Completed => "completed",
            Self::Compensated => "compensated",
            Self::DeadLetter => "dead_letter",
            Self::Resolved => "resolved",
        }
    }

    /// The number in the database.
    pub(crate) const fn code(self) -> i16 {
        match self {
            Self::Running => 0,
            Self::Compensating => 1,
            Self::Completed => 2,
            Self::Compensated => 3,
            Self::DeadLetter => 4,
            Self::Resolved => 5,
        }
    }

    /// The state with this number in the database.
    pub(crate) const fn from_code(code: i16) -> Option<Self> {
        Some(match code {
            0 => Self::Running,
            1 => Self::Compensating,
            2 => Self::Completed,
            3 => Self::Compensated,
            4 => Self::DeadLetter,
            5 => Self::Resolved,
            _ => return None,
        })
    }
}

/// The name of a state in rows, metrics and the API.
#[must_use]
pub const fn state_name(state: State) -> &'static str {
    state.as_str()
}
