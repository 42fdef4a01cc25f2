//! The redemption's row, moved inside the transactions of its sagas.

use std::collections::{HashMap, HashSet};

use api::{
    Code, Problem,
    derive::{lock_key, sequence_guard},
};
use chrono::{DateTime, Utc};
use saga::{Admission, NewSaga, SagaId};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{REDEEM_PATH, Sagas, declined_response};
use crate::plan::{Plan, ReturnReason};

/// A change of redemptions that belongs to a transition.
#[derive(Debug, Clone)]
pub enum Change {
    /// A new redemption.
    Opened(Box<Opening>),
    /// A redemption reached a status.
    Moved(Moved),
}

/// A new redemption's row.
#[derive(Debug, Clone)]
pub struct Opening {
    /// The retailer.
    pub business_id: String,
    /// Whose wallet.
    pub customer_id: String,
    /// Which order.
    pub order_id: String,
    /// Where.
    pub location_id: Option<String>,
    /// At which till.
    pub terminal_id: Option<String>,
    /// By whom.
    pub operator_id: Option<String>,
    /// The till's own number.
    pub sequence: Option<i64>,
    /// In which currency.
    pub currency: String,
    /// What was asked for, in minor units.
    pub amount: i64,
    /// `pending`, or `declined` for a refusal found by planning.
    pub status: &'static str,
    /// As it was sent, as JSON.
    pub metadata: String,
}

/// A redemption's new status; `None` leaves a column as it is.
#[derive(Debug, Clone, Default)]
pub struct Moved {
    /// Which redemption.
    pub redemption_id: Uuid,
    /// Its status.
    pub status: &'static str,
    /// Of a declined one. Cleared with every other status.
    pub reversal: Option<&'static str>,
    /// Minor units covered.
    pub redeemed: Option<i64>,
    /// What the tenders gave, as JSON.
    pub tenders: Option<String>,
    /// When it was completed.
    pub completed_at: Option<DateTime<Utc>>,
    /// Until when held value is kept.
    pub hold_expires_at: Option<DateTime<Utc>>,
    /// What happened, for the outbox: `wallet.redemption_` and this. `None` tells nobody.
    pub event: Option<&'static str>,
    /// The trace of the request that led here.
    pub trace_id: Option<String>,
}

/// Applies changes and tells of them, all in one statement.
pub(super) async fn record(conn: &mut PgConnection, changes: &[(SagaId, Change)]) -> sqlx::Result<()> {
    let (mut opened, mut moved) = (Vec::new(), Vec::new());
    for (id, change) in changes {
        match change {
            Change::Opened(opening) => opened.push((id.0, &**opening)),
            Change::Moved(change) => moved.push(change),
        }
    }
    moved.sort_by_key(|m| m.redemption_id);
    let text = |f: fn(&Opening) -> &str| opened.iter().map(|(_, r)| f(r)).collect::<Vec<_>>();
    let maybe = |f: fn(&Opening) -> Option<&str>| opened.iter().map(|(_, r)| f(r)).collect::<Vec<_>>();
    sqlx::query(include_str!("record.sql"))
        .bind(opened.iter().map(|(id, _)| *id).collect::<Vec<_>>())
        .bind(text(|r| &r.business_id))
        .bind(text(|r| &r.customer_id))
        .bind(text(|r| &r.order_id))
        .bind(maybe(|r| r.location_id.as_deref()))
        .bind(maybe(|r| r.terminal_id.as_deref()))
        .bind(maybe(|r| r.operator_id.as_deref()))
        .bind(opened.iter().map(|(_, r)| r.sequence).collect::<Vec<_>>())
        .bind(text(|r| &r.currency))
        .bind(opened.iter().map(|(_, r)| r.amount).collect::<Vec<_>>())
        .bind(text(|r| r.status))
        .bind(text(|r| &r.metadata))
        .bind(moved.iter().map(|r| r.redemption_id).collect::<Vec<_>>())
        .bind(moved.iter().map(|r| r.status).collect::<Vec<_>>())
        .bind(moved.iter().map(|r| r.reversal).collect::<Vec<_>>())
        .bind(moved.iter().map(|r| r.redeemed).collect::<Vec<_>>())
        .bind(moved.iter().map(|r| r.tenders.as_deref()).collect::<Vec<_>>())
        .bind(moved.iter().map(|r| r.completed_at).collect::<Vec<_>>())
        .bind(moved.iter().map(|r| r.hold_expires_at).collect::<Vec<_>>())
        .bind(moved.iter().map(|r| r.event).collect::<Vec<_>>())
        .bind(moved.iter().map(|r| r.trace_id.as_deref()).collect::<Vec<_>>())
        .execute(conn)
        .await?;
    Ok(())
}

