//! The saga as a pure state machine: `(state, event) -> (state, actions)`.
//!
//! Sync and total, without I/O, randomness or a clock: events bring the time, and delays are drawn by the runtime that
//! carries the actions out. The runtime, the simulator and the model checker drive this same code. An event that makes no
//! sense in a state is an error value.
//!
//! ```text
//!            all applied                        every cancel confirmed
//!  RUNNING ───────────────> COMPLETED    ┌─────────────────────────────> COMPENSATED
//!     │  a refusal, the deadline,        │
//!     ├────────────────────> COMPENSATING ──── a cancel past its budget ──> DEAD_LETTER
//!     │  every leg refused or empty                                             │ replay: back to where it was
//!     └────────────────────> COMPENSATED                                        │ resolve: RESOLVED
//! ```
//! A forward-only saga knows RUNNING, COMPLETED and DEAD_LETTER: it is never compensated.
//!
//! Rules that safety rests on, each of which breaks the protocol when taken out:
//! - nothing is sent before the state that justifies it is durable: cancels only after COMPENSATING is;
//! - compensation cancels *every* leg, not only those known to have applied;
//! - an answer leaves only after the terminal state is durable ([`Action::Finish`]).

use std::fmt;

pub use crate::state::State;

/// Milliseconds on the clock of the saga database.
pub type Millis = i64;

/// Whether a saga may be compensated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Its legs can be cancelled: all or nothing.
    Compensable,
    /// Being written was the point of no return: it only goes forward.
    ForwardOnly,
}

/// Which way a command to a leg goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Do it, or say what was stored.
    Forward,
    /// Take it back.
    Cancel,
}

impl Direction {
    /// The name used in rows, metrics and the timeline.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Cancel => "cancel",
        }
    }
}

/// What came of one attempt at one leg, as far as the machine needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reply {
    /// In force, with an effect; or, for a cancel, taken back.
    Done,
    /// In force, but it took nothing (`at_most` of an empty account).
    Empty,
    /// Refused by a business rule and recorded as such: it will never apply.
    Refused,
    /// The connection was refused: certainly not sent.
    NotSent,
    /// A timeout, a reset, a 5xx, nonsense: it may have happened.
    Unknown,
    /// The leg exists with another plan: it is somebody else's, and not ours to take back.
    Foreign,
    /// Definite, and not what the protocol allows.
    Wrong,
}

impl Reply {
    /// The name used in rows, metrics and the timeline.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Empty => "empty",
            Self::Refused => "refused",
            Self::NotSent => "not_sent",
            Self::Unknown => "unknown",
            Self::Foreign => "foreign",
            Self::Wrong => "wrong",
        }
    }
}

/// Why a saga was compensated or parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// This leg was refused.
    Refused(usize),
    /// Legs applied, but took nothing in total.
    TookNothing,
    /// The deadline passed, or this leg could not be reached for too long.
    Unreachable(Option<usize>),
    /// This leg kept giving answers that the protocol does not allow.
    Wrong(usize),
    /// This leg exists with another plan.
    Foreign(usize),
    /// Owner after owner died while running it.
    Poison,
}

/// A transition to be made durable by a compare-and-set on (id, state, epoch).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Transition {
    /// The state that must still stand.
    pub from: State,
    /// The state to be written.
    pub to: State,
    /// Why, where the path is not the happy one.
    pub cause: Option<Cause>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The saga's row is durable (new, taken over or replayed) and this machine runs it.
    Start,
    /// An attempt at a leg ended.
    Replied(usize, Direction, Reply),
    /// The wait before a leg's next attempt is over.
    Wake(usize, Direction),
    /// The saga's deadline has come.
    Deadline,
    /// Too many owners died while running this saga: park it instead.
    Poisoned,
    /// The transition asked for is durable.
    Written,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send a command to a leg.
    Send(usize, Direction),
    /// Wake this leg after a backoff; the number counts its retries.
    Backoff(usize, Direction, u32),
    /// Make a transition durable; report with [`Event::Written`].
    Write(Transition),
    /// A state that ends the run is durable: answer the callers that wait, and stop.
    Finish,
}

/// How much failure a saga bears before it gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// A forward leg that was refused at connect for this long counts as declined.
    pub refused_for: Millis,
    /// Definite wrong answers in a row that one leg may give.
    pub wrong_answers: u32,
    /// Time that unreachable participants may cost on the way that may not fail.
    pub unreachable_for: Millis,
}

/// An event that does not fit the state. A defect of the code that drives the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Illegal {
    /// The event.
    pub event: Event,
    /// The state that it met.
    pub state: State,
}

impl fmt::Display for Illegal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} does not fit a saga in {:?}", self.event, self.state)
    }
}

