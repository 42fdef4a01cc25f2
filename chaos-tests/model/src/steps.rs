//! What can happen next, and what it leads to.

use saga::machine::{Action, Direction, Event, Kind, Millis, Reply, State, Transition};

use crate::{
    LEGS, Pending, Protocol, Row, Run, Told, Twin, Waits, World, Writing,
    leg::{Ask, Given, Stored},
};

/// What becomes of a COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It is durable, and answered.
    Answered,
    /// It is durable, and its answer lost.
    Durable,
    /// It is not durable, and its answer lost.
    Lost,
    /// Nobody knows yet; until it ends its locks keep others waiting.
    Pending,
}

/// Something that can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The first executor writes the saga.
    Insert(Fate),
    /// A transaction whose client is gone ends: durable, or not.
    EndPending(bool),
    /// A command arrives at a leg; perhaps somebody is there to hear the answer.
    Arrive(usize, Direction, Given, Option<usize>),
    /// An answer reaches its run.
    Hear(usize, usize),
    /// An answer does not.
    Timeout(usize, usize),
    /// A backoff ends.
    Wake(usize, usize),
    /// A transition comes to its COMMIT.
    Commit(usize, Fate),
    /// A run hears that its transition is durable.
    Written(usize),
    /// An executor dies.
    Crash(usize),
    /// An executor takes the saga over, from whomever; poisoned, it parks it.
    TakeOver(usize, bool),
    /// The deadline passes.
    Late,
    /// A run notices.
    Deadline(usize),
    /// Cancel by key, at this executor.
    Cancel(usize),
    /// A dead letter is replayed, at this executor.
    Replay(usize),
}

impl Protocol {
    pub(crate) fn steps(&self, world: &World, steps: &mut Vec<Step>) {
        let faulty = world.faults_left > 0;
        let fates: &[Fate] = if faulty {
            &[Fate::Answered, Fate::Durable, Fate::Lost, Fate::Pending]
        } else {
            &[Fate::Answered]
        };
        if world.pending.is_some() {
            steps.extend([Step::EndPending(true), Step::EndPending(false)]);
        }
        let unlocked = world.pending.is_none();
        if world.inserting && unlocked {
            steps.extend(fates.iter().map(|fate| Step::Insert(*fate)));
        }
        if world.inserting && !unlocked && self.lacks(Twin::UnknownByReading) {
            steps.push(Step::Insert(Fate::Answered));
        }
        self.arrivals(world, steps);
        for (executor, run) in world.runs.iter().enumerate() {
            if let Some(run) = run {
                self.run_steps(world, (executor, run), fates, steps);
            }
            let Some(row) = world.row.filter(|row| unlocked && row.epoch < self.bounds.epochs) else {
                continue;
            };
            if row.state.is_live() {
                steps.push(Step::TakeOver(executor, false));
                if faulty {
                    steps.push(Step::TakeOver(executor, true));
                }
            }
            if row.state == State::Running && self.kind() == Kind::Compensable {
                steps.push(Step::Cancel(executor));
            }
            if row.state == State::DeadLetter {
                steps.push(Step::Replay(executor));
            }
        }
        if !world.is_late && world.row.is_some() && self.kind() == Kind::Compensable {
            steps.push(Step::Late);
        }
    }

    /// Whatever was sent may arrive now.
    fn arrivals(&self, world: &World, steps: &mut Vec<Step>) {
        for leg in 0..LEGS {
            for direction in [Direction::Forward, Direction::Cancel] {
                if !world.sent[leg][index(direction)] {
                    continue;
                }
                let waiting = (0..world.runs.len()).filter(|executor| {
                    world.runs[*executor]
                        .as_ref()
                        .is_some_and(|run| run.waits[leg] == Waits::Answer(direction))
                });
                let hearers: Vec<Option<usize>> = waiting.map(Some).chain([None]).collect();
                let is_open = world.legs[leg] == Stored::Nothing && self.ask(direction) == Ask::Debit;
                let given: &[Given] = match (is_open, world.is_late) {
                    (false, _) => &[Given::Enough],
                    // Clocks differ: what comes late may still be taken for in time.
                    (true, true) => &[Given::Enough, Given::TooLittle, Given::TooLate],
                    (true, false) => &[Given::Enough, Given::TooLittle],
                };
                for given in given {
                    steps.extend(hearers.iter().map(|hearer| Step::Arrive(leg, direction, *given, *hearer)));
                }
            }
        }
    }

