//! From a bearer token to an identity, or to the reason why not.

use std::{
    path::PathBuf,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use api::{BusinessId, Code, CustomerId};
use jsonwebtoken::{Header, Validation};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{
    Role,
    keys::{KID_LIMIT, KeySet},
};
use crate::{ApiError, Clock, config::AppEnv};

/// `aud` of callers' tokens.
pub const PUBLIC_AUDIENCE: &str = "unified-wallet";
/// `aud` and `iss` of the services' tokens to each other.
pub const INTERNAL_AUDIENCE: &str = "unified-wallet-internal";

/// Longest token in bytes.
const TOKEN_LIMIT: usize = 8 * 1024;
/// How far the clocks of issuer and service may be apart, in seconds.
const LEEWAY_S: i64 = 30;
/// How long a verified token is believed without looking again.
const CACHE_TTL: Duration = Duration::from_secs(60);
/// Most verified tokens that are remembered.
const CACHE_LIMIT: u64 = 100_000;

/// Whom a listener's tokens come from and are made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audience {
    /// Exact `iss`.
    pub issuer: String,
    /// Exact `aud`.
    pub audience: &'static str,
}

impl Audience {
    /// Callers, with tokens of `issuer`.
    #[must_use]
    pub fn public(issuer: impl Into<String>) -> Self {
        Self { issuer: issuer.into(), audience: PUBLIC_AUDIENCE }
    }

    /// Our own services.
    #[must_use]
    pub fn internal() -> Self {
        Self { issuer: INTERNAL_AUDIENCE.to_owned(), audience: INTERNAL_AUDIENCE }
    }
}

/// What a verified token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) subject: String,
    pub(super) business_id: Option<BusinessId>,
    pub(super) roles: Vec<Role>,
    pub(super) customer_id: Option<CustomerId>,
    pub(super) location_ids: Option<Vec<String>>,
    /// When it is not believed any more, in seconds since 1970.
    pub(super) expires_at: i64,
}

/// Checks the tokens of one listener. Clones share keys and cache.
#[derive(Clone)]
pub struct Verifier(Arc<Inner>);

struct Inner {
    audience: Audience,
    clock: Clock,
    keys: RwLock<Arc<KeySet>>,
    /// Counts key sets: what an earlier one verified is not believed any more.
    generation: AtomicU64,
    cache: moka::sync::Cache<[u8; 32], Verified>,
}

#[derive(Clone)]
struct Verified {
    identity: Arc<Identity>,
    generation: u64,
}

/// Claims as they are sent. A claim of the wrong type, or twice, is no token of ours.
#[derive(Deserialize)]
struct RawClaims {
    iss: String,
    aud: OneOrMany,
    exp: i64,
    #[serde(default)]
    nbf: Option<i64>,
    sub: String,
    #[serde(default)]
    business_id: Option<BusinessId>,
    roles: Vec<String>,
    #[serde(default)]
    customer_id: Option<CustomerId>,
    #[serde(default)]
    location_ids: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn names(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Many(many) => many.iter().any(|one| one == audience),
        }
    }
}

impl Verifier {
    /// A verifier of tokens for `audience`, signed by `keys`.
    #[must_use]
    pub fn new(audience: Audience, keys: KeySet) -> Self {
        Self(Arc::new(Inner {
            audience,
            clock: Clock,
            keys: RwLock::new(Arc::new(keys)),
            generation: AtomicU64::new(0),
            cache: moka::sync::Cache::builder().max_capacity(CACHE_LIMIT).time_to_live(CACHE_TTL).build(),
        }))
    }

