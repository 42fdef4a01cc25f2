//! Making tokens: the services' own to each other, and by the same code those of tests and development.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use anyhow::Context;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};

use super::verify::INTERNAL_AUDIENCE;
use crate::Clock;

/// Life of a service's token in seconds.
const TTL_S: i64 = 300;
/// A token with less than this left is replaced, in seconds.
const RENEW_BELOW_S: i64 = 120;

/// Claims of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who signed.
    pub iss: String,
    /// For whom.
    pub aud: String,
    /// Until when, in seconds since 1970.
    pub exp: i64,
    /// Who calls.
    pub sub: String,
    /// For which business; services name it in what they send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub business_id: Option<String>,
    /// In which roles.
    pub roles: Vec<String>,
    /// Which customer, for role `customer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customer_id: Option<String>,
    /// Where; absent means everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location_ids: Option<Vec<String>>,
}

/// An Ed25519 key that signs tokens.
pub struct Signer {
    key: EncodingKey,
    kid: String,
}

impl Signer {
    /// A signer with a PKCS #8 PEM key, known to verifiers as `kid`.
    ///
    /// # Errors
    /// When the PEM holds no Ed25519 key.
    pub fn from_pem(pem: &[u8], kid: impl Into<String>) -> anyhow::Result<Self> {
        let key = EncodingKey::from_ed_pem(pem).context("not an Ed25519 key in PKCS #8 PEM")?;
        Ok(Self { key, kid: kid.into() })
    }

    /// A signer with the key in a file; the file's name without its extension is the `kid`.
    ///
    /// # Errors
    /// When the file cannot be read or holds no Ed25519 key.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let pem = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let kid = path.file_stem().and_then(|name| name.to_str()).context("the key file needs a name")?;
        Self::from_pem(&pem, kid).with_context(|| path.display().to_string())
    }

    /// A signed token.
    ///
    /// # Errors
    /// When signing fails.
    pub fn sign(&self, claims: &Claims) -> anyhow::Result<String> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid.clone());
        Ok(jsonwebtoken::encode(&header, claims, &self.key)?)
    }
}

/// The tokens with which one service calls the others: short-lived, renewed before they end.
pub struct ServiceTokens {
    signer: Signer,
    subject: String,
    clock: Clock,
    current: Mutex<Option<(String, i64)>>,
}

impl ServiceTokens {
    /// Tokens of the service `subject`.
    #[must_use]
    pub fn new(signer: Signer, subject: impl Into<String>) -> Self {
        Self { signer, subject: subject.into(), clock: Clock, current: Mutex::new(None) }
    }

    /// A token with at least two minutes left.
    ///
    /// # Errors
    /// When signing fails.
    pub fn token(&self) -> anyhow::Result<String> {
        let now = self.clock.unix_seconds();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((token, expires_at)) = current.as_ref()
            && expires_at - now > RENEW_BELOW_S
        {
            return Ok(token.clone());
        }
        let expires_at = now + TTL_S;
        let token = self.signer.sign(&Claims {
            iss: INTERNAL_AUDIENCE.to_owned(),
            aud: INTERNAL_AUDIENCE.to_owned(),
            exp: expires_at,
            sub: self.subject.clone(),
            business_id: None,
            roles: vec!["service".to_owned()],
            customer_id: None,
            location_ids: None,
        })?;
        *current = Some((token.clone(), expires_at));
        Ok(token)
    }
}
