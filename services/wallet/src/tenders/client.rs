//! One tender over HTTP.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use api::{
    BusinessId, Problem,
    client::CallError,
    history::Place,
    legs::{Account, HoldPage, LegAnswer, LegCommand, LegPage},
    rewards::{Resolve, Resolved},
    tender::{AccountView, EntryView, Page, Versions, VersionsRequest},
    wallet::TenderKind,
};
use fail::fail_point;
use metrics::gauge;
use money::{Asset, Currency};
use reqwest::{RequestBuilder, Response, StatusCode};
use saga::DatabaseClock;
use serde::de::DeserializeOwned;
use service::{auth::ServiceTokens, trace};
use tokio_util::task::TaskTracker;

use super::{lane::Lane, observer::BalanceObserver};

const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Reads before a redemption: the till is waiting.
const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// No answer has told the tender's clock yet.
const NO_SKEW: i64 = i64::MIN;
/// The owner of the account that a probe asks for: nobody's.
const PROBE: &str = "probe";
/// Longest problem document that is read.
const PROBLEM_LIMIT: usize = 64 * 1024;

/// A client of one tender. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tender {
    inner: Arc<Inner>,
    forward: Lane,
    cancel: Lane,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) kind: TenderKind,
    url: String,
    http: reqwest::Client,
    tokens: Arc<TokenSource>,
    observer: Arc<dyn BalanceObserver>,
    /// Of the wallet's database.
    clock: DatabaseClock,
    /// The tender's database clock minus the wallet's, in milliseconds, as of its last answer.
    skew_ms: AtomicI64,
}

/// The services' tokens, whose contents nobody prints.
pub(super) struct TokenSource(Arc<ServiceTokens>);

impl std::fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenSource")
    }
}

impl Tender {
    pub(super) fn init(
        kind: TenderKind,
        url: &str,
        tokens: Arc<ServiceTokens>,
        observer: Arc<dyn BalanceObserver>,
        clock: DatabaseClock,
        tasks: &TaskTracker,
    ) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .no_proxy()
            .pool_max_idle_per_host(64)
            .build()?;
        let inner = Arc::new(Inner {
            kind,
            url: url.trim_end_matches('/').to_owned(),
            http,
            tokens: Arc::new(TokenSource(tokens)),
            observer,
            clock,
            skew_ms: AtomicI64::new(NO_SKEW),
        });
        // Cancels have a lane of their own: they must not queue behind forwards to a tender that is slow.
        let forward = Lane::start(inner.clone(), tasks);
        let cancel = Lane::start(inner.clone(), tasks);
        Ok(Self { inner, forward, cancel })
    }

    /// Sends a command to a leg, in a batch with what others send at the moment. The caller limits the time.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn command(&self, command: LegCommand) -> Result<LegAnswer, CallError> {
        let is_cancel = matches!(command.action, api::legs::LegAction::Cancel);
        if is_cancel { self.cancel.send(command).await } else { self.forward.send(command).await }
    }

    /// Whether the tender carries out legs: a query for a leg that nobody has goes the way that they go, through its executor and
    /// a commit. Its readiness would not do: it may be ready while legs hang.
    pub async fn probe(&self) -> bool {
        let Ok(mut url) = self.inner.address(&["legs", &uuid::Uuid::nil().to_string(), "0"]) else {
            return false;
        };
        let asset = match self.inner.kind {
            TenderKind::Points => Asset::Points,
            _ => Asset::Money(Currency::USD),
        };
        url.query_pairs_mut()
            .append_pair("business_id", PROBE)
            .append_pair("customer_id", PROBE)
            .append_pair("asset", asset.as_str());
        let answer = self.inner.send(self.inner.http.get(url).timeout(READ_TIMEOUT)).await;
        matches!(answer, Ok(_) | Err(CallError::Rejected(_)))
    }

    /// How far the tender's database clock is ahead of the wallet's, in milliseconds; `None` before it is known.
    #[must_use]
    pub fn skew_ms(&self) -> Option<i64> {
        Some(self.inner.skew_ms.load(Ordering::Relaxed)).filter(|skew| *skew != NO_SKEW)
    }

    /// The account of a customer.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn account(&self, business: &BusinessId, customer: &str) -> Result<AccountView, CallError> {
        let mut url = self.inner.address(&["accounts", customer])?;
        url.query_pairs_mut().append_pair("business_id", business.as_str());
        self.inner.read(self.inner.http.get(url)).await
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
        let mut url = self.inner.address(&["accounts", customer, "entries"])?;
        url.query_pairs_mut()
            .append_pair("business_id", business.as_str())
            .append_pair("limit", &limit.to_string())
            .append_pair("cursor", &place.to_string())
            .extend_pairs(filter);
        self.inner.read(self.inner.http.get(url)).await
    }

    /// Which versions the accounts of several customers have.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn versions(&self, request: &VersionsRequest) -> Result<Versions, CallError> {
        let url = self.inner.address(&["account-versions"])?;
        self.inner.read(self.inner.http.post(url).json(request)).await
    }

    /// The reward that a code means for a customer.
    ///
    /// # Errors
    /// [`CallError`]; a reward that cannot be used is a `reward_not_usable` problem.
    pub async fn resolve(&self, resolve: &Resolve) -> Result<Resolved, CallError> {
        let url = self.inner.address(&["rewards", "resolve"])?;
        self.inner.read(self.inner.http.post(url).json(resolve)).await
    }

    /// A page of open legs, for reconciliation.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn open_legs(&self, after: Option<&str>, limit: u32) -> Result<LegPage, CallError> {
        self.inner.page(&["legs"], after, limit).await
    }

    /// A page of holds whose end has passed by the tender's database clock.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn holds_past_end(&self, after: Option<&str>, limit: u32) -> Result<HoldPage, CallError> {
        self.inner.page(&["holds-past-end"], after, limit).await
    }
}

