//! `POST /internal/v1/rewards/resolve`: which reward a code or an id means, if this customer may spend it.

use api::{
    Code, Problem,
    rewards::{Resolve, Resolved},
};
use axum::{Json, Router, extract::State, routing::post};
use service::{ApiError, auth::Peer, json::Body};
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use crate::pepper::Peppers;

/// By hash under any of the peppers or by id, in one statement. Each look-up goes by its own key, also where the statement was planned
/// while the tables were empty.
const FIND: &str = "
SELECT c.reward_id, c.last_four, a.owner, a.asset, l.remaining AS available
FROM (
    SELECT code.* FROM unnest($2::bytea[]) AS asked (hash)
    CROSS JOIN LATERAL (
        SELECT reward_id, last_four, blocked FROM tender.reward_code
        WHERE business_id = $1 AND code_hmac = asked.hash OFFSET 0
    ) code
    UNION ALL
    SELECT code.* FROM unnest($3::uuid[]) AS asked (reward_id)
    CROSS JOIN LATERAL (
        SELECT reward_id, last_four, blocked FROM tender.reward_code r
        WHERE r.business_id = $1 AND r.reward_id = asked.reward_id OFFSET 0
    ) code
) c
CROSS JOIN LATERAL (SELECT * FROM tender.lot WHERE lot.reward_id = c.reward_id OFFSET 0) l
CROSS JOIN LATERAL (SELECT * FROM tender.account WHERE account.account_no = l.account_no OFFSET 0) a
WHERE NOT c.blocked AND a.business_id = $1 AND a.owner IN ($4, 'bearer:' || c.reward_id)
  AND NOT l.spent AND coalesce(l.grace_until, l.expires_at, 'infinity') > clock_timestamp()";

#[derive(Debug, Clone)]
struct Resolver {
    pool: PgPool,
    peppers: Peppers,
}

#[derive(FromRow)]
struct Row {
    reward_id: Uuid,
    last_four: String,
    owner: String,
    asset: String,
    available: i64,
}

/// The route, for the internal listener.
pub fn routes(pool: PgPool, peppers: impl Into<Peppers>) -> Router {
    Router::new()
        .route("/internal/v1/rewards/resolve", post(resolve_reward))
        .with_state(Resolver { pool, peppers: peppers.into() })
}

async fn resolve_reward(
    State(resolver): State<Resolver>,
    _: Peer,
    body: Body<Resolve>,
) -> Result<Json<Resolved>, ApiError> {
    let asked = body.value;
    if asked.code.is_some() == asked.reward_id.is_some() {
        return Err(Problem::invalid("/code", "give either code or reward_id").into());
    }
    let hashes = asked.code.as_deref().map(|code| resolver.peppers.hashes(&asked.business_id, code));
    let reward_ids: Vec<Uuid> = asked.reward_id.into_iter().collect();
    let row: Option<Row> = sqlx::query_as(FIND)
        .bind(asked.business_id.as_str())
        .bind(hashes.unwrap_or_default())
        .bind(reward_ids)
        .bind(asked.customer_id.as_str())
        .fetch_optional(&resolver.pool)
        .await?;
    let row = row.ok_or_else(|| ApiError::new(Code::RewardNotUsable, "This reward cannot be used."))?;
    Ok(Json(Resolved {
        reward_id: row.reward_id,
        asset: row.asset.parse().map_err(|error: money::MoneyError| ApiError::internal(&error))?,
        owner: row.owner,
        last_four: row.last_four,
        available: row.available,
    }))
}
