//! Whether a request that comes under a used key is the one that used it.

use api::{
    Code, Outcome, Problem,
    derive::{RequestForm, RequestHash, UnknownHashVersion},
};
use metrics::counter;
use saga::Stored;
use service::ApiError;

use super::failure::Failure;

/// A request's hash, as the saga store keeps it.
pub(in crate::http) fn kept(form: &RequestForm) -> saga::RequestHash {
    let RequestHash { version, bytes } = form.hash();
    saga::RequestHash { version, bytes }
}

/// Refuses what is not the request that made the saga, by the version of the hash that is stored.
///
/// # Errors
/// 422 `idempotency_key_reused`; 503 with outcome `unknown` if the stored version is not known here.
pub(in crate::http) fn require_same(form: &RequestForm, stored: &Stored) -> Result<(), Failure> {
    match stored.request_hash.map_or(Ok(false), |hash| is_same(form, hash)) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::key_reused()),
        Err(_) => Err(Failure::of_the_call(not_known())),
    }
}

/// Whether this is the request whose hash is stored.
pub(in crate::http) fn is_same(
    form: &RequestForm,
    stored: saga::RequestHash,
) -> Result<bool, UnknownHashVersion> {
    let saga::RequestHash { version, bytes } = stored;
    form.is_same_as(RequestHash { version, bytes })
}

/// While versions are mixed: another instance can say it.
pub(in crate::http) fn not_known() -> ApiError {
    counter!("request_hash_version_unknown_total").increment(1);
    tracing::error!("a key was used under a version of request hashes that is not known here");
    let detail = "This key was used through a newer version of this service, which alone can tell a retry. Ask again \
        with the same key.";
    Problem::new(Code::Overloaded, detail).outcome(Outcome::Unknown).into()
}
