//! What surrounds every route: trace, deadline, panics, metrics, and problem documents for what matches none.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use api::{Code, Outcome, Problem};
use axum::{
    Extension, Router,
    extract::{MatchedPath, Request},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use tracing::Instrument;

use crate::{
    ApiError,
    accept::AmbiguousBody,
    auth::Verifier,
    limit,
    openapi::{API_VERSION, API_VERSION_HEADER},
    trace::{self, TRACEPARENT, Trace},
};

/// Longest time from a request's head to its response's head. The longest wait that a caller may ask for
/// is 30 s; this is behind it, for what should not happen.
const REQUEST_DEADLINE: Duration = Duration::from_secs(35);

/// Completes a listener's routes: tokens are checked by `verifier`, everything else is as this module says.
pub fn finish(routes: Router, verifier: Verifier) -> Router {
    routes
        .fallback(async || ApiError::not_found())
        .method_not_allowed_fallback(async || {
            ApiError::new(Code::MethodNotAllowed, "This path does not have this method.")
        })
        .layer(Extension(verifier))
        .layer(middleware::from_fn(surround))
}

async fn surround(request: Request, next: Next) -> Response {
    let trace = Trace::of_request(request.headers(), request.uri().path());
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    // The internal listener's commands are logged one by one, where they are carried out.
    let is_internal = request.uri().path().starts_with("/internal/");
    let method = request.method().clone();
    let span = tracing::info_span!("request", trace_id = trace.id(), %method, route);
    trace.adopt(&span);
    let traceparent = trace.header();
    let begun = Instant::now();
    let work = trace::scope(trace, limit::observe(bounded(request, next)));
    let (mut response, quota) = work.instrument(span.clone()).await;
    response.headers_mut().insert(TRACEPARENT, traceparent);
    response.headers_mut().insert(API_VERSION_HEADER, HeaderValue::from_static(API_VERSION));
    if let Some(quota) = quota {
        quota.write(response.headers_mut());
    }

    let status = response.status();
    metrics::counter!(
        "http_requests_total",
        "method" => known(&method), "route" => route.clone(), "status" => status.as_str().to_owned()
    )
    .increment(1);
    metrics::histogram!("http_request_seconds", "route" => route).record(begun.elapsed());
    let is_remarkable = !matches!(method, Method::GET | Method::HEAD) && !is_internal;
    span.in_scope(|| log(status, begun.elapsed(), is_remarkable));
    response
}

/// A caller may invent methods; each would be a time series of its own.
fn known(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        _ => "other",
    }
}

fn log(status: StatusCode, took: Duration, is_remarkable: bool) {
    let (status, took_ms) = (status.as_u16(), took.as_millis());
    match status {
        500.. => tracing::warn!(status, took_ms, "answered"),
        400..500 => tracing::info!(status, took_ms, "answered"),
        _ if is_remarkable => tracing::info!(status, took_ms, "answered"),
        _ => tracing::debug!(status, took_ms, "answered"),
    }
}

/// The answer of the handler, or the problem of a request that nobody can mean, a panic or a handler that does not end.
async fn bounded(request: Request, next: Next) -> Response {
    if request.extensions().get::<AmbiguousBody>().is_some() {
        let problem = Problem::invalid("content-length", "a request says once where its body ends");
        let mut response = ApiError::from(problem).into_response();
        // Where the next request on this connection begins is anybody's guess.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return response;
    }
    let work = AssertUnwindSafe(next.run(request)).catch_unwind();
    match tokio::time::timeout(REQUEST_DEADLINE, work).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => {
            tracing::error!(panic = panic_text(&*panic), "a handler panicked");
            let problem = Problem::new(Code::Internal, "The request failed for a reason on our side.");
            ApiError::from(problem.outcome(Outcome::Unknown)).into_response()
        }
        Err(_) => {
            tracing::error!("a handler did not end within its deadline");
            let problem =
                Problem::new(Code::Overloaded, "There was no answer in time. Ask again with the same key.");
            ApiError::from(problem.outcome(Outcome::Unknown)).into_response()
        }
    }
}

/// What a panic said.
#[must_use]
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
