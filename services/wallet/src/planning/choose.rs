//! Tenders that the wallet chooses, because the request names none.

use api::{
    Code,
    wallet::{Strategy, TenderKind},
};
use chrono::{DateTime, Utc};
use money::Rounding;
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
    for lot in in_order(strategy, wallet) {
        if left == 0 {
            break;
        }
        let Some((units, worth)) = take(context, &lot, left) else { continue };
        let known = legs.iter_mut().find(|l| l.tender == lot.kind && l.reward_id == lot.reward_id);
        if let Some(leg) = known {
            leg.units += units;
            leg.amount += worth;
        } else if legs.len() < TENDERS_MAX {
            let mut leg = context.leg(legs.len(), lot.kind, units, worth)?;
            leg.reward_id = lot.reward_id;
            legs.push(leg);
        } else {
            continue;
        }
        left -= worth;
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

/// Units of a lot towards `left`, and their worth.
fn take(context: &Context<'_>, lot: &Candidate, left: i64) -> Option<(i64, i64)> {
    if lot.kind != TenderKind::Points {
        let units = lot.remaining.min(left);
        return (units > 0).then_some((units, units));
    }
    let units = context.value.points(left, Rounding::Down).ok()?.min(lot.remaining);
    let worth = context.value.minor_units(units, Rounding::Down).ok()?;
    (worth > 0).then_some((units, worth))
}
