//! The network, and the tenders' executors.

use std::rc::Rc;

use tender::command::{Action, Outcome, Rejection, State};

use crate::{
    Time,
    event::{Event, Heard},
    faults::Fired,
    tender::Parcel,
    world::World,
};

/// Most commands in a batch.
const BATCH: usize = 32;

impl World {
    /// Sends a command on its way.
    pub fn post(&mut self, parcel: Parcel) {
        let parcel = Rc::new(parcel);
        if self.strikes(|faults| faults.duplicate) {
            self.cover.count(Fired::Duplicated);
            if self.rng.chance(150) {
                self.stragglers.push(parcel.clone());
            } else {
                let wait = self.rng.between(1, 15_000);
                self.travel(parcel.clone(), wait);
            }
        }
        if self.strikes(|faults| faults.loss) {
            return self.cover.count(Fired::RequestLost);
        }
        if self.strikes(|faults| faults.late) {
            if self.rng.chance(150) {
                return self.stragglers.push(parcel);
            }
            let wait = self.rng.between(1_000, 12_000);
            return self.travel(parcel, wait);
        }
        let wait = self.rng.between(1, 30);
        self.travel(parcel, wait);
    }

    fn travel(&mut self, parcel: Rc<Parcel>, wait: Time) {
        self.on_the_way += 1;
        self.after(wait, Event::Deliver(parcel));
    }

    /// A command reaches its tender.
    pub fn deliver(&mut self, parcel: Rc<Parcel>) {
        self.on_the_way -= 1;
        let row = self.db.rows.get(&parcel.id);
        if row.is_some_and(|row| !row.state.is_live()) {
            self.cover.count(Fired::Late);
        }
        if row.is_some_and(|row| row.epoch > parcel.epoch) {
            self.cover.count(Fired::ZombieForward);
        }
        let index = parcel.tender;
        let tender = &mut self.tenders[index];
        if self.now < tender.away_until {
            if self.calls.contains_key(&parcel.call) {
                self.cover.count(Fired::NotSent);
            }
            return self.answer(parcel.call, Heard::NotSent);
        }
        if self.now < tender.hung_until {
            return;
        }
        let life = tender.life;
        if tender.enqueue(parcel) {
            let wait = self.rng.between(1, 5);
            self.after(wait, Event::Serve(index, life));
        }
    }

    fn answer(&mut self, call: u64, heard: Heard) {
        if !self.calls.contains_key(&call) {
            return;
        }
        if self.strikes(|faults| faults.loss) {
            return self.cover.count(Fired::ReplyLost);
        }
        let heard = if self.strikes(|faults| faults.garbage) {
            self.cover.count(Fired::Garbage);
            Heard::Wrong
        } else {
            heard
        };
        let wait = self.rng.between(1, 30);
        self.after(wait, Event::Reply { call, heard });
    }

    /// One batch of a tender, in one transaction.
    pub fn serve(&mut self, index: usize, life: u32) {
        if self.tenders[index].life != life {
            return;
        }
        let batch = self.tenders[index].take_batch(BATCH);
        if batch.is_empty() {
            // What waits, waits for locks; when they go it is looked at again.
            self.tenders[index].is_busy = false;
            return;
        }
        if self.strikes(|faults| faults.tender_crash) {
            return self.tender_crash(index, Fired::TenderCrashBegin);
        }
        let prepared = self.tenders[index].prepare(batch.iter().map(|parcel| &parcel.command), self.now);
        if self.strikes(|faults| faults.tender_crash) {
            return self.tender_crash(index, Fired::TenderCrashLocked);
        }
        if self.strikes(|faults| faults.tender_unknown) {
            let fate = self.rng.below(3);
            self.trace.note(self.now, format_args!("tender {index} hears nothing of its COMMIT ({fate})"));
            match fate {
                0 => {
                    self.cover.count(Fired::TenderUnknownDurable);
                    let committed = self.tenders[index].commit(prepared);
                    self.expect(committed);
                }
                1 => self.cover.count(Fired::TenderUnknownLost),
                _ => self.leave_pending(index, prepared),
            }
            // The whole batch runs again; what is locked waits.
            for parcel in batch.into_iter().rev() {
                let lane = usize::from(!parcel.command.action.is_urgent());
                self.tenders[index].queue[lane].push_front(parcel);
            }
            return self.after(50, Event::Serve(index, life));
        }
        let outcomes = prepared.outcomes.clone();
        let committed = self.tenders[index].commit(prepared);
        self.expect(committed);
        self.tell_outcomes(index, &batch, outcomes);
        if self.tenders[index].life == life {
            let wait = self.rng.between(1, 4);
            self.after(wait, Event::Serve(index, life));
        }
    }

    fn leave_pending(&mut self, index: usize, prepared: crate::tender::Prepared) {
        self.cover.count(Fired::TenderUnknownPending);
        let wait = self.rng.between(50, 1_500);
        let is_durable = self.rng.chance(500);
        let tender = &mut self.tenders[index];
        for key in prepared.locks() {
            tender.locked.insert(key, self.now + wait);
        }
        tender.pending.push(Some((prepared, is_durable)));
        let pending = tender.pending.len() - 1;
        self.after(wait, Event::TenderPending(index, pending));
    }

