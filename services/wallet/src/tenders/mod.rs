//! The three tenders, as this process reaches them.

mod client;
mod lane;
mod observer;
mod transport;

use std::{collections::HashMap, sync::Arc};

use api::wallet::TenderKind;
use saga::DatabaseClock;
use service::auth::ServiceTokens;
use tokio_util::task::TaskTracker;

pub use client::Tender;
pub use observer::BalanceObserver;

/// Where the internal listeners of the tenders are.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// Of points.
    pub points: String,
    /// Of store credit.
    pub store_credit: String,
    /// Of digital rewards.
    pub digital_rewards: String,
}

/// The tenders by kind.
#[derive(Debug, Clone)]
pub struct Tenders(Arc<HashMap<TenderKind, Tender>>);

impl Tenders {
    /// Clients with a lane each, whose tasks `tasks` owns. `observer` knows of every balance that a leg changes before its saga
    /// goes on; `clock` is the wallet database's, against which the tenders' are measured.
    ///
    /// # Errors
    /// When an HTTP client cannot be made.
    pub fn init(
        addresses: &Addresses,
        tokens: ServiceTokens,
        observer: Arc<dyn BalanceObserver>,
        clock: &DatabaseClock,
        tasks: &TaskTracker,
    ) -> anyhow::Result<Self> {
        let tokens = Arc::new(tokens);
        let tender = |kind, url: &str| {
            anyhow::Ok((
                kind,
                Tender::init(kind, url, tokens.clone(), observer.clone(), clock.clone(), tasks)?,
            ))
        };
        Ok(Self(Arc::new(HashMap::from([
            tender(TenderKind::Points, &addresses.points)?,
            tender(TenderKind::StoreCredit, &addresses.store_credit)?,
            tender(TenderKind::DigitalReward, &addresses.digital_rewards)?,
        ]))))
    }

    /// The client of a kind.
    #[must_use]
    pub fn get(&self, kind: TenderKind) -> &Tender {
        &self.0[&kind] // `init` made one of every kind
    }

    /// The client whose kind has this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Tender> {
        TenderKind::parse(name).map(|kind| self.get(kind))
    }
}
