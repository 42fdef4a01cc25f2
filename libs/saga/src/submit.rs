//! Handing in a new saga.

use std::{sync::Arc, time::Instant};

use fail::fail_point;
use metrics::counter;
use tokio::sync::oneshot;

use crate::{
    clock::RunClock,
    domain::{Begin, Domain, Key, NewSaga, Response, Saga},
    engine::Engine,
    error::StoreError,
    machine::{Kind, State},
    pending::{Intent, Terms},
    reachability::{Room, UnansweredLegs},
    registry::RunGuard,
    row::Loaded,
    task::Run,
    write::Written,
};

/// What came of handing in a new saga.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// It is durable and runs: [`Engine::wait`] for it.
    Running,
    /// It ended at once, and this answer is durable under its key.
    Refused(Response),
    /// It is durable and over: a key that was cancelled before it was used.
    Cancelled,
    /// The key was used before: [`Engine::find`] what is stored. Nothing is found if only its legs are taken, see
    /// [`Engine::is_taken_back`].
    KeyTaken,
    /// What it was planned on has changed: plan again.
    Stale,
    /// Its call did not wait any more, or the process's lease had a gap, so that it was not sent (again). Whether an earlier
    /// attempt lands is unknown.
    Withheld,
}

impl<D: Domain> Engine<D> {
    /// Says that a call may insert this key: to be given to [`Engine::submit_for`], or given up by [`Engine::withdraw`].
    #[must_use]
    pub fn intend(&self, key: &Key) -> Intent {
        self.pending.intend(key, &self.lease)
    }

    /// Writes a new saga and, once that is durable, runs it in a task of its own. The caller may go away; if it does so before
    /// the saga is sent to the database, nothing is written.
    ///
    /// # Errors
    /// [`StoreError`]; only `Unknown` may have been written.
    pub async fn submit(self: &Arc<Self>, new: NewSaga<D>) -> Result<Submitted, StoreError> {
        let intent = self.intend(&new.key);
        self.submit_for(&intent, new).await
    }

    /// [`Engine::submit`] for a call that has said so before.
    ///
    /// # Errors
    /// As there.
    pub async fn submit_for(
        self: &Arc<Self>,
        intent: &Intent,
        new: NewSaga<D>,
    ) -> Result<Submitted, StoreError> {
        debug_assert_eq!(intent.key, new.key, "the intent is of this key");
        // What ends at once takes no room.
        let runs = matches!(new.begin, Begin::Run);
        let is_new_work = runs && new.kind == Kind::Compensable;
        if !self.is_ready() || (runs && !self.has_room(&new)) {
            return Err(StoreError::Unavailable);
        }
        let admitted = is_new_work.then(|| self.under_way.admit(&new.key.business_id));
        let room = if is_new_work { Room::NewWork } else { Room::GoingOn };
        let legs = self.expect_legs(&new.plan, &new.key.business_id, room);
        let guard = self.registry.enter(new.id);
        let (tx, rx) = oneshot::channel();
        let (id, run, engine, terms) = (new.id, guard.run(), self.clone(), intent.terms(&self.lease));
        let task = self.tasks.spawn(async move {
            let _admitted = admitted;
            engine.insert_and_run(new, terms, guard, legs, tx).await;
        });
        self.registry.carry(id, run, task.abort_handle());
        rx.await.unwrap_or(Err(StoreError::Unknown))
    }

    fn has_room(&self, new: &NewSaga<D>) -> bool {
        let (plan, business) = (&new.plan, &new.key.business_id);
        if new.kind == Kind::ForwardOnly {
            return self.has_room_to_go_on(plan, business);
        }
        let has_room = |leg| !self.is_full_for(self.domain.participant(plan, leg), business);
        !self.is_full(business) && (0..self.domain.legs(plan)).all(has_room)
    }

    async fn insert_and_run(
        self: Arc<Self>,
        new: NewSaga<D>,
        terms: Terms,
        guard: RunGuard,
        legs: UnansweredLegs,
        tx: oneshot::Sender<Result<Submitted, StoreError>>,
    ) {
        let runs = matches!(new.begin, Begin::Run);
        let (plan, key, trace_id) = (new.plan.clone(), new.key.clone(), new.trace_id.clone());
        let (id, kind, legs_id, parent_id) = (new.id, new.kind, new.legs_id, new.parent_id);
        // From here, as the row is written later: a COMMIT that takes long is part of the saga's time.
        let began = Instant::now();
        let written = self.store.insert(new, terms).await;
        let submitted = match written {
            Ok(Written::Inserted { created_at, deadline_at }) if runs => {
                counter!("saga_started_total", "kind" => if kind == Kind::Compensable { "compensable" } else { "forward_only" }).increment(1);
                let saga = Saga {
                    id,
                    key,
                    kind,
                    legs_id,
                    parent_id,
                    plan,
                    epoch: 1,
                    deadline_at,
                    created_at,
                    trace_id,
                };
                let row = Loaded {
                    saga,
                    state: State::Running,
                    cause: None,
                    poison: 0,
                    budget_from: created_at,
                    clock: RunClock::new(created_at.timestamp_millis(), began),
                };
                fail_point!("saga::inserted");
                let _ = tx.send(Ok(Submitted::Running));
                Run::new(self, row, guard, legs, false).run().await;
                return;
            }
            Ok(Written::Inserted { .. }) => Ok(Submitted::Cancelled),
            Ok(Written::Refused(response)) => Ok(Submitted::Refused(response)),
            Ok(Written::Stale) => Ok(Submitted::Stale),
            Ok(Written::Withheld) => Ok(Submitted::Withheld),
            Ok(Written::KeyTaken | Written::Moved { .. } | Written::Missed) => Ok(Submitted::KeyTaken),
            Err(error) => Err(error),
        };
        drop(guard);
        let _ = tx.send(submitted);
    }
}
