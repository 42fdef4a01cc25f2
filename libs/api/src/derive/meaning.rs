//! Two requests hash alike exactly if they mean the same.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{RequestForm, requests};
use crate::{
    legs::Forward,
    tender::CreditRequest,
    wallet::{HOLD_DEFAULT_S, RedeemRequest, Strategy as Chosen},
};

/// The values that a field is tried with; the first is its default, as `null`, if it has one.
type Field = (&'static str, Vec<Value>);

fn redeem_fields() -> Vec<Field> {
    let reward = "00000000-0000-0000-0000-000000000001";
    vec![
        ("customer_id", vec![json!("a"), json!("b"), json!("ab")]),
        ("order_id", vec![json!("a"), json!("b"), json!("ab")]),
        ("currency", vec![json!("USD"), json!("KHR")]),
        ("amount", vec![json!(1), json!(2), json!(256)]),
        (
            "tenders",
            vec![
                Value::Null,
                json!([]),
                json!([{ "type": "points" }]),
                json!([{ "type": "points" }, { "type": "points" }]),
                json!([{ "type": "points", "points": 1 }]),
                json!([{ "type": "points", "max_points": 1 }]),
                json!([{ "type": "store_credit", "amount": 1, "points": null }]),
                json!([{ "type": "store_credit", "max_amount": 1 }]),
                json!([{ "type": "digital_reward", "reward_id": reward }]),
                json!([{ "type": "digital_reward", "code": "abcd-efgh" }]),
                json!([{ "type": "digital_reward", "code": "ABCDEFGH" }]),
                json!([{ "type": "digital_reward", "code": "ABCDEFG1" }]),
            ],
        ),
        ("strategy", vec![Value::Null, json!("expiring_first"), json!("merchant_order")]),
        ("allow_partial", vec![json!(false), json!(true)]),
        ("capture", vec![json!("automatic"), json!("manual")]),
        ("hold_ttl_s", vec![Value::Null, json!(900), json!(901)]),
        (
            "cart",
            vec![
                Value::Null,
                json!({ "subtotal": 0 }),
                json!({ "subtotal": 0, "tax": 0 }),
                json!({ "subtotal": 0, "tax": 1 }),
            ],
        ),
        ("location_id", vec![Value::Null, json!("a"), json!("b")]),
        ("terminal_id", vec![Value::Null, json!("a"), json!("b")]),
        ("operator_id", vec![Value::Null, json!("a"), json!("b")]),
        ("sequence", vec![Value::Null, json!(0), json!(1)]),
        ("deadline_ms", vec![Value::Null, json!(500), json!(5_000)]),
        ("on_deadline", vec![json!("continue"), json!("cancel")]),
        (
            "metadata",
            vec![
                json!({}),
                json!({ "a": null }),
                json!({ "a": "null" }),
                json!({ "a": 0 }),
                json!({ "a": "0" }),
                json!({ "a": false }),
                json!({ "a": [] }),
                json!({ "a": {} }),
                json!({ "a": ["b", "c"] }),
                json!({ "a": ["bc"] }),
                json!({ "a": { "b": "c" } }),
                json!({ "a": "b", "c": "d" }),
                json!({ "a": u64::MAX }),
                json!({ "a": -1 }),
                json!({ "a": 1.5 }),
            ],
        ),
    ]
}

fn credit_fields() -> Vec<Field> {
    vec![
        ("customer_id", vec![Value::Null, json!("a"), json!("b")]),
        ("points", vec![Value::Null, json!(1), json!(2)]),
        ("amount", vec![Value::Null, json!(1), json!(2)]),
        ("currency", vec![Value::Null, json!("USD"), json!("KHR")]),
        ("kind", vec![json!("earn"), json!("bonus")]),
        ("funding", vec![json!("paid"), json!("promo"), json!("refund")]),
        ("reference", vec![json!("a"), json!("b")]),
        (
            "expires_at",
            vec![Value::Null, json!("2026-01-01T00:00:00Z"), json!("2026-01-01T00:00:00.000001Z")],
        ),
        ("location_id", vec![Value::Null, json!("a"), json!("b")]),
        ("reason", vec![Value::Null, json!(""), json!("a")]),
        ("metadata", vec![Value::Null, json!({}), json!({ "a": 1 }), json!({ "a": "1" })]),
    ]
}

fn forward_fields() -> Vec<Field> {
    let of = |leg: u16| json!({ "legs_id": "00000000-0000-0000-0000-000000000001", "leg": leg });
    vec![
        ("mode", vec![json!("debit"), json!("hold"), json!("reverse")]),
        ("amount", vec![json!(0), json!(1)]),
        ("take", vec![json!("exact"), json!("at_most")]),
        ("step", vec![json!(1), json!(2)]),
        ("reward_id", vec![Value::Null, json!("00000000-0000-0000-0000-000000000001")]),
        ("of", vec![Value::Null, of(0), of(1)]),
        ("hold_until", vec![Value::Null, json!("2026-01-01T00:00:00Z")]),
        ("not_after", vec![Value::Null, json!("2026-01-01T00:00:00Z")]),
        ("order_id", vec![Value::Null, json!("a"), json!("b")]),
    ]
}

/// A request, and the same with another value of one of its fields; a field with its default may be left out.
fn pairs(fields: fn() -> Vec<Field>) -> impl Strategy<Value = (Value, Value)> {
    let chosen = prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), fields().len());
    (chosen, any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<bool>()).prop_map(
        move |(chosen, field, value, is_left_out)| {
            let mut body = Map::new();
            for ((name, values), (index, is_left_out)) in fields().into_iter().zip(chosen) {
                put(&mut body, name, index.get(&values), is_left_out);
            }
            let mut other = body.clone();
            let fields = fields();
            let (name, values) = field.get(&fields);
            other.remove(*name);
            put(&mut other, name, value.get(values), is_left_out);
            (body.into(), other.into())
        },
    )
}

