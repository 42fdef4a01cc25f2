//! One saga in one orchestrator: carries out what the real machine says, as `libs/saga/src/task.rs` does.

use saga::machine::{
    Action, Clocks, Direction, Event as Step, Kind, Limits, Machine, Reply, State, Transition,
};
use tender::command::Action as LegAction;

use crate::{
    Time,
    db::{Move, Process, Row, SagaId, Write, Written},
    ending::{self, Known},
    event::{Away, Call, Event, Heard, Wrote},
    faults::Fired,
    node::{POISON_LIMIT, Run, Waiter},
    plan::{self, Sender},
    sql::STUCK_AFTER,
    tender::Parcel,
    world::World,
};

const LIMITS: Limits = Limits { refused_for: 1_000, wrong_answers: 4, unreachable_for: 12_000 };
const FORWARD_TIMEOUT: Time = 2_000;
const CANCEL_TIMEOUT: Time = 5_000;
/// Wait before a transition is offered again to a store that is away.
const STORE_PAUSE: Time = 200;
/// Databases whose clocks differ by more are not sent a time to judge by.
const SKEW_MAX: Time = 5_000;

impl World {
    /// Starts, or starts anew, a run of a row that this process owns under the row's epoch.
    pub fn adopt(&mut self, process: Process, row: Row, recovered: bool) {
        let no = self.number();
        let clocks = Clocks { deadline: row.deadline_at, budget_from: row.budget_from };
        let legs = row.plan.legs();
        let run = Run {
            no,
            id: row.id,
            redemption: row.parent.unwrap_or(row.id),
            legs_id: row.legs_id,
            epoch: row.epoch,
            created_at: row.created_at,
            deadline_at: row.deadline_at,
            machine: Machine::new(row.kind, row.state, legs, clocks, recovered, LIMITS),
            answers: vec![None; legs],
            turned: row.cause,
            poison: row.poison,
            concluded: None,
            calls: std::collections::BTreeMap::new(),
            plan: row.plan,
        };
        self.trace.note(
            self.now,
            format_args!(
                "{process:?} runs {:?} epoch {} {:?} poison {}",
                run.id, run.epoch, row.state, run.poison
            ),
        );
        let first = if run.poison > POISON_LIMIT { Step::Poisoned } else { Step::Start };
        if first == Step::Poisoned {
            self.cover.count(Fired::Poisoned);
        }
        self.nodes[process.0].runs.remove(&run.id);
        self.step(process, run, first);
    }

    /// Takes a run out of memory to go on with it, if it is still the one that was meant.
    fn take(&mut self, process: Process, (id, no): (SagaId, u64)) -> Option<Run> {
        let runs = &mut self.nodes[process.0].runs;
        if runs.get(&id)?.no != no {
            return None;
        }
        runs.remove(&id)
    }

    /// One event into the machine, its actions carried out; the run goes back into memory unless it is over.
    fn step(&mut self, process: Process, mut run: Run, event: Step) {
        let now = self.nodes[process.0].lease.now(self.now);
        let actions = match run.machine.on(event, now) {
            Ok(actions) => actions,
            Err(illegal) => return self.violate(format!("{:?}: {illegal}", run.id)),
        };
        self.trace
            .note(self.now, format_args!("{process:?} {:?}/{}: {event:?} -> {actions:?}", run.id, run.epoch));
        let mut lapsed = false;
        for action in actions {
            match action {
                Action::Send(leg, direction) => {
                    lapsed |= !self.send(process, &mut run, leg, direction);
                    if self.crashes(process.0, Fired::CrashSent) {
                        return;
                    }
                }
                Action::Backoff(leg, direction, nth) => self.back_off(process, &run, leg, direction, nth),
                Action::Write(transition) => {
                    if self.crashes(process.0, Fired::CrashDecided) {
                        return;
                    }
                    self.write_move(process, &mut run, transition);
                }
                Action::Finish => return self.finish(process, run),
            }
        }
        if lapsed {
            // Left on purpose, which is no sign of poison.
            self.nodes[process.0].lost.remove(&run.id);
            return;
        }
        if self.strikes(|faults| faults.lost_run) && run.calls.len() > 1 {
            self.trace.note(self.now, format_args!("{process:?} loses its run of {:?}", run.id));
            return;
        }
        if event == Step::Start && run.machine.deadline().is_some() {
            self.after((run.deadline_at - now).max(0), Event::Deadline { process, id: run.id, no: run.no });
        }
        self.nodes[process.0].runs.insert(run.id, run);
    }

