//! The saga protocol, model-checked: every interleaving of executors, messages, crashes, takeovers, cancels and replays, up
//! to named bounds.
//!
//! The transition function is the one that runs in production ([`saga::machine`]); what a leg does is a table that the
//! tender's fold filled in ([`leg`]). Modelled is what lies between them: a row that is moved by compare-and-set, commands
//! that arrive late, twice or never once they were sent, and a COMMIT whose outcome is not known.
//!
//! A [`Twin`] is the same protocol with one rule taken out. Each must be caught: that shows that the rule is needed, and
//! that the checker would notice if it were missing.

mod check;
pub mod leg;
mod protocol;
mod steps;

pub use protocol::{Bounds, Protocol, Scenario, Twin};
pub use steps::{Fate, Step};

use leg::Stored;
use saga::machine::{Direction, Machine, Reply, State, Transition};

/// Legs of the saga.
pub const LEGS: usize = 3;

/// Everything that can be told apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// The saga's row, once it is written.
    pub row: Option<Row>,
    /// The first executor is about to write it.
    pub inserting: bool,
    /// A transaction whose client heard nothing of its COMMIT, and which has not ended.
    pub pending: Option<Pending>,
    /// What each executor has in memory.
    pub runs: Vec<Option<Run>>,
    /// What is stored of each leg.
    pub legs: [Stored; LEGS],
    /// Commands that were sent: from then on each may arrive at any time, any number of times.
    pub sent: [[bool; 2]; LEGS],
    /// What the caller heard.
    pub told: Option<Told>,
    /// A cancel by key was acknowledged.
    pub is_cancelled: bool,
    /// The deadline, and `not_after`, are behind us.
    pub is_late: bool,
    /// Faults that may still happen.
    pub faults_left: u8,
    /// An event met a machine in a state that it does not fit.
    pub is_illegal: bool,
}

/// What the caller of a saga heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Told {
    /// It is done.
    Completed,
    /// It is not, and never will be.
    Refused,
}

/// The saga's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Row {
    /// Its state.
    pub state: State,
    /// Its epoch.
    pub epoch: u8,
    /// Whether its direction is backward.
    pub backward: bool,
    /// Whether its key was cancelled.
    pub key_cancelled: bool,
    /// Open dead letters.
    pub letters: u8,
}

/// A transaction that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pending {
    /// Of the first executor, which inserts the row.
    Insert,
    /// Of a run, under its epoch.
    Move(Transition, u8),
}

/// One run of the saga by one executor.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Run {
    /// Under which epoch.
    pub epoch: u8,
    /// The real machine.
    pub machine: Machine,
    /// What it waits for, leg by leg.
    pub waits: [Waits; LEGS],
    /// A transition on its way.
    pub writing: Option<Writing>,
    /// Legs that it knows to have applied.
    pub known: [bool; LEGS],
}

/// What a run waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Waits {
    /// Nothing.
    Idle,
    /// An answer to a command that was sent.
    Answer(Direction),
    /// An answer that is on its way.
    Reply(Direction, Reply),
    /// The end of a backoff.
    Backoff(Direction),
}

/// A transition on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Writing {
    /// What is to be written.
    pub transition: Transition,
    /// An earlier attempt may be durable.
    pub is_unknown: bool,
    /// It is durable, and the run is about to hear of it.
    pub is_done: bool,
}
