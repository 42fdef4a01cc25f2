//! One run of one saga: carries out what the machine says, and nothing else.

use std::{pin::Pin, sync::Arc, time::Duration};

use fail::fail_point;
use futures_util::{StreamExt, stream::FuturesUnordered};
use metrics::counter;
use serde_json::json;
use tracing::Instrument as _;

use crate::{
    aside::PATIENCE,
    attempts::Attempts,
    clock::RunClock,
    domain::{Call, CompensationCause, Domain, Ending, Reason, Replied, Saga, TransitionEffect},
    engine::Engine,
    error::StoreError,
    machine::{Action, Clocks, Direction, Event, Kind, Machine, Millis, Reply, State, Transition},
    parking::{Parked, parked_as},
    reachability::{Room, UnansweredLegs},
    registry::{Progress, RunGuard},
    row::{self, Loaded},
    statement::in_time,
    write::{DeadLetter, Move, STUCK_AFTER_MS, Write, Written},
};

/// Wait before a transition is offered again to a store that is away.
const STORE_PAUSE: Duration = Duration::from_millis(200);

/// What a future of this run came to.
enum RunEvent<A> {
    Replied {
        leg: usize,
        direction: Direction,
        replied: Replied<A>,
        took_ms: Millis,
    },
    Wake {
        leg: usize,
        direction: Direction,
    },
    Write(Transition, Result<Written, StoreError>),
    /// The process may not act any more: its heartbeat is overdue.
    Lapsed,
}

type Work<A> = FuturesUnordered<Pin<Box<dyn Future<Output = RunEvent<A>> + Send>>>;

pub(crate) struct Run<D: Domain> {
    engine: Arc<Engine<D>>,
    saga: Arc<Saga<D::Plan>>,
    guard: RunGuard,
    machine: Machine,
    /// The legs' answers in the present direction.
    answers: Vec<Option<D::Answer>>,
    /// The legs that count as such for their participants.
    unanswered: UnansweredLegs,
    cause: Option<CompensationCause<D::Answer>>,
    attempts: Attempts,
    work: Work<D::Answer>,
    /// How much of the work is attempts and writes; the rest is backoffs.
    busy: usize,
    poison: i16,
    /// What the machine goes by.
    clock: RunClock,
    /// So often the database has not written the present transition for the store's patience, though it was there.
    refusals: u32,
    /// The answer that the last transition stored.
    concluded: Option<Arc<crate::domain::Response>>,
}

impl<D: Domain> Run<D> {
    /// A run of a row: `recovered` unless this process has just inserted it.
    /// `unanswered` has an entry for each leg of its plan.
    pub(crate) fn new(
        engine: Arc<Engine<D>>,
        row: Loaded<D>,
        guard: RunGuard,
        unanswered: UnansweredLegs,
        recovered: bool,
    ) -> Self {
        let legs = unanswered.len();
        let clocks = Clocks {
            deadline: row.saga.deadline_at.timestamp_millis(),
            budget_from: row.budget_from.timestamp_millis(),
        };
        let machine = Machine::new(row.saga.kind, row.state, legs, clocks, recovered, engine.config.limits);
        if row.state == State::Compensating {
            let _ = guard.progress.send_replace(Progress::Compensating);
        }
        Self {
            engine,
            saga: Arc::new(row.saga),
            guard,
            machine,
            answers: vec![None; legs],
            unanswered,
            cause: row.cause,
            attempts: Attempts::default(),
            busy: 0,
            work: FuturesUnordered::new(),
            poison: row.poison,
            clock: row.clock,
            refusals: 0,
            concluded: None,
        }
    }

    /// Runs until the saga is over, parked, or somebody else's.
    pub(crate) async fn run(self) {
        let trace_id = self.saga.trace_id.as_deref().unwrap_or_default();
        let span = tracing::info_span!("saga", saga_id = %self.saga.id, operation = self.saga.key.operation, trace_id);
        self.drive().instrument(span).await;
    }

    async fn drive(mut self) {
        let poisoned = self.poison > self.engine.config.poison_limit;
        let mut next = Some(if poisoned { Event::Poisoned } else { Event::Start });
        loop {
            if let Some(event) = next.take() {
                match self.machine.on(event, self.clock.now()) {
                    Ok(actions) => {
                        if self.carry_out(&actions) {
                            return;
                        }
                    }
                    Err(illegal) => {
                        // The run ends as one that panicked does: it is taken up again, and parked when that does not help.
                        tracing::error!(%illegal, "an event that cannot be; the run ends");
                        return;
                    }
                }
            }
            self.guard.set_awake(self.busy > 0);
            let event = tokio::select! {
                biased;
                Some(event) = self.work.next() => event,
                () = until(self.machine.deadline(), self.clock.now()) => {
                    next = Some(Event::Deadline);
                    continue;
                }
            };
            self.guard.touch();
            match self.handle(event).await {
                Next::Event(event) => next = Some(event),
                Next::Nothing => {}
                Next::Stop => return,
            }
        }
    }

