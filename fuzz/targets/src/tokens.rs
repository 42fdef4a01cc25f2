//! `Authorization` headers. Up to the first line feed: a header's JSON; after it: claims. Both are signed with a key that the
//! verifier trusts, for no fuzzer guesses a signature. Bytes without a line feed are sent as they are.

use std::sync::LazyLock;

use axum::http::Extensions;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::Value;
use service::{
    Clock,
    auth::{Allow, Audience, Caller, KeyPair, KeySet, PUBLIC_AUDIENCE, Read, Verifier},
    config::AppEnv,
};

use crate::request::{check_refusal, from_head};

const ISSUER: &str = "fuzz";
const KID: &str = "key";

struct Trust {
    key: EncodingKey,
    verifier: Verifier,
}

static TRUST: LazyLock<Trust> = LazyLock::new(|| {
    let pair = KeyPair::generate(KID).expect("a key");
    let keys = KeySet::parse(&pair.public_jwks, AppEnv::Production).expect("a key set");
    Trust {
        key: EncodingKey::from_ed_pem(pair.private_pem.as_bytes()).expect("a key"),
        verifier: Verifier::new(Audience::public(ISSUER), keys),
    }
});

/// Reads the bytes as a token.
pub fn run(data: &[u8]) {
    let Some(split) = data.iter().position(|byte| *byte == b'\n') else {
        // Nothing here is signed.
        if let Some(read) = identify(data) {
            check_refusal(&read.expect_err("what is not signed is refused"));
        }
        return;
    };
    let (header, claims) = (&data[..split], &data[split + 1..]);
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature =
        jsonwebtoken::crypto::sign(signed.as_bytes(), &TRUST.key, Algorithm::EdDSA).expect("a signature");
    let authorization = format!("Bearer {signed}.{signature}");
    let Some(read) = identify(authorization.as_bytes()) else { return };
    match &read {
        Ok(caller) => check(header, claims, caller, authorization.len()),
        Err(refusal) => check_refusal(refusal),
    }
    // The second time a cache may answer.
    let again = identify(authorization.as_bytes()).expect("as before");
    assert_eq!(
        read.map_err(|error| error.problem().code.clone()),
        again.map_err(|error| error.problem().code.clone())
    );
}

fn identify(authorization: &[u8]) -> Option<Result<Caller, service::ApiError>> {
    let trust = |extensions: &mut Extensions| drop(extensions.insert(TRUST.verifier.clone()));
    let read = from_head::<Allow<Read>>("/", &[("authorization", authorization)], trust)?;
    Some(read.map(Allow::into_caller))
}

/// Everything that a token has to say before anybody is let in.
fn check(header: &[u8], claims: &[u8], caller: &Caller, length: usize) {
    let header: Value = serde_json::from_slice(header).expect("a header is JSON");
    let claims: Value = serde_json::from_slice(claims).expect("claims are JSON");
    assert!(length <= "Bearer ".len() + 8 * 1024);
    assert_eq!((&header["alg"], &header["kid"]), (&"EdDSA".into(), &KID.into()));
    for name in ["jku", "jwk", "x5u", "x5c", "crit"] {
        assert!(header[name].is_null(), "{name}");
    }
    let kind = header["typ"].as_str().map(str::to_ascii_lowercase);
    assert!(header["typ"].is_null() || matches!(kind.as_deref(), Some("jwt" | "at+jwt")), "{header}");

    assert_eq!(claims["iss"], ISSUER);
    let audiences = claims["aud"].as_array().map_or(std::slice::from_ref(&claims["aud"]), Vec::as_slice);
    assert!(audiences.iter().any(|audience| audience == PUBLIC_AUDIENCE));
    let now = Clock.unix_seconds();
    assert!(claims["exp"].as_i64().is_some_and(|end| end.saturating_add(30) >= now), "{claims}");
    assert!(claims["nbf"].is_null() || claims["nbf"].as_i64().is_some_and(|begin| begin <= now + 30));
    let roles: Vec<&str> =
        claims["roles"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let readers = ["customer", "pos", "manager", "finance", "admin"];
    let admitting: Vec<&&str> = roles.iter().filter(|role| readers.contains(role)).collect();
    assert!(!admitting.is_empty(), "{claims}");

    assert_eq!(claims["sub"], caller.subject.as_str());
    assert_eq!(claims["business_id"], caller.business_id.as_str());
    let own = caller.own_customer.as_ref().map(|customer| customer.as_str().into());
    let is_customer_only = admitting.iter().all(|role| **role == "customer");
    assert_eq!(
        own.unwrap_or(Value::Null),
        if is_customer_only { claims["customer_id"].clone() } else { Value::Null }
    );
    assert!(!is_customer_only || caller.own_customer.is_some(), "a customer who is everybody: {claims}");
    assert_eq!(caller.location_ids.is_none(), claims["location_ids"].is_null());
}
