//! The redemption's row, written inside the transactions of its sagas, all of a batch in one statement.
//!
//! Nothing is read before: each move lists the standings from which its event leads somewhere, with where to, and the row is
//! compared with them as it is written. A saga that takes a redemption further has locked it in `admit`; until it is completed, no
//! saga but its own moves it. So a move that finds no such standing is a contradiction: the whole transaction fails, the batch is
//! bisected, and the saga at fault is parked.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use saga::SagaId;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{
    legs::assign_legs,
    status::Standing,
    transition::{Event, moves},
};
use crate::plan::Plan;

/// A change of redemptions that belongs to a transition.
#[derive(Debug, Clone)]
pub enum Change {
    /// A new redemption.
    Opened(Box<Opening>),
    /// Something happened to a redemption.
    Moved(Moved),
    /// What the transition means cannot be said, and why. It is refused, as what the database refuses is, so that the saga is
    /// parked.
    Contradiction(String),
}

impl Change {
    /// What writing a plan's saga does to the redemption that it takes further.
    #[must_use]
    pub fn started_by(plan: &Plan) -> Option<Self> {
        Event::started_by(plan).map(|(redemption_id, event)| Self::Moved(Moved::by(redemption_id, event)))
    }
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
    /// Pending, or declined where planning refuses it.
    pub standing: Standing,
    /// As it was sent, as JSON.
    pub metadata: String,
}

/// What happened to a redemption; `None` leaves a column as it is.
#[derive(Debug, Clone)]
pub struct Moved {
    /// Which redemption.
    pub redemption_id: Uuid,
    /// What happened.
    pub event: Event,
    /// What each leg took, as [`super::legs::taken`] writes it.
    pub taken: Option<String>,
    /// What the tenders gave, as JSON.
    pub tenders: Option<String>,
    /// When it was completed.
    pub completed_at: Option<DateTime<Utc>>,
    /// Until when held value is kept.
    pub hold_expires_at: Option<DateTime<Utc>>,
    /// The trace of the request that led here.
    pub trace_id: Option<String>,
}

impl Moved {
    /// An event that changes nothing but the status.
    #[must_use]
    pub const fn by(redemption_id: Uuid, event: Event) -> Self {
        Self {
            redemption_id,
            event,
            taken: None,
            tenders: None,
            completed_at: None,
            hold_expires_at: None,
            trace_id: None,
        }
    }
}

