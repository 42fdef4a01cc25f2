//! Extractors as axum calls them, without a server.

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts},
    http::{HeaderValue, Request},
};
use service::ApiError;
use tokio::runtime::{Builder, Runtime};

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
}

/// Longest problem document that any input may cause: a pointer may name a field, a detail may quote it.
const PROBLEM_MAX: usize = 4 * 64 * 1024;

/// What the body is read as.
pub fn from_body<T: FromRequest<()>>(content_type: &'static str, body: &[u8]) -> Result<T, T::Rejection> {
    let request = Request::post("/").header("content-type", content_type).body(Body::from(body.to_vec()));
    from_request(request.expect("a request"))
}

/// What a request is read as.
pub fn from_request<T: FromRequest<()>>(request: Request<Body>) -> Result<T, T::Rejection> {
    RUNTIME.with(|runtime| runtime.block_on(T::from_request(request, &())))
}

/// What headers and extensions of a request are read as; `None` where no request can carry them.
pub fn from_head<T: FromRequestParts<()>>(
    uri: &str,
    headers: &[(&'static str, &[u8])],
    prepare: impl FnOnce(&mut axum::http::Extensions),
) -> Option<Result<T, T::Rejection>> {
    let mut request = Request::get(uri).body(()).ok()?;
    for (name, value) in headers {
        request.headers_mut().append(*name, HeaderValue::from_bytes(value).ok()?);
    }
    prepare(request.extensions_mut());
    let (mut parts, ()) = request.into_parts();
    Some(RUNTIME.with(|runtime| runtime.block_on(T::from_request_parts(&mut parts, &()))))
}

/// A refusal is the caller's fault, says so, and has an end.
pub fn check_refusal(error: &ApiError) {
    let problem = error.problem();
    assert!((400..500).contains(&problem.status), "{problem:?}");
    assert_eq!(problem.outcome, api::Outcome::NotApplied);
    let text = serde_json::to_vec(problem).expect("a problem is plain data");
    assert!(text.len() < PROBLEM_MAX, "a problem of {} bytes", text.len());
}
