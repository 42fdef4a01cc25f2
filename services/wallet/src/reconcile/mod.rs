//! Comparing tenders' legs with sagas: what the wallet's database has forgotten is found. Tenders are asked; they never call up.
//!
//! A wallet database that fails over may lose its tail, and with it sagas whose legs took value. A till that retries its key meets
//! its own legs again, since their id is derived from the key. What nobody retries is found here:
//! - legs that are applied ([`applied`]) become parked sagas (`orphan_leg`) for an operator, and are never undone by themselves;
//! - legs that are held past their end ([`held`]) are given back, or parked, within a minute.

use std::collections::HashSet;

use api::{legs::LegInForce, wallet::TenderKind};
use metrics::counter;
use saga::Orphan;
use uuid::Uuid;

use crate::{
    app::App,
    plan::{OrphanPlan, Plan, ReturnLeg},
};

mod applied;
mod held;

pub use applied::compare_legs;
pub use held::end_lost_holds;

/// Legs of a page: as many as a tender gives.
const PAGE: u32 = 200;

/// The ids of a page's legs, each once.
fn ids<'a>(legs: impl Iterator<Item = &'a LegInForce>) -> Vec<Uuid> {
    legs.map(|leg| leg.key.legs_id.0).collect::<HashSet<_>>().into_iter().collect()
}

/// Names a leg, so that it is parked once, whichever process finds it.
fn name(kind: TenderKind, leg: &LegInForce) -> String {
    format!("{} {}/{}", kind.as_str(), leg.key.legs_id, leg.key.leg)
}

/// Parks a leg as a dead letter whose replay gives it back. False if it is parked already.
async fn park(app: &App, kind: TenderKind, leg: &LegInForce) -> anyhow::Result<bool> {
    let plan = Plan::Orphan(OrphanPlan {
        of: leg.key.legs_id,
        legs: vec![ReturnLeg { leg: leg.key.leg, tender: kind, account: leg.account.clone() }],
    });
    let orphan = Orphan {
        business_id: leg.account.business_id.as_str().to_owned(),
        name: name(kind, leg),
        legs_id: leg.key.legs_id.0,
        participant: kind.as_str().to_owned(),
        plan,
        detail: serde_json::to_value(leg)?,
    };
    let is_parked = app.engine.park_orphan(&orphan).await?;
    if is_parked {
        counter!("wallet_orphan_legs_total", "tender" => kind.as_str()).increment(1);
        tracing::error!(tender = kind.as_str(), legs_id = %leg.key.legs_id, leg = leg.key.leg, "a leg in force belongs to no saga that would end it; parked");
    }
    Ok(is_parked)
}
