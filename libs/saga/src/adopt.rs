//! Taking up a saga that this process owns and has not in memory.

use std::sync::Arc;

use serde_json::json;

use crate::{
    domain::{Domain, Reason},
    engine::Engine,
    parking::Parked,
    reachability::{Room, UnansweredLegs},
    row::{Loaded, Raw},
    task::Run,
    write::DeadLetter,
};

impl<D: Domain> Engine<D> {
    /// Starts, or starts anew, a run of a row that this process owns under the row's epoch.
    pub(crate) fn adopt(self: &Arc<Self>, row: Loaded<D>) {
        self.adopt_into(row, Vec::new());
    }

    /// The run is made in its own task: a plan that makes the domain panic ends that task alone. `kept` is the room of its legs.
    fn adopt_into(self: &Arc<Self>, row: Loaded<D>, kept: UnansweredLegs) {
        let guard = self.registry.enter(row.saga.id);
        let (id, run, engine) = (row.saga.id, guard.run(), self.clone());
        let task = self.tasks.spawn(async move {
            let legs = engine.expect_legs(&row.saga.plan, &row.saga.key.business_id, Room::GoingOn);
            drop(kept);
            Run::new(engine, row, guard, legs, true).run().await;
        });
        self.registry.carry(id, run, task.abort_handle());
    }

    /// Reads a row that this process owns and runs it. A row of a version that this process knows and yet cannot read is parked, in a
    /// task of its own: the store's patience with a locked row is nothing that the others wait for.
    pub(crate) fn adopt_raw(self: &Arc<Self>, raw: Raw, kept: UnansweredLegs) {
        let (id, epoch, from) = (raw.stored.id, raw.stored.epoch, raw.stored.state);
        let parked = Parked { id, parent: raw.parent_id, epoch, from };
        match raw.load::<D>() {
            Ok(row) => self.adopt_into(row, kept),
            Err(error) => {
                tracing::error!(saga_id = %id, error, "saga cannot be read; parked");
                let letter = DeadLetter::of_nobody(Reason::Unreadable, json!({ "error": error }));
                let (guard, engine) = (self.registry.enter(id), self.clone());
                let run = guard.run();
                let task = self.tasks.spawn(async move {
                    let _guard = guard;
                    engine.park(parked, letter).await;
                });
                self.registry.carry(id, run, task.abort_handle());
            }
        }
    }
}
