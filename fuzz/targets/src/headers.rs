//! Headers other than tokens. The first byte says which, a line feed separates two of one name.

use service::{extract::IdempotencyKey, json::Body, trace::Trace};

use crate::request::{check_refusal, from_head};

/// Reads the bytes as a header's values.
pub fn run(data: &[u8]) {
    let Some((which, rest)) = data.split_first() else { return };
    let values: Vec<&[u8]> = rest.split(|byte| *byte == b'\n').collect();
    match which {
        b'k' => idempotency_key(&values),
        b't' => traceparent(&values),
        _ => media_type(&values),
    }
}

fn named<'a>(name: &'static str, values: &[&'a [u8]]) -> Vec<(&'static str, &'a [u8])> {
    values.iter().map(|value| (name, *value)).collect()
}

fn idempotency_key(values: &[&[u8]]) {
    let headers = named("idempotency-key", values);
    let Some(read) = from_head::<IdempotencyKey>("/", &headers, |_| {}) else { return };
    let is_key =
        |value: &[u8]| (1..=255).contains(&value.len()) && value.iter().all(|b| (0x21..=0x7e).contains(b));
    match read {
        Ok(IdempotencyKey(key)) => {
            assert_eq!(values, [key.as_bytes()]);
            assert!(is_key(key.as_bytes()));
        }
        Err(refusal) => {
            check_refusal(&refusal);
            assert!(values.len() != 1 || !is_key(values[0]), "{values:?}");
        }
    }
}

/// `00-<trace id>-<span id>-<flags>`: continued, or a new trace begins. Never more than 32 hexadecimal digits come of it.
fn traceparent(values: &[&[u8]]) {
    let mut headers = axum::http::HeaderMap::new();
    for value in values {
        let Ok(value) = axum::http::HeaderValue::from_bytes(value) else { return };
        headers.append("traceparent", value);
    }
    let id = Trace::of_request(&headers, "/").id();
    let is_hex = |text: &[u8]| text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    assert!(id.len() == 32 && is_hex(id.as_bytes()));
    let [only] = values else { return };
    let is_zero = |text: &[u8]| text.iter().all(|byte| *byte == b'0');
    let is_sound = only.len() == 55
        && only.starts_with(b"00-")
        && only[35] == b'-'
        && only[52] == b'-'
        && is_hex(&only[53..])
        && [&only[3..35], &only[36..52]].iter().all(|part| is_hex(part) && !is_zero(part));
    if is_sound {
        assert_eq!(id.as_bytes(), &only[3..35]);
    } else {
        assert!(only.len() < 35 || id.as_bytes() != &only[3..35], "continued {only:?}");
    }
}

/// A body is read if it is called JSON, in UTF-8 if it says so.
fn media_type(values: &[&[u8]]) {
    let mut request = axum::http::Request::post("/");
    for value in values {
        request = request.header("content-type", *value);
    }
    let Ok(request) = request.body(axum::body::Body::from("{}")) else { return };
    let read = crate::request::from_request::<Body<std::collections::BTreeMap<String, String>>>(request);
    let is_json = matches!(values, [only] if {
        let text = String::from_utf8_lossy(only).to_ascii_lowercase();
        let mut words = text.split(';').map(str::trim);
        words.next() == Some("application/json") && words.all(|word| word == "charset=utf-8")
    });
    match read {
        Ok(_) => assert!(is_json, "{values:?}"),
        Err(refusal) => {
            check_refusal(&refusal);
            assert!(!is_json, "{values:?}");
        }
    }
}
