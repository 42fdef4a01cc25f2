//! Reversing a whole redemption: asked for by its key, as a void, or because its hold has ended.

use std::{sync::Arc, time::Duration};

use api::{
    BusinessId, LegsId,
    derive::{Bucket, fresh_id},
    wallet::RedemptionStatus,
};
use saga::{Begin, Engine, Key, NewSaga, SagaId, machine::Kind};
use service::trace;
use sqlx::{PgPool, Row, postgres::PgRow};
use uuid::Uuid;

use crate::{
    plan::{Plan, PlannedLeg, RedeemPlan, ReversalPlan, ReversalReason},
    redemption::{Change, status::read_status},
    sagas::Sagas,
};

/// A forward-only saga is never compensated, so its deadline is nobody's.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// The operation's name in keys.
const OPERATION: &str = "reversal";

/// A redemption with the plan that made it.
#[derive(Debug)]
pub struct Reversible {
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
    /// Whether it was asked back, and is to go back as soon as that can be begun.
    pub is_cancelled: bool,
    key: String,
}

/// The columns that [`read`] expects.
macro_rules! reversible {
    () => {
        "SELECT r.redemption_id, r.business_id, r.status, s.plan, s.legs_id, s.key,
             coalesce(r.hold_expires_at <= clock_timestamp(), false), r.cancel_requested, s.version, r.hold_expires_at
         FROM wallet.redemption r JOIN saga.saga s ON s.saga_id = r.redemption_id "
    };
}
pub(crate) use reversible;

/// A redemption of a business, to be reversed.
///
/// # Errors
/// Of the database.
pub async fn load(pool: &PgPool, business: &BusinessId, id: Uuid) -> sqlx::Result<Option<Reversible>> {
    sqlx::query(concat!(reversible!(), "WHERE r.business_id = $1 AND r.redemption_id = $2"))
        .bind(business.as_str())
        .bind(id)
        .fetch_optional(pool)
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

/// A row of [`reversible`].
///
/// # Errors
/// When this version cannot read it.
pub(crate) fn read(row: &PgRow) -> sqlx::Result<Reversible> {
    Ok(Reversible {
        id: row.try_get(0)?,
        business_id: BusinessId::try_from(row.try_get::<String, _>(1)?)
            .map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
        status: read_status(row.try_get(2)?)?,
        plan: Plan::read(row.try_get("version")?, row.try_get(3)?)?,
        legs_id: row.try_get(4)?,
        key: row.try_get(5)?,
        is_over: row.try_get(6)?,
        is_cancelled: row.try_get("cancel_requested")?,
    })
}

impl Reversible {
    /// The plan that took or holds its value; `None` where nothing ever did.
    #[must_use]
    pub const fn redeem(&self) -> Option<&RedeemPlan> {
        match &self.plan {
            Plan::Redeem(plan) => Some(plan),
            Plan::Reversal(_) | Plan::Capture(_) | Plan::Nothing | Plan::Orphan(_) => None,
        }
    }

    /// Whether too much waits for one of its tenders for one more saga that waits for it.
    #[must_use]
    pub fn is_short_of_room(&self, engine: &Engine<Sagas>) -> bool {
        let business = self.business_id.as_str();
        let is_full = |leg: &PlannedLeg| engine.is_full_to_go_on(leg.tender.as_str(), business);
        self.redeem().is_some_and(|plan| plan.legs.iter().any(is_full))
    }
}

/// The forward-only saga that gives a redemption back; `None` where there is nothing to give back. Writing it is the point of no
/// return: the same transaction moves the redemption, by a compare-and-set, to `reversing`.
#[must_use]
pub fn saga(redemption: &Reversible, why: ReversalReason) -> Option<NewSaga<Sagas>> {
    let legs = redemption.redeem()?.legs_to_reverse();
    // One reversal a redemption, be it asked for by a till, an app or the end of the hold: its key is the redemption's, in the
    // redemption's own namespace.
    let key = Key {
        business_id: redemption.business_id.as_str().to_owned(),
        operation: OPERATION.to_owned(),
        scope: redemption.id.to_string(),
        key: redemption.key.clone(),
    };
    let plan = Plan::Reversal(ReversalPlan {
        redemption_id: redemption.id,
        why,
        of: LegsId(redemption.legs_id),
        legs,
        answer: None,
    });
    Some(NewSaga {
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
        cancel_parent_key: why != ReversalReason::HoldExpired,
    })
}

/// Has a redemption given back by the sweep: as soon as what it is in the middle of is done, and there is room with its tenders. False
/// if nothing of it is in force or under way.
///
/// # Errors
/// Of the database.
pub async fn request(pool: &PgPool, id: Uuid) -> sqlx::Result<bool> {
    let mark = || {
        sqlx::query(
            "WITH free AS (
                 SELECT redemption_id FROM wallet.redemption
                 WHERE redemption_id = $1
                   AND status IN ('authorized', 'completed', 'partially_refunded', 'capturing', 'reversing', 'under_review')
                 FOR NO KEY UPDATE NOWAIT
             )
             UPDATE wallet.redemption r SET cancel_requested = true FROM free WHERE r.redemption_id = free.redemption_id",
        )
        .bind(id)
        .execute(pool)
    };
    let marked = saga::past_locks(mark).await?;
    Ok(marked.rows_affected() == 1)
}
