//! Callers as types in a handler's signature.

use std::{marker::PhantomData, ops::Deref, sync::Arc};

use api::Code;
use axum::{
    extract::FromRequestParts,
    http::{header, request::Parts},
};

use super::{
    Caller, Role, Roles,
    verify::{Identity, Verifier, invalid},
};
use crate::ApiError;

/// A caller with any role of `R`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow<R> {
    caller: Caller,
    roles: PhantomData<R>,
}

impl<R> Allow<R> {
    /// Gives the caller up.
    #[must_use]
    pub fn into_caller(self) -> Caller {
        self.caller
    }
}

impl<R> Deref for Allow<R> {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}

impl<R: Roles, S: Send + Sync> FromRequestParts<S> for Allow<R> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let identity = identify(parts)?;
        let admitting: Vec<Role> =
            identity.roles.iter().copied().filter(|role| R::ANY_OF.contains(role)).collect();
        if admitting.is_empty() {
            return Err(role_missing());
        }
        // A token without a business speaks for nobody; ours to each other have none.
        let business_id = identity.business_id.clone().ok_or_else(invalid)?;
        let is_customer_only = admitting.iter().all(|role| *role == Role::Customer);
        let caller = Caller {
            subject: identity.subject.clone(),
            business_id,
            roles: identity.roles.clone(),
            own_customer: if is_customer_only { identity.customer_id.clone() } else { None },
            location_ids: identity.location_ids.clone(),
        };
        Ok(Self { caller, roles: PhantomData })
    }
}

/// Another service of ours, on the internal listener. It names the business in what it sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Which service.
    pub subject: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let identity = identify(parts)?;
        if identity.roles.contains(&Role::Service) {
            Ok(Self { subject: identity.subject.clone() })
        } else {
            Err(role_missing())
        }
    }
}

fn role_missing() -> ApiError {
    ApiError::new(Code::RoleMissing, "The token's roles do not allow this.")
}

/// What the one bearer token of the request says. The listener's [`Verifier`] was put there by
/// [`crate::http::finish`]; without it nobody is known.
fn identify(parts: &Parts) -> Result<Arc<Identity>, ApiError> {
    let verifier = parts.extensions.get::<Verifier>().ok_or_else(invalid)?;
    let mut values = parts.headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(invalid()) };
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(invalid)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(invalid());
    }
    verifier.verify(token)
}
