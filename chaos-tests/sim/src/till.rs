//! Tills: they redeem, lose patience, ask again at another orchestrator, cancel by key, capture, void and refund; as
//! `services/wallet/src/http/{redeem,cancel_by_key,held}.rs`, `returning.rs` and `libs/saga/src/{wait,cancel}.rs` serve them.

use std::rc::Rc;

use saga::machine::{Kind, State};
use uuid::Uuid;

use crate::{
    Time,
    db::{Lock, Move, Moved, NewSaga, Operation, Process, Response, Row, SagaId, Status, Write, Written},
    ending::{self, Known},
    event::{Event, Wrote},
    faults::Fired,
    node::{Attempt, Waiter},
    order::{Ask, Order, Want},
    plan::{Plan, Redeem, Why, legs_id},
    sql::STUCK_AFTER,
    world::World,
};

/// How long a caller of a saga that was compensated waits for everything to be back.
const WAIT_FOR_REVERSAL: Time = 1_000;
/// A saga's deadline, after it is written.
const DEADLINE: Time = 6_000;
/// Pause before a second look at what moved in between.
const LOOK_AGAIN: Time = 20;

impl World {
    /// Opens an order: when its till redeems, and what else comes to its mind.
    pub fn open_order(&mut self, redeem: Redeem) {
        let number = redeem.order.0;
        let is_hold = redeem.hold.is_some();
        self.orders.push(Order { redeem: Rc::new(redeem), told: None, is_cancelled: false });
        let at = self.rng.between(200, 18_000);
        self.will_ask(number, Want::Redeem, at);
        if self.rng.chance(200) {
            self.will_ask(number, Want::Redeem, at);
        }
        if self.rng.chance(200) {
            let wait = self.rng.between(0, 20_000);
            self.will_ask(number, Want::Redeem, at + wait);
        }
        if self.rng.chance(350) {
            let wait = if self.rng.chance(500) {
                self.rng.between(-50, 200)
            } else {
                self.rng.between(-1_000, 9_000)
            };
            self.will_ask(number, Want::Cancel, at + wait);
        }
        for _ in 0..2 {
            let wait = self.rng.between(100, 9_000);
            let part = if self.rng.chance(500) { 1_000 } else { self.rng.between(1, 1_000) };
            match (is_hold, self.rng.below(5)) {
                (true, 0 | 1) => self.will_ask(number, Want::Capture(part), at + wait),
                (true, 2) => self.will_ask(number, Want::Void, at + wait),
                (_, 3) => self.will_ask(number, Want::Refund(part), at + 2 * wait),
                _ => {}
            }
        }
    }

    /// Long after, every till asks again for what it asked first.
    pub fn ask_again(&mut self) {
        for number in 0..self.orders.len() {
            let wait = self.rng.between(0, 3_000);
            self.will_ask(u32::try_from(number).unwrap_or(0), Want::Redeem, wait);
        }
    }

    fn will_ask(&mut self, order: u32, want: Want, wait: Time) {
        let (attempt, waits, turned_since) = (0, None, None);
        self.asks.push(Ask { order, want, attempt, waits, turned_since, is_settled: false, told: None });
        self.after(wait, Event::Ask(self.asks.len() - 1, 0));
    }

    /// Some orchestrator that takes requests.
    pub fn some_node(&mut self) -> Option<Process> {
        let index = self.rng.below(self.nodes.len());
        let node = &self.nodes[index];
        node.is_ready(self.now).then_some((index, node.life))
    }

