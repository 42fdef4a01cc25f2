//! From the outcome of a command to the HTTP answer.

use std::time::Duration;

use api::{Code, Outcome as Happened, Problem, derive::UnknownHashVersion};
use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use metrics::counter;
use service::{ApiError, problem::PROBLEM_JSON};

use crate::{command::Rejection, executor::ExecuteError};

static REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// A stored document, byte for byte.
pub fn stored(status: u16, body: String, is_replayed: bool) -> Response {
    let media = if status < 400 { "application/json" } else { PROBLEM_JSON };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, [(header::CONTENT_TYPE, media)], body).into_response();
    if is_replayed {
        response.headers_mut().insert(&REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

/// A rejected leg command.
pub fn leg_problem(rejection: &Rejection) -> Problem {
    match rejection {
        Rejection::Conflict => Problem::new(
            Code::LegConflict,
            "This leg exists with another plan or account, or the command does not fit what it is.",
        ),
        Rejection::NotFound => Problem::new(Code::NotFound, "There is no leg under this key."),
        Rejection::AlreadyFinal => {
            Problem::new(Code::AlreadyFinal, "The leg has ended; it cannot be captured.")
        }
        Rejection::ExceedsRedeemed { available } => Problem {
            available: Some(*available),
            ..Problem::new(Code::RefundExceedsRedeemed, "More than is left of what the leg took.")
        },
        Rejection::InvalidField { pointer, detail } => Problem::invalid(*pointer, *detail),
        Rejection::UnknownHashVersion(error) => unknown_version(*error),
        // It is logged where it is found, with what it was found in.
        Rejection::Corrupt(_) => Problem::new(Code::Internal, "The request failed for a reason on our side."),
    }
}

/// A rejected public operation.
pub fn operation_problem(rejection: &Rejection) -> Problem {
    match rejection {
        Rejection::Conflict => Problem::new(
            Code::IdempotencyKeyReused,
            "This key was used with another body. A new request needs a new key.",
        ),
        other => leg_problem(other),
    }
}

/// While versions are mixed: another instance can say it. What it is answered is not known here.
fn unknown_version(error: UnknownHashVersion) -> Problem {
    counter!("request_hash_version_unknown_total").increment(1);
    tracing::error!(%error, "a key cannot be judged");
    let detail = "This key was used through a newer version of this service, which alone can tell a retry. Ask again \
        with the same key.";
    Problem::new(Code::Overloaded, detail).outcome(Happened::Unknown)
}

/// No outcome.
pub fn execute_error(error: ExecuteError) -> ApiError {
    match error {
        ExecuteError::Unavailable => ApiError::overloaded(),
        ExecuteError::Unknown => {
            let detail = "There was no answer in time. The same key will tell what became of it.";
            let problem = Problem::new(Code::Overloaded, detail).outcome(Happened::Unknown);
            ApiError::from(problem).retry_after(Duration::from_secs(1))
        }
        ExecuteError::Failed => {
            ApiError::new(Code::Internal, "The request failed for a reason on our side. Nothing was written.")
        }
    }
}
