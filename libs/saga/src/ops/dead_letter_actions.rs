//! Replaying and resolving dead letters.
//!
//! A replay is one more takeover, in the direction that was written: safe by the same argument as any takeover. It is
//! idempotent by the caller's operation id, and of concurrent replays of one dead letter one wins.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::actions::{self, NewAction};
use crate::{
    domain::{Domain, Ending, SagaId, TransitionEffect},
    engine::Engine,
    machine::{Kind, State},
    orphan::{self, ORPHAN},
    row::{self, Loaded, Raw},
    write::STUCK_AFTER_MS,
};

/// An operator's order.
#[derive(Debug, Clone)]
pub struct OperatorCommand {
    /// The tenant of the operator.
    pub business_id: String,
    /// Who.
    pub actor: String,
    /// Makes the order idempotent.
    pub operation_id: String,
    /// Why.
    pub reason: String,
    /// Something to look it up by, outside.
    pub reference: Option<String>,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
}

/// What is to be done with a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetterAction {
    /// Go on, in the direction that was written.
    Replay,
    /// It was settled by hand; close the saga.
    Resolve,
}

impl DeadLetterAction {
    /// The name in the list of actions.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Resolve => "resolve",
        }
    }

    const fn closing(self) -> &'static str {
        match self {
            Self::Replay => "replayed",
            Self::Resolve => "resolved",
        }
    }
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActionOutcome {
    /// Done now.
    Done {
        /// The saga's state before.
        before: String,
        /// The saga's state after.
        after: String,
    },
    /// It would be done.
    WouldDo {
        /// The saga's state now.
        before: String,
        /// The saga's state then.
        after: String,
    },
    /// Done earlier under the same operation id.
    AlreadyDone,
    /// The operation id was used for another action on this dead letter.
    Reused,
    /// The dead letter is closed: nothing is left to do.
    AlreadyClosed,
    /// No such dead letter, for this business.
    NotFound,
    /// The orphan's own saga has come back (its caller tried again): nothing is to be taken back. Resolve it.
    SagaExists,
    /// This version cannot read the saga.
    Unreadable,
}

impl<D: Domain> Engine<D> {
    /// Replays or resolves a dead letter.
    ///
    /// # Errors
    /// Of the database. At COMMIT it is unknown whether it was done: the same operation id again tells.
    pub async fn act_on_dead_letter(
        self: &Arc<Self>,
        dead_letter: Uuid,
        action: DeadLetterAction,
        command: OperatorCommand,
    ) -> sqlx::Result<ActionOutcome> {
        let mut tx = self.ops_pool.begin().await?;
        let (outcome, row) = self.act_on_dead_letter_in(&mut tx, dead_letter, action, &command).await?;
        tx.commit().await?;
        if let Some(row) = row {
            self.adopt(row);
        }
        Ok(outcome)
    }

    /// As [`Engine::act_on_dead_letter`], inside the caller's transaction; after its commit the caller adopts the row, if there is one.
    pub(super) async fn act_on_dead_letter_in(
        &self,
        tx: &mut PgConnection,
        dead_letter: Uuid,
        action: DeadLetterAction,
        command: &OperatorCommand,
    ) -> sqlx::Result<(ActionOutcome, Option<Loaded<D>>)> {
        let found = sqlx::query("SELECT saga_id, closed_as FROM saga.dead_letter WHERE business_id = $1 AND dead_letter_id = $2 FOR UPDATE")
            .bind(&command.business_id)
            .bind(dead_letter)
            .fetch_optional(&mut *tx)
            .await?;
        let Some(found) = found else { return Ok((ActionOutcome::NotFound, None)) };
        let saga_id: SagaId = found.try_get(0)?;
        let closed: Option<String> = found.try_get(1)?;
        let request = Request { dead_letter, saga_id, action, command };
        let earlier =
            actions::was_done(tx, &command.business_id, &command.operation_id, Some(dead_letter)).await?;
        if let Some((name, _)) = earlier {
            if name == action.name() {
                return Ok((ActionOutcome::AlreadyDone, None));
            }
            request.refuse(tx, "closed", "operation_id_reused").await?;
            return Ok((ActionOutcome::Reused, None));
        }
        if closed.is_some() {
            request.refuse(tx, "closed", "already_closed").await?;
            return Ok((ActionOutcome::AlreadyClosed, None));
        }
        let raw = lock_saga(tx, saga_id).await?;
        let (before, parent) = (raw.stored.state, raw.parent_id);
        let to = destination(&raw, action);
        let names = (before.as_str().to_owned(), to.as_str().to_owned());
        let Ok(row) = raw.load::<D>() else {
            if action == DeadLetterAction::Resolve && !command.dry_run {
                return self.resolve_unreadable(tx, &request, parent).await.map(|done| (done, None));
            }
            request.refuse(tx, &names.0, "unreadable").await?;
            return Ok((ActionOutcome::Unreadable, None));
        };
        if action == DeadLetterAction::Replay && row.saga.key.operation == ORPHAN {
            let may = if command.dry_run {
                !orphan::has_saga(tx, &row.saga).await?
            } else {
                orphan::take_back::<D>(tx, &row.saga).await?
            };
            if !may {
                request.refuse(tx, &names.0, "saga_exists").await?;
                return Ok((ActionOutcome::SagaExists, None));
            }
        }
        if command.dry_run {
            return Ok((ActionOutcome::WouldDo { before: names.0, after: names.1 }, None));
        }
        let row = self.carry_out(tx, row, to, &request).await?;
        request.accept(tx, &names.0, &names.1).await?;
        Ok((
            ActionOutcome::Done { before: names.0, after: names.1 },
            (action == DeadLetterAction::Replay).then_some(row),
        ))
    }

