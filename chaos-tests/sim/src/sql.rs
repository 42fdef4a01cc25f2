//! What production leaves to SQL, mirrored statement by statement: the rules by which concurrent transactions decide.
//! The SQL is the truth; whoever changes it changes this file.
//!
//! | here | there |
//! |---|---|
//! | [`Db::write`] | `libs/saga/src/write.rs` with `sql/write_sagas.sql` |
//! | [`Db::claim`], [`Db::adopt`], [`Db::hand_over`] | `libs/saga/src/recovery.rs` |
//! | [`Db::cancel_key`] | `libs/saga/src/cancel.rs` |
//! | [`Db::freeze`] | `libs/saga/src/wait.rs` |
//! | [`Db::replay`] | `libs/saga/src/ops/dead_letter_actions.rs` |
//! | `is_free`, `record` | `services/wallet/src/sagas/rows.rs` |
//! | [`Db::request_return`], [`Db::due`] | `services/wallet/src/returning.rs` |
//!
//! A refund has no route in the wallet; its reservation is modelled as that of any forward-only saga: the redemption is
//! moved, and the units reserved by leg, in the transaction that writes the saga.

use saga::machine::{Kind, State};

use crate::{
    Time,
    db::{
        Db, Letter, Lock, Move, Moved, NewSaga, Operation, Process, Redemption, Row, SagaId, Status, Write,
        Written,
    },
    faults::Defect,
    plan::{Plan, Why},
};

/// `STUCK_AFTER_MS`.
pub const STUCK_AFTER: Time = 10_000;
/// Most sagas claimed in one pass.
const CLAIM_BATCH: usize = 20;

/// What a claim or an adoption hands to the process that made it.
#[derive(Debug)]
pub struct Claimed {
    /// The row as it is now.
    pub row: Row,
    /// Whose it was.
    pub from: Option<Process>,
}

impl Db {
    /// Writes a batch in one transaction; `again`: an earlier attempt may have committed, so rows that look as this
    /// batch would leave them are its own.
    pub fn write(&mut self, owner: Process, batch: &[Write], again: bool, now: Time) -> Vec<Written> {
        // Verdicts come before any row is written, as `admit` comes before the inserts.
        let mut taken = Vec::new();
        let free: Vec<bool> = batch.iter().map(|write| self.is_admitted(write, &mut taken, now)).collect();
        batch
            .iter()
            .zip(free)
            .map(|(write, free)| match write {
                Write::Insert(new) => match self.insert(owner, new, free, now) {
                    refused @ (Written::KeyTaken | Written::Stale) if again => {
                        self.recognise_insert(new, refused)
                    }
                    written => written,
                },
                Write::Move(change) => match self.transition(change, now) {
                    Written::Missed if again => self.recognise_move(change),
                    written => written,
                },
            })
            .collect()
    }

    fn is_admitted(&self, write: &Write, taken: &mut Vec<SagaId>, now: Time) -> bool {
        let Write::Insert(new) = write else { return true };
        let Some(parent) = new.parent else { return true };
        // Two plans for one redemption in one batch: the first takes it.
        if taken.contains(&parent) || !self.is_free(parent, &new.plan, now) {
            return false;
        }
        taken.push(parent);
        true
    }

    /// Whether a redemption is where a plan needs it.
    fn is_free(&self, redemption: SagaId, plan: &Plan, now: Time) -> bool {
        let Some(redemption) = self.redemptions.get(&redemption) else { return false };
        if self.defect == Some(Defect::ReturnNotReserved) {
            return true;
        }
        let is_over = redemption.hold_expires_at.is_some_and(|end| end <= self.clock(now));
        let (status, held) = (redemption.status, redemption.status == Status::Authorized);
        match plan {
            Plan::Capture(..) => held && !is_over,
            Plan::Return(_, Why::Reversal) => status == Status::Completed,
            Plan::Return(_, Why::Void) => held,
            Plan::Return(_, Why::HoldExpired) => held && is_over,
            Plan::Refund(_, units) => {
                let reserved = redemption.refunded.iter().zip(units).map(|(before, units)| before + units);
                status == Status::Completed
                    && reserved.zip(&redemption.taken).all(|(sum, taken)| sum <= *taken)
            }
            Plan::Redeem(_) | Plan::Nothing => true,
        }
    }

    fn insert(&mut self, owner: Process, new: &NewSaga, free: bool, now: Time) -> Written {
        if !free {
            return Written::Stale;
        }
        if self.keys.contains_key(&new.key) {
            return Written::KeyTaken;
        }
        let at = self.clock(now);
        let (created_at, deadline_at) = (at, at + new.deadline);
        let row = Row {
            id: new.id,
            key: new.key,
            kind: new.kind,
            legs_id: new.legs_id,
            parent: new.parent,
            plan: new.plan.clone(),
            state: if new.is_cancelled { State::Compensated } else { State::Running },
            epoch: 1,
            owner: Some(owner),
            backward: false,
            key_cancelled: new.is_cancelled,
            answer_given: false,
            poison: 0,
            cause: None,
            response: None,
            created_at,
            deadline_at,
            budget_from: at,
            due_at: deadline_at + STUCK_AFTER,
        };
        self.keys.insert(new.key, new.id);
        self.rows.insert(new.id, row);
        if let Some(parent) = new.parent.filter(|_| new.cancel_parent_key)
            && let Some(parent) = self.rows.get_mut(&parent)
        {
            parent.key_cancelled = true;
        }
        self.open_or_move(new);
        Written::Inserted { created_at, deadline_at }
    }