/// New redemptions and moves of redemptions, with one row of the outbox for the events that they make: a list. The id of an event
/// is drawn here, once, so that a reader who gets it twice can tell. Answers with the redemptions that were moved.
const RECORD: &str = concat!(
    "WITH opened AS (
    INSERT INTO wallet.redemption (redemption_id, business_id, customer_id, order_id, location_id, terminal_id,
        operator_id, sequence, currency, amount, status, reversal, metadata, created_at)
    SELECT u.redemption_id, u.business_id, u.customer_id, u.order_id, u.location_id, u.terminal_id, u.operator_id,
        u.sequence, u.currency, u.amount, u.status, u.reversal, u.metadata::jsonb, s.created_at
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[],
        $9::text[], $10::bigint[], $11::text[], $12::text[], $13::text[])
        AS u(redemption_id, business_id, customer_id, order_id, location_id, terminal_id, operator_id, sequence,
            currency, amount, status, reversal, metadata)
    CROSS JOIN LATERAL (SELECT created_at FROM saga.saga WHERE saga_id = u.redemption_id OFFSET 0) AS s
    RETURNING redemption_id, business_id, customer_id, order_id, status, reversal, currency, amount, redeemed
), moved AS (
    UPDATE wallet.redemption AS r SET
        status = u.status,
        reversal = u.reversal,
        cancel_requested = r.cancel_requested AND NOT u.ends_cancel_request,
        ",
    assign_legs!(),
    ",
        tenders = coalesce(u.tenders::jsonb, r.tenders),
        completed_at = coalesce(u.completed_at, r.completed_at),
        hold_expires_at = coalesce(u.hold_expires_at, r.hold_expires_at)
    FROM unnest($14::uuid[], $15::text[], $16::text[], $17::text[], $18::text[], $19::boolean[], $20::text[],
        $21::boolean[], $22::text[], $23::timestamptz[], $24::timestamptz[], $25::text[], $26::text[])
        AS u(redemption_id, from_status, from_reversal, status, reversal, ends_cancel_request, taken,
            returns_all, tenders, completed_at, hold_expires_at, told, trace_id)
    WHERE r.redemption_id = u.redemption_id AND r.status = u.from_status
      AND r.reversal IS NOT DISTINCT FROM u.from_reversal
    RETURNING r.redemption_id, r.business_id, r.customer_id, r.order_id, r.status, r.reversal, r.currency, r.amount,
        r.redeemed, u.told, u.trace_id
), event AS (
    SELECT * FROM moved WHERE told IS NOT NULL
    UNION ALL
    -- What planning refuses is over as soon as it is there.
    SELECT o.*, o.status, s.trace_id
    FROM opened AS o
    CROSS JOIN LATERAL (SELECT trace_id FROM saga.saga WHERE saga_id = o.redemption_id OFFSET 0) AS s
    WHERE o.status = 'declined'
), written AS (
    INSERT INTO wallet.outbox (payload)
    SELECT json_agg(json_strip_nulls(json_build_object(
            'event_id', gen_random_uuid(), 'type', 'wallet.redemption_' || told, 'redemption_id', redemption_id,
            'business_id', business_id, 'customer_id', customer_id, 'order_id', order_id, 'status', status,
            'reversal', reversal, 'currency', currency, 'amount', amount, 'redeemed', redeemed, 'trace_id', trace_id,
            'at', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')))
        ORDER BY redemption_id)
    FROM event HAVING count(*) > 0
)
SELECT redemption_id FROM moved"
);

/// Applies changes and tells of them, all in one statement.
///
/// # Errors
/// Of the database; an `Encode` error for an event that leads nowhere from where its redemption stands.
pub async fn record(conn: &mut PgConnection, changes: &[(SagaId, Change)]) -> sqlx::Result<()> {
    let (mut opened, mut moved) = (Vec::new(), Vec::new());
    for (id, change) in changes {
        match change {
            Change::Opened(opening) => opened.push((id.0, &**opening)),
            Change::Moved(change) => moved.push(change),
            Change::Contradiction(why) => return Err(sqlx::Error::Encode(why.clone().into())),
        }
    }
    moved.sort_by_key(|m| m.redemption_id);
    let done = write(&mut *conn, &opened, &moved).await?;
    for missed in moved.iter().filter(|moved| !done.contains(&moved.redemption_id)) {
        refuse(&mut *conn, missed).await?;
    }
    Ok(())
}

async fn write(
    conn: &mut PgConnection,
    opened: &[(Uuid, &Opening)],
    moved: &[&Moved],
) -> sqlx::Result<HashSet<Uuid>> {
    let text = |f: fn(&Opening) -> &str| opened.iter().map(|(_, r)| f(r)).collect::<Vec<_>>();
    let maybe = |f: fn(&Opening) -> Option<&str>| opened.iter().map(|(_, r)| f(r)).collect::<Vec<_>>();
    let reversal = |standing: Standing| standing.reversal.map(api::wallet::Reversal::as_str);
    let steps = moved.iter().flat_map(|m| moves(m.event).map(move |(from, to)| (*m, from, to)));
    let steps: Vec<(&Moved, Standing, Standing)> = steps.collect();
    let rows = sqlx::query(RECORD)
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
        .bind(text(|r| r.standing.status.as_str()))
        .bind(opened.iter().map(|(_, r)| reversal(r.standing)).collect::<Vec<_>>())
        .bind(text(|r| &r.metadata))
        .bind(steps.iter().map(|(m, ..)| m.redemption_id).collect::<Vec<_>>())
        .bind(steps.iter().map(|(_, from, _)| from.status.as_str()).collect::<Vec<_>>())
        .bind(steps.iter().map(|(_, from, _)| reversal(*from)).collect::<Vec<_>>())
        .bind(steps.iter().map(|(.., to)| to.status.as_str()).collect::<Vec<_>>())
        .bind(steps.iter().map(|(.., to)| reversal(*to)).collect::<Vec<_>>())
        .bind(steps.iter().map(|(.., to)| to.ends_cancel_request()).collect::<Vec<_>>())
        .bind(steps.iter().map(|(m, ..)| m.taken.as_deref()).collect::<Vec<_>>())
        .bind(steps.iter().map(|(m, ..)| m.event.returns_all()).collect::<Vec<_>>())
        .bind(steps.iter().map(|(m, ..)| m.tenders.as_deref()).collect::<Vec<_>>())
        .bind(steps.iter().map(|(m, ..)| m.completed_at).collect::<Vec<_>>())
        .bind(steps.iter().map(|(m, ..)| m.hold_expires_at).collect::<Vec<_>>())
        .bind(steps.iter().map(|(m, ..)| m.event.told()).collect::<Vec<_>>())
        .bind(steps.iter().map(|(m, ..)| m.trace_id.as_deref()).collect::<Vec<_>>())
        .fetch_all(conn)
        .await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// Says why a redemption was not moved.
async fn refuse(conn: &mut PgConnection, missed: &Moved) -> sqlx::Result<()> {
    let Moved { redemption_id: id, event, .. } = missed;
    let row = sqlx::query("SELECT status, reversal FROM wallet.redemption WHERE redemption_id = $1")
        .bind(id)
        .fetch_optional(conn)
        .await?;
    let stands = match row {
        Some(row) => {
            let (status, reversal): (String, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
            format!(
                "is {status}{}",
                reversal.map(|reversal| format!(" (reversal {reversal})")).unwrap_or_default()
            )
        }
        // Sagas whose plan cannot be read are parked and settled as well, and not every saga has a redemption.
        None if matches!(event, Event::Parked | Event::Resolved) => return Ok(()),
        None => "has no row".to_owned(),
    };
    Err(sqlx::Error::Encode(format!("redemption {id} {stands}: {event:?} leads nowhere from there").into()))
}