    fn run_steps(
        &self,
        world: &World,
        (executor, run): (usize, &Run),
        fates: &[Fate],
        steps: &mut Vec<Step>,
    ) {
        let faulty = world.faults_left > 0;
        if faulty {
            steps.push(Step::Crash(executor));
        }
        for leg in 0..LEGS {
            match run.waits[leg] {
                Waits::Reply(..) => steps.push(Step::Hear(executor, leg)),
                Waits::Backoff(_) => steps.push(Step::Wake(executor, leg)),
                Waits::Answer(_) if faulty => steps.push(Step::Timeout(executor, leg)),
                Waits::Answer(_) | Waits::Idle => {}
            }
        }
        match run.writing {
            Some(writing) if writing.is_done => steps.push(Step::Written(executor)),
            Some(_) if world.pending.is_none() => {
                steps.extend(fates.iter().map(|fate| Step::Commit(executor, *fate)))
            }
            Some(writing) if writing.is_unknown && self.lacks(Twin::UnknownByReading) => {
                steps.push(Step::Commit(executor, Fate::Answered));
            }
            _ => {}
        }
        if world.is_late && run.machine.deadline().is_some() {
            steps.push(Step::Deadline(executor));
        }
    }

    pub(crate) fn take(&self, world: &mut World, step: Step) {
        let is_fault = matches!(step, Step::Timeout(..) | Step::Crash(_) | Step::TakeOver(_, true))
            || matches!(step, Step::Insert(fate) | Step::Commit(_, fate) if fate != Fate::Answered);
        world.faults_left -= u8::from(is_fault && world.faults_left > 0);
        match step {
            Step::Insert(fate) => self.insert(world, fate),
            Step::EndPending(is_durable) => self.end_pending(world, is_durable),
            Step::Arrive(leg, direction, given, hearer) => {
                self.arrive(world, (leg, direction), given, hearer)
            }
            Step::Hear(executor, leg) => {
                let waits = world.runs[executor].as_ref().map(|run| run.waits[leg]);
                if let Some(Waits::Reply(direction, reply)) = waits {
                    self.hear(world, executor, leg, (direction, reply));
                }
            }
            Step::Timeout(executor, leg) => {
                let waits = world.runs[executor].as_ref().map(|run| run.waits[leg]);
                if let Some(Waits::Answer(direction)) = waits {
                    self.hear(world, executor, leg, (direction, Reply::Unknown));
                }
            }
            Step::Wake(executor, leg) => {
                let waits = world.runs[executor].as_ref().map(|run| run.waits[leg]);
                if let Some(Waits::Backoff(direction)) = waits {
                    self.event(world, executor, Event::Wake(leg, direction));
                }
            }
            Step::Commit(executor, fate) => self.commit(world, executor, fate),
            Step::Written(executor) => self.event(world, executor, Event::Written),
            Step::Crash(executor) => {
                world.runs[executor] = None;
                // Only the first executor has a saga to write, and only once.
                world.inserting &= executor != 0;
            }
            Step::TakeOver(executor, is_poisoned) => {
                if let Some(row) = &mut world.row {
                    row.epoch += 1;
                }
                self.start(world, executor, if is_poisoned { Event::Poisoned } else { Event::Start });
            }
            Step::Late => world.is_late = true,
            Step::Deadline(executor) => self.event(world, executor, Event::Deadline),
            Step::Cancel(executor) => self.cancel(world, executor),
            Step::Replay(executor) => self.replay(world, executor),
        }
    }

    /// T1. A second attempt recognises its own row.
    fn insert(&self, world: &mut World, fate: Fate) {
        let reads_only = world.pending.is_some();
        match fate {
            Fate::Answered if reads_only => {
                // The twin looks, finds nothing, and says so.
                world.inserting = false;
                world.told = Some(Told::Refused);
            }
            Fate::Answered => {
                world.inserting = false;
                let row = *world.row.get_or_insert(Row::new());
                if row.epoch == 1 && row.state == State::Running {
                    self.begin(world, 0, false, Event::Start);
                }
            }
            Fate::Durable => {
                world.row.get_or_insert(Row::new());
            }
            Fate::Lost => {}
            Fate::Pending => world.pending = Some(Pending::Insert),
        }
    }

    fn end_pending(&self, world: &mut World, is_durable: bool) {
        match world.pending.take() {
            Some(Pending::Insert) if is_durable => {
                world.row.get_or_insert(Row::new());
            }
            Some(Pending::Move(transition, epoch)) if is_durable => {
                self.compare_and_set(world, transition, epoch);
            }
            _ => {}
        }
    }