    async fn carry_out(
        &self,
        tx: &mut PgConnection,
        mut row: Loaded<D>,
        to: State,
        request: &Request<'_>,
    ) -> sqlx::Result<Loaded<D>> {
        let id = row.saga.id;
        let (epoch, budget_from): (i64, DateTime<Utc>) = move_by_hand(tx, id, to, self.process).await?;
        row.saga.epoch = epoch;
        row.state = to;
        row.poison = 0;
        row.budget_from = budget_from;
        let ending = match request.action {
            DeadLetterAction::Replay => Ending::Reopened(to == State::Compensating),
            DeadLetterAction::Resolve => Ending::Resolved,
        };
        let TransitionEffect { change, .. } = self.domain.on_transition(&row.saga, ending);
        if let Some(change) = change {
            self.domain.record(tx, &[(id, change)]).await?;
        }
        request.close(tx, epoch, self.process).await?;
        Ok(row)
    }

    async fn resolve_unreadable(
        &self,
        tx: &mut PgConnection,
        request: &Request<'_>,
        parent: Option<SagaId>,
    ) -> sqlx::Result<ActionOutcome> {
        let (epoch, _) = move_by_hand(tx, request.saga_id, State::Resolved, self.process).await?;
        if let Some(change) = self.domain.on_parked(parent.unwrap_or(request.saga_id), true) {
            self.domain.record(tx, &[(request.saga_id, change)]).await?;
        }
        request.close(tx, epoch, self.process).await?;
        let (before, after) = (State::DeadLetter.as_str().to_owned(), State::Resolved.as_str().to_owned());
        request.accept(tx, &before, &after).await?;
        Ok(ActionOutcome::Done { before, after })
    }
}

/// Where an action leads. An undecided saga whose key was cancelled meanwhile is compensated.
fn destination(raw: &Raw, action: DeadLetterAction) -> State {
    let back = raw.stored.backward || (raw.stored.key_cancelled && raw.kind == Some(Kind::Compensable));
    match action {
        DeadLetterAction::Resolve => State::Resolved,
        DeadLetterAction::Replay if back => State::Compensating,
        DeadLetterAction::Replay => State::Running,
    }
}

async fn lock_saga(tx: &mut PgConnection, id: SagaId) -> sqlx::Result<Raw> {
    sqlx::query("SELECT 1 FROM saga.saga WHERE saga_id = $1 FOR UPDATE").bind(id).execute(&mut *tx).await?;
    row::by_id(&mut *tx, id).await?.ok_or(sqlx::Error::RowNotFound)
}

async fn move_by_hand(
    tx: &mut PgConnection,
    id: SagaId,
    to: State,
    owner: Uuid,
) -> sqlx::Result<(i64, DateTime<Utc>)> {
    sqlx::query_as(
        "UPDATE saga.saga SET state = $2, backward = backward OR $2 = 1, epoch = epoch + 1, owner = $3, poison = 0,
             budget_from = clock_timestamp(), due_at = clock_timestamp() + make_interval(secs => $4 / 1000.0),
             ended_at = CASE WHEN $2 = 5 THEN clock_timestamp() END
         WHERE saga_id = $1 AND state = 4 RETURNING epoch, budget_from",
    )
    .bind(id)
    .bind(to.code())
    .bind(owner)
    .bind(STUCK_AFTER_MS)
    .fetch_one(tx)
    .await
}

struct Request<'a> {
    dead_letter: Uuid,
    saga_id: SagaId,
    action: DeadLetterAction,
    command: &'a OperatorCommand,
}

impl Request<'_> {
    async fn close(&self, tx: &mut PgConnection, epoch: i64, owner: Uuid) -> sqlx::Result<()> {
        sqlx::query("UPDATE saga.dead_letter SET closed_at = clock_timestamp(), closed_as = $2 WHERE dead_letter_id = $1")
            .bind(self.dead_letter)
            .bind(self.action.closing())
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "INSERT INTO saga.saga_event (saga_id, epoch, owner, event, detail) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(self.saga_id)
        .bind(epoch)
        .bind(owner)
        .bind(self.action.closing())
        .bind(
            json!({ "by": self.command.actor, "reason": self.command.reason, "reference": self.command.reference }),
        )
        .execute(tx)
        .await?;
        Ok(())
    }

    async fn accept(&self, tx: &mut PgConnection, before: &str, after: &str) -> sqlx::Result<()> {
        self.record(tx, true, json!({ "status": before }), json!({ "status": after })).await
    }

    /// Nothing changes, and the action says why. A dry run leaves no row.
    async fn refuse(&self, tx: &mut PgConnection, status: &str, why: &str) -> sqlx::Result<()> {
        if self.command.dry_run {
            return Ok(());
        }
        self.record(tx, false, json!({ "status": status }), json!({ "status": status, "refused": why })).await
    }

    async fn record(
        &self,
        tx: &mut PgConnection,
        accepted: bool,
        before: Value,
        after: Value,
    ) -> sqlx::Result<()> {
        let command = self.command;
        let action = NewAction {
            business_id: &command.business_id,
            operation_id: &command.operation_id,
            actor: &command.actor,
            action: self.action.name(),
            dead_letter_id: Some(self.dead_letter),
            saga_id: Some(self.saga_id),
            participant: None,
            reason: &command.reason,
            reference: command.reference.as_deref(),
            accepted,
            before,
            after,
        };
        actions::record(tx, &action).await
    }
}
