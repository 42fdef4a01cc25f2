//! New keys, for development and tests; production brings its own.

use anyhow::Context;
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::{Engine, engine::general_purpose::STANDARD};
use jsonwebtoken::{
    Algorithm, EncodingKey,
    jwk::{Jwk, JwkSet, PublicKeyUse},
};

/// An Ed25519 key, as the files that signers and verifiers read.
#[derive(Clone)]
pub struct KeyPair {
    /// The private key: PKCS #8 PEM.
    pub private_pem: String,
    /// The public key: a JWKS with this key only.
    pub public_jwks: String,
}

impl KeyPair {
    /// A new key that verifiers know as `kid`.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate(kid: &str) -> anyhow::Result<Self> {
        let pair = Ed25519KeyPair::generate().ok().context("cannot generate a key")?;
        let der = pair.to_pkcs8v1().ok().context("cannot encode the key")?;
        let private_pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            STANDARD.encode(der.as_ref())
        );
        let key = EncodingKey::from_ed_pem(private_pem.as_bytes()).context("cannot read the new key")?;
        let mut jwk =
            Jwk::from_encoding_key(&key, Algorithm::EdDSA).context("cannot derive the public key")?;
        jwk.common.key_id = Some(kid.to_owned());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        let public_jwks = serde_json::to_string_pretty(&JwkSet { keys: vec![jwk] })?;
        Ok(Self { private_pem, public_jwks })
    }
}
