//! Which tokens are believed, and what each role may.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use service::{
    Clock,
    auth::{Claims, KeyPair, KeySet, Signer},
    config::AppEnv,
};
use support::Server;
use testkit::Tokens;
use tokio_util::task::TaskTracker;

fn code(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["code"].as_str().unwrap_or_default())
}

fn part(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

/// A token with any header, signed with the public key's text as an HMAC secret, or not at all.
fn forged(header: &Value, claims: &Value, secret: Option<&[u8]>) -> String {
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = secret.map(|secret| {
        jsonwebtoken::crypto::sign(signed.as_bytes(), &EncodingKey::from_secret(secret), Algorithm::HS256)
            .unwrap()
    });
    format!("{signed}.{}", signature.unwrap_or_default())
}

#[tokio::test]
async fn forged_tokens_are_refused() {
    let server = Server::start().await;
    let claims = serde_json::to_value(Tokens::claims("demo", "manager")).unwrap();
    let good = server.tokens.staff("demo", "manager");
    assert_eq!(server.whoami(&[&format!("Bearer {good}")]).await.0, 200);
    assert_eq!(server.whoami(&[&format!("bearer {good}")]).await.0, 200);

    let header = |extra: Value| {
        let mut header = json!({"typ": "JWT", "alg": "HS256", "kid": "test-public"});
        header.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        header
    };
    let jwks = server.tokens.public_jwks().to_owned();
    let (signed, _) = good.rsplit_once('.').unwrap();
    let forgeries = [
        forged(&json!({"alg": "none", "typ": "JWT", "kid": "test-public"}), &claims, None),
        forged(&json!({"alg": "None", "kid": "test-public"}), &claims, None),
        forged(&header(json!({})), &claims, Some(jwks.as_bytes())),
        forged(&header(json!({"kid": "../../etc/passwd"})), &claims, Some(b"x")),
        forged(&header(json!({"kid": "' OR 1=1 --"})), &claims, Some(b"x")),
        forged(&header(json!({"kid": "k".repeat(5000)})), &claims, Some(b"x")),
        format!("{signed}."),
        format!("{signed}.AAAA"),
        format!("{good}x"),
        signed.to_owned(),
        "x".to_owned(),
        "a.b.c".to_owned(),
        "x".repeat(64 * 1024),
        String::new(),
    ];
    for token in forgeries {
        let answer = server.whoami(&[&format!("Bearer {token}")]).await;
        assert_eq!(code(&answer), (401, "token_invalid"), "{}", &token[..token.len().min(80)]);
    }
}

/// What a forger does to a header.
type Change<'a> = &'a dyn Fn(&mut Header);

#[tokio::test]
async fn headers_that_bring_their_own_key_or_ask_for_more_are_refused() {
    let server = Server::start().await;
    let claims = Tokens::claims("demo", "manager");
    let jwk: Value = serde_json::from_str(server.tokens.public_jwks()).unwrap();
    let sign = |change: &dyn Fn(&mut Header)| {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some("test-public".to_owned());
        change(&mut header);
        let key = EncodingKey::from_ed_pem(server.tokens.public_pem().as_bytes()).unwrap();
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    };
    assert_eq!(server.whoami(&[&format!("Bearer {}", sign(&|_| {}))]).await.0, 200);
    let changes: [(&str, Change<'_>); 7] = [
        ("jku", &|header| header.jku = Some("http://127.0.0.1:1/keys".to_owned())),
        ("jwk", &|header| header.jwk = Some(serde_json::from_value(jwk["keys"][0].clone()).unwrap())),
        ("x5u", &|header| header.x5u = Some("http://127.0.0.1:1/cert".to_owned())),
        ("crit", &|header| header.crit = Some(vec!["exp".to_owned()])),
        ("typ", &|header| header.typ = Some("secevent+jwt".to_owned())),
        ("no kid", &|header| header.kid = None),
        ("another kid", &|header| header.kid = Some("TEST-PUBLIC".to_owned())),
    ];
    for (name, change) in changes {
        let answer = server.whoami(&[&format!("Bearer {}", sign(change))]).await;
        assert_eq!(code(&answer), (401, "token_invalid"), "{name}");
    }
}

#[tokio::test]
async fn claims_have_to_fit_exactly() {
    let server = Server::start().await;
    let now = Clock.unix_seconds();
    let good = serde_json::to_value(Tokens::claims("demo", "manager")).unwrap();
    let key = EncodingKey::from_ed_pem(server.tokens.public_pem().as_bytes()).unwrap();
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some("test-public".to_owned());
    let sign = |name: &str, value: Option<Value>| {
        let mut claims = good.clone();
        match value {
            Some(value) => claims[name] = value,
            None => drop(claims.as_object_mut().unwrap().remove(name)),
        }
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    };
    for (name, value, expected) in [
        ("exp", Some(json!(now - 20)), 200), // within the leeway
        ("nbf", Some(json!(now + 20)), 200),
        ("aud", Some(json!(["other", "unified-wallet"])), 200),
        ("extra", Some(json!({"a": 1})), 200),
        ("exp", Some(json!((now + 600).to_string())), 401),
        ("exp", Some(json!(1.5)), 401),
        ("exp", None, 401),
        ("nbf", Some(json!(now + 300)), 401),
        ("aud", Some(json!("unified-wallet-internal")), 401),
        ("aud", Some(json!("Unified-Wallet")), 401),
        ("aud", None, 401),
        ("iss", Some(json!("unified-wallet ")), 401),
        ("iss", None, 401),
        ("sub", None, 401),
        ("business_id", None, 401),
        ("business_id", Some(json!("a b")), 401),
        ("roles", Some(json!("manager")), 401),
        ("roles", None, 401),
        ("roles", Some(json!(["emperor"])), 403),
        ("roles", Some(json!([])), 403),
        ("roles", Some(json!(["customer"])), 401), // of no customer
    ] {
        let answer = server.whoami(&[&format!("Bearer {}", sign(name, value.clone()))]).await;
        assert_eq!(answer.0, expected, "{name}: {value:?}: {}", answer.1);
    }
    let expired = server.whoami(&[&format!("Bearer {}", sign("exp", Some(json!(now - 60))))]).await;
    assert_eq!(code(&expired), (401, "token_expired"));
}

#[tokio::test]
async fn there_is_one_authorization_header_and_it_bears_a_token() {
    let server = Server::start().await;
    let bearer = format!("Bearer {}", server.tokens.staff("demo", "manager"));
    let basic = "Basic YTpi".to_owned();
    for headers in
        [vec![], vec![bearer.as_str(), bearer.as_str()], vec![basic.as_str()], vec!["Bearer"], vec![""]]
    {
        assert_eq!(code(&server.whoami(&headers).await), (401, "token_invalid"), "{headers:?}");
    }
}

#[tokio::test]
async fn a_rotated_out_key_is_refused_although_its_token_was_seen_before() {
    let server = Server::start().await;
    let bearer = format!("Bearer {}", server.tokens.staff("demo", "manager"));
    assert_eq!(server.whoami(&[&bearer]).await.0, 200);
    let next = KeyPair::generate("test-next").unwrap();
    server.verifier.replace_keys(KeySet::parse(&next.public_jwks, AppEnv::Production).unwrap());
    assert_eq!(code(&server.whoami(&[&bearer]).await), (401, "token_invalid"));
    let signer = Signer::from_pem(next.private_pem.as_bytes(), "test-next").unwrap();
    let token = signer.sign(&Tokens::claims("demo", "manager")).unwrap();
    assert_eq!(server.whoami(&[&format!("Bearer {token}")]).await.0, 200);
}

/// The file is read again many times meanwhile.
const READ_AGAIN: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_key_file_is_read_again_when_it_changes_and_a_bad_one_changes_nothing() {
    let server = Server::start().await;
    let bearer = format!("Bearer {}", server.tokens.staff("demo", "manager"));
    let path = std::env::temp_dir().join(format!("jwks-{}", uuid::Uuid::new_v4()));
    std::fs::write(&path, server.tokens.public_jwks()).unwrap();
    let follow = server.verifier.clone().follow(path.clone(), AppEnv::Production, Duration::from_millis(20));
    let follow = tokio_util::task::AbortOnDropHandle::new(TaskTracker::new().spawn(follow));

    std::fs::write(&path, "{ not a key set").unwrap();
    tokio::time::sleep(READ_AGAIN).await;
    assert_eq!(server.whoami(&[&bearer]).await.0, 200);
    std::fs::write(&path, KeyPair::generate("test-next").unwrap().public_jwks).unwrap();
    let refused = testkit::until(Duration::from_secs(10), async || {
        let answer = server.whoami(&[&bearer]).await;
        if answer.0 == 200 { Err("the old key is believed") } else { Ok(answer) }
    });
    assert_eq!(code(&refused.await), (401, "token_invalid"));
    drop(follow);
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn a_role_may_what_its_type_says_and_401_comes_before_403_before_everything_else() {
    let server = Server::start().await;
    let debit = |token: String| {
        let server = &server;
        async move { server.send("POST", "/debit", &[&format!("Bearer {token}")], "text/plain", "junk").await }
    };
    assert_eq!(code(&debit("x".to_owned()).await), (401, "token_invalid"));
    for role in ["pos", "finance", "ops"] {
        assert_eq!(code(&debit(server.tokens.staff("demo", role)).await), (403, "role_missing"), "{role}");
    }
    assert_eq!(code(&debit(server.tokens.customer("demo", "c")).await), (403, "role_missing"));
    for role in ["manager", "admin"] {
        assert_eq!(code(&debit(server.tokens.staff("demo", role)).await).0, 415, "{role}");
    }
}

#[tokio::test]
async fn a_customer_is_one_customer_and_a_peer_no_caller() {
    let server = Server::start().await;
    let own = server.whoami(&[&format!("Bearer {}", server.tokens.customer("demo", "c1"))]).await;
    assert_eq!(own.1, json!({"business": "demo", "own_customer": "c1", "subject": "test-customer"}));
    // A till that is a customer too is a till.
    let mut both = Tokens::claims("demo", "customer");
    both.customer_id = Some("c1".to_owned());
    both.roles.push("pos".to_owned());
    let both = server.whoami(&[&format!("Bearer {}", server.tokens.sign(&both))]).await;
    assert_eq!(both.1["own_customer"], Value::Null);
    // A service's token is for the other listener, and a caller's role `service` is worth nothing here.
    let peer = server.whoami(&[&format!("Bearer {}", server.tokens.peer())]).await;
    assert_eq!(code(&peer), (401, "token_invalid"));
    let self_made: Claims = Tokens::claims("demo", "service");
    let self_made = server.whoami(&[&format!("Bearer {}", server.tokens.sign(&self_made))]).await;
    assert_eq!(code(&self_made), (403, "role_missing"));
}

#[test]
fn production_refuses_development_keys_and_keys_that_cannot_be_used() {
    let key = KeyPair::generate("dev-public").unwrap();
    assert!(KeySet::parse(&key.public_jwks, AppEnv::Development).is_ok());
    assert!(KeySet::parse(&key.public_jwks, AppEnv::Production).is_err());
    let symmetric = json!({"keys": [{"kty": "oct", "kid": "a", "k": "AAAA", "alg": "HS256"}]}).to_string();
    let small = json!({"keys": [{"kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB"}]}).to_string();
    let mut twice: Value = serde_json::from_str(&KeyPair::generate("a").unwrap().public_jwks).unwrap();
    let copy = twice["keys"][0].clone();
    twice["keys"].as_array_mut().unwrap().push(copy);
    for bad in ["", "{}", r#"{"keys":[]}"#, &symmetric, &small, &twice.to_string()] {
        assert!(KeySet::parse(bad, AppEnv::Production).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn a_socket_may_bring_its_token_as_a_subprotocol() {
    let server = Server::start().await;
    let token = server.tokens.staff("demo", "pos");
    let ask = async |path: &str, headers: &[(&str, String)]| {
        let mut request = reqwest::Client::new().get(format!("http://{}{path}", server.address));
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<serde_json::Value>().await.unwrap())
    };
    let (bearer, protocol) = (
        ("authorization", format!("Bearer {token}")),
        ("sec-websocket-protocol", format!("bearer, {token}")),
    );
    let expected = Tokens::claims("demo", "pos").exp + 30;
    for headers in [[bearer.clone()], [protocol.clone()]] {
        let (status, caller) = ask("/socket", &headers).await;
        assert_eq!((status, &caller["subject"]), (200, &serde_json::json!("test-pos")));
        // Made a moment ago; believed for half a minute longer than it says.
        assert!((0..5).contains(&(expected - caller["expires_at"].as_i64().unwrap())), "{caller}");
    }
    assert_eq!(ask("/socket", &[bearer, protocol.clone()]).await.0, 401);
    for bad in [token.clone(), format!("{token}, bearer"), "bearer".to_owned(), "bearer, x".to_owned()] {
        assert_eq!(ask("/socket", &[("sec-websocket-protocol", bad)]).await.0, 401);
    }
    assert_eq!(ask("/whoami", &[protocol]).await.0, 401, "nowhere else");
}
