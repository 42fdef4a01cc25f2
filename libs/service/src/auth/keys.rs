//! The public keys that tokens are checked with.

use std::{collections::HashMap, fmt, path::Path};

use anyhow::{Context, bail, ensure};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse},
};

use crate::config::AppEnv;

/// Key ids longer than this belong to nobody.
pub(super) const KID_LIMIT: usize = 64;

/// Smallest RSA modulus in bytes: 2048 bits.
const RSA_MODULUS_MIN: usize = 256;

/// A key with the one algorithm that it may be used with. The token has no say in it.
#[derive(Clone)]
pub(super) struct VerifyingKey {
    pub(super) key: DecodingKey,
    pub(super) algorithm: Algorithm,
}

/// Keys by id.
#[derive(Clone, Default)]
pub struct KeySet {
    keys: HashMap<String, VerifyingKey>,
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.keys.keys()).finish()
    }
}

impl KeySet {
    /// Reads a JWKS file.
    ///
    /// # Errors
    /// When the file cannot be read, or [`KeySet::parse`] refuses it.
    pub fn read(path: &Path, env: AppEnv) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text, env).with_context(|| format!("JWKS {}", path.display()))
    }

    /// Reads a JWKS: Ed25519, P-256 and RSA keys. Others are passed over with a warning.
    ///
    /// # Errors
    /// When it is no JWKS, has no usable key, two keys share an id, or a key for development turns up outside it.
    pub fn parse(text: &str, env: AppEnv) -> anyhow::Result<Self> {
        let set: JwkSet = serde_json::from_str(text).context("not a JSON Web Key Set")?;
        let mut keys = HashMap::new();
        for jwk in &set.keys {
            let Some(kid) = jwk.common.key_id.clone().filter(|kid| (1..=KID_LIMIT).contains(&kid.len()))
            else {
                bail!("every key needs a kid of 1 to {KID_LIMIT} characters");
            };
            ensure!(
                env == AppEnv::Development || !kid.starts_with("dev-"),
                "the development key {kid} is refused unless APP_ENV=development"
            );
            match verifying_key(jwk) {
                Ok(key) => ensure!(keys.insert(kid.clone(), key).is_none(), "two keys have the kid {kid}"),
                Err(error) => tracing::warn!(kid, %error, "key passed over"),
            }
        }
        ensure!(!keys.is_empty(), "no usable key (EdDSA, ES256 or RS256)");
        Ok(Self { keys })
    }

    pub(super) fn get(&self, kid: &str) -> Option<&VerifyingKey> {
        self.keys.get(kid)
    }
}

fn verifying_key(jwk: &Jwk) -> anyhow::Result<VerifyingKey> {
    ensure!(
        matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)),
        "the key is not for signatures"
    );
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::RSA(key) => {
            // Base64 has four characters for three bytes.
            ensure!(key.n.len() * 3 / 4 >= RSA_MODULUS_MIN, "an RSA key needs at least 2048 bits");
            (Algorithm::RS256, KeyAlgorithm::RS256)
        }
        _ => bail!("the kind of key is not supported"),
    };
    ensure!(jwk.common.key_algorithm.is_none_or(|alg| alg == named), "the key names another algorithm");
    Ok(VerifyingKey { key: DecodingKey::from_jwk(jwk)?, algorithm })
}