    /// An attempt at a till's request.
    pub fn ask(&mut self, index: usize, attempt: u32) {
        let ask = &mut self.asks[index];
        if ask.is_settled || ask.attempt != attempt {
            return;
        }
        (ask.attempt, ask.waits) = (attempt + 1, None);
        let (order, want) = (ask.order, ask.want);
        let patience = self.rng.between(1_000, 4_000);
        self.after(patience, Event::Ask(index, attempt + 1));
        let Some(process) = self.some_node() else { return };
        if self.crashes(process.0, Fired::CrashRequestRead) || self.strikes(|faults| faults.away) {
            return;
        }
        self.trace.note(self.now, format_args!("ask {index} ({want:?} order {order}) at {process:?}"));
        match want {
            Want::Redeem => {
                let redeem = self.orders[index_of(order)].redeem.clone();
                let new = NewSaga {
                    id: self.fresh(),
                    key: (Operation::Redeem, order),
                    kind: Kind::Compensable,
                    legs_id: legs_id(redeem.order),
                    parent: None,
                    plan: Plan::Redeem(redeem),
                    deadline: DEADLINE,
                    is_cancelled: false,
                    cancel_parent_key: false,
                };
                self.submit(process, Some((index, attempt + 1)), new);
            }
            Want::Cancel => self.cancel(process, (index, attempt + 1), order),
            Want::Capture(_) | Want::Void | Want::Refund(_) => self.further(process, (index, attempt + 1)),
        }
    }

    fn fresh(&mut self) -> SagaId {
        self.next_saga += 1;
        SagaId(self.next_saga)
    }

    /// Hands in a new saga.
    pub fn submit(&mut self, process: Process, ask: Option<Attempt>, new: NewSaga) {
        self.nodes[process.0].entering.insert(new.id);
        let waiter = Waiter::Submit { ask, new: Box::new(new.clone()) };
        self.store(process, Write::Insert(Box::new(new)), waiter);
    }

    /// What became of a new saga.
    pub fn submitted(&mut self, process: Process, ask: Option<Attempt>, new: &NewSaga, wrote: Wrote) {
        self.nodes[process.0].entering.remove(&new.id);
        let ask = ask.filter(|(index, attempt)| self.asks[*index].attempt == *attempt);
        match wrote {
            Ok(Written::Inserted { .. }) if new.is_cancelled => {
                self.cover.count(Fired::CancelFirst);
                self.acknowledge(ask);
            }
            Ok(Written::Inserted { .. }) => {
                if let Some((index, _)) = ask {
                    self.asks[index].waits = Some((process, new.id));
                    if self.asks[index].want == Want::Cancel {
                        self.cover.count(Fired::CancelDone);
                        self.acknowledge(ask);
                    }
                }
                self.begin(process, new.id);
            }
            Ok(Written::KeyTaken) => {
                self.cover.count(Fired::KeyTaken);
                match ask {
                    Some((index, _)) if self.asks[index].want == Want::Cancel => self.soon(ask),
                    Some((index, _)) => self.look_up(index, new.key),
                    None => {}
                }
            }
            Ok(Written::Stale) => {
                self.cover.count(Fired::Stale);
                self.soon(ask);
            }
            Ok(Written::Moved { .. } | Written::Missed) | Err(_) => {}
        }
    }

    fn soon(&mut self, ask: Option<Attempt>) {
        if let Some((index, attempt)) = ask {
            self.after(LOOK_AGAIN, Event::Ask(index, attempt));
        }
    }

    /// The stored answer under a key, as whoever waits for it hears it.
    fn look_up(&mut self, index: usize, key: (Operation, u32)) {
        let Some(row) = self.db.find(key) else { return };
        let (id, state) = (row.id, row.state);
        match state {
            State::Running => return,
            State::Compensating => {
                let since = *self.asks[index].turned_since.get_or_insert(self.now);
                if self.now < since + WAIT_FOR_REVERSAL {
                    let attempt = self.asks[index].attempt;
                    return self.after(WAIT_FOR_REVERSAL, Event::Ask(index, attempt));
                }
            }
            _ => {}
        }
        if row.key_cancelled {
            return self.tell(index, None);
        }
        let Some(response) = row.response.clone() else { return };
        if !matches!(state, State::Compensating | State::DeadLetter) {
            return self.tell(index, Some(response));
        }
        if self.db.is_locked(id) {
            return;
        }
        if let Some(frozen) = self.db.freeze(id) {
            self.cover.count(Fired::AnswerFrozen);
            self.tell(index, Some(frozen));
        }
    }

