//! One tender, as the wallet asks it.

use std::sync::Arc;

use api::{
    BusinessId, Code,
    client::CallError,
    history::Place,
    legs::{HoldPage, LegAction, LegAnswer, LegCommand, LegPage},
    rewards::{Resolve, Resolved},
    tender::{AccountView, EntryView, Page, Versions, VersionsRequest},
    wallet::TenderKind,
};
use money::{Asset, Currency};
use saga::DatabaseClock;
use service::auth::ServiceTokens;
use tokio_util::task::TaskTracker;

use super::{lane::Lane, observer::BalanceObserver, transport::Transport};

/// The owner of the account that a probe asks for: nobody's.
const PROBE: &str = "probe";

/// A client of one tender. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tender {
    transport: Arc<Transport>,
    forward: Lane,
    cancel: Lane,
}

impl Tender {
    /// A client whose lanes `tasks` owns.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub(super) fn init(
        kind: TenderKind,
        url: &str,
        tokens: Arc<ServiceTokens>,
        observer: Arc<dyn BalanceObserver>,
        clock: DatabaseClock,
        tasks: &TaskTracker,
    ) -> anyhow::Result<Self> {
        let transport = Arc::new(Transport::init(kind, url, tokens, observer, clock)?);
        // Cancels have a lane of their own: they must not queue behind forwards to a tender that is slow.
        let forward = Lane::start(transport.clone(), tasks);
        let cancel = Lane::start(transport.clone(), tasks);
        Ok(Self { transport, forward, cancel })
    }

    /// Sends a command to a leg, in a batch with what others send at the moment. The caller limits the time.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn command(&self, command: LegCommand) -> Result<LegAnswer, CallError> {
        let gives_back = matches!(command.action, LegAction::Cancel | LegAction::Release);
        if gives_back { self.cancel.send(command).await } else { self.forward.send(command).await }
    }

    /// Whether the tender carries out legs: a query for a leg that nobody has goes the way that they go, through its executor and
    /// a commit. Its readiness would not do: it may be ready while legs hang.
    pub async fn probe(&self) -> bool {
        let Ok(mut url) = self.transport.address(&["legs", &uuid::Uuid::nil().to_string(), "0"]) else {
            return false;
        };
        let asset = match self.transport.kind {
            TenderKind::Points => Asset::Points,
            _ => Asset::Money(Currency::USD),
        };
        url.query_pairs_mut()
            .append_pair("business_id", PROBE)
            .append_pair("customer_id", PROBE)
            .append_pair("asset", asset.as_str());
        let answer = self.transport.get_response(url).await;
        match answer {
            Ok(_) => true,
            Err(CallError::Rejected(problem)) => problem.code() == Some(Code::NotFound),
            Err(_) => false,
        }
    }

    /// How far the tender's database clock is ahead of the wallet's, in milliseconds; `None` before it is known.
    #[must_use]
    pub fn skew_ms(&self) -> Option<i64> {
        self.transport.skew_ms()
    }

    /// The account of a customer.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn account(&self, business: &BusinessId, customer: &str) -> Result<AccountView, CallError> {
        let mut url = self.transport.address(&["accounts", customer])?;
        url.query_pairs_mut().append_pair("business_id", business.as_str());
        self.transport.get(url).await
    }

    /// Entries of a customer's ledger after `place`, newest first; at most `limit`. Fewer are not the end if there is a next cursor.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn entries(
        &self,
        business: &BusinessId,
        customer: &str,
        filter: &[(&str, String)],
        place: &Place,
        limit: usize,
    ) -> Result<Page<EntryView>, CallError> {
        let mut url = self.transport.address(&["accounts", customer, "entries"])?;
        url.query_pairs_mut()
            .append_pair("business_id", business.as_str())
            .append_pair("limit", &limit.to_string())
            .append_pair("cursor", &place.to_string())
            .extend_pairs(filter);
        self.transport.get(url).await
    }

    /// Which versions the accounts of several customers have.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn versions(&self, request: &VersionsRequest) -> Result<Versions, CallError> {
        let url = self.transport.address(&["account-versions"])?;
        self.transport.ask(url, request).await
    }

    /// The reward that a code means for a customer.
    ///
    /// # Errors
    /// [`CallError`]; a reward that cannot be used is a `reward_not_usable` problem.
    pub async fn resolve(&self, resolve: &Resolve) -> Result<Resolved, CallError> {
        let url = self.transport.address(&["rewards", "resolve"])?;
        self.transport.ask(url, resolve).await
    }

    /// A page of open legs, for reconciliation.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn open_legs(&self, after: Option<&str>, limit: u32) -> Result<LegPage, CallError> {
        self.transport.page(&["legs"], after, limit).await
    }

    /// A page of holds whose end has passed by the tender's database clock.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn holds_past_end(&self, after: Option<&str>, limit: u32) -> Result<HoldPage, CallError> {
        self.transport.page(&["holds-past-end"], after, limit).await
    }
}