    fn finish(&mut self, process: Process, run: Run) {
        if run.machine.state() == State::DeadLetter && self.crashes(process.0, Fired::CrashDeadLetter) {
            return;
        }
        if self.crashes(process.0, Fired::CrashTerminal) {
            return;
        }
        self.nodes[process.0].lost.remove(&run.id);
        self.trace.note(self.now, format_args!("{process:?} {:?} ends {:?}", run.id, run.machine.state()));
        if self.tell_waiting(process, run.id, run.concluded) {
            self.crashes(process.0, Fired::CrashAnswered);
        }
    }

    /// False if the process may not act any more.
    fn send(&mut self, process: Process, run: &mut Run, leg: usize, direction: Direction) -> bool {
        if !self.nodes[process.0].lease.holds(self.now) {
            self.cover.count(Fired::Lapsed);
            return false;
        }
        let sender = Sender {
            plan: &run.plan,
            legs_id: run.legs_id,
            epoch: run.epoch,
            created_at: run.created_at,
            deadline_at: run.deadline_at,
        };
        let Some((tender, mut command)) = plan::command(sender, leg, direction) else {
            self.violate(format!("{:?} has no leg {leg}", run.id));
            return false;
        };
        if let LegAction::Forward(leg) = &mut command.action
            && (self.tenders[tender].skew - self.db.skew).abs() > SKEW_MAX
        {
            leg.plan.not_after = None;
        }
        let is_cancel = matches!(command.action, LegAction::Cancel(_));
        let call = self.number();
        run.calls.insert(call, (leg, direction));
        self.calls.insert(call, Call { process, id: run.id, no: run.no, leg, direction, is_cancel });
        let is_forward = direction == Direction::Forward && matches!(run.plan, plan::Plan::Redeem(_));
        let limit = if is_forward { FORWARD_TIMEOUT } else { CANCEL_TIMEOUT };
        self.after(limit, Event::Reply { call, heard: Heard::Silence });
        self.post(Parcel { call, tender, id: run.id, epoch: run.epoch, command });
        true
    }

    fn back_off(&mut self, process: Process, run: &Run, leg: usize, direction: Direction, nth: u32) {
        let (first, cap) = if direction == Direction::Forward { (50, 1_000) } else { (200, 4_000) };
        let longest = (first << nth.saturating_sub(1).min(10)).min(cap);
        let wait = self.rng.between(0, longest);
        self.after(wait, Event::Wake { process, id: run.id, no: run.no, leg, direction });
    }

    fn write_move(&mut self, process: Process, run: &mut Run, transition: Transition) {
        let turned = transition.cause.map(ending::because);
        if transition.to != State::DeadLetter
            && let Some(turned) = turned
        {
            run.turned = Some(turned.into());
        }
        if matches!(transition.cause, Some(saga::machine::Cause::Unreachable(_)))
            && transition.to == State::Compensating
        {
            self.cover.count(Fired::Silent);
        }
        let known = Known {
            id: run.id,
            redemption: run.redemption,
            plan: &run.plan,
            created_at: run.created_at,
            answers: &run.answers,
            turned: run.turned.as_deref().unwrap_or("cancelled"),
            from: transition.from,
        };
        let (response, change) = ending::conclude(known, transition.to);
        run.concluded.clone_from(&response);
        let change = Move {
            id: run.id,
            from: transition.from,
            epoch: run.epoch,
            to: transition.to,
            take_over: None,
            cancel_key: false,
            cause: run
                .turned
                .clone()
                .filter(|_| matches!(transition.to, State::Compensating | State::Compensated)),
            response,
            change,
            due: STUCK_AFTER,
        };
        self.store(
            process,
            Write::Move(Box::new(change)),
            Waiter::Run { id: run.id, no: run.no, transition },
        );
    }