    /// True when the run is over.
    fn carry_out(&mut self, actions: &[Action]) -> bool {
        for action in actions {
            match *action {
                Action::Send(leg, direction) => self.send(leg, direction),
                Action::Backoff(leg, direction, nth) => self.back_off(leg, direction, nth),
                Action::Write(transition) => self.write(transition),
                Action::Finish => {
                    self.guard.not_lost();
                    let _ = self.guard.progress.send_replace(Progress::Ended(self.concluded.take()));
                    return true;
                }
            }
        }
        false
    }

    fn send(&mut self, leg: usize, direction: Direction) {
        let (engine, saga) = (self.engine.clone(), self.saga.clone());
        let limit = match (direction, saga.kind) {
            (Direction::Forward, Kind::Compensable) => engine.config.forward_timeout,
            _ => engine.config.cancel_timeout,
        };
        self.busy += 1;
        self.work.push(Box::pin(async move {
            if !engine.lease.holds() {
                return RunEvent::Lapsed;
            }
            let began = engine.lease.local();
            let call = Call { saga: &saga, leg, direction };
            let replied = tokio::time::timeout(limit, engine.domain.send(call)).await.unwrap_or_else(|_| {
                Replied { reply: Reply::Unknown, answer: None, note: Some("timeout".to_owned()) }
            });
            RunEvent::Replied { leg, direction, replied, took_ms: engine.lease.local() - began }
        }));
    }

    fn back_off(&mut self, leg: usize, direction: Direction, nth: u32) {
        let (engine, saga) = (self.engine.clone(), self.saga.clone());
        let retry = match (direction, saga.kind) {
            (Direction::Forward, Kind::Compensable) => engine.config.forward_retry,
            _ => engine.config.cancel_retry,
        };
        let wait = retry.wait(nth);
        self.work.push(Box::pin(async move {
            engine.reachability.wait(engine.domain.participant(&saga.plan, leg), wait).await;
            RunEvent::Wake { leg, direction }
        }));
    }

    fn write(&mut self, transition: Transition) {
        fail_point!("saga::decided");
        let cause = transition.cause.map(|cause| CompensationCause::from_cause(cause, &self.answers));
        if transition.to != State::DeadLetter && cause.is_some() {
            self.cause.clone_from(&cause);
        }
        let mut effect = self.on_transition(transition.to);
        if self.cause.as_ref().is_some_and(|cause| cause.reason == Reason::Other) {
            // The release that knew why has stored an answer that says so.
            effect.response = None;
        }
        self.concluded = effect.response.clone().map(Arc::new);
        let event = self.event(transition, cause.as_ref());
        let dead_letter = (transition.to == State::DeadLetter).then(|| self.dead_letter(cause.as_ref()));
        if let Some(DeadLetter { reason, participant, .. }) = &dead_letter {
            tracing::error!(code = reason.as_str(), ?participant, "saga is to be parked for an operator");
        }
        let change = Move::<D> {
            id: self.saga.id,
            from: transition.from,
            epoch: self.saga.epoch,
            to: transition.to,
            take_over: None,
            cancel_key: false,
            // Of the transition that decides to compensate, and of no later one.
            cause: match transition.to {
                State::Compensating | State::Compensated => {
                    cause.as_ref().and_then(|cause| serde_json::to_value(cause).ok())
                }
                _ => None,
            },
            response: effect.response,
            change: effect.change,
            event,
            dead_letter,
            due_ms: STUCK_AFTER_MS,
        };
        let engine = self.engine.clone();
        self.busy += 1;
        self.work.push(Box::pin(async move {
            let written = engine.store.write(Write::Move(Box::new(change))).await;
            RunEvent::Write(transition, written)
        }));
    }

    fn on_transition(&self, to: State) -> TransitionEffect<D::Change> {
        let cancelled = CompensationCause::because(Reason::Cancelled);
        let cause = self.cause.as_ref().unwrap_or(&cancelled);
        let ending = match to {
            State::Completed => {
                let answers: Vec<_> = self.answers.iter().flatten().cloned().collect();
                return self.engine.domain.on_transition(&self.saga, Ending::Completed(&answers));
            }
            State::Compensating => Ending::Compensating(cause),
            State::Compensated if self.machine.state() == State::Running => Ending::Compensated(cause, &[]),
            State::Compensated => Ending::Compensated(cause, &self.answers),
            _ => Ending::Parked,
        };
        self.engine.domain.on_transition(&self.saga, ending)
    }

