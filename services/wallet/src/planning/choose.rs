//! Tenders that the wallet chooses, because the request names none.

use api::{
    Code,
    wallet::{Strategy, TenderKind},
};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Context, Refusal, Wallet, request::TENDERS_MAX};
use crate::plan::PlannedLeg;

struct Candidate {
    kind: TenderKind,
    reward_id: Option<Uuid>,
    remaining: i64,
    expires_at: Option<DateTime<Utc>>,
}

/// Takes lots in the strategy's order until the amount is covered. Points make one leg, store credit another, each
/// reward one of its own.
pub(super) fn legs(
    context: &Context<'_>,
    strategy: Strategy,
    wallet: &Wallet,
) -> Result<Vec<PlannedLeg>, Refusal> {
    let amount = context.request.amount;
    let mut left = amount;
    let mut legs: Vec<PlannedLeg> = Vec::new();
    // Points by the leg that they make: lots that are each worth nothing may be worth something together.
    let mut points = 0_i64;
    for lot in in_order(strategy, wallet) {
        if left == 0 {
            break;
        }
        let known = legs.iter().position(|leg| leg.tender == lot.kind && leg.reward_id == lot.reward_id);
        let before = known.map_or(0, |leg| legs[leg].amount);
        let (units, amount) = if lot.kind == TenderKind::Points {
            points = points.saturating_add(lot.remaining);
            context.points_up_to(points, left.saturating_add(before))?
        } else {
            let covered = before.saturating_add(lot.remaining.min(left));
            (covered, covered)
        };
        if amount == before {
            continue;
        }
        match known {
            Some(leg) => (legs[leg].units, legs[leg].amount) = (units, amount),
            None if legs.len() < TENDERS_MAX => {
                let mut leg = context.leg(legs.len(), lot.kind, units, amount)?;
                leg.reward_id = lot.reward_id;
                legs.push(leg);
            }
            None => continue,
        }
        left -= amount - before;
    }
    if legs.is_empty() || (left > 0 && !context.request.allow_partial) {
        return Err(context.refuse(
            Code::InsufficientBalance,
            "The wallet does not cover the amount.",
            Some(amount - left),
        ));
    }
    Ok(legs)
}

fn in_order(strategy: Strategy, wallet: &Wallet) -> Vec<Candidate> {
    let mut lots: Vec<_> = TenderKind::ALL
        .into_iter()
        .flat_map(|kind| {
            let lots = wallet.lots.get(&kind).map_or(&[][..], Vec::as_slice);
            lots.iter().map(move |lot| Candidate {
                kind,
                reward_id: lot.reward_id,
                remaining: lot.remaining,
                expires_at: lot.expires_at,
            })
        })
        .collect();
    // Lots come in each tender's own order; both sorts are stable, so that order stands among equals.
    let never = DateTime::<Utc>::MAX_UTC;
    match strategy {
        Strategy::ExpiringFirst => lots.sort_by_key(|lot| lot.expires_at.unwrap_or(never)),
        Strategy::MerchantOrder => lots.sort_by_key(|lot| lot.kind),
    }
    lots
}
