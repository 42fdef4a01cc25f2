//! Parking: a saga that cannot go on becomes a dead letter, whatever the database refuses of the domain's part.
//!
//! The first attempt writes the dead letter with what the domain makes of it, in one transaction. If the database refuses that
//! (a constraint of the domain's rows, a text that cannot be stored), or cannot do it for as long as the store's patience (a row
//! of the domain is locked), the second attempt writes the saga's state and the dead letter alone. While the database is away
//! neither is written, and the saga stays where it is. The domain's rows then follow by a reconciler of the domain, which compares
//! them with the states of their sagas.

use metrics::counter;
use serde_json::json;

use crate::{
    domain::{Domain, Reason, SagaId},
    engine::Engine,
    error::StoreError,
    machine::State,
    write::{DeadLetter, Move, STUCK_AFTER_MS, Write, Written},
};

/// A saga to be parked, where it stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parked {
    pub id: SagaId,
    pub parent: Option<SagaId>,
    pub epoch: i64,
    pub from: State,
}

impl<D: Domain> Engine<D> {
    /// Parks a saga that cannot go on for a reason of its own; it must not be guessed at, nor stop the pass.
    pub(crate) async fn park(&self, parked: Parked, dead_letter: DeadLetter) {
        let change = self.domain.on_parked(parked.parent.unwrap_or(parked.id), false);
        match self.write_dead_letter(parked, dead_letter.clone(), change).await {
            Err(StoreError::Refused(error) | StoreError::Busy(error)) => {
                self.park_alone(parked, dead_letter, error).await
            }
            result => report(parked, dead_letter.reason, &result),
        }
    }

    /// Parks a saga without the domain's part, which the database has refused.
    pub(crate) async fn park_alone(&self, parked: Parked, mut dead_letter: DeadLetter, refused: String) {
        counter!("saga_parked_alone_total").increment(1);
        tracing::error!(saga_id = %parked.id, refused, "the database refuses the domain's part of a dead letter; parked without it");
        dead_letter.detail["refused"] = refused.into();
        let reason = dead_letter.reason;
        report(parked, reason, &self.write_dead_letter(parked, dead_letter, None).await);
    }

    async fn write_dead_letter(
        &self,
        Parked { id, parent: _, epoch, from }: Parked,
        dead_letter: DeadLetter,
        change: Option<D::Change>,
    ) -> Result<Written, StoreError> {
        let because = json!({ "because": { "reason": dead_letter.reason }, "detail": dead_letter.detail });
        let dead_letter = Move::<D> {
            id,
            from,
            epoch,
            to: State::DeadLetter,
            take_over: None,
            cancel_key: false,
            cause: None,
            response: None,
            change,
            event: Some(("dead_letter", because)),
            dead_letter: Some(dead_letter),
            due_ms: STUCK_AFTER_MS,
        };
        self.store.write(Write::Move(Box::new(dead_letter))).await
    }
}

fn report(parked: Parked, reason: Reason, result: &Result<Written, StoreError>) {
    match result {
        Ok(Written::Moved { .. }) => parked_as(reason),
        Ok(_) => tracing::info!(saga_id = %parked.id, "somebody else has moved a saga that was to be parked"),
        Err(error) => {
            tracing::warn!(saga_id = %parked.id, %error, "could not park; the next pass tries again");
        }
    }
}

/// Counts a dead letter, once it is durable.
pub(crate) fn parked_as(reason: Reason) {
    counter!("saga_dead_letters_total", "code" => reason.as_str()).increment(1);
}
