//! An orchestrator around its sagas: the group-commit writer, the heartbeat, claims and rescans, the orderly stop, and the
//! operator's replays; as `libs/saga/src/{store,lease,recovery}.rs` and `ops/dead_letter_actions.rs`.

use saga::machine::State;

use crate::{
    Time,
    db::{Lock, Pending, Process, Write},
    event::{Away, Event, Wrote},
    faults::Fired,
    node::{Batch, HEARTBEAT, SCAN, TTL, Waiter},
    world::World,
};

/// How often holds that ran out are looked for.
const SWEEP: Time = 1_000;
/// Wait before a batch whose outcome is unknown is written again.
const RECONNECT_PAUSE: Time = 100;

impl World {
    /// Hands a write to the writer of a process.
    pub fn store(&mut self, process: Process, write: Write, waiter: Waiter) {
        self.nodes[process.0].writer.queue.push_back((write, waiter));
        self.next_batch(process);
    }

    fn next_batch(&mut self, process: Process) {
        let writer = &mut self.nodes[process.0].writer;
        if writer.batch.is_none() && writer.next_batch() {
            let wait = self.rng.between(1, 8);
            self.after(wait, Event::Commit(process));
        }
    }

    /// An attempt at the batch comes to its COMMIT.
    pub fn commit(&mut self, process: Process) {
        let Some(batch) = self.nodes[process.0].writer.batch.take() else { return };
        let locks: Vec<Lock> = batch.writes.iter().flat_map(|(write, _)| write.locks()).collect();
        if let Some(until) = self.db.blocked(&locks) {
            return self.again(process, batch, until - self.now + 1);
        }
        if self.strikes(|faults| faults.away) {
            self.cover.count(Fired::StoreAway);
            if batch.unknown {
                return self.again(process, batch, RECONNECT_PAUSE);
            }
            let answers = batch.writes.into_iter().map(|(_, waiter)| (waiter, Err(Away))).collect();
            self.after(1, Event::Answered(process, answers));
            return self.next_batch(process);
        }
        let dies = self.strikes(|faults| faults.crash);
        if dies || self.strikes(|faults| faults.unknown) {
            self.commit_unanswered(process, &batch, locks);
            if dies {
                return self.crash(process.0, Fired::CrashCommitting);
            }
            return self.again(process, Batch { unknown: true, ..batch }, RECONNECT_PAUSE);
        }
        let (writes, waiters): (Vec<_>, Vec<_>) = batch.writes.into_iter().unzip();
        let written = self.db.write(process, &writes, batch.unknown, self.now);
        self.trace.note(self.now, format_args!("{process:?} commits {written:?}"));
        let answers = waiters.into_iter().zip(written.into_iter().map(Ok)).collect();
        let wait = self.rng.between(1, 6);
        self.after(wait, Event::Answered(process, answers));
        self.next_batch(process);
    }

    fn again(&mut self, process: Process, batch: Batch, wait: Time) {
        self.nodes[process.0].writer.batch = Some(batch);
        self.after(wait, Event::Commit(process));
    }

    /// COMMIT is sent and not answered: it is durable, or not, or will be decided while its locks keep others waiting.
    fn commit_unanswered(&mut self, owner: Process, batch: &Batch, locks: Vec<Lock>) {
        let writes: Vec<Write> = batch.writes.iter().map(|(write, _)| write.clone()).collect();
        let fate = self.rng.below(3);
        self.trace.note(self.now, format_args!("{owner:?} hears nothing of its COMMIT ({fate})"));
        match fate {
            0 => {
                self.cover.count(Fired::UnknownDurable);
                self.db.write(owner, &writes, batch.unknown, self.now);
            }
            1 => self.cover.count(Fired::UnknownLost),
            _ => {
                self.cover.count(Fired::UnknownPending);
                let wait = self.rng.between(50, 2_000);
                locks.iter().for_each(|lock| {
                    self.db.locked.insert(*lock, self.now + wait);
                });
                let is_durable = self.rng.chance(500);
                let pending = Pending { owner, batch: writes, again: batch.unknown, is_durable, locks };
                self.db.pending.push(Some(pending));
                self.after(wait, Event::WalletPending(self.db.pending.len() - 1));
            }
        }
    }

    /// A transaction whose client is gone ends.
    pub fn wallet_pending(&mut self, index: usize) {
        let Some(pending) = self.db.pending[index].take() else { return };
        for lock in &pending.locks {
            self.db.locked.remove(lock);
        }
        self.trace
            .note(self.now, format_args!("{:?}'s transaction ends: {}", pending.owner, pending.is_durable));
        if pending.is_durable {
            self.db.write(pending.owner, &pending.batch, pending.again, self.now);
        }
    }

    /// Answers of a batch reach those who wait for them.
    pub fn answered(&mut self, process: Process, answers: Vec<(Waiter, Wrote)>) {
        for (waiter, wrote) in answers {
            if !self.is_alive(process) {
                return;
            }
            match waiter {
                Waiter::Run { id, no, transition } => self.run_wrote(process, (id, no), transition, wrote),
                Waiter::Submit { ask, new } => self.submitted(process, ask, &new, wrote),
                Waiter::Compensate { ask, seen } => self.compensated(process, ask, *seen, wrote),
            }
        }
    }