    fn event(
        &self,
        transition: Transition,
        cause: Option<&CompensationCause<D::Answer>>,
    ) -> Option<(&'static str, serde_json::Value)> {
        let name = match (transition.from, transition.to) {
            (_, State::Completed) if self.attempts.is_empty() => return None,
            (_, State::Completed) => "completed",
            (State::Running, State::Compensated) => "declined",
            (_, State::Compensating) => "compensating",
            (_, State::Compensated) => "compensated",
            _ => "dead_letter",
        };
        let because = cause.map(|t| json!({ "reason": t.reason, "leg": t.leg, "answer": t.answer }));
        let is_back = transition.from == State::Compensating;
        let direction = if is_back { Direction::Cancel } else { Direction::Forward };
        let detail = json!({
            "because": because, "attempts": self.attempts, "way": direction.as_str(), "answers": self.answers,
            "trace_id": self.saga.trace_id,
        });
        Some((name, detail))
    }

    fn dead_letter(&self, cause: Option<&CompensationCause<D::Answer>>) -> DeadLetter {
        let reason = cause.map_or(Reason::Unreachable, |t| t.reason);
        let leg = cause.and_then(|t| t.leg);
        let pending: Vec<_> =
            self.answers.iter().enumerate().filter(|(_, a)| a.is_none()).map(|(leg, _)| leg).collect();
        DeadLetter {
            reason,
            participant: leg.map(|leg| self.engine.domain.participant(&self.saga.plan, leg).to_owned()),
            detail: json!({ "state": self.machine.state().as_str(), "pending_legs": pending, "attempts": self.attempts }),
        }
    }

    async fn handle(&mut self, event: RunEvent<D::Answer>) -> Next {
        if !matches!(event, RunEvent::Wake { .. }) {
            self.busy -= 1;
        }
        match event {
            RunEvent::Lapsed => {
                self.guard.not_lost(); // left on purpose, which is no sign of poison
                tracing::warn!("heartbeat overdue: this saga is left to the process that claims it");
                Next::Stop
            }
            RunEvent::Wake { leg, direction } => Next::Event(Event::Wake(leg, direction)),
            RunEvent::Replied { leg, direction, replied, took_ms } => {
                match direction {
                    Direction::Forward => fail_point!("saga::leg_replied"),
                    Direction::Cancel => fail_point!("saga::cancel_replied"),
                }
                self.replied(leg, direction, &replied, took_ms);
                let back = self.machine.state() == State::Compensating;
                if replied.answer.is_some() && back == (direction == Direction::Cancel) {
                    self.answers[leg] = replied.answer;
                    self.unanswered[leg] = None;
                }
                Next::Event(Event::Replied(leg, direction, replied.reply))
            }
            RunEvent::Write(transition, Ok(Written::Moved { answer_given })) => {
                self.written(transition, answer_given);
                Next::Event(Event::Written)
            }
            RunEvent::Write(transition, Err(StoreError::Busy(error)))
                if self.is_refused_for_too_long(transition) =>
            {
                self.park_unwritable(transition, error).await;
                Next::Stop
            }
            RunEvent::Write(transition, Err(StoreError::Unavailable | StoreError::Busy(_))) => {
                tokio::time::sleep(STORE_PAUSE).await;
                self.write(transition);
                Next::Nothing
            }
            RunEvent::Write(transition, Ok(_)) => self.missed(transition).await,
            RunEvent::Write(transition, Err(StoreError::Refused(error))) => {
                self.park_unwritable(transition, error).await;
                Next::Stop
            }
            RunEvent::Write(_, Err(error)) => {
                tracing::error!(%error, "no word of a transition; the rescan takes the saga up again");
                Next::Stop
            }
        }
    }

    /// Whether a transition that the database answers and does not write has used up the time that participants may cost. Refusals
    /// are counted, since by the clock an outage between two of them would be part of it. What is to be a dead letter has used it
    /// up already.
    fn is_refused_for_too_long(&mut self, transition: Transition) -> bool {
        self.refusals = self.refusals.saturating_add(1);
        let refused_for = (PATIENCE + STORE_PAUSE).saturating_mul(self.refusals);
        let limit = u64::try_from(self.engine.config.limits.unreachable_for).unwrap_or(0);
        transition.to == State::DeadLetter || refused_for >= Duration::from_millis(limit)
    }

