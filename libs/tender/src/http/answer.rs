//! From the outcome of a command to the HTTP answer.

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
        // It is logged where it is found, with what it was found in. It may have been found before the key was looked up.
        Rejection::Corrupt(_) => Problem::new(Code::Internal, "The request failed for a reason on our side.")
            .outcome(Happened::Unknown),
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

/// No outcome of a call under a key. That this try was not carried out says nothing of an earlier one whose answer was lost: only
/// the key itself, looked up behind its account's lock, says that it was not used.
pub fn execute_error(error: ExecuteError) -> ApiError {
    match error {
        ExecuteError::Unavailable | ExecuteError::Failed => undecided(),
        ExecuteError::Unknown => {
            let detail = "There was no answer in time. The same key will tell what became of it.";
            Problem::new(Code::Overloaded, detail).outcome(Happened::Unknown).into()
        }
    }
}

/// The error of a step that comes before the command of a call under a key. What is wrong with the call itself, whatever its key,
/// stays what it is.
pub fn step_error(error: ApiError) -> ApiError {
    match error.problem().status {
        503 => undecided(),
        429 | 500.. => error.into_problem().outcome(Happened::Unknown).into(),
        _ => error,
    }
}

/// Whether a key was used cannot be said now.
fn undecided() -> ApiError {
    let detail = "Whether this key was used cannot be said now. Ask again with the same key.";
    Problem::new(Code::Overloaded, detail).outcome(Happened::Unknown).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(problem: &Problem) -> (u16, Happened) {
        (problem.status, problem.outcome)
    }

    #[test]
    fn a_try_that_was_not_carried_out_says_nothing_of_its_key() {
        for error in [ExecuteError::Unavailable, ExecuteError::Unknown, ExecuteError::Failed] {
            assert_eq!(told(execute_error(error).problem()), (503, Happened::Unknown), "{error}");
        }
        assert_eq!(told(&operation_problem(&Rejection::Corrupt("x"))), (500, Happened::Unknown));
        assert_eq!(told(&operation_problem(&Rejection::Conflict)), (422, Happened::NotApplied));
    }

    #[test]
    fn only_what_is_wrong_with_the_call_itself_is_told_of_a_step_before() {
        let after = |error: ApiError| told(step_error(error).problem());
        assert_eq!(after(ApiError::overloaded()), (503, Happened::Unknown));
        assert_eq!(after(ApiError::new(Code::RateLimited, "Too many.")), (429, Happened::Unknown));
        assert_eq!(after(ApiError::new(Code::Internal, "A fault.")), (500, Happened::Unknown));
        assert_eq!(after(Problem::invalid("/a", "is wrong").into()), (400, Happened::NotApplied));
    }
}
