//! Errors as problem documents: the one place where a failure becomes an answer.

use std::time::Duration;

use api::{Code, Outcome, Problem};
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::trace;

/// Media type of a problem document.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What a handler answers when it does not do what was asked.
///
/// The document is completed with the path and trace of the request at hand. Nothing about a cause ever
/// reaches the caller: causes are logged, once, when the error is made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", problem.code, problem.detail)]
pub struct ApiError {
    problem: Box<Problem>,
    retry_after: Option<Duration>,
}

impl ApiError {
    /// The error of `code`; not applied.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Problem::new(code, detail).into()
    }

    /// What does not exist, or not for this caller: one answer for both.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(Code::NotFound, "There is nothing here under this id.")
    }

    /// Too much work at the moment, or the database is away; nothing was written.
    #[must_use]
    pub fn overloaded() -> Self {
        Self::new(Code::Overloaded, "The service cannot take this now. Nothing was written.")
    }

    /// Nothing can be read at the moment: nothing is said of what was asked for, least of all that it does not exist.
    #[must_use]
    pub fn unreadable() -> Self {
        let detail = "The service cannot say this now. Ask again.";
        Problem::new(Code::Overloaded, detail).outcome(Outcome::Unknown).into()
    }

    /// A fault of ours; how far the request came is not known. The cause is logged with the request's trace, and shown to nobody.
    #[must_use]
    pub fn internal(cause: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = %chain(cause), "internal error");
        let problem = Problem::new(Code::Internal, "The request failed for a reason on our side.");
        problem.outcome(Outcome::Unknown).into()
    }

    /// The same error, naming when to come back.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The document, before path and trace are added.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// Gives the document up.
    #[must_use]
    pub fn into_problem(self) -> Problem {
        *self.problem
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        // A client that is told to come back is told when: at once would be a storm.
        let retry_after = matches!(problem.status, 429 | 503).then_some(Duration::from_secs(1));
        Self { problem: Box::new(problem), retry_after }
    }
}

impl From<sqlx::Error> for ApiError {
    /// For reads, and for writes that were not yet asked to commit. A failed COMMIT may have committed:
    /// its use case has to say so itself.
    fn from(error: sqlx::Error) -> Self {
        if crate::db::is_unavailable(&error) {
            tracing::warn!(error = %chain(&error), "database unavailable");
            return Self::unreadable();
        }
        Self::internal(&error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self { mut problem, retry_after } = self;
        if let Some(trace) = trace::current() {
            problem.instance.get_or_insert_with(|| trace.path().to_owned());
            problem.trace_id.get_or_insert_with(|| trace.id());
        }
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, PROBLEM_JSON)], body).into_response();
        let headers = response.headers_mut();
        if let Some(wait) = retry_after {
            // Rounded up: a wait of 0 s invites the caller straight back.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// An error with all its causes, on one line.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Several libraries repeat their cause in their own text.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
