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

use super::{account_balance, hub::Hub};
use crate::tenders::{Tender, Tenders};

/// How often all watched accounts are compared.
const EVERY: Duration = Duration::from_secs(3);
/// Accounts that are read at once.
const READS: usize = 16;

/// Compares until dropped.
pub(super) async fn run(hub: Hub, tenders: Tenders) {
    for kind in TenderKind::ALL {
        counter!("hub_repaired_total", "tender" => kind.as_str()).increment(0);
        counter!("hub_compare_failed_total", "tender" => kind.as_str()).increment(0);
    }
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
        futures_util::future::join_all(all).await;
    }
}

/// Compares what is known of these owners with one tender. What cannot be read is counted and left to the next pass, and keeps
/// nobody else's balance: one owner's account, or one chunk that the tender rejects. Only a tender that does not answer ends
/// the pass.
async fn compare(hub: &Hub, tenders: &Tenders, kind: TenderKind, owners: &[Owner]) {
    let tender = tenders.get(kind);
    let mut unread = Unread::default();
    for owners in owners.chunks(VERSIONS_MAX) {
        let versions = match tender.versions(&VersionsRequest { owners: owners.to_vec() }).await {
            Ok(versions) => versions,
            Err(error @ CallError::Rejected(_)) => {
                unread.note(owners.len(), error);
                continue;
            }
            Err(error) => {
                unread.note(owners.len(), error);
                break;
            }
        };
        let behind: BTreeSet<Owner> = versions
            .accounts
            .into_iter()
            .filter(|account| hub.is_behind(&account.owner, kind, account.asset, account.version))
            .map(|account| account.owner)
            .collect();
        let reads = behind.into_iter().map(|owner| read(hub, tender, kind, owner));
        let mut results = futures_util::stream::iter(reads).buffer_unordered(READS);
        while let Some(result) = results.next().await {
            match result {
                Ok(()) => counter!("hub_repaired_total", "tender" => kind.as_str()).increment(1),
                Err(error) => unread.note(1, error),
            }
        }
    }
    unread.tell(kind);
}

async fn read(hub: &Hub, tender: &Tender, kind: TenderKind, owner: Owner) -> Result<(), CallError> {
    let account = tender.account(&owner.business_id, owner.customer_id.as_str()).await?;
    for line in account_balance::lines(&account) {
        if let Some(asset) = line.asset(kind) {
            hub.learn(&owner, kind, asset, line.totals);
        }
    }
    Ok(())
}

/// Owners of one pass that could not be compared, and the first error: one line of the log, however many there are.
#[derive(Default)]
struct Unread {
    owners: usize,
    first: Option<CallError>,
}

impl Unread {
    fn note(&mut self, owners: usize, error: CallError) {
        self.owners += owners;
        self.first.get_or_insert(error);
    }

    fn tell(self, kind: TenderKind) {
        counter!("hub_compare_failed_total", "tender" => kind.as_str()).increment(self.owners as u64);
        if let Some(error) = self.first {
            tracing::warn!(tender = kind.as_str(), owners = self.owners, %error, "could not compare balances");
        }
    }
}