/// Judges new sagas: a redemption whose till sequence is taken is refused, a plan whose redemption has moved on is
/// stale. Everything else is admitted without a statement.
pub(super) async fn admit(
    conn: &mut PgConnection,
    new: &[&NewSaga<Sagas>],
) -> sqlx::Result<Vec<Admission<Change>>> {
    let stale = stale_plans(conn, new).await?;
    let taken = taken_sequences(conn, new).await?;
    let verdict = |saga: &&NewSaga<Sagas>| {
        if stale.contains(&saga.id) || taken.get(&saga.id) == Some(&Taken::InThisBatch) {
            Admission::Stale
        } else if taken.contains_key(&saga.id) {
            let problem = Problem::new(
                Code::DuplicateReference,
                "This till, order and sequence were used under another key.",
            );
            let change = saga.change.clone().map(|change| match change {
                Change::Opened(opening) => {
                    Change::Opened(Box::new(Opening { status: "declined", ..*opening }))
                }
                other @ Change::Moved(_) => other,
            });
            Admission::Refused(declined_response(problem, REDEEM_PATH, saga.trace_id.clone()), change)
        } else {
            Admission::Admitted
        }
    };
    Ok(new.iter().map(verdict).collect())
}

/// The compare-and-set of a forward-only saga: its redemption is locked here, and must still be where it was planned on.
/// Whether a hold has ended is judged here, once, by this database's clock.
async fn stale_plans(conn: &mut PgConnection, new: &[&NewSaga<Sagas>]) -> sqlx::Result<HashSet<SagaId>> {
    let planned: Vec<(SagaId, Uuid, Allowed)> =
        new.iter().filter_map(|s| Some((s.id, redemption_of(&s.plan)?, allowed(&s.plan)?))).collect();
    if planned.is_empty() {
        return Ok(HashSet::new());
    }
    let mut ids: Vec<Uuid> = planned.iter().map(|(_, id, _)| *id).collect();
    ids.sort_unstable();
    let rows = sqlx::query(
        "SELECT redemption_id, status, coalesce(hold_expires_at <= clock_timestamp(), false) FROM wallet.redemption
         WHERE redemption_id = ANY($1) ORDER BY redemption_id FOR UPDATE",
    )
    .bind(ids)
    .fetch_all(conn)
    .await?;
    let mut found = HashMap::new();
    for row in rows {
        let (id, status, is_over): (Uuid, String, bool) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        found.insert(id, (status, is_over));
    }
    let mut stale = HashSet::new();
    for (saga, redemption, allowed) in planned {
        // Two plans for one redemption in one batch: the first takes it.
        let is_free = found.remove(&redemption).is_some_and(|(status, is_over)| match allowed {
            Allowed::Completed => ["completed", "partially_refunded"].contains(&status.as_str()),
            Allowed::Held => status == "authorized",
            Allowed::HeldInTime => status == "authorized" && !is_over,
            Allowed::HeldTooLong => status == "authorized" && is_over,
        });
        if !is_free {
            stale.insert(saga);
        }
    }
    Ok(stale)
}

/// Where a redemption must be for a plan.
enum Allowed {
    /// Taken.
    Completed,
    /// It holds value.
    Held,
    /// It holds value, and its hold has not ended.
    HeldInTime,
    /// It holds value, though its hold has ended.
    HeldTooLong,
}

fn redemption_of(plan: &Plan) -> Option<Uuid> {
    match plan {
        Plan::Return(plan) => Some(plan.redemption_id),
        Plan::Capture(plan) => Some(plan.redemption_id),
        Plan::Redeem(_) | Plan::Nothing | Plan::Orphan(_) => None,
    }
}

