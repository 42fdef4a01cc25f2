//! Answers of the HTTP API, and whole answers beside what they must be.
//!
//! In a snapshot every id, time, trace and secret code stands as its name. Nothing says which fields have them: a value is named if
//! it has the form that its kind must have, so that one of another form stands there as it is, and the snapshot fails.

use std::collections::{BTreeMap, HashMap};

use chrono::DateTime;
use reqwest::{
    StatusCode,
    header::{CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER},
};
use serde_json::Value;
use uuid::Uuid;

/// Longest line of a snapshot, in characters; what does not fit is written over several.
const WIDTH: usize = 110;

/// Characters of a reward's code.
const CODE_LENGTH: usize = 20;

/// The answer of a call.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Whether it is the stored answer to an earlier call.
    pub replayed: bool,
    /// Its body.
    pub bytes: Vec<u8>,
    headers: HeaderMap,
}

impl Answer {
    /// Reads a response to its end.
    ///
    /// # Panics
    /// When the body does not arrive.
    pub async fn read(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.expect("a body").to_vec();
        Self { status, replayed: headers.contains_key("idempotent-replayed"), bytes, headers }
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    /// The code of a problem; empty if the answer is none.
    ///
    /// # Panics
    /// When the body is no JSON.
    #[must_use]
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The answer as a snapshot has it: status and headers, then the body.
    #[must_use]
    pub fn shown(&self) -> String {
        let mut names = Names::default();
        let header = |name| self.headers.get(name).map(|value| value.to_str().expect("text"));
        let mut head =
            format!("{} {}", self.status.as_u16(), header(CONTENT_TYPE).unwrap_or("without a type"));
        if self.replayed {
            head.push_str(", replayed");
        }
        for (header, value) in [("location", header(LOCATION)), ("retry-after", header(RETRY_AFTER))] {
            if let Some(value) = value {
                head.push_str(&format!(", {header}: {}", names.name("", value)));
            }
        }
        let mut body = self.json();
        names.apply("", &mut body);
        let mut text = format!("{head}\n");
        write(&body, 0, 0, &mut text);
        text
    }
}

/// What differs from run to run, by name: the same id has the same name throughout an answer.
#[derive(Default)]
struct Names(HashMap<Uuid, usize>);

impl Names {
    fn apply(&mut self, field: &str, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.name(field, text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.apply(field, item)),
            Value::Object(fields) => {
                let fields: BTreeMap<_, _> = fields.iter_mut().collect();
                fields.into_iter().for_each(|(field, value)| self.apply(field, value));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn name(&mut self, field: &str, text: &str) -> String {
        match field {
            "trace_id" if is_trace(text) => "[trace]".to_owned(),
            "code" if is_code(text, CODE_LENGTH) => "[code]".to_owned(),
            "last_four" if is_code(text, 4) => "[last four]".to_owned(),
            _ if is_time(text) => "[time]".to_owned(),
            _ => self.ids(text),
        }
    }

    /// The text with a name in the place of each id, also in the middle of a path.
    fn ids(&mut self, text: &str) -> String {
        let mut named = String::new();
        let is_inside = |c: char| c.is_ascii_hexdigit() || c == '-';
        let mut rest = text;
        while let Some(start) = rest.find(is_inside) {
            let (before, found) = rest.split_at(start);
            let end = found.find(|c| !is_inside(c)).unwrap_or(found.len());
            let (word, after) = found.split_at(end);
            named.push_str(before);
            match Uuid::parse_str(word) {
                Ok(id) if id.to_string() == word => {
                    let next = self.0.len() + 1;
                    named.push_str(&format!("[id {}]", self.0.entry(id).or_insert(next)));
                }
                _ => named.push_str(word),
            }
            rest = after;
        }
        named + rest
    }
}

/// RFC 3339 in UTC, with as many digits as a database keeps.
fn is_time(text: &str) -> bool {
    let fraction = text.split_once('.').map_or("", |(_, fraction)| fraction.trim_end_matches('Z'));
    text.ends_with('Z') && fraction.len() <= 6 && DateTime::parse_from_rfc3339(text).is_ok()
}

fn is_trace(text: &str) -> bool {
    text.len() == 32 && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
}

/// Crockford's base 32.
fn is_code(text: &str, length: usize) -> bool {
    text.len() == length
        && text.chars().all(|c| c.is_ascii_digit() || (c.is_ascii_uppercase() && !"ILOU".contains(c)))
}

/// Writes JSON so that whatever fits into a line stands in one; `used` characters of the line are taken already. The fields of a
/// document itself stand on lines of their own.
fn write(value: &Value, depth: usize, used: usize, text: &mut String) {
    let (line, indent) = (one_line(value), depth * 2);
    let members = members(value);
    if members.is_empty() || (depth > 0 && indent + used + line.chars().count() <= WIDTH) {
        return text.push_str(&line);
    }
    let (open, close) = if value.is_array() { ('[', ']') } else { ('{', '}') };
    text.push(open);
    for (place, (name, member)) in members.iter().enumerate() {
        let end = if place + 1 < members.len() { "," } else { "" };
        text.push_str(&format!("\n{:1$}{name}", "", indent + 2));
        write(member, depth + 1, name.chars().count() + end.len(), text);
        text.push_str(end);
    }
    text.push_str(&format!("\n{:1$}{close}", "", indent));
}

fn one_line(value: &Value) -> String {
    let members: Vec<_> =
        members(value).into_iter().map(|(name, member)| format!("{name}{}", one_line(member))).collect();
    match value {
        _ if members.is_empty() => value.to_string(),
        Value::Array(_) => format!("[{}]", members.join(", ")),
        _ => format!("{{ {} }}", members.join(", ")),
    }
}

/// What a value has inside: items, or fields in the order of their names, whichever order serde_json keeps.
fn members(value: &Value) -> Vec<(String, &Value)> {
    match value {
        Value::Array(items) => items.iter().map(|item| (String::new(), item)).collect(),
        Value::Object(fields) => {
            let fields: BTreeMap<_, _> = fields.iter().collect();
            fields.into_iter().map(|(name, value)| (format!("\"{name}\": "), value)).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

/// Compares a whole answer — status, headers, body — with what stands beside it.
///
/// ```text
/// snapshot!(answer, @r#"
/// 200 application/json
/// { "result": "will_reverse", "redemption_id": "[id 1]" }
/// "#);
/// ```
#[macro_export]
macro_rules! snapshot {
    ($answer:expr, @$expected:literal) => {
        $crate::insta::assert_snapshot!($answer.shown(), @$expected)
    };
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn named(mut value: Value) -> Value {
        Names::default().apply("", &mut value);
        value
    }

    #[test]
    fn what_has_its_form_is_named_and_an_id_has_one_name() {
        let [first, second] = [Uuid::from_u128(1), Uuid::from_u128(2)];
        let named = named(json!({
            "id": first, "other": second, "links": { "self": format!("/redemptions/{first}/capture") },
            "at": "2026-01-02T03:04:05.123456Z", "trace_id": "0af7651916cd43dd8448eb211c80319c",
            "code": "0123456789ABCDEFGHJK", "last_four": "GHJK",
        }));
        let expected = json!({
            "id": "[id 1]", "other": "[id 2]", "links": { "self": "/redemptions/[id 1]/capture" },
            "at": "[time]", "trace_id": "[trace]", "code": "[code]", "last_four": "[last four]",
        });
        assert_eq!(named, expected);
    }

    #[test]
    fn what_has_another_form_stands_as_it_is() {
        for odd in [
            json!({ "at": "2026-01-02T03:04:05" }),
            json!({ "at": "2026-01-02T03:04:05+00:00" }),
            json!({ "at": "2026-01-02T03:04:05.123456789Z" }),
            json!({ "id": "0AF76519-16CD-43DD-8448-EB211C80319C" }),
            json!({ "id": "0af7651916cd43dd8448eb211c80319c" }),
            json!({ "trace_id": "0af7" }),
            json!({ "code": "insufficient_balance" }),
            json!({ "last_four": "ILOU" }),
        ] {
            assert_eq!(named(odd.clone()), odd);
        }
    }

    #[test]
    fn what_fits_into_a_line_stands_in_one() {
        let long = "x".repeat(WIDTH);
        let mut text = String::new();
        write(&json!({ "a": [1, { "b": null }], "c": [], "d": [long] }), 0, 0, &mut text);
        assert_eq!(
            text,
            format!(
                "{{\n  \"a\": [1, {{ \"b\": null }}],\n  \"c\": [],\n  \"d\": [\n    \"{long}\"\n  ]\n}}"
            )
        );
    }
}
