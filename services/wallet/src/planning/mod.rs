//! Which tender covers how much: pure functions over what was asked and, where that is needed, what was read.

mod choose;
mod named;
mod request;

use std::collections::HashMap;

use api::{
    Code, Problem,
    legs::Take,
    rewards::Resolved,
    wallet::{HOLD_DEFAULT_S, RedeemRequest, TenderKind},
};
use chrono::{DateTime, Utc};
use money::{PointValue, Rounding};
use uuid::Uuid;

pub use request::{Reward, Tender, Want, check, deadline_ms};

use crate::plan::{PlannedLeg, RedeemPlan};

/// Why a request is not planned: a 400 for what makes no sense, a business refusal otherwise.
pub type Refusal = Box<Problem>;

/// What was read before planning: nothing, unless [`Needs`] says otherwise.
#[derive(Debug, Default)]
pub struct Wallet {
    /// Spendable lots by tender.
    pub lots: HashMap<TenderKind, Vec<SpendableLot>>,
    /// Rewards that were named by their codes, by position in the request.
    pub resolved: HashMap<usize, Resolved>,
}

/// A lot with spendable value, in the redemption's currency or in points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpendableLot {
    /// Units.
    pub remaining: i64,
    /// When it expires.
    pub expires_at: Option<DateTime<Utc>>,
    /// The reward that it is.
    pub reward_id: Option<Uuid>,
}

/// What has to be read before a request can be planned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Balances of these tenders.
    pub balances: Vec<TenderKind>,
    /// Codes, by position in the request.
    pub codes: Vec<(usize, String)>,
}

impl Needs {
    /// Whether nothing has to be read: the legs decide.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.balances.is_empty() && self.codes.is_empty()
    }
}

/// Says what has to be read: balances only for caps and where no tenders are named, and codes.
#[must_use]
pub fn needs(tenders: Option<&[Tender]>) -> Needs {
    let Some(tenders) = tenders else {
        return Needs { balances: TenderKind::ALL.to_vec(), codes: Vec::new() };
    };
    let mut needs = Needs::default();
    for (position, tender) in tenders.iter().enumerate() {
        if let Want::UpTo(_) = tender.want
            && !needs.balances.contains(&tender.kind)
        {
            needs.balances.push(tender.kind);
        }
        if let Some(Reward::Code(code)) = &tender.reward {
            needs.codes.push((position, code.clone()));
        }
    }
    needs
}

/// Plans a redemption.
///
/// # Errors
/// The business refusal, to be recorded under the key.
pub fn plan(
    business: &api::BusinessId,
    request: &RedeemRequest,
    tenders: Option<&[Tender]>,
    wallet: &Wallet,
) -> Result<RedeemPlan, Refusal> {
    if let Some(cart) = &request.cart
        && request.amount > cart.subtotal
    {
        return Err(refusal(
            Code::AmountExceedsSubtotal,
            "The amount is above the cart's subtotal.",
            Some(cart.subtotal),
            request,
        ));
    }
    let value = PointValue::hundredth(request.currency);
    let take = if request.allow_partial { Take::AtMost } else { Take::Exact };
    let context = Context { business, request, value, take };
    let legs = match tenders {
        Some(tenders) => named::legs(&context, tenders, wallet)?,
        None => choose::legs(&context, request.strategy.unwrap_or_default(), wallet)?,
    };
    Ok(RedeemPlan {
        customer_id: request.customer_id.as_str().to_owned(),
        order_id: request.order_id.clone(),
        currency: request.currency,
        amount: request.amount,
        capture: request.capture,
        hold_ttl_s: request.hold_ttl_s.unwrap_or(HOLD_DEFAULT_S),
        metadata: request.metadata.clone(),
        legs,
    })
}

/// What all parts of a plan have in common.
struct Context<'a> {
    business: &'a api::BusinessId,
    request: &'a RedeemRequest,
    value: PointValue,
    take: Take,
}

impl Context<'_> {
    fn leg(
        &self,
        position: usize,
        tender: TenderKind,
        units: i64,
        amount: i64,
    ) -> Result<PlannedLeg, Refusal> {
        let asset = match tender {
            TenderKind::Points => money::Asset::Points,
            _ => money::Asset::Money(self.request.currency),
        };
        let account = api::legs::Account {
            business_id: self.business.clone(),
            customer_id: self.request.customer_id.as_str().to_owned(),
            asset,
        };
        let leg = u16::try_from(position).map_err(|_| Box::new(Problem::invalid("/tenders", "too many")))?;
        let rate = (tender == TenderKind::Points).then(|| self.value.rate());
        let step = if tender == TenderKind::Points { self.points_for(1)?.max(1) } else { 1 };
        Ok(PlannedLeg {
            leg,
            tender,
            account,
            units,
            amount,
            take: self.take,
            step,
            rate,
            reward_id: None,
            last_four: None,
        })
    }

    /// The fewest points that are worth so many minor units.
    fn points_for(&self, minor: i64) -> Result<i64, Refusal> {
        let points = self.value.points(minor, Rounding::Up);
        points.map_err(|_| self.refuse(Code::TendersDoNotCover, "The points are above any amount.", None))
    }

    /// What points are worth in minor units, and the fewest points that are worth as much; neither above `left`.
    fn points_up_to(&self, points: i64, left: i64) -> Result<(i64, i64), Refusal> {
        let out_of_range = |_| self.refuse(Code::TendersDoNotCover, "The points are above any amount.", None);
        let worth = self.value.minor_units(points, Rounding::Down).map_err(out_of_range)?.min(left);
        let needed = self.points_for(worth)?;
        // Where a point is worth more than a minor unit, the last one would cover more than is left.
        if needed <= points && self.value.minor_units(needed, Rounding::Down).map_err(out_of_range)? <= left {
            return Ok((needed, worth));
        }
        let points = self.value.points(worth, Rounding::Down).map_err(out_of_range)?.min(points);
        let worth = self.value.minor_units(points, Rounding::Down).map_err(out_of_range)?;
        Ok((points, worth))
    }

    fn refuse(&self, code: Code, detail: &'static str, available: Option<i64>) -> Refusal {
        refusal(code, detail, available, self.request)
    }
}

fn refusal(code: Code, detail: &'static str, available: Option<i64>, request: &RedeemRequest) -> Refusal {
    let mut problem = Problem::new(code, detail);
    problem.available = available;
    problem.required = Some(request.amount);
    Box::new(problem)
}

#[cfg(test)]
mod tests;
