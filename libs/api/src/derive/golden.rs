//! Golden vectors: what every derivation makes of known parts, computed by a program of its own (Python's hashlib) from what
//! `mod.rs` and `canonical.rs` say. **A literal that changes is a change of the contract**: rows that are kept for ever would
//! no longer be found, keys would act again, retries would be taken for other requests.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Bucket, RequestForm, derived_uuid, requests};
use crate::{BusinessId, LegsId};

const PARENT: Uuid = Uuid::from_u128(0x0189_0a5d_ac96_7b4e_8000_0000_0000_00a5);
const BEARER: &str = "bearer:00000000-0000-0000-0000-000000000001";
const REDEEM: &str = "730bce0b-cec2-8433-a25f-cc5d8c1802f8";

fn demo() -> BusinessId {
    BusinessId::try_from("demo".to_owned()).expect("an id")
}

fn redeem_key() -> LegsId {
    LegsId::derive(&demo(), "redeem", "", "k1")
}

#[test]
fn buckets() {
    let acme = BusinessId::try_from("acme".to_owned()).expect("an id");
    assert_eq!(Bucket::of_account(&demo(), "cus_8Q"), Bucket(161));
    assert_eq!(Bucket::of_account(&demo(), BEARER), Bucket(41));
    assert_eq!(Bucket::of_account(&acme, "cus_8Q"), Bucket(66));
    assert_eq!(Bucket::of_key(redeem_key()), Bucket(0x73));
    assert_eq!(Bucket::of_id(PARENT), Bucket(0xa5));
    let mut bytes = super::fresh_id(Bucket(0xa5)).into_bytes();
    assert_eq!((bytes[15], bytes[6] >> 4, bytes[8] >> 6), (0xa5, 7, 0b10));
    bytes[15] = 0;
    assert_eq!(Bucket::of_id(Uuid::from_bytes(bytes)), Bucket(0));
}

#[test]
fn keys_of_sagas() {
    let child = |operation| LegsId::of_child(&demo(), operation, PARENT, "k1").to_string();
    assert_eq!(redeem_key().to_string(), REDEEM);
    let own = LegsId::derive(&demo(), "redeem", "cus_8Q", "k1");
    assert_eq!(own.to_string(), "6b50e40a-2963-891f-845f-2931a3993138");
    assert_eq!(child("capture"), "a5da41bc-1ad0-8970-ab7a-0e0877ff265b");
    assert_eq!(child("void"), "a57c2c68-bd40-87fd-8819-0a1a9e1710a8");
    assert_eq!(child("reversal"), "a593c6fd-0f3e-8bc0-a580-7f0bcc1440d2");
    assert_eq!(derived_uuid(&["a", "bc"]).to_string(), "3fafa1cf-2f19-87c1-929b-eb20cf0983f7");
    assert_eq!(derived_uuid(&[]).to_string(), "e3b0c442-98fc-8c14-9afb-f4c8996fb924");
}

#[test]
fn operations_and_rewards() {
    let leg = |owner, leg| super::leg_operation_id(&demo(), owner, redeem_key(), leg).to_string();
    let credit = |owner| super::public_operation_id(&demo(), owner, "credit", "k1").to_string();
    let reward = |customer| super::reward_id(&demo(), customer, "k1").to_string();
    assert_eq!(leg("cus_8Q", 0), "b6951db0-89f7-8f39-b637-3be19aa483a1");
    assert_eq!(leg("cus_8Q", 1), "b7c59ceb-f507-8ab0-ad2f-af855f4847a1");
    assert_eq!(leg(BEARER, 1), "b7c59ceb-f507-8ab0-ad2f-af855f484729");
    assert_eq!(credit("cus_8Q"), "3a9c70ac-c7ef-867b-8f7e-706d635ec9a1");
    assert_eq!(credit(BEARER), "50024230-33de-8c9b-8d31-967df995d029");
    let lot = Uuid::from_u128(0x0189_0000_0000_7000_8000_0000_0000_0001);
    let end = |owner, times| super::lot_end_id(&demo(), owner, lot, times).to_string();
    assert_eq!(end("cus_8Q", 0), "d9320190-526c-8fbe-aa89-923a752b7aa1");
    assert_eq!(end("cus_8Q", 1), "567107e5-ba76-8596-b0be-0f62b85d6fa1");
    assert_eq!(end(BEARER, 0), "d9320190-526c-8fbe-aa89-923a752b7a29");
    assert_eq!(super::absent_account(&demo(), "cus_8Q", "points"), -6_339_561_493_796_975_340);
    assert_eq!(super::absent_account(&demo(), "cus_8Q", "USD"), -1_076_005_965_886_748_016);
    assert_eq!(reward("cus_8Q"), "145bfc5d-2ddc-8cdb-8e02-3043bc39291f");
    assert_eq!(reward(""), "33da68db-4c75-897c-9134-d60667ecfc7c");
    assert_eq!(super::bearer_owner(Uuid::from_u128(1)), BEARER);
    assert_eq!(super::orphan_key("points", redeem_key(), 2), format!("points {REDEEM}/2"));
}

#[test]
fn guards_and_their_locks() {
    let sequence = super::sequence_guard("demo", "KH-PP-01", "till7", "S042-77120", 1);
    assert_eq!(sequence.to_string(), "e505f320-874e-807f-8bba-8f8d905cd648");
    assert_eq!(super::lock_key(sequence), -1_943_880_343_105_929_089);
    let pause = super::pause_guard("demo", "points");
    assert_eq!(pause.to_string(), "c0c19c18-af9e-8c50-a214-30b4605dad9d");
    assert_eq!(super::lock_key(pause), -4_557_189_718_082_679_728);
}

