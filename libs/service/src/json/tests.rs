use api::Code;
use serde::Deserialize;

use super::{Fault, from_slice};

#[derive(Debug, PartialEq, Deserialize)]
struct Debit {
    amount: i64,
    #[serde(default)]
    note: Option<String>,
    #[serde(default)]
    legs: Vec<Leg>,
    #[serde(default)]
    take: Option<Take>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Leg {
    points: u32,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Take {
    Exact,
    AtMost { step: i64 },
}

fn fault(body: &str) -> (Code, String) {
    let Fault { code, pointer, .. } = from_slice::<Debit>(body.as_bytes()).unwrap_err();
    (code, pointer)
}

#[test]
fn integers_arrive_exactly() {
    for amount in ["0", "-1", "9007199254740993", "9223372036854775807", "-9223372036854775808"] {
        let debit: Debit = from_slice(format!(r#"{{"amount":{amount}}}"#).as_bytes()).unwrap();
        assert_eq!(debit.amount.to_string(), amount);
    }
}

#[test]
fn what_is_no_plain_integer_is_refused_at_its_place() {
    for amount in [
        "1.0",
        "1e2",
        "1E2",
        "-0",
        "0.0",
        "9223372036854775808",
        "-9223372036854775809",
        "\"5\"",
        "null",
        "true",
        "[7]",
        "{}",
    ] {
        assert_eq!(
            fault(&format!(r#"{{"amount":{amount}}}"#)),
            (Code::InvalidField, "/amount".into()),
            "{amount}"
        );
    }
    let huge = format!(r#"{{"amount":1{}}}"#, "0".repeat(400));
    assert!(matches!(fault(&huge).0, Code::InvalidField | Code::MalformedJson));
}

#[test]
fn what_is_no_json_is_refused() {
    for body in [
        "",
        "{",
        r#"{"amount":1}x"#,
        r#"{"amount":NaN}"#,
        r#"{"amount":+5}"#,
        r#"{"amount":0x10}"#,
        r#"{"amount":01}"#,
        r#"{"amount":１}"#,
        r#"{"amount":1,"amount":1}"#,
        r#"{"amount":1,"\u0061mount":2}"#,
        r#"{"amount":1,"note":"\ud800"}"#,
        r#"{"amount":1,"note":"a\u0000b"}"#,
        r#"{"amount":1,}"#,
        r#"{'amount':1}"#,
        "{\"amount\":1,\"note\":\"\n\"}",
    ] {
        assert_eq!(fault(body).0, Code::MalformedJson, "{body}");
    }
    assert_eq!(
        from_slice::<Debit>(b"{\"amount\":1,\"note\":\"\xff\"}").unwrap_err().code,
        Code::MalformedJson
    );
    assert_eq!(fault(&format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000))).0, Code::MalformedJson);
    let deep = format!(r#"{{"amount":1,"note":{}1{}}}"#, "[".repeat(40), "]".repeat(40));
    assert_eq!(fault(&deep).0, Code::MalformedJson);
}

#[test]
fn an_array_is_no_object_at_any_depth() {
    assert_eq!(fault("[7]"), (Code::InvalidField, String::new()));
    assert_eq!(fault(r#"{"amount":1,"legs":[{"points":1},[7]]}"#), (Code::InvalidField, "/legs/1".into()));
    assert_eq!(fault(r#"{"amount":1,"take":{"at_most":[7]}}"#), (Code::InvalidField, "/take/at_most".into()));
}

#[test]
fn faults_name_their_place() {
    assert_eq!(fault("{}"), (Code::InvalidField, "/amount".into()));
    assert_eq!(fault(r#"{"amount":1,"balance":9}"#), (Code::UnknownField, "/balance".into()));
    assert_eq!(fault(r#"{"amount":1,"a/b~c":9}"#), (Code::UnknownField, "/a~1b~0c".into()));
    assert_eq!(
        fault(r#"{"amount":1,"legs":[{"points":-1}]}"#),
        (Code::InvalidField, "/legs/0/points".into())
    );
    assert_eq!(fault(r#"{"amount":1,"legs":[{}]}"#), (Code::InvalidField, "/legs/0/points".into()));
    assert_eq!(
        fault(r#"{"amount":1,"legs":[{"points":1,"x":1}]}"#),
        (Code::UnknownField, "/legs/0/x".into())
    );
    assert_eq!(fault(r#"{"amount":1,"take":"some"}"#), (Code::InvalidField, "/take".into()));
}

#[test]
fn enums_and_options_are_read() {
    let debit: Debit = from_slice(br#"{"amount":1,"note":null,"take":{"at_most":{"step":5}}}"#).unwrap();
    assert_eq!(debit, Debit { amount: 1, note: None, legs: vec![], take: Some(Take::AtMost { step: 5 }) });
    let debit: Debit = from_slice(br#"{"amount":1,"take":"exact"}"#).unwrap();
    assert_eq!(debit.take, Some(Take::Exact));
}
