//! Integers, as bodies and queries bring them, and the names of assets.

use std::str::from_utf8;

use money::Asset;
use serde::Deserialize;
use service::extract::Query;

use crate::request::from_head;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    amount: i64,
}

/// Reads the bytes as an integer of a body and of a query, and as an asset's name.
pub fn run(data: &[u8]) {
    let body = [b"{\"amount\":", data, b"}"].concat();
    let read = service::json::from_slice::<Request>(&body).ok().map(|request| request.amount);
    let spaces = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    let (from, to) = (data.iter().position(|b| !spaces(b)), data.iter().rposition(|b| !spaces(b)));
    let trimmed = from.zip(to).map_or(&[][..], |(from, to)| &data[from..=to]);
    assert_eq!(read, plain_digits(trimmed), "in a body");

    let encoded: String = form_urlencoded::byte_serialize(data).collect();
    if let Some(read) = from_head::<Query<Request>>(&format!("/?amount={encoded}"), &[], |_| {}) {
        assert_eq!(read.ok().map(|Query(request)| request.amount), plain_digits(data), "in a query");
    }
    if let Ok(text) = from_utf8(data) {
        asset(text);
    }
}

/// Digits, after a minus perhaps, as few as can be: the only way to write an integer.
fn plain_digits(text: &[u8]) -> Option<i64> {
    let (digits, sign) = text.strip_prefix(b"-").map_or((text, 1), |digits| (digits, -1));
    let is_short = matches!(digits, [b'0'] | [b'1'..=b'9', ..]) && digits.len() <= 19;
    if !is_short || text == b"-0" {
        return None;
    }
    let mut value = 0_i128;
    for digit in digits {
        value = value * 10 + i128::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?);
    }
    i64::try_from(sign * value).ok()
}

fn asset(text: &str) {
    let Ok(asset) = text.parse::<Asset>() else { return };
    assert_eq!(asset.as_str(), text);
    let is_code = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase());
    assert_eq!((asset == Asset::Points, asset.currency().is_some()), (text == "points", is_code));
    let json = serde_json::to_vec(&asset).expect("an asset is plain data");
    assert_eq!(service::json::from_slice::<Asset>(&json).ok(), Some(asset));
}