    fn arrive(
        &self,
        world: &mut World,
        (leg, direction): (usize, Direction),
        given: Given,
        hearer: Option<usize>,
    ) {
        let before = world.legs[leg];
        let (after, reply) = self.rule.ask(before, self.ask(direction), given);
        let is_lost = match after {
            Stored::Tombstoned => self.lacks(Twin::NoTombstone),
            Stored::Declined => self.lacks(Twin::DeclineNotRecorded),
            _ => false,
        };
        if !is_lost {
            world.legs[leg] = after;
        }
        if let Some(run) = hearer.and_then(|executor| world.runs[executor].as_mut()) {
            run.waits[leg] = Waits::Reply(direction, reply);
        }
    }

    fn hear(&self, world: &mut World, executor: usize, leg: usize, (direction, reply): (Direction, Reply)) {
        if let Some(run) = &mut world.runs[executor] {
            run.waits[leg] = Waits::Idle;
            run.known[leg] |= direction == Direction::Forward && reply == Reply::Done;
        }
        self.event(world, executor, Event::Replied(leg, direction, reply));
    }

    /// A transition comes to its COMMIT; as `libs/saga/src/write.rs` decides.
    fn commit(&self, world: &mut World, executor: usize, fate: Fate) {
        let Some(run) = &world.runs[executor] else { return };
        let (Some(writing), epoch) = (run.writing, run.epoch) else { return };
        let transition = writing.transition;
        if writing.is_unknown && self.lacks(Twin::UnknownByReading) {
            return self.read_only(world, executor, transition);
        }
        match fate {
            Fate::Pending => world.pending = Some(Pending::Move(transition, epoch)),
            Fate::Lost => {}
            Fate::Durable => {
                self.compare_and_set(world, transition, epoch);
            }
            Fate::Answered => {
                let moved = self.compare_and_set(world, transition, epoch);
                // Its own from an earlier attempt: in the state, epoch and hands that this one leads to.
                let is_own = world.row.is_some_and(|row| row.state == transition.to && row.epoch == epoch);
                match &mut world.runs[executor] {
                    Some(run) if moved || is_own => run.writing = Some(Writing { is_done: true, ..writing }),
                    missed => *missed = None,
                }
                return;
            }
        }
        if let Some(run) = &mut world.runs[executor] {
            run.writing = Some(Writing { is_unknown: true, ..writing });
        }
    }

    /// The twin reads the row and believes what it sees: what is not there is not done, and the caller hears so.
    fn read_only(&self, world: &mut World, executor: usize, transition: Transition) {
        let is_there = world.row.is_some_and(|row| row.state == transition.to);
        match &mut world.runs[executor] {
            Some(Run { writing: Some(writing), .. }) if is_there => writing.is_done = true,
            run => {
                *run = None;
                world.told.get_or_insert(Told::Refused);
            }
        }
    }

    fn compare_and_set(&self, world: &mut World, transition: Transition, epoch: u8) -> bool {
        let Some(row) = &mut world.row else { return false };
        let fits = row.state == transition.from && row.epoch == epoch;
        if !fits && !self.lacks(Twin::NoCompareAndSet) {
            return false;
        }
        row.state = transition.to;
        row.backward |= transition.from == State::Compensating
            || matches!(transition.to, State::Compensating | State::Compensated);
        row.letters = row.letters.saturating_add(u8::from(transition.to == State::DeadLetter));
        true
    }

    fn cancel(&self, world: &mut World, executor: usize) {
        let Some(row) = &mut world.row else { return };
        (row.state, row.backward, row.key_cancelled) = (State::Compensating, true, true);
        row.epoch += u8::from(!self.lacks(Twin::NoTakeover));
        world.is_cancelled = true;
        self.start(world, executor, Event::Start);
    }

    fn replay(&self, world: &mut World, executor: usize) {
        let Some(row) = &mut world.row else { return };
        let back = row.backward || (row.key_cancelled && self.kind() == Kind::Compensable);
        row.state = if back { State::Compensating } else { State::Running };
        (row.backward, row.letters, row.epoch) = (back, row.letters.saturating_sub(1), row.epoch + 1);
        self.start(world, executor, Event::Start);
    }

    fn start(&self, world: &mut World, executor: usize, event: Event) {
        self.begin(world, executor, true, event);
    }

    fn begin(&self, world: &mut World, executor: usize, recovered: bool, event: Event) {
        let Some(row) = world.row else { return };
        world.runs[executor] = Some(self.run(row.epoch, row.state, recovered));
        self.event(world, executor, event);
    }