#[test]
fn hashes_of_redeems() {
    let redeem = |body: &Value| hex(&requests::redeem(&read(body)));
    let least =
        json!({ "customer_id": "cus_8Q", "order_id": "S042-77120", "currency": "USD", "amount": 4250 });
    assert_eq!(redeem(&least), "94f99e68ad45888c314a4ddab9854e899cdbee5a1771c4b8994c4854afc22552");
    let mut full = least.clone();
    full["tenders"] = json!([
        { "type": "points", "points": 500 }, { "type": "points", "max_points": 20 },
        { "type": "digital_reward", "reward_id": "00000000-0000-0000-0000-000000000001" },
        { "type": "digital_reward", "code": "abcd-efgh", "max_amount": 7 },
        { "type": "store_credit", "amount": 1500 },
    ]);
    let more = json!({
        "allow_partial": true, "capture": "manual", "hold_ttl_s": 60, "cart": { "subtotal": 5000, "tax": 425 },
        "location_id": "KH-PP-01", "terminal_id": "till7", "operator_id": "op_19", "sequence": 1, "deadline_ms": 3000,
        "on_deadline": "cancel", "metadata": { "b": [1, -2, u64::MAX, null], "a": { "é": true, "": false } },
    });
    for (name, value) in more.as_object().expect("an object") {
        full[name] = value.clone();
    }
    assert_eq!(redeem(&full), "d0eaacfd72a5327b044270ce359db6c31df81a3ff3a122e3adfb94f5b440772d");
    let mut chosen = least;
    chosen["strategy"] = json!("merchant_order");
    assert_eq!(redeem(&chosen), "fffe4c1d5223041d14dc958f7985858ed1ff083d8d0db4c885754e012d3da76c");
}

#[test]
fn hashes_of_captures_and_voids() {
    let (all, part) = (requests::capture(None), requests::capture(Some(4250)));
    assert_eq!(hex(&all), "484f1d6f8988fb630d6a7513fb18cfebcc8ecc1de412e0b2a45968e9ab80f7b2");
    assert_eq!(hex(&part), "27f267e63acaaa5ba8dc565473ae23a2caf801054712aa9e43f42a4408d08f9a");
    assert_eq!(hex(&requests::void()), "c5182cb321858677ca4aa26aff23002632891be03ef993a030671a63f2c6c588");
}

#[test]
fn hashes_of_credits() {
    let credit = |body: &Value| hex(&requests::credit(&read(body)));
    let points = json!({ "customer_id": "cus_8Q", "points": 500, "kind": "earn", "funding": "promo", "reference": "r-1" });
    let bearers = json!({ "amount": 2250, "currency": "USD", "kind": "issue", "funding": "paid", "reference": "r-2",
        "expires_at": "2026-01-01T07:00:00.1234567+07:00", "reason": "goodwill", "metadata": { "a": 1.5 } });
    let refund = json!({ "customer_id": "cus_8Q", "amount": 5, "currency": "USD", "kind": "refund", "funding": "refund",
        "reference": "r-3" });
    assert_eq!(credit(&points), "4f56ee07dbb47b4d793088e25426d9430798697e64a2ad298580748ae6a03def");
    assert_eq!(credit(&bearers), "24d7d0b679455e0479fe39dab0953ab404b7412515bc92be48d581a0279f0b0d");
    assert_eq!(credit(&refund), "0cb6fc3f1d27c5b9b01619cb627f81423ed29b28ee68762e3a65cdb043cd0192");
}

#[test]
fn hashes_of_legs() {
    let leg = |asset: &str, plan: &Value| {
        let account = json!({ "business_id": "demo", "customer_id": "cus_8Q", "asset": asset });
        hex(&requests::leg(&read(&account), &read(plan)))
    };
    let debit =
        json!({ "mode": "debit", "amount": 500, "take": "exact", "not_after": "2026-01-01T00:00:00Z" });
    let hold =
        json!({ "mode": "hold", "amount": 500, "take": "exact", "hold_until": "2026-01-01T00:00:00Z" });
    let reverse = json!({ "mode": "reverse", "amount": 500, "take": "at_most", "step": 10, "order_id": "S042-77120",
        "reward_id": "00000000-0000-0000-0000-000000000001", "of": { "legs_id": REDEEM, "leg": 2 } });
    assert_eq!(leg("points", &debit), "37a63578e4a9811787deb59e6816de40de662c186a2335c1d6cacec025979214");
    assert_eq!(leg("points", &hold), "04520b22864e27161c9bbde31cac53fe98ac393a86add256f3715c549bf9c75d");
    assert_eq!(leg("USD", &reverse), "bd2865670c2cdad3c94a50ca3950a390907b147a47dcbb1fe789c489366ac0bb");
}

#[test]
fn hashes_of_bulk_replays() {
    let replay = |body: &Value| hex(&requests::bulk_replay(&read(body)));
    let all = json!({ "operation_id": "op-1", "reason": "the tender is back", "dry_run": true });
    let some = json!({ "operation_id": "op-1", "reason": "the tender is back", "rate_per_second": 7,
        "filter": { "code": "orphan_leg", "tender": "points", "customer_id": "cus_8Q", "older_than_s": 60 } });
    assert_eq!(replay(&all), "069067cdf99b1a495f8fe158b26b43d811fa96a3b1f53f9a6d995d40d178866d");
    assert_eq!(replay(&some), "90012078030126853fa9c3420c6e5c101db56805f0890e2d2e791b608868b702");
}

fn read<T: serde::de::DeserializeOwned>(body: &Value) -> T {
    serde_json::from_value(body.clone()).expect("a request")
}

/// The hash as it is stored, of the first version.
fn hex(form: &RequestForm) -> String {
    assert_eq!(form.hash().version, 1);
    format!("{:?}", form.hash()).trim_start_matches("v1:").to_owned()
}
