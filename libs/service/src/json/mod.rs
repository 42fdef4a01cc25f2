//! Bodies that mean one thing only.
//!
//! serde alone is too kind for money: it takes `[7]` for a struct with one field, keeps the last of two
//! equal keys, and turns 9007199254740993 into a float where one is asked for. Here a body is read once
//! into a [`Document`] that refuses all of this, and typed values are read from it by a deserializer
//! that takes objects only for structs and names the field at fault.
//!
//! Body types must not use `#[serde(flatten)]` or internally tagged enums: both buffer their input inside
//! serde, which takes arrays for structs again and loses the place of an error.

mod document;
mod read;

use api::{Code, FieldError, Problem};
use axum::{
    body::{Body as HttpBody, to_bytes},
    extract::{FromRequest, Request},
    http::header,
};
use serde::de::DeserializeOwned;
use std::time::Duration;

pub use document::{Document, Number};
pub(crate) use read::read;

use crate::ApiError;

/// Largest body in bytes.
pub const BODY_LIMIT: usize = 64 * 1024;

/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a document is refused, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail} at {pointer:?}")]
pub struct Fault {
    /// `malformed_json`, `unknown_field` or `invalid_field`.
    pub code: Code,
    /// JSON pointer to the place (RFC 6901); empty for the whole document.
    pub pointer: String,
    /// For a developer to read.
    pub detail: String,
}

impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        let mut problem = Problem::new(fault.code, fault.code.title());
        if fault.code == Code::MalformedJson {
            problem.detail = fault.detail.into();
        } else {
            problem.errors.push(FieldError {
                pointer: fault.pointer,
                code: fault.code.as_str().into(),
                detail: fault.detail,
            });
        }
        problem.into()
    }
}

/// Reads `T` from the bytes of a body.
///
/// # Errors
/// When they are not one strict JSON document, or not a `T`.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    read(&Document::parse(bytes)?)
}

/// The body of a request: a `T`, read strictly.
#[derive(Debug)]
pub struct Body<T> {
    /// What was sent.
    pub value: T,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        if !is_json(&request) {
            return Err(ApiError::new(Code::UnsupportedMediaType, "Send Content-Type: application/json."));
        }
        let bytes = collect(request.into_body()).await?;
        Ok(Self { value: from_slice(&bytes)? })
    }
}

fn is_json(request: &Request) -> bool {
    let mut types = request.headers().get_all(header::CONTENT_TYPE).iter();
    let (Some(only), None) = (types.next(), types.next()) else { return false };
    let Ok(text) = only.to_str() else { return false };
    let mut parts = text.split(';').map(str::trim);
    parts.next().is_some_and(|media| media.eq_ignore_ascii_case("application/json"))
        && parts.all(|parameter| parameter.eq_ignore_ascii_case("charset=utf-8"))
}

async fn collect(body: HttpBody) -> Result<bytes::Bytes, ApiError> {
    let late = || ApiError::new(Code::MalformedJson, "The body did not arrive in time.");
    let read = tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, BODY_LIMIT)).await.map_err(|_| late())?;
    read.map_err(|error| {
        let is_too_large = std::error::Error::source(&error)
            .is_some_and(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>);
        if is_too_large {
            ApiError::new(Code::BodyTooLarge, "A body may have at most 65536 bytes.")
        } else {
            ApiError::new(Code::MalformedJson, "The body ended early.")
        }
    })
}

#[cfg(test)]
mod tests;
