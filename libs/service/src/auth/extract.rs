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
        Self::of(&*identify(parts)?)
    }
}

impl<R: Roles> Allow<R> {
    fn of(identity: &Identity) -> Result<Self, ApiError> {
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
            expires_at: identity.expires_at,
        };
        Ok(Self { caller, roles: PhantomData })
    }
}

/// The subprotocol under which a WebSocket brings its token along.
pub const SOCKET_PROTOCOL: &str = "bearer";

/// A caller who opens a WebSocket. A browser cannot send `Authorization` with one, so the token may come as
/// `Sec-WebSocket-Protocol: bearer, <token>` in its place; the handshake's answer selects `bearer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowSocket<R>(pub Allow<R>);

impl<R: Roles, S: Send + Sync> FromRequestParts<S> for AllowSocket<R> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Some(protocols) = parts.headers.get(header::SEC_WEBSOCKET_PROTOCOL) else {
            return Allow::of(&*identify(parts)?).map(Self);
        };
        // Two tokens are as good as none: which one is meant is anybody's guess.
        if parts.headers.contains_key(header::AUTHORIZATION) {
            return Err(invalid());
        }
        let protocols = protocols.to_str().map_err(|_| invalid())?;
        let (name, token) = protocols.split_once(',').ok_or_else(invalid)?;
        if name.trim() != SOCKET_PROTOCOL {
            return Err(invalid());
        }
        Allow::of(&*verifier(parts)?.verify(token.trim())?).map(Self)
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

/// The listener's verifier, as [`crate::http::finish`] put it there; without it nobody is known.
fn verifier(parts: &Parts) -> Result<&Verifier, ApiError> {
    parts.extensions.get::<Verifier>().ok_or_else(invalid)
}

/// What the one bearer token of the request says.
fn identify(parts: &Parts) -> Result<Arc<Identity>, ApiError> {
    let mut values = parts.headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(invalid()) };
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(invalid)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(invalid());
    }
    verifier(parts)?.verify(token)
}
