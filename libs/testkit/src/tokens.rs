//! Tokens signed by keys that live as long as the test.

use service::{
    Clock,
    auth::{Audience, Claims, KeyPair, KeySet, PUBLIC_AUDIENCE, ServiceTokens, Signer, Verifier},
    config::AppEnv,
};

/// `iss` of test tokens.
const ISSUER: &str = "unified-wallet";
/// Life of a test token in seconds.
const TTL_S: i64 = 600;

/// Signs tokens for callers and for services, with a key for each, and makes the verifiers that trust them.
pub struct Tokens {
    public: (KeyPair, Signer),
    internal: KeyPair,
}

impl Default for Tokens {
    fn default() -> Self {
        Self::new()
    }
}

impl Tokens {
    /// New keys.
    ///
    /// # Panics
    /// When none can be generated.
    #[must_use]
    pub fn new() -> Self {
        let public = KeyPair::generate("test-public").expect("a key");
        let signer = Signer::from_pem(public.private_pem.as_bytes(), "test-public").expect("a signer");
        Self { public: (public, signer), internal: KeyPair::generate("test-internal").expect("a key") }
    }

    /// Trusts callers' tokens.
    ///
    /// # Panics
    /// When the key cannot be read.
    #[must_use]
    pub fn public_verifier(&self) -> Verifier {
        let keys = KeySet::parse(&self.public.0.public_jwks, AppEnv::Production).expect("a key set");
        Verifier::new(Audience::public(ISSUER), keys)
    }

    /// Trusts services' tokens.
    ///
    /// # Panics
    /// When the key cannot be read.
    #[must_use]
    pub fn internal_verifier(&self) -> Verifier {
        let keys = KeySet::parse(&self.internal.public_jwks, AppEnv::Production).expect("a key set");
        Verifier::new(Audience::internal(), keys)
    }

    /// The tokens of the service `subject`.
    ///
    /// # Panics
    /// When the key cannot be read.
    #[must_use]
    pub fn service(&self, subject: &str) -> ServiceTokens {
        let signer =
            Signer::from_pem(self.internal.private_pem.as_bytes(), "test-internal").expect("a signer");
        ServiceTokens::new(signer, subject)
    }

    /// The claims of a caller's token, for tests that change them.
    #[must_use]
    pub fn claims(business: &str, role: &str) -> Claims {
        Claims {
            iss: ISSUER.to_owned(),
            aud: PUBLIC_AUDIENCE.to_owned(),
            exp: Clock.unix_seconds() + TTL_S,
            sub: format!("test-{role}"),
            business_id: Some(business.to_owned()),
            roles: vec![role.to_owned()],
            customer_id: None,
            location_ids: None,
        }
    }

    /// A caller's token with these claims.
    ///
    /// # Panics
    /// When it cannot be signed.
    #[must_use]
    pub fn sign(&self, claims: &Claims) -> String {
        self.public.1.sign(claims).expect("a token")
    }

    /// A token of a member of staff.
    #[must_use]
    pub fn staff(&self, business: &str, role: &str) -> String {
        self.sign(&Self::claims(business, role))
    }

    /// A customer's own token.
    #[must_use]
    pub fn customer(&self, business: &str, customer: &str) -> String {
        let mut claims = Self::claims(business, "customer");
        claims.customer_id = Some(customer.to_owned());
        self.sign(&claims)
    }

    /// A service's token: role `service`, for the internal listener.
    ///
    /// # Panics
    /// When it cannot be signed.
    #[must_use]
    pub fn peer(&self) -> String {
        self.service("test").token().expect("a token")
    }

    /// Writes into a folder what a service's process reads: `public.jwks.json`, `internal.jwks.json`, and
    /// `test-internal.pem`, with which services sign.
    ///
    /// # Panics
    /// When a file cannot be written.
    pub fn write_files(&self, folder: &std::path::Path) {
        for (name, text) in [
            ("public.jwks.json", &self.public.0.public_jwks),
            ("internal.jwks.json", &self.internal.public_jwks),
            ("test-internal.pem", &self.internal.private_pem),
        ] {
            std::fs::write(folder.join(name), text).expect("a file of keys");
        }
    }

    /// The callers' private key, for tests that sign what [`Tokens::sign`] would not.
    #[must_use]
    pub fn public_pem(&self) -> &str {
        &self.public.0.private_pem
    }

    /// The services' private key, for processes that sign with it.
    #[must_use]
    pub fn internal_pem(&self) -> &str {
        &self.internal.private_pem
    }

    /// The JWKS that callers' tokens are checked with.
    #[must_use]
    pub fn public_jwks(&self) -> &str {
        &self.public.0.public_jwks
    }

    /// The JWKS that services' tokens are checked with.
    #[must_use]
    pub fn internal_jwks(&self) -> &str {
        &self.internal.public_jwks
    }
}
