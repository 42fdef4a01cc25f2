//! Giving a whole redemption back: by its key, or because its hold ran out.

use std::{sync::Arc, time::Duration};

use api::{
    BusinessId, LegsId,
    derive::{Bucket, fresh_id},
    wallet::RedemptionStatus,
};
use metrics::counter;
use saga::{Begin, Key, NewSaga, SagaId, Submitted, machine::Kind};
use service::trace;
use sqlx::{PgPool, Row, postgres::PgRow};
use uuid::Uuid;

use crate::{
    app::App,
    plan::{Plan, ReturnPlan, ReturnReason, VERSIONS},
    redemption::{Change, status::read_status},
    sagas::Sagas,
};

/// A forward-only saga is never turned back, so its deadline is nobody's.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// The operation's name in keys.
const OPERATION: &str = "return";
/// How often holds that ran out are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// Most holds in one sweep.
const SWEEP_MAX: i64 = 200;

/// A redemption with the plan that made it.
#[derive(Debug)]
pub struct Returnable {
    /// Its id.
    pub id: Uuid,
    /// Whose.
    pub business_id: BusinessId,
    /// Where it stands.
    pub status: RedemptionStatus,
    /// What made it.
    pub plan: Plan,
    /// Under which id tenders know its legs.
    pub legs_id: Uuid,
    /// Whether its hold has ended, by the database's clock.
    pub is_over: bool,
    key: String,
}

/// The columns that [`read`] expects.
macro_rules! returnable {
    () => {
        "SELECT r.redemption_id, r.business_id, r.status, s.plan, s.legs_id, s.key,
             coalesce(r.hold_expires_at <= clock_timestamp(), false), r.cancel_requested
         FROM wallet.redemption r JOIN saga.saga s ON s.saga_id = r.redemption_id "
    };
}

/// A redemption of a business, to be returned.
///
/// # Errors
/// Of the database.
pub async fn load(pool: &PgPool, business: &BusinessId, id: Uuid) -> sqlx::Result<Option<Returnable>> {
    sqlx::query(concat!(returnable!(), "WHERE r.business_id = $1 AND r.redemption_id = $2"))
        .bind(business.as_str())
        .bind(id)
        .fetch_optional(pool)
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

fn read(row: &PgRow) -> sqlx::Result<Returnable> {
    Ok(Returnable {
        id: row.try_get(0)?,
        business_id: BusinessId::try_from(row.try_get::<String, _>(1)?)
            .map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
        status: read_status(row.try_get(2)?)?,
        plan: serde_json::from_value(row.try_get(3)?)
            .map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
        legs_id: row.try_get(4)?,
        key: row.try_get(5)?,
        is_over: row.try_get(6)?,
    })
}

/// The forward-only saga that gives a redemption back. Writing it is the point of no return: the same transaction moves
/// the redemption, by a compare-and-set, to `reversing`.
#[must_use]
pub fn saga(redemption: &Returnable, why: ReturnReason) -> NewSaga<Sagas> {
    let legs = match &redemption.plan {
        Plan::Redeem(plan) => plan.legs_to_return(),
        _ => Vec::new(),
    };
    // One return a redemption, whoever asks for it first: its key is the redemption's, in the redemption's own namespace.
    let key = Key {
        business_id: redemption.business_id.as_str().to_owned(),
        operation: OPERATION.to_owned(),
        scope: redemption.id.to_string(),
        key: redemption.key.clone(),
    };
    let plan = Plan::Return(ReturnPlan {
        redemption_id: redemption.id,
        why,
        of: LegsId(redemption.legs_id),
        legs,
        answer: None,
    });
    NewSaga {
        id: SagaId(fresh_id(Bucket::of_id(redemption.id))),
        request_hash: None,
        kind: Kind::ForwardOnly,
        // Its own: the legs that it cancels are the redemption's, and named in its plan.
        legs_id: LegsId::of_child(&redemption.business_id, OPERATION, redemption.id, &key.key).0,
        key,
        parent_id: Some(SagaId(redemption.id)),
        change: Change::started_by(&plan),
        plan: Arc::new(plan),
        deadline: DEADLINE,
        trace_id: trace::current().map(|trace| trace.id()),
        begin: Begin::Run,
        // A hold that ran out leaves its key as it is: the till's retry still hears what it was told.
        cancel_parent_key: why != ReturnReason::HoldExpired,
    }
}

/// Has a redemption given back as soon as what it is in the middle of is done. False if it is in the middle of nothing.
///
/// # Errors
/// Of the database.
pub async fn request(pool: &PgPool, id: Uuid) -> sqlx::Result<bool> {
    let marked = sqlx::query(
        "UPDATE wallet.redemption SET cancel_requested = true
         WHERE redemption_id = $1 AND status IN ('capturing', 'reversing', 'under_review')",
    )
    .bind(id)
    .execute(pool)
    .await?;
    Ok(marked.rows_affected() == 1)
}

/// Gives back what is held past its time by this database's clock, and what was asked back while it was being captured.
/// Any instance may; one wins.
pub async fn sweep(app: App) {
    loop {
        tokio::time::sleep(SWEEP).await;
        match due(&app.pool).await {
            Ok(due) => give_back(&app, due).await,
            Err(error) => tracing::warn!(%error, "could not look for what is due to go back"),
        }
    }
}

async fn give_back(app: &App, due: Vec<(Returnable, bool)>) {
    for (redemption, is_requested) in due {
        let why = match (is_requested, redemption.status) {
            (true, RedemptionStatus::Authorized) => ReturnReason::Void,
            (true, _) => ReturnReason::Reversal,
            (false, _) => ReturnReason::HoldExpired,
        };
        if let Ok(Submitted::Running) = app.engine.submit(saga(&redemption, why)).await {
            counter!("wallet_swept_total", "why" => if is_requested { "requested" } else { "hold_expired" })
                .increment(1);
        }
    }
}

async fn due(pool: &PgPool) -> sqlx::Result<Vec<(Returnable, bool)>> {
    let rows = sqlx::query(concat!(
        // Each half reads an index of its own from the beginning: together they would read every redemption there is. What a newer
        // release has planned is that release's to sweep, and must not fill the page.
        "WITH due AS MATERIALIZED (
             (SELECT r.redemption_id FROM wallet.redemption r JOIN saga.saga s ON s.saga_id = r.redemption_id
              WHERE r.status = 'authorized' AND r.hold_expires_at < clock_timestamp() AND s.version = ANY ($2)
              ORDER BY r.hold_expires_at LIMIT $1)
             UNION
             (SELECT r.redemption_id FROM wallet.redemption r JOIN saga.saga s ON s.saga_id = r.redemption_id
              WHERE r.cancel_requested AND r.status IN ('authorized', 'completed', 'partially_refunded')
                AND s.version = ANY ($2)
              ORDER BY r.redemption_id LIMIT $1)) ",
        returnable!(),
        "WHERE r.redemption_id = ANY (ARRAY(SELECT redemption_id FROM due)) ORDER BY r.redemption_id"
    ))
    .bind(SWEEP_MAX)
    .bind(VERSIONS)
    .fetch_all(pool)
    .await?;
    let mut due = Vec::with_capacity(rows.len());
    for row in rows {
        // One row that this version cannot read must not keep the others.
        match read(&row) {
            Ok(redemption) => due.push((redemption, row.try_get("cancel_requested")?)),
            Err(error) => tracing::error!(%error, "a redemption that is due to go back cannot be read"),
        }
    }
    Ok(due)
}