    /// The domain's row of a new saga: a redemption is opened, or moved by the saga that takes it further.
    fn open_or_move(&mut self, new: &NewSaga) {
        let status = match &new.plan {
            Plan::Nothing => return,
            Plan::Redeem(redeem) => {
                let legs = redeem.legs.len();
                let (taken, refunded) = (vec![0; legs], vec![0; legs]);
                let status = Status::Pending;
                let opened =
                    Redemption { status, hold_expires_at: None, cancel_requested: false, taken, refunded };
                self.redemptions.insert(new.id, opened);
                return;
            }
            Plan::Return(..) => Status::Reversing,
            Plan::Capture(..) => Status::Capturing,
            Plan::Refund(..) => Status::Refunding,
        };
        let Some(redemption) = new.parent.and_then(|parent| self.redemptions.get_mut(&parent)) else {
            return;
        };
        redemption.status = status;
        if let Plan::Refund(_, units) = &new.plan {
            redemption.refunded.iter_mut().zip(units).for_each(|(sum, units)| *sum += units);
        }
    }

    fn transition(&mut self, change: &Move, now: Time) -> Written {
        let at = self.clock(now);
        let Some(row) = self.rows.get_mut(&change.id) else { return Written::Missed };
        let state_fits = row.state == change.from || self.defect == Some(Defect::StateIgnored);
        if !state_fits || row.epoch != change.epoch {
            return Written::Missed;
        }
        let back = change.from == State::Compensating
            || matches!(change.to, State::Compensating | State::Compensated);
        if row.backward && matches!(change.to, State::Running | State::Completed) {
            self.broken = Some(format!("{:?} was turned forward again", row.id));
        }
        row.state = change.to;
        row.epoch += i64::from(change.take_over.is_some());
        row.owner = change.take_over.or(row.owner);
        if back && !row.backward {
            row.budget_from = at;
        }
        row.backward |= back;
        row.key_cancelled |= change.cancel_key;
        row.poison = 0;
        if change.cause.is_some() {
            row.cause.clone_from(&change.cause);
        }
        // An answer that somebody has seen is the answer for ever.
        if (!row.answer_given || self.defect == Some(Defect::AnswerNotFrozen)) && change.response.is_some() {
            row.response.clone_from(&change.response);
        }
        row.due_at = at + change.due;
        let answer_given = row.answer_given;
        self.made.push((change.id, change.to));
        if change.to == State::DeadLetter {
            self.park(change.id);
        }
        if let Some(moved) = &change.change {
            self.record(moved);
        }
        Written::Moved { answer_given }
    }

    fn park(&mut self, saga: SagaId) {
        if self.letters.iter().any(|letter| letter.saga == saga && letter.is_open) {
            self.broken = Some(format!("{saga:?} has two open dead letters"));
        }
        self.letters.push(Letter { saga, is_open: true, closed_by: None });
    }

    fn record(&mut self, moved: &Moved) {
        let Some(row) = self.redemptions.get_mut(&moved.redemption) else { return };
        row.status = moved.status;
        row.cancel_requested &= !matches!(moved.status, Status::Reversed | Status::Voided | Status::Expired);
        row.hold_expires_at = moved.hold_expires_at.or(row.hold_expires_at);
        if let Some(taken) = &moved.taken {
            row.taken.clone_from(taken);
        }
    }

    /// One that has moved since is somebody else's by now: the key says what became of it.
    fn recognise_insert(&mut self, new: &NewSaga, refused: Written) -> Written {
        match self.rows.get(&new.id) {
            Some(row) if row.epoch == 1 && matches!(row.state, State::Running | State::Compensated) => {
                self.recognised.0 += 1;
                Written::Inserted { created_at: row.created_at, deadline_at: row.deadline_at }
            }
            _ => refused,
        }
    }

    /// A row in the state, epoch and hands that a move leads to was moved by it.
    fn recognise_move(&mut self, change: &Move) -> Written {
        let Some(row) = self.rows.get(&change.id).filter(|row| row.state == change.to) else {
            return Written::Missed;
        };
        let ours = match change.take_over {
            Some(me) => row.epoch == change.epoch + 1 && row.owner == Some(me),
            None => row.epoch == change.epoch,
        };
        if !ours {
            return Written::Missed;
        }
        self.recognised.1 += 1;
        Written::Moved { answer_given: row.answer_given }
    }