    /// A transaction whose client is gone ends.
    pub fn tender_pending(&mut self, index: usize, pending: usize) {
        let tender = &mut self.tenders[index];
        let Some((prepared, is_durable)) = tender.pending[pending].take() else { return };
        for key in prepared.locks() {
            tender.locked.remove(&key);
        }
        self.trace.note(self.now, format_args!("tender {index}: a transaction ends: {is_durable}"));
        if is_durable {
            let committed = self.tenders[index].commit(prepared);
            self.expect(committed);
        }
        let tender = &mut self.tenders[index];
        if !std::mem::replace(&mut tender.is_busy, true) {
            let life = tender.life;
            self.after(1, Event::Serve(index, life));
        }
    }

    fn tell_outcomes(&mut self, index: usize, batch: &[Rc<Parcel>], outcomes: Vec<Outcome>) {
        if self.strikes(|faults| faults.tender_crash) {
            return self.tender_crash(index, Fired::TenderCrashCommitted);
        }
        let half = self.strikes(|faults| faults.tender_crash).then_some(batch.len().div_ceil(2));
        for (position, (parcel, outcome)) in batch.iter().zip(outcomes).enumerate() {
            self.caller_may_die(parcel);
            if half.is_some_and(|half| position >= half) {
                return self.tender_crash(index, Fired::TenderCrashHalf);
            }
            self.notice(parcel, &outcome);
            let state = match &outcome {
                Outcome::Recorded(answer) | Outcome::Replayed(answer) => answer.state.as_str(),
                Outcome::Rejected(_) => "rejected",
            };
            self.trace.note(
                self.now,
                format_args!(
                    "tender {index}: {:?}/{} {} -> {state}",
                    parcel.id,
                    parcel.epoch,
                    name(&parcel.command.action)
                ),
            );
            let heard = match outcome {
                Outcome::Recorded(answer) | Outcome::Replayed(answer) => {
                    match serde_json::from_str(&answer.body) {
                        Ok(answer) => Heard::Answer(answer),
                        Err(error) => return self.violate(format!("an answer that is none: {error}")),
                    }
                }
                Outcome::Rejected(rejection) => {
                    self.judge_rejection(parcel, &rejection);
                    Heard::Wrong
                }
            };
            self.answer(parcel.call, heard);
        }
    }

    /// A command that the wallet was right to send is never turned away, whenever it comes; except one of a saga that
    /// is over, long after.
    fn judge_rejection(&mut self, parcel: &Parcel, rejection: &Rejection) {
        let is_over =
            self.db.rows.get(&parcel.id).is_none_or(|row| !row.state.is_live() || row.epoch > parcel.epoch);
        if matches!(rejection, Rejection::Corrupt(_)) || !is_over {
            self.violate(format!(
                "{:?}: {} was rejected: {rejection:?}",
                parcel.id,
                name(&parcel.command.action)
            ));
        }
    }

    fn notice(&mut self, parcel: &Parcel, outcome: &Outcome) {
        let is_forward = matches!(parcel.command.action, Action::Forward(_));
        let fired = match outcome {
            Outcome::Recorded(answer) if is_forward => match answer.state {
                State::Declined => Some(Fired::LegDeclined),
                State::Expired => Some(Fired::LegExpired),
                _ if answer.body.contains("\"amount\":0") => Some(Fired::LegEmpty),
                _ => None,
            },
            Outcome::Recorded(answer) if answer.state == State::Tombstoned => Some(Fired::TombstoneLeft),
            Outcome::Replayed(answer) if is_forward && answer.state == State::Tombstoned => {
                let stored = self.tenders[parcel.tender].operations.get(&parcel.command.operation_id);
                let was_taken_back = stored.is_some_and(|stored| stored.state == State::Reversed);
                Some(if was_taken_back { Fired::ForwardAfterReversal } else { Fired::TombstoneHit })
            }
            Outcome::Replayed(_) => Some(Fired::TenderReplayed),
            _ => None,
        };
        if let Some(fired) = fired {
            self.cover.count(fired);
        }
    }

    /// The caller may die with the effect durable and the reply on its way.
    fn caller_may_die(&mut self, parcel: &Parcel) {
        let Some(call) = self.calls.get(&parcel.call) else { return };
        let process = call.process;
        let is_forward = matches!(parcel.command.action, Action::Forward(_));
        if self.is_alive(process) && self.now >= self.nodes[process.0].paused_until {
            self.crashes(process.0, if is_forward { Fired::CrashEffect } else { Fired::CrashCancelEffect });
        }
    }

    /// A tender dies: what waits in it is forgotten, its callers see a reset.
    fn tender_crash(&mut self, index: usize, at: Fired) {
        self.cover.count(at);
        self.trace.note(self.now, format_args!("tender {index} dies: {at:?}"));
        let tender = &mut self.tenders[index];
        tender.life += 1;
        tender.is_busy = false;
        let forgotten: Vec<_> = tender.queue.iter_mut().flat_map(std::mem::take).collect();
        let wait = self.rng.between(50, 2_500);
        self.tenders[index].away_until = self.now + wait;
        for parcel in forgotten {
            self.answer(parcel.call, Heard::Silence);
        }
    }
}

fn name(action: &Action) -> &'static str {
    match action {
        Action::Forward(_) => "forward",
        Action::Cancel(_) => "cancel",
        Action::Release(_) => "release",
        Action::Capture { .. } => "capture",
        Action::Query => "query",
        Action::Credit(_) => "credit",
    }
}
