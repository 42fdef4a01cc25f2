//! Sagas and legs in the order of `legs_id`, as streams.

use std::num::NonZeroU32;

use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use sqlx::{AssertSqlSafe, FromRow, PgConnection, Postgres, postgres::PgArguments, postgres::PgRow};
use uuid::Uuid;

use super::rules::{Keyed, Leg, Saga};

/// The tenders' names, with a connection to each.
pub(super) type Tenders<'c> = Vec<(&'static str, &'c mut PgConnection)>;

/// Which ids are read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scope<'a> {
    /// From the first to the last, both included.
    Range(u128, u128),
    /// Just these.
    Ids(&'a [Uuid]),
}

/// Sagas. What ended is judged five seconds later, and only where it may be turned back (kind 0); a stub for an orphan stands for one leg
/// only, so what it came to says nothing of the others. A redemption is given back by a return that has completed, and taken further by
/// any later saga of its own: a return gives all legs back, a capture those that it does not need.
const SAGAS: &str = "
    SELECT s.legs_id, s.saga_id,
           CASE WHEN s.kind = 0 AND s.operation <> 'orphan' AND s.state IN (2, 3)
                     AND s.ended_at < clock_timestamp() - interval '5 s'
                THEN s.state = 2 END AS is_completed,
           CASE WHEN jsonb_typeof(s.plan -> 'legs') = 'array' THEN jsonb_array_length(s.plan -> 'legs') END AS planned,
           coalesce(c.is_given_back, false) AS is_given_back,
           c.parent_id IS NOT NULL AS is_taken_further
    FROM saga.saga s
    LEFT JOIN (
        SELECT parent_id, bool_or(plan ->> 'type' = 'return' AND state = 2
                                  AND ended_at < clock_timestamp() - interval '5 s') AS is_given_back
        FROM saga.saga
        WHERE kind = 1 AND parent_id IS NOT NULL
        GROUP BY parent_id
    ) c ON c.parent_id = s.saga_id
    WHERE s.legs_id";

/// Legs, with what each still has in force.
const LEGS: &str = "
    SELECT o.legs_id, o.leg, o.state, coalesce(a.in_force, 0)::bigint AS in_force
    FROM tender.operation o
    CROSS JOIN LATERAL (
        SELECT sum(amount - reversed) AS in_force FROM tender.allocation WHERE operation_id = o.operation_id
    ) a
    WHERE o.kind IN ('debit', 'hold', 'cancel') AND o.legs_id";

type Query = sqlx::query::Query<'static, Postgres, PgArguments>;

fn query(select: &str, scope: Scope<'_>) -> Query {
    match scope {
        Scope::Range(from, to) => {
            sqlx::query(AssertSqlSafe(format!("{select} BETWEEN $1 AND $2 ORDER BY 1, 2")))
                .bind(Uuid::from_u128(from))
                .bind(Uuid::from_u128(to))
        }
        Scope::Ids(ids) => {
            sqlx::query(AssertSqlSafe(format!("{select} = ANY($1) ORDER BY 1, 2"))).bind(ids.to_vec())
        }
    }
}

fn rows<'c, T>(
    connection: &'c mut PgConnection,
    query: Query,
    read: impl Fn(&PgRow) -> sqlx::Result<T> + Send + 'c,
) -> BoxStream<'c, sqlx::Result<T>>
where
    T: 'c,
{
    // Not kept as a prepared statement: its plan is for this range.
    query.persistent(false).fetch(connection).map(move |row| read(&row?)).boxed()
}

pub(super) fn sagas<'c>(wallet: &'c mut PgConnection, scope: Scope<'_>) -> BoxStream<'c, sqlx::Result<Saga>> {
    rows(wallet, query(SAGAS, scope), |row| Saga::from_row(row))
}

pub(super) fn legs<'c>(
    tender: &'c mut PgConnection,
    name: &'static str,
    scope: Scope<'_>,
) -> BoxStream<'c, sqlx::Result<Leg>> {
    rows(tender, query(LEGS, scope), move |row| Ok(Leg { tender: name, ..Leg::from_row(row)? }))
}

/// How many ranges keep each snapshot to about `size` rows of the largest table.
pub(super) async fn ranges(
    wallet: &mut PgConnection,
    tenders: &mut Tenders<'_>,
    size: i64,
) -> sqlx::Result<NonZeroU32> {
    let mut largest = estimate(wallet, "saga.saga").await?;
    for (_, tender) in tenders {
        largest = largest.max(estimate(tender, "tender.operation").await?);
    }
    let ranges = u32::try_from(largest / size).unwrap_or(u32::MAX);
    Ok(NonZeroU32::MIN.saturating_add(ranges))
}

/// Rows of a table as the planner has them.
async fn estimate(connection: &mut PgConnection, table: &str) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = to_regclass($1)")
        .bind(table)
        .fetch_one(connection)
        .await
}

/// A stream in the order of `legs_id`, of which the next row is known.
pub(super) struct Sorted<'c, T> {
    rows: BoxStream<'c, sqlx::Result<T>>,
    next: Option<T>,
}

impl<'c, T: Keyed> Sorted<'c, T> {
    /// Waits for the first row: from then on the snapshot is fixed.
    pub(super) async fn open(mut rows: BoxStream<'c, sqlx::Result<T>>) -> sqlx::Result<Self> {
        let next = rows.try_next().await?;
        Ok(Self { rows, next })
    }

    pub(super) fn next_id(&self) -> Option<Uuid> {
        self.next.as_ref().map(T::legs_id)
    }

    /// The rows of an id, if it is the next; rows of earlier ids are passed over.
    pub(super) async fn take(&mut self, legs_id: Uuid) -> sqlx::Result<Vec<T>> {
        let mut taken = Vec::new();
        while let Some(row) = self.next.take_if(|row| row.legs_id() <= legs_id) {
            if row.legs_id() == legs_id {
                taken.push(row);
            }
            self.next = self.rows.try_next().await?;
        }
        Ok(taken)
    }
}