    /// `CLAIM`: unfinished sagas without a live owner, those that somebody has locked left out.
    pub fn claim(&mut self, me: Process, ttl: Time, now: Time) -> Vec<Claimed> {
        let at = self.clock(now);
        let Self { rows, beats, locked, .. } = self;
        let is_alive = |owner: Option<Process>| {
            owner.and_then(|owner| beats.get(&owner)).is_some_and(|beat| *beat > at - ttl)
        };
        rows.values_mut()
            .filter(|row| row.state.is_live() && !is_alive(row.owner))
            .filter(|row| !locked.contains_key(&Lock::Saga(row.id)))
            .take(CLAIM_BATCH)
            .map(|row| {
                let from = row.owner.replace(me);
                row.epoch += 1;
                row.poison += u16::from(from.is_some());
                row.due_at = at + STUCK_AFTER;
                Claimed { row: row.clone(), from }
            })
            .collect()
    }

    /// What a process owns of what is unfinished, and whether it is overdue.
    pub fn owned(&self, me: Process, now: Time) -> Vec<(SagaId, bool)> {
        let at = self.clock(now);
        let own = self.rows.values().filter(|row| row.owner == Some(me) && row.state.is_live());
        own.map(|row| (row.id, row.due_at < at)).collect()
    }

    /// `ADOPT`: the next epoch of an own saga whose run is gone.
    pub fn adopt(&mut self, me: Process, id: SagaId, now: Time) -> Option<Row> {
        let at = self.clock(now);
        let row = self.rows.get_mut(&id).filter(|row| row.owner == Some(me) && row.state.is_live())?;
        row.epoch += 1;
        row.due_at = at + STUCK_AFTER;
        Some(row.clone())
    }

    /// Gives everything unfinished up, for anybody to claim at once; how many.
    pub fn hand_over(&mut self, me: Process) -> usize {
        self.beats.remove(&me);
        let own = self.rows.values_mut().filter(|row| row.owner == Some(me) && row.state.is_live());
        own.map(|row| {
            row.owner = None;
            row.epoch += 1;
        })
        .count()
    }

    /// Cancels the key of a saga that is still in the state in which the caller saw it.
    pub fn cancel_key(&mut self, id: SagaId, seen: State) -> bool {
        let Some(row) = self.rows.get_mut(&id).filter(|row| row.state == seen) else { return false };
        row.key_cancelled = true;
        true
    }

    /// Freezes an answer that compensation would still improve.
    pub fn freeze(&mut self, id: SagaId) -> Option<crate::db::Response> {
        let row = self.rows.get_mut(&id)?;
        row.answer_given = true;
        row.response.clone()
    }

    /// Has a redemption given back as soon as what it is in the middle of is done.
    pub fn request_return(&mut self, id: SagaId) -> bool {
        let busy = [Status::Capturing, Status::Refunding, Status::Reversing, Status::UnderReview];
        let Some(row) = self.redemptions.get_mut(&id).filter(|row| busy.contains(&row.status)) else {
            return false;
        };
        row.cancel_requested = true;
        true
    }

    /// Redemptions that are due to go back, and why.
    pub fn due(&self, now: Time) -> Vec<(SagaId, Why)> {
        let at = self.clock(now);
        let why = |row: &Redemption| match row.status {
            Status::Authorized if row.cancel_requested => Some(Why::Void),
            Status::Authorized if row.hold_expires_at.is_some_and(|end| end < at) => Some(Why::HoldExpired),
            Status::Completed if row.cancel_requested => Some(Why::Reversal),
            _ => None,
        };
        self.redemptions.iter().filter_map(|(id, row)| Some((*id, why(row)?))).collect()
    }

    /// Replays a dead letter for an operator's order: one more takeover, in the direction that was written. The row to
    /// be run, or why there is none: the letter is closed.
    pub fn replay(&mut self, letter: usize, order: u64, me: Process, now: Time) -> Option<Row> {
        let at = self.clock(now);
        let letter = self.letters.get_mut(letter).filter(|letter| letter.is_open)?;
        let row = self.rows.get_mut(&letter.saga).filter(|row| row.state == State::DeadLetter)?;
        let is_cancelled = row.key_cancelled && self.defect != Some(Defect::CancelForgotten);
        let back = row.backward || (is_cancelled && row.kind == Kind::Compensable);
        row.state = if back { State::Compensating } else { State::Running };
        row.backward |= back;
        row.epoch += 1;
        row.owner = Some(me);
        row.poison = 0;
        row.budget_from = at;
        row.due_at = at + STUCK_AFTER;
        (letter.is_open, letter.closed_by) = (false, Some(order));
        let row = row.clone();
        let status = match row.plan {
            Plan::Redeem(_) if back => Status::Declined,
            Plan::Redeem(_) | Plan::Nothing => Status::Pending,
            Plan::Return(..) => Status::Reversing,
            Plan::Capture(..) => Status::Capturing,
            Plan::Refund(..) => Status::Refunding,
        };
        let redemption = row.parent.unwrap_or(row.id);
        self.record(&Moved { redemption, status, hold_expires_at: None, taken: None });
        Some(row)
    }

    /// The redemption that a key's saga is.
    pub fn redemption(&self, order: u32) -> Option<(&Row, &Redemption)> {
        let row = self.find((Operation::Redeem, order))?;
        Some((row, self.redemptions.get(&row.id)?))
    }
}
