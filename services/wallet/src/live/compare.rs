//! What was missed: every few seconds the hub asks the tenders for the versions of all watched accounts, and reads those
//! that it is behind on.
//!
//! It needs no Redis: while that is away this is how changes reach clients. Nobody is asked while nobody watches.

use std::{collections::BTreeSet, time::Duration};

use api::{
    client::CallError,
    tender::{Owner, VERSIONS_MAX, VersionsRequest},
    wallet::TenderKind,
};
use futures_util::StreamExt;
use metrics::counter;

use super::{hub::Hub, line};
use crate::tenders::Tenders;

/// How often all watched accounts are compared.
const EVERY: Duration = Duration::from_secs(3);
/// Accounts that are read at once.
const READS: usize = 16;

/// Compares until dropped.
pub(super) async fn run(hub: Hub, tenders: Tenders) {
    loop {
        // Also sooner, right after Redis is back.
        let _ = tokio::time::timeout(EVERY, hub.comparison_asked_for()).await;
        hub.measure();
        let owners = hub.owners();
        if owners.is_empty() {
            continue;
        }
        counter!("hub_resyncs_total").increment(1);
        let all = TenderKind::ALL.map(|kind| compare(&hub, &tenders, kind, &owners));
        for (kind, compared) in TenderKind::ALL.into_iter().zip(futures_util::future::join_all(all).await) {
            if let Err(error) = compared {
                tracing::warn!(tender = kind.as_str(), %error, "could not compare balances");
            }
        }
    }
}

async fn compare(hub: &Hub, tenders: &Tenders, kind: TenderKind, owners: &[Owner]) -> Result<(), CallError> {
    let tender = tenders.get(kind);
    for owners in owners.chunks(VERSIONS_MAX) {
        let versions = tender.versions(&VersionsRequest { owners: owners.to_vec() }).await?;
        let behind: BTreeSet<Owner> = versions
            .accounts
            .into_iter()
            .filter(|account| hub.is_behind(&account.owner, kind, account.asset, account.version))
            .map(|account| account.owner)
            .collect();
        counter!("hub_repaired_total", "tender" => kind.as_str()).increment(behind.len() as u64);
        let reads = behind.into_iter().map(|owner| async move {
            let account = tender.account(&owner.business_id, owner.customer_id.as_str()).await?;
            for line in line::lines(&account) {
                if let Some(asset) = line.asset(kind) {
                    hub.learn(&owner, kind, asset, line.totals);
                }
            }
            Ok(())
        });
        let results: Vec<Result<(), CallError>> =
            futures_util::stream::iter(reads).buffer_unordered(READS).collect().await;
        results.into_iter().collect::<Result<(), CallError>>()?;
    }
    Ok(())
}