    pub fn rewrite(&mut self, process: Process, which: (SagaId, u64), transition: Transition) {
        if let Some(mut run) = self.take(process, which) {
            self.write_move(process, &mut run, transition);
            self.nodes[process.0].runs.insert(run.id, run);
        }
    }

    pub fn wake(&mut self, process: Process, which: (SagaId, u64), leg: usize, direction: Direction) {
        if let Some(run) = self.take(process, which) {
            self.step(process, run, Step::Wake(leg, direction));
        }
    }

    pub fn deadline(&mut self, process: Process, (id, no): (SagaId, u64)) {
        let Some(run) = self.nodes[process.0].runs.get(&id).filter(|run| run.no == no) else { return };
        let Some(deadline) = run.machine.deadline() else { return };
        let wait = deadline - self.nodes[process.0].lease.now(self.now);
        if wait > 0 {
            // The clock went back meanwhile.
            return self.after(wait, Event::Deadline { process, id, no });
        }
        if let Some(run) = self.take(process, (id, no)) {
            self.step(process, run, Step::Deadline);
        }
    }

    pub fn reply(&mut self, call: u64, heard: Heard) {
        let Some(Call { process, id, no, leg, direction, is_cancel }) = self.calls.remove(&call) else {
            return;
        };
        let Some(mut run) = self.take(process, (id, no)) else { return };
        run.calls.remove(&call);
        let (reply, answer) = match heard {
            Heard::Answer(answer) => (plan::reply(&answer, is_cancel), Some(answer)),
            Heard::NotSent => (Reply::NotSent, None),
            Heard::Silence => (Reply::Unknown, None),
            Heard::Wrong => (Reply::Wrong, None),
        };
        let at =
            if direction == Direction::Forward { Fired::CrashReplied } else { Fired::CrashCancelReplied };
        if self.crashes(process.0, at) {
            return;
        }
        if std::mem::take(&mut run.poison) > 0 {
            let row = self.db.rows.get_mut(&id).filter(|row| row.epoch == run.epoch && row.state.is_live());
            row.into_iter().for_each(|row| row.poison = 0);
        }
        let back = run.machine.state() == State::Compensating;
        if answer.is_some() && back == (direction == Direction::Cancel) {
            run.answers[leg] = answer;
        }
        self.step(process, run, Step::Replied(leg, direction, reply));
    }

    /// What became of a transition, told to the run that asked for it.
    pub fn run_wrote(
        &mut self,
        process: Process,
        which: (SagaId, u64),
        transition: Transition,
        wrote: Wrote,
    ) {
        let Some(mut run) = self.take(process, which) else { return };
        let answer_given = match wrote {
            Ok(Written::Moved { answer_given }) => answer_given,
            Err(Away) => {
                let (id, no) = which;
                self.nodes[process.0].runs.insert(id, run);
                return self.after(STORE_PAUSE, Event::Rewrite { process, id, no, transition });
            }
            Ok(_) => {
                // The compare-and-set missed: stop, unless the row is still ours.
                let row = self.db.rows.get(&run.id);
                let ours = row.is_some_and(|row| row.owner == Some(process) && row.epoch == run.epoch);
                if !ours || row.is_none_or(|row| row.state != transition.to) {
                    self.cover.count(Fired::ZombieMissed);
                    self.trace.note(self.now, format_args!("{process:?} {:?}/{} missed", run.id, run.epoch));
                    return;
                }
                true
            }
        };
        if answer_given {
            run.concluded = None;
        }
        if transition.to == State::Compensating {
            run.answers.fill(None);
            if self.crashes(process.0, Fired::CrashCompensating) {
                return;
            }
        }
        self.step(process, run, Step::Written);
    }

    /// A saga that this process has just written.
    pub fn begin(&mut self, process: Process, id: SagaId) {
        if self.crashes(process.0, Fired::CrashInserted) {
            return;
        }
        // What was inserted is known without reading it again: the row as it was written.
        let Some(row) = self.db.rows.get(&id) else { return };
        let row = Row {
            state: State::Running,
            epoch: 1,
            poison: 0,
            cause: None,
            budget_from: row.created_at,
            ..row.clone()
        };
        debug_assert!(row.kind == Kind::ForwardOnly || row.parent.is_none());
        self.adopt(process, row, false);
    }
}
