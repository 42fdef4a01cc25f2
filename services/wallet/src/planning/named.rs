//! Tenders that the request names.

use std::collections::HashMap;

use api::{Code, Problem, wallet::TenderKind};
use money::Rounding;
use uuid::Uuid;

use super::{Context, Refusal, Reward, SpendableLot, Tender, Wallet, Want};
use crate::plan::PlannedLeg;

/// Exact amounts first, then caps in request order out of what is there, then the one that takes the rest.
pub(super) fn legs(
    context: &Context<'_>,
    tenders: &[Tender],
    wallet: &Wallet,
) -> Result<Vec<PlannedLeg>, Refusal> {
    let amount = context.request.amount;
    let mut left = amount;
    for tender in tenders {
        if let Want::Exactly(units) = tender.want {
            let worth = worth(context, tender.kind, units)?;
            left = left
                .checked_sub(worth)
                .filter(|left| *left >= 0)
                .ok_or_else(|| does_not_cover(context, "The tenders are above the amount."))?;
        }
    }
    let mut unspent = Unspent::new(wallet);
    let mut legs = Vec::with_capacity(tenders.len());
    for (position, tender) in tenders.iter().enumerate() {
        let (units, worth) = match tender.want {
            Want::Exactly(units) => (units, worth(context, tender.kind, units)?),
            Want::UpTo(cap) => {
                let there = unspent.of(tender, wallet.resolved.get(&position).map(|r| r.reward_id));
                let taken = up_to(context, tender.kind, cap.min(there), left)?;
                unspent.spend(tender, wallet.resolved.get(&position).map(|r| r.reward_id), taken.0);
                left -= taken.1;
                taken
            }
            Want::TheRest => (0, 0),
        };
        legs.push(leg(context, position, tender, units, worth, wallet)?);
    }
    if let Some(position) = tenders.iter().position(|t| t.want == Want::TheRest) {
        (legs[position].units, legs[position].amount) = the_rest(context, tenders[position].kind, left)?;
        left = 0;
    }
    legs.retain(|leg| leg.units > 0);
    let capped = tenders.iter().any(|t| matches!(t.want, Want::UpTo(_)));
    match (left, capped, context.request.allow_partial) {
        (1.., false, _) => {
            Err(does_not_cover(context, "The tenders are below the amount, and none takes the rest."))
        }
        (1.., true, false) => Err(context.refuse(
            Code::InsufficientBalance,
            "The capped tenders do not cover the rest.",
            Some(amount - left),
        )),
        _ if legs.is_empty() => {
            Err(context.refuse(Code::InsufficientBalance, "There is nothing to take.", Some(0)))
        }
        _ => Ok(legs),
    }
}

fn leg(
    context: &Context<'_>,
    position: usize,
    tender: &Tender,
    units: i64,
    amount: i64,
    wallet: &Wallet,
) -> Result<PlannedLeg, Refusal> {
    let mut leg = context.leg(position, tender.kind, units, amount)?;
    match &tender.reward {
        Some(Reward::Id(id)) => leg.reward_id = Some(*id),
        Some(Reward::Code(_)) => {
            let resolved = wallet
                .resolved
                .get(&position)
                .ok_or_else(|| Box::new(Problem::new(Code::RewardNotUsable, "The reward cannot be used.")))?;
            if resolved.asset != leg.account.asset {
                return Err(context.refuse(
                    Code::CurrencyMismatch,
                    "The reward is in another currency.",
                    None,
                ));
            }
            leg.reward_id = Some(resolved.reward_id);
            leg.last_four = Some(resolved.last_four.clone());
            leg.account.customer_id.clone_from(&resolved.owner);
        }
        None => {}
    }
    Ok(leg)
}

/// What units of a tender are worth in minor units. Points whose worth is below one minor unit buy nothing.
fn worth(context: &Context<'_>, kind: TenderKind, units: i64) -> Result<i64, Refusal> {
    if kind != TenderKind::Points {
        return Ok(units);
    }
    let worth = context
        .value
        .minor_units(units, Rounding::Down)
        .map_err(|_| does_not_cover(context, "The points are above any amount."))?;
    if worth < 1 {
        return Err(context.refuse(
            Code::BelowMinimum,
            "So few points are worth nothing in this currency.",
            None,
        ));
    }
    Ok(worth)
}

/// As many units as cover `left`, at most `cap`; (units, worth).
fn up_to(context: &Context<'_>, kind: TenderKind, cap: i64, left: i64) -> Result<(i64, i64), Refusal> {
    if kind != TenderKind::Points {
        let units = cap.min(left);
        return Ok((units, units));
    }
    context.points_up_to(cap, left)
}

/// The rest, covered in full: points are rounded up, since half a point cannot be taken.
fn the_rest(context: &Context<'_>, kind: TenderKind, left: i64) -> Result<(i64, i64), Refusal> {
    if kind != TenderKind::Points {
        return Ok((left, left));
    }
    let points = context
        .value
        .points(left, Rounding::Up)
        .map_err(|_| does_not_cover(context, "The points are above any amount."))?;
    Ok((points, left))
}

fn does_not_cover(context: &Context<'_>, detail: &'static str) -> Refusal {
    context.refuse(Code::TendersDoNotCover, detail, None)
}

/// What is there, less what tenders before in the request take.
struct Unspent<'a> {
    wallet: &'a Wallet,
    spent: HashMap<(TenderKind, Option<Uuid>), i64>,
}

impl<'a> Unspent<'a> {
    fn new(wallet: &'a Wallet) -> Self {
        Self { wallet, spent: HashMap::new() }
    }

    fn of(&self, tender: &Tender, resolved: Option<Uuid>) -> i64 {
        let reward = reward_id(tender, resolved);
        let lots = self.wallet.lots.get(&tender.kind).map_or(&[][..], Vec::as_slice);
        let mine = |lot: &&SpendableLot| reward.is_none() || lot.reward_id == reward;
        let there = lots.iter().filter(mine).fold(0_i64, |sum, lot| sum.saturating_add(lot.remaining));
        // A bearer's reward is in no customer's account: what its code was resolved to says what is there.
        let by_code = resolved
            .and_then(|id| self.wallet.resolved.values().find(|r| r.reward_id == id))
            .map_or(0, |r| r.available);
        there.max(by_code) - self.spent.get(&(tender.kind, reward)).copied().unwrap_or(0)
    }

    fn spend(&mut self, tender: &Tender, resolved: Option<Uuid>, units: i64) {
        *self.spent.entry((tender.kind, reward_id(tender, resolved))).or_default() += units;
    }
}

fn reward_id(tender: &Tender, resolved: Option<Uuid>) -> Option<Uuid> {
    match &tender.reward {
        Some(Reward::Id(id)) => Some(*id),
        Some(Reward::Code(_)) => resolved,
        None => None,
    }
}
