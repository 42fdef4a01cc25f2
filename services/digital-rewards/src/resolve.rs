//! `POST /internal/v1/rewards/resolve`: which reward a code or an id means, if this customer may spend it.

use api::{
    Code, Problem,
    rewards::{Resolve, Resolved},
};
use axum::{Json, Router, extract::State, routing::post};
use service::{ApiError, auth::Peer, json::Body};
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use crate::code::Pepper;

/// By hash or by id, in one statement that does the same work whether it finds something or not.
const FIND: &str = "
SELECT c.reward_id, c.last_four, a.owner, a.asset, l.remaining AS available
FROM tender.reward_code c
JOIN tender.lot l ON l.reward_id = c.reward_id
JOIN tender.account a ON a.account_no = l.account_no
WHERE c.business_id = $1 AND (c.code_hmac = $2 OR c.reward_id = $3) AND NOT c.blocked
  AND a.business_id = $1 AND a.owner IN ($4, 'bearer:' || c.reward_id)
  AND NOT l.spent AND coalesce(l.grace_until, l.expires_at, 'infinity') > clock_timestamp()";

#[derive(Debug, Clone)]
struct Resolver {
    pool: PgPool,
    pepper: Pepper,
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
pub fn routes(pool: PgPool, pepper: Pepper) -> Router {
    Router::new()
        .route("/internal/v1/rewards/resolve", post(resolve_reward))
        .with_state(Resolver { pool, pepper })
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
    let hash = asked.code.as_deref().and_then(|code| resolver.pepper.hash(&asked.business_id, code));
    let row: Option<Row> = sqlx::query_as(FIND)
        .bind(asked.business_id.as_str())
        .bind(hash.as_ref().map(<[u8; 32]>::as_slice))
        .bind(asked.reward_id)
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