fn put(body: &mut Map<String, Value>, name: &str, value: &Value, is_left_out: bool) {
    if !(value.is_null() && is_left_out) {
        body.insert(name.to_owned(), value.clone());
    }
}

fn redeem(body: &Value) -> (RedeemRequest, RequestForm) {
    let mut request: RedeemRequest = serde_json::from_value(body.clone()).expect("a request");
    let form = requests::redeem(&request);
    request.deadline_ms = None;
    request.strategy = request.strategy.filter(|chosen| *chosen != Chosen::ExpiringFirst);
    request.hold_ttl_s = request.hold_ttl_s.filter(|ttl| *ttl != HOLD_DEFAULT_S);
    for tender in request.tenders.iter_mut().flatten() {
        tender.code = tender.code.as_ref().map(|code| code.replace('-', "").to_uppercase());
    }
    (request, form)
}

fn credit(body: &Value) -> (CreditRequest, RequestForm) {
    let mut request: CreditRequest = serde_json::from_value(body.clone()).expect("a request");
    let form = requests::credit(&request);
    request.metadata = request.metadata.filter(|metadata| !metadata.is_empty());
    (request, form)
}

fn leg(body: &Value) -> (Forward, RequestForm) {
    let account = json!({ "business_id": "demo", "customer_id": "a", "asset": "points" });
    let plan: Forward = serde_json::from_value(body.clone()).expect("a plan");
    let form = requests::leg(&serde_json::from_value(account).expect("an account"), &plan);
    (Forward { hold_until: None, not_after: None, ..plan }, form)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn redeems_hash_alike_exactly_if_they_mean_the_same((one, other) in pairs(redeem_fields)) {
        let ((one, one_form), (other, other_form)) = (redeem(&one), redeem(&other));
        prop_assert_eq!(one == other, one_form.hash() == other_form.hash());
        prop_assert_eq!(one_form.is_same_as(other_form.hash()), Ok(one == other));
    }

    #[test]
    fn credits_hash_alike_exactly_if_they_mean_the_same((one, other) in pairs(credit_fields)) {
        let ((one, one_form), (other, other_form)) = (credit(&one), credit(&other));
        prop_assert_eq!(one == other, one_form.hash() == other_form.hash());
    }

    #[test]
    fn legs_hash_alike_exactly_if_they_mean_the_same((one, other) in pairs(forward_fields)) {
        let ((one, one_form), (other, other_form)) = (leg(&one), leg(&other));
        prop_assert_eq!(one == other, one_form.hash() == other_form.hash());
    }
}

#[test]
fn another_account_is_another_leg() {
    let plan: Forward =
        serde_json::from_value(json!({ "mode": "debit", "amount": 1, "take": "exact" })).expect("a plan");
    let form = |business: &str, owner: &str, asset: &str| {
        let account = json!({ "business_id": business, "customer_id": owner, "asset": asset });
        requests::leg(&serde_json::from_value(account).expect("an account"), &plan).hash()
    };
    let forms = [form("a", "b", "USD"), form("c", "b", "USD"), form("a", "c", "USD"), form("a", "b", "KHR")];
    for (i, one) in forms.iter().enumerate() {
        assert!(forms[i + 1..].iter().all(|other| one != other), "{forms:?}");
    }
}