    /// An event into the real machine, its actions carried out.
    fn event(&self, world: &mut World, executor: usize, event: Event) {
        let now = now(world);
        let Some(mut run) = world.runs[executor].take() else { return };
        if event == Event::Written {
            run.writing = None;
        }
        let Ok(actions) = run.machine.on(event, now) else {
            world.is_illegal = true;
            return;
        };
        for action in actions {
            match action {
                Action::Send(leg, direction) => self.send(world, &mut run, leg, direction),
                Action::Backoff(leg, direction, _) => run.waits[leg] = Waits::Backoff(direction),
                Action::Write(transition) => self.write(world, &mut run, transition),
                Action::Finish => return tell(world, run.machine.state()),
            }
        }
        world.runs[executor] = Some(run);
    }

    fn send(&self, world: &mut World, run: &mut Run, leg: usize, direction: Direction) {
        if direction == Direction::Cancel && self.lacks(Twin::CancelOnlyKnown) && !run.known[leg] {
            run.waits[leg] = Waits::Reply(direction, Reply::Done);
            return;
        }
        world.sent[leg][index(direction)] = true;
        run.waits[leg] = Waits::Answer(direction);
    }

    fn write(&self, world: &mut World, run: &mut Run, transition: Transition) {
        run.writing = Some(Writing { transition, is_unknown: false, is_done: false });
        // What a run waited for, it will not act on any more.
        run.waits = [Waits::Idle; LEGS];
        if transition.to == State::Compensating && self.lacks(Twin::CancelBeforeDurable) {
            world.sent.iter_mut().for_each(|sent| sent[index(Direction::Cancel)] = true);
        }
        if self.lacks(Twin::AnswerBeforeDurable) {
            tell(world, transition.to);
        }
    }

    /// Whether everything ends well from here: whoever is there dies, what is pending ends, one executor takes over,
    /// operators replay, and in the end whatever was ever sent arrives once more.
    pub(crate) fn heals(&self, world: &World) -> bool {
        let ends: &[bool] = if world.pending.is_some() { &[true, false] } else { &[true] };
        ends.iter().all(|is_durable| self.heals_if(world.clone(), *is_durable))
    }

    fn heals_if(&self, mut world: World, is_durable: bool) -> bool {
        self.end_pending(&mut world, is_durable);
        world.runs.fill(None);
        (world.faults_left, world.is_late) = (0, true);
        for _ in 0..6 {
            let Some(row) = world.row else { return true };
            match row.state {
                State::Running | State::Compensating => self.take(&mut world, Step::TakeOver(0, false)),
                State::DeadLetter => self.take(&mut world, Step::Replay(0)),
                State::Completed | State::Compensated | State::Resolved => break,
            }
            self.run_out(&mut world);
        }
        // A forward last: nothing of it may stay.
        for (leg, direction) in
            (0..LEGS).flat_map(|leg| [(leg, Direction::Cancel), (leg, Direction::Forward)])
        {
            if world.sent[leg][index(direction)] {
                self.arrive(&mut world, (leg, direction), Given::Enough, None);
            }
        }
        let is_over = world.row.is_some_and(|row| matches!(row.state, State::Completed | State::Compensated));
        let is_cancelled = world.row.is_some_and(|row| row.key_cancelled && row.state == State::Completed);
        is_over && !is_cancelled && self.legs_agree(&world) && self.told_agrees(&world)
    }

    /// Runs the first executor until nothing is left for it to do.
    fn run_out(&self, world: &mut World) {
        while let Some(run) = &world.runs[0] {
            let waits = run.waits;
            match run.writing {
                Some(writing) if writing.is_done => self.take(world, Step::Written(0)),
                Some(_) => self.take(world, Step::Commit(0, Fate::Answered)),
                None => {
                    let Some(leg) = (0..LEGS).find(|leg| waits[*leg] != Waits::Idle) else { return };
                    match waits[leg] {
                        Waits::Answer(direction) => {
                            self.arrive(world, (leg, direction), Given::Enough, Some(0))
                        }
                        Waits::Reply(..) => self.take(world, Step::Hear(0, leg)),
                        Waits::Backoff(_) => self.take(world, Step::Wake(0, leg)),
                        Waits::Idle => return,
                    }
                }
            }
        }
    }
}

impl Row {
    const fn new() -> Self {
        Self { state: State::Running, epoch: 1, backward: false, key_cancelled: false, letters: 0 }
    }
}

fn tell(world: &mut World, state: State) {
    let told = match state {
        State::Completed => Told::Completed,
        State::Compensated => Told::Refused,
        _ => return,
    };
    world.told.get_or_insert(told);
}

/// The time, as far as a machine can tell.
fn now(world: &World) -> Millis {
    if world.is_late { 10 } else { 0 }
}

const fn index(direction: Direction) -> usize {
    match direction {
        Direction::Forward => 0,
        Direction::Cancel => 1,
    }
}
