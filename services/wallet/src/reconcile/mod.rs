//! Comparing tenders' legs with sagas: what the wallet's database has forgotten is found. Tenders are asked; they never call up.
//!
//! A wallet database that fails over may lose its tail, and with it sagas whose legs took value. A till that retries its key meets
//! its own legs again, since their id is derived from the key. What nobody retries is found here:
//! - legs that are applied ([`applied`]) become parked sagas (`orphan_leg`) for an operator, and are never undone by themselves;
//! - legs that are held past their end ([`held`]) are given back, or parked, within a minute.

use api::{
    derive::{Bucket, fresh_id, orphan_key},
    legs::{Account, LegKey},
    wallet::TenderKind,
};
use metrics::counter;
use saga::{Orphan, SagaId, in_time};
use serde::Serialize;

use crate::{
    app::App,
    plan::{LegRef, OrphanPlan, Plan},
};

mod applied;
mod held;

pub use applied::compare_legs;
pub use held::end_lost_holds;

/// Legs of a page: as many as a tender gives.
const PAGE: u32 = 200;

/// A leg that a tender has.
struct Leg<'a> {
    tender: TenderKind,
    key: LegKey,
    account: &'a Account,
}

impl Leg<'_> {
    fn business(&self) -> &str {
        self.account.business_id.as_str()
    }

    /// Names the leg, so that it is parked once, whichever process finds it.
    fn name(&self) -> String {
        orphan_key(self.tender.as_str(), self.key.legs_id, self.key.leg)
    }

    /// Parks it as a dead letter whose replay gives it back; `told` is what its tender tells of it, `has_outlived` that
    /// sagas know it and are all over. False if it is parked already.
    async fn park(&self, app: &App, has_outlived: bool, told: &impl Serialize) -> anyhow::Result<bool> {
        let Self { tender, key, account } = *self;
        let legs = vec![LegRef { leg: key.leg, tender, account: account.clone() }];
        let orphan = Orphan {
            id: SagaId(fresh_id(Bucket::of_key(key.legs_id))),
            business_id: self.business().to_owned(),
            name: self.name(),
            legs_id: key.legs_id.0,
            has_outlived,
            participant: tender.as_str().to_owned(),
            plan: Plan::Orphan(OrphanPlan { of: key.legs_id, legs }),
            detail: serde_json::to_value(told)?,
        };
        let is_parked = in_time(app.engine.park_orphan(&orphan)).await?;
        if is_parked {
            let tender = tender.as_str();
            counter!("wallet_orphan_legs_total", "tender" => tender).increment(1);
            tracing::error!(tender, legs_id = %key.legs_id, leg = key.leg, "a leg in force belongs to no saga that would end it; parked");
        }
        Ok(is_parked)
    }
}
