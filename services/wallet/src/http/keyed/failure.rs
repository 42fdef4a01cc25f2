//! What a call under a key answers when it has no answer of the key.
//!
//! A [`Failure`] says `not_applied` in three cases only, each of which its constructor's types name: it was found out before the
//! key counts for anything (400, 403, 404), the key itself answers so (409 and 422, once it was looked up), or there is a
//! [`KeyUnused`]. Everything else is `unknown`. There is no conversion from the errors of databases or of other calls.

use std::time::Duration;

use api::{Code, Outcome, Problem, wallet::TenderKind};
use axum::response::{IntoResponse, Response};
use saga::{KeyUnused, SagaId};
use service::{ApiError, db};

use crate::plan::UnknownVersion;

/// After how long a redemption that is being moved is looked at again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A refusal for a reason that has nothing to do with the key, before or while planning. What it means for the key is not said
/// yet: it becomes a [`Failure`] with a proof, or not at all.
#[derive(Debug)]
pub(in crate::http) struct Refused(ApiError);

impl Refused {
    /// Too much work at the moment, or this instance is stopping.
    pub fn overloaded() -> Self {
        Self(ApiError::overloaded())
    }

    /// A limit of the caller, as the limit tells it.
    pub fn limited(error: ApiError) -> Self {
        Self(error)
    }

    /// A tender that the call needs cannot be reached.
    pub fn unreachable(tender: TenderKind) -> Self {
        Self::tender(tender, "A tender that this redemption needs cannot be reached. Nothing was written.")
    }

    /// As much waits for a tender as this instance bears.
    pub fn busy(tender: TenderKind) -> Self {
        Self::tender(tender, "Too much waits for a tender that this redemption needs. Nothing was written.")
    }

    /// What the call is about is being moved: what becomes of it decides what can be done with it.
    pub fn undecided() -> Self {
        let detail = "The redemption is being moved. Ask again with the same key. Nothing was written.";
        Self(ApiError::new(Code::Overloaded, detail).retry_after(ASK_AGAIN))
    }

    /// A tender that the call needs is out of service.
    pub fn paused(tender: TenderKind) -> Self {
        Self::tender(
            tender,
            "A tender that this redemption needs is out of service for now. Nothing was written.",
        )
    }

    fn tender(tender: TenderKind, detail: &'static str) -> Self {
        let mut problem = Problem::new(Code::TenderUnavailable, detail);
        problem.extra.insert("tender".to_owned(), serde_json::json!(tender));
        Self(problem.into())
    }
}

/// What a call under a key answers in the place of a redemption.
#[derive(Debug)]
pub(in crate::http) struct Failure(ApiError);

impl Failure {
    /// The refusal, and that nothing was done under the key, nor will be.
    pub fn not_applied(Refused(error): Refused, _: KeyUnused) -> Self {
        Self(error)
    }

    /// Whether the key was used cannot be said now: nobody could ask, or nobody knows yet.
    pub fn unknown(cause: &impl std::fmt::Display) -> Self {
        tracing::warn!(%cause, "outcome unknown");
        let detail = "Whether this key was used cannot be said now. Ask again with the same key.";
        Self(Problem::new(Code::Overloaded, detail).outcome(Outcome::Unknown).into())
    }

    /// The same failure, naming the redemption that it is about.
    #[must_use]
    pub fn about(self, id: SagaId) -> Self {
        let mut problem = self.0.into_problem();
        problem.redemption_id = Some(id.0);
        Self(problem.into())
    }

    /// The database gave no answer; or one that is a fault of ours: a row that cannot be understood, a statement that is wrong.
    pub fn read(error: &sqlx::Error) -> Self {
        use sqlx::Error;
        match error {
            // A newer release's: a process of that release can tell, and the next try may meet one.
            Error::Decode(cause) if cause.is::<UnknownVersion>() => Self::unknown(cause),
            Error::Decode(_) | Error::ColumnDecode { .. } | Error::ColumnNotFound(_) => Self::internal(error),
            Error::Database(_) if !db::is_unavailable(error) => Self::internal(error),
            _ => Self::unknown(error),
        }
    }

    /// A fault of ours, which trying again does not mend.
    pub fn internal(cause: &(dyn std::error::Error + 'static)) -> Self {
        Self(ApiError::internal(cause))
    }

    /// It does not exist, or not for this caller.
    pub fn not_found() -> Self {
        Self(ApiError::not_found())
    }

    /// What is wrong with the call itself, whatever its key: a missing right, syntax, headers.
    pub fn of_the_call(error: ApiError) -> Self {
        match error.problem().status {
            400 | 403 | 404 | 413 | 415 => Self(error),
            _ => Self(error.into_problem().outcome(Outcome::Unknown).into()),
        }
    }

    /// The key was cancelled.
    pub fn key_cancelled() -> Self {
        Self(ApiError::new(Code::KeyCancelled, "This key was cancelled. Use a new key."))
    }

    /// The key was used with another body.
    pub fn key_reused() -> Self {
        let detail = "This key was used with another body. Use a new key.";
        Self(ApiError::new(Code::IdempotencyKeyReused, detail))
    }

    /// Whether it leaves open what became of the key.
    pub fn is_unknown(&self) -> bool {
        self.0.problem().outcome == Outcome::Unknown
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(failure: &Failure) -> (u16, Outcome) {
        (failure.0.problem().status, failure.0.problem().outcome)
    }

    #[test]
    fn what_went_wrong_with_the_database_says_nothing_of_the_key() {
        let away = sqlx::Error::Io(std::io::ErrorKind::UnexpectedEof.into());
        assert_eq!(told(&Failure::read(&away)), (503, Outcome::Unknown));
        let unreadable = sqlx::Error::Decode("a plan of tomorrow".into());
        assert_eq!(told(&Failure::read(&unreadable)), (500, Outcome::Unknown));
    }

    #[test]
    fn only_what_is_wrong_with_the_call_itself_is_told_without_a_proof() {
        assert_eq!(told(&Failure::of_the_call(ApiError::not_found())), (404, Outcome::NotApplied));
        assert_eq!(told(&Failure::of_the_call(ApiError::overloaded())), (503, Outcome::Unknown));
        let limited = ApiError::new(Code::RateLimited, "Too many.");
        assert_eq!(told(&Failure::of_the_call(limited)), (429, Outcome::Unknown));
    }
}
