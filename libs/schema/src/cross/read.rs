//! Sagas and legs in the order of `legs_id`.

use std::{collections::VecDeque, num::NonZeroU32};

use futures_util::{TryStreamExt, stream::BoxStream};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::rules::{Leg, Saga};

/// Takes the next legs: so many of one tender are in memory at most, but for those of one saga.
const PAGE: &str = "FETCH 500 FROM compared_legs";

/// Sagas from the id $1 to the id $2. What ended before $3 is judged, and only where it may be compensated (kind 0); a stub stands for one
/// leg only, so what it came to says nothing of the others. A row of operation `taken_back` is no saga. A redemption is given back by a
/// return that has completed, and taken further by any later saga of its own: a return gives all legs back, a capture those that it does
/// not need. Each half is in the words of its index: `saga_legs_once` and `saga_orphans`.
const SAGAS: &str = "
    SELECT s.legs_id, s.saga_id,
           CASE WHEN s.kind = 0 AND s.operation <> 'orphan' AND s.state IN (2, 3) AND s.ended_at < $3::text::timestamptz
                THEN s.state = 2 END AS is_completed,
           CASE WHEN jsonb_typeof(s.plan -> 'legs') = 'array' THEN jsonb_array_length(s.plan -> 'legs') END AS planned,
           c.is_given_back, c.is_taken_further,
           s.operation = 'orphan' AS is_stub,
           CASE WHEN s.operation = 'orphan' THEN (s.plan #>> '{legs,0,leg}')::int END AS stands_for,
           coalesce(s.state = 3 AND s.ended_at < $3::text::timestamptz, false) AS is_over
    FROM (
        SELECT * FROM saga.saga
        WHERE operation <> 'orphan' AND operation <> 'taken_back' AND legs_id BETWEEN $1 AND $2
        UNION ALL
        SELECT * FROM saga.saga WHERE operation = 'orphan' AND legs_id BETWEEN $1 AND $2
    ) s
    CROSS JOIN LATERAL (
        SELECT count(*) > 0 AS is_taken_further,
               coalesce(bool_or(plan ->> 'type' = 'reversal' AND state = 2
                                AND ended_at < $3::text::timestamptz), false) AS is_given_back
        FROM saga.saga WHERE parent_id = s.saga_id AND kind = 1
    ) c
    ORDER BY 1, 2";

/// All legs, with what each still has in force. There is no index by `legs_id`, which every leg would have to pay for: they are read and
/// sorted once. What the cursor holds stays on the server's disk, without a snapshot.
const LEGS: &str = "
    DECLARE compared_legs NO SCROLL CURSOR WITH HOLD FOR
    SELECT o.legs_id, o.leg, o.state, coalesce(a.in_force, 0)::bigint AS in_force
    FROM tender.operation o
    CROSS JOIN LATERAL (
        SELECT sum(amount - reversed) AS in_force FROM tender.allocation WHERE operation_id = o.operation_id
    ) a
    WHERE o.kind IN ('debit', 'hold', 'cancel') AND o.legs_id IS NOT NULL
    ORDER BY 1, 2";

/// Sagas that ended before this time are judged: longer ago than it takes a commit to be seen.
pub(super) async fn ended_before(wallet: &mut PgConnection) -> sqlx::Result<String> {
    sqlx::query_scalar("SELECT (clock_timestamp() - interval '5 s')::text").fetch_one(wallet).await
}

/// How many ranges keep each snapshot to about `size` sagas.
pub(super) async fn ranges(wallet: &mut PgConnection, size: i64) -> sqlx::Result<NonZeroU32> {
    // As the planner has them.
    let rows = "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'saga.saga'::regclass";
    let rows: i64 = sqlx::query_scalar(rows).fetch_one(wallet).await?;
    Ok(NonZeroU32::MIN.saturating_add(u32::try_from(rows / size).unwrap_or(u32::MAX)))
}

/// The sagas of one range, of which the next is known.
pub(super) struct Sagas<'c> {
    rows: BoxStream<'c, sqlx::Result<Saga>>,
    next: Option<Saga>,
}

impl<'c> Sagas<'c> {
    /// From the first id to the last, both included; judged is what ended before a time.
    pub(super) async fn open(
        wallet: &'c mut PgConnection,
        (from, to): (u128, u128),
        ended_before: &str,
    ) -> sqlx::Result<Self> {
        let query = sqlx::query_as(SAGAS)
            .bind(Uuid::from_u128(from))
            .bind(Uuid::from_u128(to))
            .bind(ended_before.to_owned());
        // Not kept as a prepared statement: its plan is for this range.
        let mut rows = query.persistent(false).fetch(wallet);
        let next = rows.try_next().await?;
        Ok(Self { rows, next })
    }

    pub(super) fn next_id(&self) -> Option<Uuid> {
        self.next.as_ref().map(|saga| saga.legs_id)
    }

    /// The sagas of an id, if it is the next.
    pub(super) async fn take(&mut self, legs_id: Uuid) -> sqlx::Result<Vec<Saga>> {
        let mut taken = Vec::new();
        while let Some(saga) = self.next.take_if(|saga| saga.legs_id == legs_id) {
            taken.push(saga);
            self.next = self.rows.try_next().await?;
        }
        Ok(taken)
    }
}

/// All legs of a tender, of which the next is known.
pub(super) struct Legs<'c> {
    tender: &'static str,
    connection: &'c mut PgConnection,
    page: VecDeque<Leg>,
}

impl<'c> Legs<'c> {
    pub(super) fn new(tender: &'static str, connection: &'c mut PgConnection) -> Self {
        Self { tender, connection, page: VecDeque::new() }
    }

    /// Reads them all, as they are now, and sorts them.
    pub(super) async fn open(&mut self) -> sqlx::Result<()> {
        sqlx::raw_sql(LEGS).execute(&mut *self.connection).await?;
        self.fetch().await
    }

    pub(super) async fn close(self) -> sqlx::Result<()> {
        sqlx::raw_sql("CLOSE compared_legs").execute(self.connection).await.map(drop)
    }

    /// How many are in memory.
    pub(super) fn held(&self) -> usize {
        self.page.len()
    }

    pub(super) fn next_id(&self) -> Option<Uuid> {
        self.page.front().map(|leg| leg.legs_id)
    }

    /// The legs of an id, if it is the next.
    pub(super) async fn take(&mut self, legs_id: Uuid) -> sqlx::Result<Vec<Leg>> {
        let mut taken = Vec::new();
        while let Some(leg) = self.page.pop_front_if(|leg| leg.legs_id == legs_id) {
            taken.push(leg);
            if self.page.is_empty() {
                self.fetch().await?;
            }
        }
        Ok(taken)
    }

    async fn fetch(&mut self) -> sqlx::Result<()> {
        let rows = sqlx::query(PAGE).persistent(false).fetch_all(&mut *self.connection).await?;
        for row in rows {
            self.page.push_back(Leg { tender: self.tender, ..Leg::from_row(&row)? });
        }
        Ok(())
    }
}
