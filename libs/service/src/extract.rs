//! Extractors for everything but caller and body.

use std::collections::BTreeMap;

use api::{Code, Problem, id::is_visible_ascii};
use axum::{
    extract::{FromRequestParts, rejection::PathRejection},
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use crate::{
    ApiError,
    json::{Document, Fault, read},
};

/// Longest idempotency key in characters.
const KEY_LIMIT: usize = 255;

/// The `Idempotency-Key` header: 1 to 255 visible ASCII characters, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(pub String);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let invalid = || {
            ApiError::new(
                Code::IdempotencyKeyInvalid,
                "Send one Idempotency-Key of 1 to 255 visible ASCII characters.",
            )
        };
        let mut values = parts.headers.get_all("idempotency-key").iter();
        let first = values.next().ok_or_else(|| {
            ApiError::new(
                Code::IdempotencyKeyMissing,
                "A request that moves value needs an Idempotency-Key header.",
            )
        })?;
        if values.next().is_some() {
            return Err(invalid());
        }
        let key = first.to_str().map_err(|_| invalid())?;
        if is_visible_ascii(key, KEY_LIMIT) { Ok(Self(key.to_owned())) } else { Err(invalid()) }
    }
}

/// Query parameters: each known, each at most once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        read_query(parts.uri.query().unwrap_or_default()).map(Self).map_err(ApiError::from)
    }
}

fn read_query<T: DeserializeOwned>(query: &str) -> Result<T, Fault> {
    let fault = |pointer: &str, detail: &str| Fault {
        code: Code::InvalidField,
        pointer: pointer.to_owned(),
        detail: detail.to_owned(),
    };
    let mut parameters = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if value.contains('\0') {
            return Err(fault(&name, "contains U+0000"));
        }
        if parameters.insert(name.clone().into_owned(), Document::Parameter(value.into_owned())).is_some() {
            return Err(fault(&name, "is given twice"));
        }
    }
    read(&Document::Object(parameters)).map_err(|error| {
        // A parameter is named as it is, and an unknown one is one that is invalid here.
        fault(error.pointer.trim_start_matches('/'), &error.detail)
    })
}

/// Path parameters. What cannot be an id is the id of nothing: 404.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        axum::extract::Path::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Path(value)| Self(value))
            .map_err(|_: PathRejection| ApiError::not_found())
    }
}

/// The size of a page: `limit`, or 50, and at most 200.
///
/// # Errors
/// `invalid_field` outside 1 to 200.
pub fn page_size(limit: Option<i64>) -> Result<i64, ApiError> {
    match limit {
        None => Ok(50),
        Some(limit @ 1..=200) => Ok(limit),
        Some(_) => Err(Problem::invalid("limit", "must be 1 to 200").into()),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct List {
        customer_id: String,
        limit: Option<i64>,
    }

    #[test]
    fn parameters_are_read_strictly() {
        let read = |query| read_query::<List>(query).map_err(|fault| fault.pointer);
        assert_eq!(read("customer_id=a%20b&limit=5"), Ok(List { customer_id: "a b".into(), limit: Some(5) }));
        assert_eq!(read("customer_id=7"), Ok(List { customer_id: "7".into(), limit: None }));
        for (query, parameter) in [
            ("", "customer_id"),
            ("customer_id=1&customer_id=1", "customer_id"),
            ("customer_id=%00", "customer_id"),
            ("customer_id=1&x=1", "x"),
            ("customer_id=1&limit=1.0", "limit"),
            ("customer_id=1&limit=%2B1", "limit"),
            ("customer_id=1&limit=01", "limit"),
            ("customer_id=1&limit=99999999999999999999", "limit"),
        ] {
            assert_eq!(read(query), Err(parameter.to_owned()), "{query}");
        }
    }

    #[tokio::test]
    async fn an_idempotency_key_is_one_visible_word() {
        async fn key(values: &[&[u8]]) -> Result<String, String> {
            let mut request = Request::new(());
            for value in values {
                let value = axum::http::HeaderValue::from_bytes(value).unwrap();
                request.headers_mut().append("idempotency-key", value);
            }
            let mut parts = request.into_parts().0;
            IdempotencyKey::from_request_parts(&mut parts, &())
                .await
                .map(|key| key.0)
                .map_err(|error| error.problem().code.to_string())
        }
        assert_eq!(key(&[b"k-1"]).await, Ok("k-1".into()));
        assert_eq!(key(&[&[b'x'; 255]]).await.map(|key| key.len()), Ok(255));
        assert_eq!(key(&[]).await, Err("idempotency_key_missing".into()));
        let bad: [&[&[u8]]; 5] = [&[b""], &[&[b'x'; 256]], &[b"a b"], &["é".as_bytes()], &[b"a", b"a"]];
        for values in bad {
            assert_eq!(key(values).await, Err("idempotency_key_invalid".into()), "{values:?}");
        }
    }
}
