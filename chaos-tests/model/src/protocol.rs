//! The protocol: its scenarios, its bounds, its twins, and what must hold of a world.

use saga::machine::{Clocks, Direction, Kind, Limits, Machine, Millis, State};

use crate::{
    LEGS, Run, Told, Waits, World,
    leg::{Ask, Rule, Stored},
};

/// When a compensable saga is compensated.
const DEADLINE: Millis = 5;
/// No patience: what may give up gives up at once, so that dead letters are near.
const LIMITS: Limits = Limits { refused_for: 0, wrong_answers: 1, unreachable_for: 0 };

/// What the saga does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Take value from three legs, all or nothing.
    Redeem,
    /// Give back three legs that were taken: forward only.
    Return,
    /// Capture three legs that are held: forward only.
    Capture,
}

/// A rule that is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Twin {
    /// A cancel that finds nothing leaves nothing.
    NoTombstone,
    /// Cancels are sent when the saga is compensated in memory, before COMPENSATING is durable.
    CancelBeforeDurable,
    /// Only legs that are known to have applied are cancelled.
    CancelOnlyKnown,
    /// A decline is answered, and not stored.
    DeclineNotRecorded,
    /// Transitions are written whatever the row's state and epoch.
    NoCompareAndSet,
    /// The answer leaves when the saga is decided, before that is durable.
    AnswerBeforeDurable,
    /// After an unknown COMMIT the row is read, and what is not there is believed not to come.
    UnknownByReading,
    /// Who cancels by key moves the saga, and leaves it in its owner's hands and epoch.
    NoTakeover,
}

/// How far the model goes.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Executors.
    pub executors: usize,
    /// The last epoch.
    pub epochs: u8,
    /// Faults: crashes, lost answers, unknown commits, poison.
    pub faults: u8,
}

/// The protocol in a scenario, whole or with a rule taken out.
#[derive(Debug, Clone)]
pub struct Protocol {
    /// What the saga does.
    pub scenario: Scenario,
    /// The rule that is missing.
    pub twin: Option<Twin>,
    /// How far it goes.
    pub bounds: Bounds,
    /// Legs of the saga, at most [`LEGS`].
    pub legs: usize,
    pub(crate) rule: Rule,
}

impl Protocol {
    /// The protocol in a scenario.
    #[must_use]
    pub fn new(scenario: Scenario, bounds: Bounds) -> Self {
        Self { scenario, twin: None, bounds, legs: LEGS, rule: Rule::of_the_fold() }
    }

    /// The same with a rule taken out.
    #[must_use]
    pub fn without(mut self, twin: Twin) -> Self {
        self.twin = Some(twin);
        self
    }

    /// The same with a single leg.
    #[must_use]
    pub fn with_one_leg(mut self) -> Self {
        self.legs = 1;
        self
    }

    pub(crate) fn lacks(&self, twin: Twin) -> bool {
        self.twin == Some(twin)
    }

    pub(crate) fn kind(&self) -> Kind {
        if self.scenario == Scenario::Redeem { Kind::Compensable } else { Kind::ForwardOnly }
    }

    /// What a command asks of a leg.
    pub(crate) fn ask(&self, direction: Direction) -> Ask {
        match (self.scenario, direction) {
            (Scenario::Redeem, Direction::Forward) => Ask::Debit,
            (Scenario::Capture, _) => Ask::Capture,
            _ => Ask::Cancel,
        }
    }

    pub(crate) fn run(&self, epoch: u8, state: State, recovered: bool) -> Run {
        let clock = Clocks { deadline: DEADLINE, budget_from: 0 };
        Run {
            epoch,
            machine: Machine::new(self.kind(), state, self.legs, clock, recovered, LIMITS),
            waits: [Waits::Idle; LEGS],
            writing: None,
            known: [false; LEGS],
        }
    }

    /// Whether a leg is where a completed saga wants it.
    fn is_done(&self, leg: Stored) -> bool {
        match self.scenario {
            Scenario::Redeem | Scenario::Capture => leg == Stored::Applied,
            Scenario::Return => !leg.in_force(),
        }
    }

    /// COMPLETED: every leg is in force. COMPENSATED: none is.
    pub(crate) fn legs_agree(&self, world: &World) -> bool {
        let legs = &world.legs[..self.legs];
        match world.row.map(|row| row.state) {
            Some(State::Completed) => legs.iter().all(|leg| self.is_done(*leg)),
            Some(State::Compensated) => legs.iter().all(|leg| !leg.in_force()),
            _ => true,
        }
    }

    /// What was told is what is.
    pub(crate) fn told_agrees(&self, world: &World) -> bool {
        let state = world.row.map(|row| row.state);
        match world.told {
            None => true,
            Some(Told::Completed) => state == Some(State::Completed),
            Some(Told::Refused) => world.row.is_none_or(|row| row.backward),
        }
    }
}
