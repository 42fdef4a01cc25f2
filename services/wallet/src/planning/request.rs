//! A redeem request that makes sense: everything that can be said without knowing the wallet.

use api::{
    Problem,
    derive::BEARER,
    id::is_visible_ascii,
    wallet::{RedeemRequest, TenderKind, TenderRequest},
};
use uuid::Uuid;

use super::Refusal;

/// Most tenders in one redemption.
pub const TENDERS_MAX: usize = 10;
const HOLD_MAX_S: i64 = 30 * 24 * 3_600;
const DEADLINE_DEFAULT_MS: u64 = 5_000;

/// How much of a tender is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Exactly so many units.
    Exactly(i64),
    /// At most so many units.
    UpTo(i64),
    /// Whatever the others leave.
    TheRest,
}

/// Which reward is meant.
#[derive(Clone, PartialEq, Eq)]
pub enum Reward {
    /// By id.
    Id(Uuid),
    /// By the code printed on it.
    Code(String),
}

/// Without the code, which is worth money to whoever reads it in a log.
impl std::fmt::Debug for Reward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "Id({id})"),
            Self::Code(_) => f.write_str("Code(…)"),
        }
    }
}

/// A tender that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tender {
    /// Which kind.
    pub kind: TenderKind,
    /// How much of it.
    pub want: Want,
    /// For rewards: which one.
    pub reward: Option<Reward>,
}

/// Checks a request's fields and reads its tenders; `None`: it names none.
///
/// # Errors
/// A 400 that points at the field.
pub fn check(request: &RedeemRequest) -> Result<Option<Vec<Tender>>, Refusal> {
    let invalid = |pointer: &str, detail: &str| Err(Box::new(Problem::invalid(pointer, detail)));
    if request.customer_id.as_str().starts_with(BEARER) {
        return invalid("/customer_id", "names no customer"); // digital-rewards calls the owners of bearers' rewards so
    }
    let ids = [
        ("/order_id", Some(&request.order_id)),
        ("/location_id", request.location_id.as_ref()),
        ("/terminal_id", request.terminal_id.as_ref()),
        ("/operator_id", request.operator_id.as_ref()),
    ];
    for (pointer, id) in ids {
        if id.is_some_and(|id| !is_visible_ascii(id, 128)) {
            return invalid(pointer, "must be 1 to 128 visible ASCII characters");
        }
    }
    if request.amount < 1 {
        return invalid("/amount", "must be at least 1");
    }
    if request.sequence.is_some_and(|sequence| sequence < 0) {
        return invalid("/sequence", "must not be negative");
    }
    if !(500..=30_000).contains(&deadline_ms(request)) {
        return invalid("/deadline_ms", "must be 500 to 30000");
    }
    if let Some(ttl) = request.hold_ttl_s
        && (request.capture == api::wallet::Capture::Automatic || !(1..=HOLD_MAX_S).contains(&ttl))
    {
        return invalid("/hold_ttl_s", "must be 1 to 2592000, and goes with capture manual");
    }
    if let Some(cart) = &request.cart
        && (cart.subtotal < 0 || cart.tax < 0)
    {
        return invalid("/cart", "must not be negative");
    }
    let Some(tenders) = &request.tenders else { return Ok(None) };
    if request.strategy.is_some() {
        return invalid("/strategy", "goes without tenders");
    }
    if tenders.is_empty() || tenders.len() > TENDERS_MAX {
        return invalid("/tenders", "must have 1 to 10 items");
    }
    let read = tenders
        .iter()
        .enumerate()
        .map(|(i, t)| tender(t, &format!("/tenders/{i}")))
        .collect::<Result<Vec<_>, _>>()?;
    if read.iter().filter(|t| t.want == Want::TheRest).count() > 1 {
        return invalid("/tenders", "at most one tender takes the rest");
    }
    Ok(Some(read))
}

/// How long the caller waits.
#[must_use]
pub fn deadline_ms(request: &RedeemRequest) -> u64 {
    request.deadline_ms.unwrap_or(DEADLINE_DEFAULT_MS)
}

fn tender(request: &TenderRequest, at: &str) -> Result<Tender, Refusal> {
    let invalid = |field: &str, detail: &str| Err(Box::new(Problem::invalid(format!("{at}{field}"), detail)));
    let is_points = request.kind == TenderKind::Points;
    let (exact, cap, foreign) = if is_points {
        (request.points, request.max_points, request.amount.is_some() || request.max_amount.is_some())
    } else {
        (request.amount, request.max_amount, request.points.is_some() || request.max_points.is_some())
    };
    if foreign {
        return invalid("", "points are counted in points, other tenders in amount");
    }
    let (exact_name, cap_name) =
        if is_points { ("/points", "/max_points") } else { ("/amount", "/max_amount") };
    let want = match (exact, cap) {
        (Some(_), Some(_)) => return invalid(cap_name, "goes without an exact amount"),
        (Some(units), None) if units < 1 => return invalid(exact_name, "must be at least 1"),
        (None, Some(units)) if units < 1 => return invalid(cap_name, "must be at least 1"),
        (Some(units), None) => Want::Exactly(units),
        (None, Some(units)) => Want::UpTo(units),
        (None, None) => Want::TheRest,
    };
    let reward = match (request.kind, request.reward_id, &request.code) {
        (TenderKind::DigitalReward, Some(id), None) => Some(Reward::Id(id)),
        (TenderKind::DigitalReward, None, Some(code)) if is_visible_ascii(code, 64) => {
            Some(Reward::Code(code.clone()))
        }
        (TenderKind::DigitalReward, None, Some(_)) => {
            return invalid("/code", "must be 1 to 64 visible ASCII characters");
        }
        (TenderKind::DigitalReward, _, _) => {
            return invalid("", "a digital reward needs either reward_id or code");
        }
        (_, None, None) => None,
        _ => return invalid("", "only a digital reward has reward_id or code"),
    };
    Ok(Tender { kind: request.kind, want, reward })
}