impl std::error::Error for Illegal {}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Answer {
    Done,
    Empty,
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Leg {
    /// The final answer in the present direction.
    answer: Option<Answer>,
    in_flight: bool,
    retries: u32,
    wrong: u32,
    /// Since when every attempt was refused at connect.
    refused_since: Option<Millis>,
    /// It will not be tried again in this run.
    given_up: bool,
}

/// One run of one saga by one owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Machine {
    kind: Kind,
    state: State,
    limits: Limits,
    deadline: Millis,
    budget_from: Millis,
    /// Somebody else may have sent legs before: epoch > 1.
    recovered: bool,
    /// Each leg has one attempt left, because the deadline is behind us.
    last_attempt: bool,
    writing: Option<Transition>,
    cause: Option<Cause>,
    legs: Vec<Leg>,
}

impl Machine {
    /// A machine for a row that was read or written: `recovered` unless this process has just inserted it.
    #[must_use]
    pub fn new(
        kind: Kind,
        state: State,
        legs: usize,
        clock: Clocks,
        recovered: bool,
        limits: Limits,
    ) -> Self {
        Self {
            kind,
            state,
            limits,
            deadline: clock.deadline,
            budget_from: clock.budget_from,
            recovered,
            last_attempt: false,
            writing: None,
            cause: None,
            legs: vec![Leg::default(); legs],
        }
    }

    /// The durable state, as far as this machine knows.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// The deadline, while it can still have the saga compensated.
    #[must_use]
    pub fn deadline(&self) -> Option<Millis> {
        let open = self.kind == Kind::Compensable && self.state == State::Running;
        (open && self.writing.is_none() && !self.last_attempt).then_some(self.deadline)
    }

    /// Takes an event and says what to do about it.
    ///
    /// # Errors
    /// [`Illegal`] for an event that does not fit the state; the machine is unchanged.
    pub fn on(&mut self, event: Event, now: Millis) -> Result<Vec<Action>, Illegal> {
        match event {
            Event::Start if self.state.is_live() && self.writing.is_none() => Ok(self.start(now)),
            Event::Poisoned if self.state.is_live() && self.writing.is_none() => {
                Ok(self.write(State::DeadLetter, Some(Cause::Poison)))
            }
            Event::Written => self.written(now).ok_or(Illegal { event, state: self.state }),
            Event::Deadline => Ok(self.deadline_came(now)),
            Event::Wake(leg, direction) if leg < self.legs.len() => Ok(self.wake(leg, direction)),
            Event::Replied(leg, direction, reply) if leg < self.legs.len() => {
                Ok(self.replied(leg, direction, reply, now))
            }
            _ => Err(Illegal { event, state: self.state }),
        }
    }

    fn direction(&self) -> Direction {
        if self.state == State::Compensating { Direction::Cancel } else { Direction::Forward }
    }

    fn start(&mut self, now: Millis) -> Vec<Action> {
        if self.kind == Kind::Compensable && self.state == State::Running && now >= self.deadline {
            if !self.recovered {
                return self.write(State::Compensating, Some(Cause::Unreachable(None)));
            }
            self.last_attempt = true;
        }
        self.send_all()
    }

    fn send_all(&mut self) -> Vec<Action> {
        if self.legs.is_empty() {
            return self.decide(); // nothing will answer
        }
        let direction = self.direction();
        (0..self.legs.len())
            .map(|leg| {
                self.legs[leg].in_flight = true;
                Action::Send(leg, direction)
            })
            .collect()
    }

    fn wake(&mut self, leg: usize, direction: Direction) -> Vec<Action> {
        let here = direction == self.direction() && self.state.is_live() && self.writing.is_none();
        let state = &mut self.legs[leg];
        if !here || state.in_flight || state.given_up || state.answer.is_some() {
            return Vec::new(); // a wake-up of a direction that was left behind
        }
        state.in_flight = true;
        vec![Action::Send(leg, direction)]
    }

    fn deadline_came(&mut self, now: Millis) -> Vec<Action> {
        if self.deadline().is_none() || now < self.deadline {
            return Vec::new();
        }
        if self.recovered && self.legs.iter().any(|leg| leg.in_flight) {
            // What an earlier owner sent may all have applied: let each leg's attempt in flight say so.
            self.last_attempt = true;
            return self.settle_last_attempts();
        }
        self.write(State::Compensating, Some(Cause::Unreachable(self.unanswered_leg())))
    }

    fn unanswered_leg(&self) -> Option<usize> {
        self.legs.iter().position(|leg| leg.answer.is_none())
    }

    fn replied(&mut self, leg: usize, direction: Direction, reply: Reply, now: Millis) -> Vec<Action> {
        if direction != self.direction() || !self.state.is_live() || self.writing.is_some() {
            return Vec::new(); // late: the direction is decided, and whatever this leg did will be taken back
        }
        self.legs[leg].in_flight = false;
        if !matches!(reply, Reply::NotSent) {
            self.legs[leg].refused_since = None;
        }
        match (self.may_fail(), reply) {
            (_, Reply::Done) => self.legs[leg].answer = Some(Answer::Done),
            (_, Reply::Empty) => self.legs[leg].answer = Some(Answer::Empty),
            (true, Reply::Refused) => self.legs[leg].answer = Some(Answer::Refused),
            // Going back would undo what somebody else was told is done: only an operator can tell.
            (_, Reply::Foreign) if direction == Direction::Forward => {
                return self.write(State::DeadLetter, Some(Cause::Foreign(leg)));
            }
            (false, Reply::Refused) | (_, Reply::Wrong | Reply::Foreign) => return self.wrong(leg, now),
            (_, Reply::NotSent | Reply::Unknown) => return self.unreachable(leg, reply, now),
        }
        self.decide()
    }