fn allowed(plan: &Plan) -> Option<Allowed> {
    match plan {
        Plan::Capture(_) => Some(Allowed::HeldInTime),
        Plan::Return(plan) => Some(match plan.why {
            ReturnReason::Reversal => Allowed::Completed,
            ReturnReason::Void => Allowed::Held,
            ReturnReason::HoldExpired => Allowed::HeldTooLong,
        }),
        Plan::Redeem(_) | Plan::Nothing | Plan::Orphan(_) => None,
    }
}

/// Why a till's sequence is not free.
#[derive(PartialEq, Eq)]
enum Taken {
    /// Another redemption has it.
    Before,
    /// Another one in this batch asks for it, and may itself be turned away: judged again in the next batch.
    InThisBatch,
}

/// Guards are advisory locks taken in order, held to the end of the transaction, then a read in a statement of its own.
async fn taken_sequences(
    conn: &mut PgConnection,
    new: &[&NewSaga<Sagas>],
) -> sqlx::Result<HashMap<SagaId, Taken>> {
    let guarded: Vec<(SagaId, &Opening)> = new
        .iter()
        .filter_map(|s| match &s.change {
            Some(Change::Opened(o)) if guard(o).is_some() && o.status == "pending" => Some((s.id, &**o)),
            _ => None,
        })
        .collect();
    if guarded.is_empty() {
        return Ok(HashMap::new());
    }
    let mut locks: Vec<i64> = guarded.iter().filter_map(|(_, o)| guard(o)).collect();
    locks.sort_unstable();
    sqlx::query("SELECT pg_advisory_xact_lock(k) FROM unnest($1::bigint[]) AS k")
        .bind(locks)
        .execute(&mut *conn)
        .await?;
    let used = used_sequences(conn, &guarded).await?;
    let mut taken = HashMap::new();
    let mut in_batch = HashSet::new();
    for (id, opening) in guarded {
        if used.contains(&id.0) {
            taken.insert(id, Taken::Before);
        } else if !in_batch.insert(guard(opening)) {
            taken.insert(id, Taken::InThisBatch);
        }
    }
    Ok(taken)
}

/// The statuses of redemptions `r` that hold their till's sequence, as the unique index `redemption_sequence` has them.
macro_rules! holds_its_sequence {
    () => {
        "r.status IN ('pending', 'authorized', 'capturing', 'completed', 'under_review')"
    };
}

/// Which of these redemptions find their sequence held by another one: one statement, whatever their number.
async fn used_sequences(
    conn: &mut PgConnection,
    guarded: &[(SagaId, &Opening)],
) -> sqlx::Result<HashSet<Uuid>> {
    const SQL: &str = concat!(
        "SELECT u.id
         FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[])
             AS u(id, business_id, location_id, terminal_id, order_id, sequence)
         CROSS JOIN LATERAL (
             SELECT FROM wallet.redemption r
             WHERE r.business_id = u.business_id AND r.location_id = u.location_id AND r.terminal_id = u.terminal_id
               AND r.order_id = u.order_id AND r.sequence = u.sequence AND r.redemption_id <> u.id
               AND ",
        holds_its_sequence!(),
        " OFFSET 0) AS other"
    );
    let of = |part: fn(&Opening) -> Option<&str>| guarded.iter().map(|(_, o)| part(o)).collect::<Vec<_>>();
    let rows: Vec<Uuid> = sqlx::query_scalar(SQL)
        .bind(guarded.iter().map(|(id, _)| id.0).collect::<Vec<_>>())
        .bind(of(|o| Some(&o.business_id)))
        .bind(of(|o| o.location_id.as_deref()))
        .bind(of(|o| o.terminal_id.as_deref()))
        .bind(of(|o| Some(&o.order_id)))
        .bind(guarded.iter().map(|(_, o)| o.sequence).collect::<Vec<_>>())
        .fetch_all(conn)
        .await?;
    Ok(rows.into_iter().collect())
}

/// The lock of a till's sequence; none unless the till gives all of its parts.
fn guard(o: &Opening) -> Option<i64> {
    let (location, terminal) = (o.location_id.as_deref()?, o.terminal_id.as_deref()?);
    Some(lock_key(sequence_guard(&o.business_id, location, terminal, &o.order_id, o.sequence?)))
}