    /// Replaces the keys. From here on a token of a key that is gone is refused, also one seen before.
    pub fn replace_keys(&self, keys: KeySet) {
        let keys = Arc::new(keys);
        let mut current = self.0.keys.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        *current = keys;
        self.0.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// What the token says, if it can be trusted.
    ///
    /// # Errors
    /// 401 `token_expired` for a token that was good once, 401 `token_invalid` for everything else.
    pub(super) fn verify(&self, token: &str) -> Result<Arc<Identity>, ApiError> {
        if token.len() > TOKEN_LIMIT {
            return Err(invalid());
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        // Read before the keys: should they be replaced in between, the entry is already stale when stored.
        let generation = self.0.generation.load(Ordering::SeqCst);
        let now = self.0.clock.unix_seconds();
        if let Some(known) = self.0.cache.get(&digest)
            && known.generation == generation
        {
            return if known.identity.expires_at <= now { Err(expired()) } else { Ok(known.identity) };
        }
        let keys = Arc::clone(&self.0.keys.read().unwrap_or_else(std::sync::PoisonError::into_inner));
        let claims = signed_claims(token, &keys).ok_or_else(invalid)?;
        let identity = Arc::new(judge(claims, &self.0.audience, now)?);
        let verified = Verified { identity: Arc::clone(&identity), generation };
        self.0.cache.insert(digest, verified);
        Ok(identity)
    }

    /// Reads the keys in `path` again whenever the file changes, looking every `interval`, until dropped.
    /// A file that cannot be used is reported and changes nothing.
    pub async fn follow(self, path: PathBuf, env: AppEnv, interval: Duration) {
        let mut seen = stamp(&path);
        loop {
            tokio::time::sleep(interval).await;
            let now = stamp(&path);
            if now == seen {
                continue;
            }
            seen = now;
            match KeySet::read(&path, env) {
                Ok(keys) => {
                    tracing::info!(?keys, "token keys replaced");
                    self.replace_keys(keys);
                }
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "token keys kept: the new ones are bad")
                }
            }
        }
    }
}

fn stamp(path: &PathBuf) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// The claims of a token whose signature fits the key that its header names.
fn signed_claims(token: &str, keys: &KeySet) -> Option<RawClaims> {
    let header = jsonwebtoken::decode_header(token).ok()?;
    if !is_plain(&header) {
        return None;
    }
    let key = keys.get(header.kid.as_deref().filter(|kid| kid.len() <= KID_LIMIT)?)?;
    let mut validation = Validation::new(key.algorithm);
    // Times, issuer and audience are judged by `judge`, on the service's clock.
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    jsonwebtoken::decode::<RawClaims>(token, &key.key, &validation).ok().map(|data| data.claims)
}

/// Whether the header asks for nothing but a signature check: no key or certificate that it brings along
/// or points to, no extension that would have to be understood.
fn is_plain(header: &Header) -> bool {
    let is_jwt = header
        .typ
        .as_deref()
        .is_none_or(|typ| typ.eq_ignore_ascii_case("JWT") || typ.eq_ignore_ascii_case("at+jwt"));
    is_jwt
        && header.jku.is_none()
        && header.jwk.is_none()
        && header.x5u.is_none()
        && header.x5c.is_none()
        && header.crit.is_none()
}

fn judge(claims: RawClaims, expected: &Audience, now: i64) -> Result<Identity, ApiError> {
    if claims.iss != expected.issuer || !claims.aud.names(expected.audience) {
        return Err(invalid());
    }
    if claims.nbf.is_some_and(|nbf| nbf.saturating_sub(LEEWAY_S) > now) {
        return Err(invalid());
    }
    let roles: Vec<Role> = claims.roles.iter().filter_map(|name| Role::parse(name)).collect();
    // A customer who is not named would be every customer.
    if roles.contains(&Role::Customer) && claims.customer_id.is_none() {
        return Err(invalid());
    }
    let expires_at = claims.exp.saturating_add(LEEWAY_S);
    if expires_at <= now {
        return Err(expired());
    }
    Ok(Identity {
        subject: claims.sub,
        business_id: claims.business_id,
        roles,
        customer_id: claims.customer_id,
        location_ids: claims.location_ids,
        expires_at,
    })
}

fn expired() -> ApiError {
    ApiError::new(Code::TokenExpired, "The token has expired.")
}

pub(super) fn invalid() -> ApiError {
    ApiError::new(Code::TokenInvalid, "Send one Authorization header with a valid bearer token.")
}