    /// A run is over: whoever waits for it at this process is told. True if somebody was.
    pub fn tell_waiting(&mut self, process: Process, id: SagaId, concluded: Option<Response>) -> bool {
        let waiting: Vec<usize> = (0..self.asks.len())
            .filter(|i| self.asks[*i].waits == Some((process, id)) && !self.asks[*i].is_settled)
            .collect();
        let Some(row) = self.db.rows.get(&id) else { return false };
        let key = row.key;
        for index in &waiting {
            match &concluded {
                Some(response) => self.tell(*index, Some(response.clone())),
                None => self.look_up(*index, key),
            }
        }
        !waiting.is_empty()
    }

    /// A till hears an answer, or that its key was cancelled.
    fn tell(&mut self, index: usize, answer: Option<Response>) {
        let (order, want) = (self.asks[index].order, self.asks[index].want);
        self.trace.note(self.now, format_args!("ask {index} is told {answer:?}"));
        self.asks[index].is_settled = true;
        let before = match want {
            Want::Redeem => &mut self.orders[index_of(order)].told,
            _ => &mut self.asks[index].told,
        };
        match (&before, answer) {
            (Some(before), Some(answer)) if *before != answer => {
                let what = format!("order {order} was told {before:?}, then {answer:?}");
                return self.violate(what);
            }
            (_, Some(answer)) => *before = Some(answer),
            (_, None) => self.orders[index_of(order)].is_cancelled = true,
        }
        if self.is_after {
            self.cover.count(Fired::LateAnswered);
        }
    }

    fn acknowledge(&mut self, ask: Option<Attempt>) {
        let Some((index, _)) = ask else { return };
        self.trace.note(self.now, format_args!("ask {index}: the cancel is acknowledged"));
        self.asks[index].is_settled = true;
        let order = self.asks[index].order;
        self.orders[index_of(order)].is_cancelled = true;
    }

    /// Cancel by key: one look, one step.
    fn cancel(&mut self, process: Process, ask: Attempt, order: u32) {
        let Some(row) = self.db.find((Operation::Redeem, order)) else {
            let new = NewSaga {
                id: self.fresh(),
                key: (Operation::Redeem, order),
                kind: Kind::Compensable,
                legs_id: Uuid::nil(),
                parent: None,
                plan: Plan::Nothing,
                deadline: 0,
                is_cancelled: true,
                cancel_parent_key: false,
            };
            return self.submit(process, Some(ask), new);
        };
        let row = row.clone();
        let status = self.db.redemptions.get(&row.id).map(|redemption| redemption.status);
        let locks = [Lock::Saga(row.id), Lock::Redemption(row.id)];
        if row.state != State::Running && self.db.blocked(&locks).is_some() {
            return;
        }
        let (fired, is_done) = match (row.state, status) {
            (State::Running, _) => return self.compensate(process, ask, row),
            (State::Completed, Some(status @ (Status::Completed | Status::Authorized))) => {
                let why = if status == Status::Completed { Why::Reversal } else { Why::Void };
                let Some(new) = self.return_saga(row.id, why) else { return };
                return self.submit(process, Some(ask), new);
            }
            (State::Completed, Some(Status::Reversed | Status::Voided | Status::Expired)) => {
                (Fired::CancelUndone, self.db.cancel_key(row.id, row.state))
            }
            (State::Completed, _) => {
                let is_taken = self.db.request_return(row.id) && self.db.cancel_key(row.id, row.state);
                (Fired::CancelBusy, is_taken)
            }
            (State::Compensating | State::DeadLetter, _) => {
                (Fired::CancelBusy, self.db.cancel_key(row.id, row.state))
            }
            (State::Compensated | State::Resolved, _) => {
                (Fired::CancelUndone, self.db.cancel_key(row.id, row.state))
            }
        };
        self.cover.count(fired);
        // It may be durable without the till hearing of it.
        if is_done && !self.strikes(|faults| faults.unknown) {
            self.acknowledge(Some(ask));
        }
    }

    /// Turns a running saga back, taking it over in the same statement.
    fn compensate(&mut self, process: Process, ask: Attempt, seen: Row) {
        let known = Known {
            id: seen.id,
            redemption: seen.id,
            plan: &seen.plan,
            created_at: seen.created_at,
            answers: &[],
            turned: "cancelled",
            from: State::Running,
        };
        let (response, change) = ending::conclude(known, State::Compensating);
        let change = Move {
            id: seen.id,
            from: State::Running,
            epoch: seen.epoch,
            to: State::Compensating,
            take_over: Some(process),
            cancel_key: true,
            cause: Some("cancelled".into()),
            response,
            change: change.map(|moved| Moved { status: Status::Declined, ..moved }),
            due: STUCK_AFTER,
        };
        let waiter = Waiter::Compensate { ask, seen: Box::new(seen) };
        self.store(process, Write::Move(Box::new(change)), waiter);
    }

