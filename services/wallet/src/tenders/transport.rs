//! The connections to one tender: requests with a token, what an answer or its lack means, and what each answer tells of clocks
//! and balances.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use api::{Problem, client::CallError, legs::Account, wallet::TenderKind};
use fail::fail_point;
use metrics::gauge;
use reqwest::{RequestBuilder, Response, StatusCode};
use saga::DatabaseClock;
use serde::de::DeserializeOwned;
use service::{auth::ServiceTokens, trace};

use super::observer::BalanceObserver;

const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Reads before a redemption: the till is waiting.
const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// No answer has told the tender's clock yet.
const NO_SKEW: i64 = i64::MIN;
/// Longest problem document that is read.
const PROBLEM_LIMIT: usize = 64 * 1024;

/// The connections to one tender.
#[derive(Debug)]
pub(super) struct Transport {
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

impl Transport {
    /// # Errors
    /// When the HTTP client cannot be made.
    pub(super) fn init(
        kind: TenderKind,
        url: &str,
        tokens: Arc<ServiceTokens>,
        observer: Arc<dyn BalanceObserver>,
        clock: DatabaseClock,
    ) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .no_proxy()
            .pool_max_idle_per_host(64)
            .build()?;
        Ok(Self {
            kind,
            url: url.trim_end_matches('/').to_owned(),
            http,
            tokens: Arc::new(TokenSource(tokens)),
            observer,
            clock,
            skew_ms: AtomicI64::new(NO_SKEW),
        })
    }

    /// How far the tender's database clock is ahead of the wallet's, in milliseconds; `None` before it is known.
    pub(super) fn skew_ms(&self) -> Option<i64> {
        Some(self.skew_ms.load(Ordering::Relaxed)).filter(|skew| *skew != NO_SKEW)
    }

    /// An address under `/internal/v1`, whatever characters the segments have.
    pub(super) fn address(&self, segments: &[&str]) -> Result<reqwest::Url, CallError> {
        let invalid = |error: &dyn std::fmt::Display| CallError::Unknown(format!("address: {error}"));
        let mut url: reqwest::Url = self.url.parse().map_err(|e| invalid(&e))?;
        url.path_segments_mut()
            .map_err(|()| invalid(&"not a base"))?
            .pop_if_empty()
            .extend(["internal", "v1"])
            .extend(segments);
        Ok(url)
    }

    pub(super) async fn page<T: DeserializeOwned>(
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
        self.get(url).await
    }

    /// What stands at an address.
    pub(super) async fn get<T: DeserializeOwned>(&self, url: reqwest::Url) -> Result<T, CallError> {
        self.read(self.http.get(url)).await
    }

    /// What a question is answered that changes nothing.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        url: reqwest::Url,
        question: &impl serde::Serialize,
    ) -> Result<T, CallError> {
        self.read(self.http.post(url).json(question)).await
    }

    /// Whether there is an answer, whatever it says.
    pub(super) async fn get_response(&self, url: reqwest::Url) -> Result<Response, CallError> {
        self.send(self.http.get(url).timeout(READ_TIMEOUT)).await
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
            status if is_about_the_request(status) => Err(rejected(status, response).await),
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

/// Whether a status says that the request itself is refused. The others say that we are: another service answers at this address
/// (421), it does not trust our token (401, 403: a wrong clock, a key that it does not know), or hears too much of us (408, 429).
/// Trying again may help, and nothing is said about the leg.
fn is_about_the_request(status: StatusCode) -> bool {
    status.is_client_error() && !matches!(status.as_u16(), 401 | 403 | 408 | 421 | 429)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tender_that_does_not_trust_us_has_said_nothing_about_the_leg() {
        for status in [400, 404, 409, 413, 422] {
            assert!(is_about_the_request(StatusCode::from_u16(status).unwrap()), "{status}");
        }
        for status in [200, 202, 401, 403, 408, 421, 429, 500, 503] {
            assert!(!is_about_the_request(StatusCode::from_u16(status).unwrap()), "{status}");
        }
    }
}
