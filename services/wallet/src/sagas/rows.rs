//! New sagas judged inside the transaction that writes them.

use std::collections::{HashMap, HashSet};

use api::{
    Code, Problem,
    derive::{lock_key, sequence_guard},
};
use saga::{Admission, NewSaga, SagaId};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{REDEEM_PATH, Sagas, declined_response};
use crate::{
    plan::ReversalReason,
    redemption::{
        Change, Event, Opening, Standing,
        status::{holds_sequence, read_reversal, read_status},
        transition::next,
    },
};

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
                    Change::Opened(Box::new(Opening { standing: Standing::DECLINED, ..*opening }))
                }
                other @ (Change::Moved(_) | Change::Contradiction(_)) => other,
            });
            Admission::Refused(declined_response(problem, REDEEM_PATH, saga.trace_id.clone()), change)
        } else {
            Admission::Admitted
        }
    };
    Ok(new.iter().map(verdict).collect())
}

/// The compare-and-set of a forward-only saga: its redemption is locked here, and must still be where it was planned on.
/// Whether a hold has ended is judged here, once, by this database's clock; and that it was not asked back.
async fn stale_plans(conn: &mut PgConnection, new: &[&NewSaga<Sagas>]) -> sqlx::Result<HashSet<SagaId>> {
    let planned: Vec<(SagaId, Uuid, Event)> = new
        .iter()
        .filter_map(|new| {
            let (redemption, event) = Event::started_by(&new.plan)?;
            Some((new.id, redemption, event))
        })
        .collect();
    if planned.is_empty() {
        return Ok(HashSet::new());
    }
    let mut ids: Vec<Uuid> = planned.iter().map(|(_, id, _)| *id).collect();
    ids.sort_unstable();
    let rows = sqlx::query(
        "SELECT redemption_id, status, reversal, coalesce(hold_expires_at <= clock_timestamp(), false), cancel_requested
         FROM wallet.redemption WHERE redemption_id = ANY($1) ORDER BY redemption_id FOR UPDATE",
    )
    .bind(ids)
    .fetch_all(conn)
    .await?;
    let mut found = HashMap::new();
    for row in rows {
        let (id, is_over, is_cancelled): (Uuid, bool, bool) =
            (row.try_get(0)?, row.try_get(3)?, row.try_get(4)?);
        let standing =
            Standing { status: read_status(row.try_get(1)?)?, reversal: read_reversal(row.try_get(2)?)? };
        found.insert(id, (standing, is_over, is_cancelled));
    }
    let mut stale = HashSet::new();
    for (saga, redemption, event) in planned {
        // Two plans for one redemption in one batch: the first takes it.
        let is_free = found.remove(&redemption).is_some_and(|(standing, is_over, is_cancelled)| {
            let is_in_time = match event {
                // Its till was told that everything goes back.
                Event::CaptureStarted => !is_over && !is_cancelled,
                Event::ReturnStarted(ReversalReason::HoldExpired) => is_over,
                _ => true,
            };
            is_in_time && next(standing, event).is_ok()
        });
        if !is_free {
            stale.insert(saga);
        }
    }
    Ok(stale)
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
            Some(Change::Opened(o)) if guard(o).is_some() && o.standing.holds_sequence() => {
                Some((s.id, &**o))
            }
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
        holds_sequence!(),
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