    /// The database refuses what the domain would record with a transition: only an operator can help.
    fn park_unwritable(
        &self,
        transition: Transition,
        error: String,
    ) -> impl Future<Output = ()> + Send + use<D> {
        let to = transition.to.as_str();
        tracing::error!(to, error, "a transition cannot be written; the saga is parked");
        let saga = &self.saga;
        let parked = Parked { id: saga.id, parent: saga.parent_id, epoch: saga.epoch, from: transition.from };
        let cause = transition.cause.map(|cause| CompensationCause::from_cause(cause, &self.answers));
        let mut dead_letter = self.dead_letter(cause.as_ref());
        let engine = self.engine.clone();
        async move {
            if transition.to == State::DeadLetter {
                engine.park_alone(parked, dead_letter, error).await;
            } else {
                // No participant is waited for: what each of them has answered is in the detail.
                (dead_letter.reason, dead_letter.participant) = (Reason::Unwritable, None);
                (dead_letter.detail["to"], dead_letter.detail["error"]) = (to.into(), error.into());
                engine.park(parked, dead_letter).await;
            }
        }
    }

    fn written(&mut self, transition: Transition, answer_given: bool) {
        self.guard.not_lost();
        self.refusals = 0;
        if answer_given {
            self.concluded = None; // the stored answer is an earlier one
        }
        if transition.to == State::Compensating {
            self.answers.fill(None);
            self.unanswered =
                self.engine.expect_legs(&self.saga.plan, &self.saga.key.business_id, Room::GoingOn);
            self.attempts = Attempts::default();
            let _ = self.guard.progress.send_replace(Progress::Compensating);
        }
        match transition.to {
            State::Compensating => fail_point!("saga::compensating"),
            State::DeadLetter => fail_point!("saga::parked"),
            _ => fail_point!("saga::ended"),
        }
        if transition.to == State::DeadLetter {
            parked_as(reason_of::<D>(transition));
        }
        let to = transition.to.as_str();
        counter!("saga_transitions_total", "to" => to).increment(1);
        tracing::info!(state = to, epoch = self.saga.epoch, "saga moved");
    }

    /// The compare-and-set missed: stop, unless the row is still ours.
    async fn missed(&mut self, transition: Transition) -> Next {
        counter!("saga_cas_lost_total").increment(1);
        match in_time(row::by_id(&self.engine.pool, self.saga.id)).await {
            Ok(Some(row))
                if row.owner == Some(self.engine.process) && row.stored.epoch == self.saga.epoch =>
            {
                if row.stored.state == transition.to {
                    self.written(transition, true);
                    return Next::Event(Event::Written);
                }
                tracing::error!(state = ?row.stored.state, "own saga in another state; stopping");
                Next::Stop
            }
            Ok(_) => {
                tracing::info!(epoch = self.saga.epoch, "saga was taken over; this run stops");
                Next::Stop
            }
            Err(error) => {
                tracing::warn!(%error, "could not read the saga after a lost compare-and-set");
                Next::Stop
            }
        }
    }

    fn replied(&mut self, leg: usize, direction: Direction, replied: &Replied<D::Answer>, took_ms: Millis) {
        let participant = self.engine.domain.participant(&self.saga.plan, leg);
        match replied.reply {
            Reply::NotSent | Reply::Unknown => {
                let took = Duration::from_millis(u64::try_from(took_ms).unwrap_or_default());
                self.engine.reachability.failed(participant, took);
            }
            _ => self.engine.reachability.answered(participant),
        }
        let (way, reply) = (direction.as_str(), replied.reply.as_str());
        counter!("saga_leg_replies_total", "participant" => participant.to_owned(), "way" => way, "reply" => reply).increment(1);
        let telling = direction == Direction::Cancel
            || !matches!(replied.reply, Reply::Done | Reply::Empty)
            || !self.attempts.is_empty();
        if telling {
            self.attempts.push(json!({
                "leg": leg, "way": way, "reply": reply, "note": replied.note, "took_ms": took_ms,
                "at_ms": self.engine.lease.now(), "epoch": self.saga.epoch,
            }));
        }
    }
}

/// Under which code a saga is parked by a transition.
fn reason_of<D: Domain>(transition: Transition) -> Reason {
    transition
        .cause
        .map_or(Reason::Unreachable, |cause| CompensationCause::<D::Answer>::from_cause(cause, &[]).reason)
}

enum Next {
    Event(Event),
    Nothing,
    Stop,
}

async fn until(deadline: Option<Millis>, now: Millis) {
    match deadline {
        Some(deadline) => {
            tokio::time::sleep(Duration::from_millis(u64::try_from(deadline - now).unwrap_or(0))).await
        }
        None => std::future::pending().await,
    }
}