impl Inner {
    /// An address under `/internal/v1`, whatever characters the segments have.
    fn address(&self, segments: &[&str]) -> Result<reqwest::Url, CallError> {
        let invalid = |error: &dyn std::fmt::Display| CallError::Unknown(format!("address: {error}"));
        let mut url: reqwest::Url = self.url.parse().map_err(|e| invalid(&e))?;
        url.path_segments_mut()
            .map_err(|()| invalid(&"not a base"))?
            .pop_if_empty()
            .extend(["internal", "v1"])
            .extend(segments);
        Ok(url)
    }

    async fn page<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        after: Option<&str>,
        limit: u32,
    ) -> Result<T, CallError> {
        let mut url = self.address(segments)?;
        url.query_pairs_mut().append_pair("limit", &limit.to_string());
        if let Some(after) = after {
            url.query_pairs_mut().append_pair("after", after);
        }
        self.read(self.http.get(url)).await
    }

    async fn read<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, CallError> {
        let response = self.send(request.timeout(READ_TIMEOUT)).await?;
        response.json().await.map_err(|error| unknown(&error))
    }

    /// Posts a body to an address under `/internal/v1/legs`.
    pub(super) async fn post(
        &self,
        segments: &[&str],
        body: &impl serde::Serialize,
    ) -> Result<Response, CallError> {
        let url = self.address(&[&["legs"], segments].concat())?;
        self.send(self.http.post(url).json(body)).await
    }

    /// Puts a body to an address under `/internal/v1/legs`.
    pub(super) async fn put(
        &self,
        segments: &[&str],
        body: &impl serde::Serialize,
    ) -> Result<Response, CallError> {
        let url = self.address(&[&["legs"], segments].concat())?;
        self.send(self.http.put(url).json(body)).await
    }

    /// Sends a request; only a 2xx is a response.
    async fn send(&self, request: RequestBuilder) -> Result<Response, CallError> {
        let token = self.tokens.0.token().map_err(|error| CallError::Unknown(format!("token: {error}")))?;
        let mut request = request.bearer_auth(token).header(api::legs::TENDER, self.kind.as_str());
        if let Some(header) = trace::outgoing() {
            request = request.header(trace::TRACEPARENT, header);
        }
        let response = request
            .send()
            .await
            .map_err(|error| if error.is_connect() { CallError::Refused } else { unknown(&error) })?;
        match response.status() {
            status if status.is_success() => Ok(response),
            // Whoever answers there is not whom we asked: it says nothing about the leg.
            StatusCode::MISDIRECTED_REQUEST => Err(CallError::Unknown("another tender answers".to_owned())),
            status if status.is_client_error() => Err(rejected(status, response).await),
            status => Err(CallError::Unknown(format!("status {status}"))),
        }
    }

    /// Says that accounts of this tender have reached versions; the observer knows of it when this returns.
    pub(super) async fn reached(&self, versions: &[(&Account, i64)]) {
        self.observer.reached(self.kind, versions).await;
        fail_point!("wallet::floor_raised");
    }

    /// The tender's database said `at_ms` just now.
    pub(super) fn note_clock(&self, at_ms: i64) {
        let Some(now) = self.clock.now() else { return };
        let skew = now.skew_of(at_ms);
        self.skew_ms.store(skew, Ordering::Relaxed);
        // Far within what a gauge holds exactly: two clocks differ by less than millennia.
        let shown = i32::try_from(skew).unwrap_or(if skew < 0 { i32::MIN } else { i32::MAX });
        gauge!("tender_clock_skew_ms", "tender" => self.kind.as_str()).set(f64::from(shown));
    }
}

/// A 4xx is definite only if it is one of our problem documents; anything else may come from whatever stands between.
async fn rejected(status: StatusCode, response: Response) -> CallError {
    match response.bytes().await {
        Ok(body) if body.len() <= PROBLEM_LIMIT => match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => CallError::Rejected(Box::new(problem)),
            Err(_) => CallError::Unknown(format!("status {status} without a problem document")),
        },
        _ => CallError::Unknown(format!("status {status} without a problem document")),
    }
}

pub(super) fn unknown(error: &reqwest::Error) -> CallError {
    CallError::Unknown(service::problem::chain(error))
}
