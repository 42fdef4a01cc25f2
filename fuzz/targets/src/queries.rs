//! Query strings.

use std::{collections::BTreeMap, str::from_utf8};

use api::legs::Account;
use service::extract::Query;

use crate::request::{check_refusal, from_head};

/// Reads the bytes as a query string: as any parameters, and as those that name an account.
pub fn run(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    let uri = format!("/?{text}");
    let Some(read) = from_head::<Query<BTreeMap<String, String>>>(&uri, &[], |_| {}) else { return };
    // A fragment never reaches a server.
    let sent = text.split('#').next().unwrap_or_default();
    let plain = decode(sent.as_bytes());
    match (read, &plain) {
        (Ok(Query(read)), Some(plain)) => assert_eq!(&read, plain),
        (Err(refusal), None) => check_refusal(&refusal),
        (read, plain) => panic!("{read:?} instead of {plain:?}"),
    }
    let account = from_head::<Query<Account>>(&uri, &[], |_| {}).expect("as before");
    if let Ok(Query(account)) = account {
        let plain = plain.expect("what is accepted as an account has parameters");
        let named = [
            ("business_id", account.business_id.as_str()),
            ("customer_id", &account.customer_id),
            ("asset", account.asset.as_str()),
        ];
        assert_eq!(plain.len(), named.len());
        assert!(named.iter().all(|(name, value)| plain.get(*name).map(String::as_str) == Some(value)));
    }
}

/// `name=value` between ampersands, each name once, no U+0000 in a value.
fn decode(query: &[u8]) -> Option<BTreeMap<String, String>> {
    let mut parameters = BTreeMap::new();
    for pair in query.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        let middle = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        let (name, value) = (unescape(&pair[..middle]), unescape(pair.get(middle + 1..).unwrap_or_default()));
        if value.contains('\0') || parameters.insert(name, value).is_some() {
            return None;
        }
    }
    Some(parameters)
}

fn unescape(text: &[u8]) -> String {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.get(..2).and_then(|hex| from_utf8(hex).ok()).filter(|_| *first == b'%');
        let escaped = escaped.filter(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