    /// Whether a process still is the one that it was.
    pub fn is_alive(&self, process: Process) -> bool {
        let node = &self.nodes[process.0];
        node.is_up && node.life == process.1
    }

    pub fn beat(&mut self, process: Process) {
        let wait = if self.is_healed { HEARTBEAT } else { self.rng.between(HEARTBEAT / 2, HEARTBEAT) };
        self.after(wait, Event::Beat(process));
        if self.strikes(|faults| faults.away.max(faults.loss)) {
            return self.cover.count(Fired::BeatLost);
        }
        let clock = self.db.clock(self.now);
        self.db.beats.insert(process, clock);
        let sent = self.now - self.rng.between(0, 30);
        self.nodes[process.0].lease.renewed(sent, self.now, clock);
    }

    /// One pass of recovery: claims of what has no live owner, then own sagas that are not in memory.
    pub fn scan(&mut self, process: Process) {
        self.after(SCAN, Event::Scan(process));
        let node = &self.nodes[process.0];
        if node.is_draining || !node.lease.may_claim(self.now) || self.strikes(|faults| faults.away) {
            return;
        }
        let claimed = self.db.claim(process, TTL, self.now);
        if !claimed.is_empty() && self.crashes(process.0, Fired::CrashClaimed) {
            return;
        }
        for claimed in claimed {
            self.cover.count(match claimed.from {
                None => Fired::HandedOver,
                Some(owner) if self.is_alive(owner) => Fired::TakenFromTheLiving,
                Some(_) => Fired::TakenOver,
            });
            if self.is_alive(process) {
                self.adopt(process, claimed.row, true);
            }
        }
        for (id, _) in self.db.owned(process, self.now) {
            let node = &self.nodes[process.0];
            let in_memory = node.runs.contains_key(&id) || node.entering.contains(&id);
            if in_memory || self.db.is_locked(id) || !self.is_alive(process) {
                continue;
            }
            let Some(mut row) = self.db.adopt(process, id, self.now) else { continue };
            self.cover.count(Fired::AdoptedAgain);
            // A run that vanishes again and again, though the process lives on, is poison as well.
            let lost = self.nodes[process.0].lost.entry(id).or_default();
            *lost += 1;
            row.poison = row.poison.max(*lost);
            self.adopt(process, row, true);
        }
    }

    pub fn sweep(&mut self, process: Process) {
        self.after(SWEEP, Event::Sweep(process));
        if !self.nodes[process.0].is_ready(self.now) || self.strikes(|faults| faults.away) {
            return;
        }
        for (redemption, why) in self.db.due(self.now) {
            if let Some(new) = self.return_saga(redemption, why) {
                self.submit(process, None, new);
            }
        }
    }

    /// An orderly stop: no run goes on, a batch on its way is waited for a moment, what is unfinished is handed over.
    pub fn hand_over(&mut self, process: Process) {
        let node = &mut self.nodes[process.0];
        node.runs.clear();
        node.writer.queue.clear();
        if node.writer.batch.is_some() && self.rng.chance(700) {
            return self.after(100, Event::HandOver(process));
        }
        let own: Vec<_> =
            self.db.owned(process, self.now).into_iter().map(|(id, _)| Lock::Saga(id)).collect();
        if self.db.blocked(&own).is_none() && !self.strikes(|faults| faults.away) {
            let sagas = self.db.hand_over(process);
            self.trace.note(self.now, format_args!("{process:?} hands {sagas} sagas over"));
        }
        self.nodes[process.0].is_up = false;
        let wait = self.rng.between(200, 2_000);
        self.after(wait, Event::Start(process.0));
    }

    /// An operator looks at the dead letters.
    pub fn operate(&mut self) {
        self.after(1_000, Event::Operate);
        let open: Vec<usize> =
            self.db.letters.iter().enumerate().filter(|(_, letter)| letter.is_open).map(|(i, _)| i).collect();
        for letter in open {
            if !self.is_healed && !self.rng.chance(150) {
                continue;
            }
            self.replay(letter);
            // Another operator had the same thought.
            if self.rng.chance(300) {
                self.replay(letter);
            }
        }
    }

    fn replay(&mut self, letter: usize) {
        let Some(process) = self.some_node() else { return };
        let saga = self.db.letters[letter].saga;
        let Some(row) = self.db.rows.get(&saga) else { return };
        let (locks, was_backward) =
            ([Lock::Saga(saga), Lock::Redemption(row.parent.unwrap_or(saga))], row.backward);
        if self.db.blocked(&locks).is_some() || self.strikes(|faults| faults.away) {
            return;
        }
        let order = self.number();
        let Some(row) = self.db.replay(letter, order, process, self.now) else {
            return self.cover.count(Fired::ReplayLost);
        };
        self.cover.count(Fired::Replayed);
        if row.state == State::Compensating && !was_backward {
            self.cover.count(Fired::ReplayedBack);
        }
        self.trace.note(self.now, format_args!("{process:?} replays {saga:?} {:?}", row.state));
        // Without an answer to its COMMIT the process does not know that it owns it: the rescan finds out.
        if !self.strikes(|faults| faults.unknown) {
            self.adopt(process, row, true);
        }
    }
}