    pub fn compensated(&mut self, process: Process, ask: Attempt, seen: Row, wrote: Wrote) {
        let ask = Some(ask).filter(|(index, attempt)| self.asks[*index].attempt == *attempt);
        let Ok(Written::Moved { .. }) = wrote else { return self.soon(ask) };
        self.cover.count(if seen.owner == Some(process) {
            Fired::CancelRunning
        } else {
            Fired::CancelElsewhere
        });
        self.acknowledge(ask);
        let budget_from = self.nodes[process.0].lease.now(self.now);
        let row = Row {
            epoch: seen.epoch + 1,
            state: State::Compensating,
            cause: Some("cancelled".into()),
            budget_from,
            ..seen
        };
        self.adopt(process, row, true);
    }

    /// Capture, void and refund: the redemption is moved on, once, under a key of the request's own.
    fn further(&mut self, process: Process, (index, attempt): Attempt) {
        let (order, want) = (self.asks[index].order, self.asks[index].want);
        let own = u32::try_from(index).unwrap_or(u32::MAX);
        let operation = match want {
            Want::Capture(_) => Operation::Capture,
            Want::Refund(_) => Operation::Refund,
            _ => Operation::Void,
        };
        let key = (operation, own);
        if self.db.find(key).is_some() {
            return self.look_up(index, key);
        }
        let Some((row, redemption)) = self.db.redemption(order) else {
            self.asks[index].is_settled = true;
            return;
        };
        let redeem = self.orders[index_of(order)].redeem.clone();
        let part = |units: i64, part: i64| (units * part + 999) / 1_000;
        let plan = match (want, redemption.status) {
            (Want::Capture(of), Status::Authorized) => {
                let mut left = part(redemption.taken.iter().sum(), of);
                let units = redemption.taken.iter().map(|taken| {
                    let units = left.min(*taken);
                    left -= units;
                    units
                });
                Plan::Capture(redeem, units.collect())
            }
            (Want::Void, Status::Authorized) => Plan::Return(redeem, Why::Void),
            (Want::Refund(of), Status::Completed) => {
                let left =
                    redemption.taken.iter().zip(&redemption.refunded).map(|(taken, back)| taken - back);
                Plan::Refund(redeem, left.map(|left| part(left, of)).collect())
            }
            (_, Status::Pending | Status::Capturing | Status::Refunding | Status::UnderReview) => return,
            _ => {
                self.asks[index].is_settled = true;
                return;
            }
        };
        let parent = Some(row.id);
        let new = NewSaga {
            id: self.fresh(),
            key,
            kind: Kind::ForwardOnly,
            legs_id: Uuid::from_u128(0x3000_0000 + u128::from(own)),
            parent,
            plan,
            deadline: DEADLINE,
            is_cancelled: false,
            cancel_parent_key: false,
        };
        self.submit(process, Some((index, attempt)), new);
    }

    /// The forward-only saga that gives a redemption back.
    pub fn return_saga(&mut self, redemption: SagaId, why: Why) -> Option<NewSaga> {
        let row = self.db.rows.get(&redemption)?;
        let (order, legs_id, redeem) = (row.key.1, row.legs_id, row.plan.redeem()?.clone());
        Some(NewSaga {
            id: self.fresh(),
            key: (Operation::Return, order),
            kind: Kind::ForwardOnly,
            legs_id,
            parent: Some(redemption),
            plan: Plan::Return(redeem, why),
            deadline: DEADLINE,
            is_cancelled: false,
            // A hold that ran out leaves its key as it is: the till's retry still hears what it was told.
            cancel_parent_key: why != Why::HoldExpired,
        })
    }
}

fn index_of(order: u32) -> usize {
    usize::try_from(order).unwrap_or(usize::MAX)
}