    /// Whether the way that we are on may end in failure: only forward, and only if it can be undone.
    fn may_fail(&self) -> bool {
        self.kind == Kind::Compensable && self.state == State::Running
    }

    /// A leg has its final answer: is the saga decided?
    fn decide(&mut self) -> Vec<Action> {
        let all = self.legs.iter().all(|leg| leg.answer.is_some());
        if !self.may_fail() {
            return match (all, self.state) {
                (true, State::Compensating) => self.write(State::Compensated, None),
                (true, _) => self.write(State::Completed, None),
                (false, _) => self.park_if_exhausted(),
            };
        }
        let took_effect = self.legs.iter().any(|leg| leg.answer == Some(Answer::Done));
        let refused = self.legs.iter().position(|leg| leg.answer == Some(Answer::Refused));
        match (refused, all, took_effect) {
            // Nothing took effect, every answer is recorded: nothing is left that a cancel could change.
            (Some(refused), true, false) => self.write(State::Compensated, Some(Cause::Refused(refused))),
            (Some(refused), _, _) => self.write(State::Compensating, Some(Cause::Refused(refused))),
            (None, true, true) => self.write(State::Completed, None),
            (None, true, false) => self.write(State::Compensated, Some(Cause::TookNothing)),
            (None, false, _) => Vec::new(),
        }
    }

    fn wrong(&mut self, leg: usize, now: Millis) -> Vec<Action> {
        self.legs[leg].wrong += 1;
        if self.legs[leg].wrong < self.limits.wrong_answers {
            return self.retry(leg, now);
        }
        if self.may_fail() {
            return self.write(State::Compensating, Some(Cause::Wrong(leg)));
        }
        self.legs[leg].given_up = true;
        self.cause.get_or_insert(Cause::Wrong(leg));
        self.park_if_exhausted()
    }

    fn unreachable(&mut self, leg: usize, reply: Reply, now: Millis) -> Vec<Action> {
        if self.may_fail() {
            if reply == Reply::NotSent {
                let since = *self.legs[leg].refused_since.get_or_insert(now);
                if now - since >= self.limits.refused_for {
                    return self.write(State::Compensating, Some(Cause::Unreachable(Some(leg))));
                }
            }
            return self.retry(leg, now);
        }
        if now - self.budget_from < self.limits.unreachable_for {
            return self.retry(leg, now);
        }
        self.legs[leg].given_up = true;
        self.cause.get_or_insert(Cause::Unreachable(Some(leg)));
        self.park_if_exhausted()
    }

    fn retry(&mut self, leg: usize, now: Millis) -> Vec<Action> {
        if self.may_fail() && (self.last_attempt || now >= self.deadline) {
            self.last_attempt = true;
            self.legs[leg].given_up = true;
            return self.settle_last_attempts();
        }
        self.legs[leg].retries += 1;
        vec![Action::Backoff(leg, self.direction(), self.legs[leg].retries)]
    }

    /// Past the deadline, what is neither answered nor in flight is not applied.
    fn settle_last_attempts(&mut self) -> Vec<Action> {
        let lost = self.legs.iter().position(|leg| leg.answer.is_none() && !leg.in_flight);
        match lost {
            Some(leg) => self.write(State::Compensating, Some(Cause::Unreachable(Some(leg)))),
            None => Vec::new(),
        }
    }

    /// On the way that may not fail: once every leg is done or past its budget, an operator is needed.
    fn park_if_exhausted(&mut self) -> Vec<Action> {
        let settled = self.legs.iter().all(|leg| leg.answer.is_some() || leg.given_up);
        if settled { self.write(State::DeadLetter, self.cause) } else { Vec::new() }
    }

    fn write(&mut self, to: State, cause: Option<Cause>) -> Vec<Action> {
        let transition = Transition { from: self.state, to, cause };
        self.writing = Some(transition);
        vec![Action::Write(transition)]
    }

    fn written(&mut self, now: Millis) -> Option<Vec<Action>> {
        let transition = self.writing.take()?;
        self.state = transition.to;
        if transition.to != State::Compensating {
            return Some(vec![Action::Finish]);
        }
        self.legs.fill(Leg::default());
        self.cause = None;
        self.budget_from = now;
        Some(self.send_all())
    }
}

/// The times that a machine goes by, on the saga database's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Clocks {
    /// When a compensable saga that runs is compensated.
    pub deadline: Millis,
    /// Since when unreachable participants cost budget.
    pub budget_from: Millis,
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
