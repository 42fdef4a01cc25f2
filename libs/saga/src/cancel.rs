//! Compensating a saga from outside: the process that writes the transition takes the saga over in the same
//! statement.

use std::sync::Arc;

use crate::{
    domain::{CompensationCause, Domain, Ending, Reason, SagaId},
    engine::Engine,
    error::StoreError,
    machine::{Kind, State},
    row::{self, Loaded, Stored},
    statement::{in_time, past_locks},
    write::{Move, STUCK_AFTER_MS, Write, Written},
};

const CANCEL_KEY: &str = "WITH free AS (
         SELECT saga_id FROM saga.saga WHERE saga_id = $1 AND state = $2 FOR NO KEY UPDATE NOWAIT
     ), cancelled AS (
         UPDATE saga.saga s SET key_cancelled = true FROM free WHERE s.saga_id = free.saga_id RETURNING s.saga_id, s.epoch
     )
     INSERT INTO saga.saga_event (saga_id, epoch, owner, event)
     SELECT saga_id, epoch, $3, 'key_cancelled' FROM cancelled";

/// What came of compensating a saga from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompensateOutcome {
    /// Its legs are being cancelled, by this process.
    Done,
    /// It was not where the caller saw it: look again.
    Moved,
}

impl<D: Domain> Engine<D> {
    /// Compensates a running compensable saga, taking it over from the process that runs it: by its key (`cancel_key`: no other
    /// answer under that key from now on), or because its caller's time is up.
    ///
    /// # Errors
    /// [`StoreError`]; `Refused` also when the row cannot be read.
    pub async fn compensate(
        self: &Arc<Self>,
        seen: &Stored,
        reason: Reason,
        cancel_key: bool,
    ) -> Result<CompensateOutcome, StoreError> {
        let (engine, id, epoch) = (self.clone(), seen.id, seen.epoch);
        // In a task of its own: between the commit and the start of the run nobody may drop this.
        let task =
            self.tasks.spawn(async move { engine.compensate_now(id, epoch, reason, cancel_key).await });
        task.await.unwrap_or(Err(StoreError::Unknown))
    }

    async fn compensate_now(
        self: Arc<Self>,
        id: SagaId,
        epoch: i64,
        reason: Reason,
        cancel_key: bool,
    ) -> Result<CompensateOutcome, StoreError> {
        let unavailable = |_| StoreError::Unavailable;
        let Some(raw) = in_time(row::by_id(&self.lookups, id)).await.map_err(unavailable)? else {
            return Ok(CompensateOutcome::Moved);
        };
        if raw.stored.state != State::Running
            || raw.stored.epoch != epoch
            || raw.kind != Some(Kind::Compensable)
        {
            return Ok(CompensateOutcome::Moved);
        }
        if !raw.is_known::<D>() {
            // A newer release's: a process of that release can compensate it, and the caller's next try may meet one.
            return Err(StoreError::Unavailable);
        }
        let mut row: Loaded<D> = raw.load().map_err(StoreError::Refused)?;
        let cause = CompensationCause::because(reason);
        let effect = self.domain.on_transition(&row.saga, Ending::Compensating(&cause));
        let change = Move::<D> {
            id,
            from: State::Running,
            epoch,
            to: State::Compensating,
            take_over: Some(self.process),
            cancel_key,
            cause: serde_json::to_value(&cause).ok(),
            response: effect.response,
            change: effect.change,
            event: Some((
                "compensating",
                serde_json::json!({ "because": { "reason": reason }, "key_cancelled": cancel_key }),
            )),
            dead_letter: None,
            due_ms: STUCK_AFTER_MS,
        };
        match self.store.write(Write::Move(Box::new(change))).await? {
            Written::Moved { .. } => {
                row.saga.epoch = epoch + 1;
                row.state = State::Compensating;
                row.cause = Some(cause);
                row.budget_from =
                    chrono::DateTime::from_timestamp_millis(row.clock.now()).unwrap_or(row.budget_from);
                self.adopt(row);
                Ok(CompensateOutcome::Done)
            }
            _ => Ok(CompensateOutcome::Moved),
        }
    }

    /// Cancels the key of a saga that is not running: no answer but that one under it from now on. False if the saga is not
    /// in the state in which the caller saw it.
    ///
    /// # Errors
    /// Of the database.
    pub async fn cancel_key(&self, seen: &Stored) -> sqlx::Result<bool> {
        let (pool, id, state, process) = (self.lookups.clone(), seen.id, seen.state, self.process);
        let cancelling = async move {
            let cancel = || sqlx::query(CANCEL_KEY).bind(id).bind(state.code()).bind(process).execute(&pool);
            past_locks(cancel).await
        };
        Ok(self.to_its_end(cancelling).await?.rows_affected() == 1)
    }
}
