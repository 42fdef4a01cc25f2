use api::{BusinessId, Code, rewards::Resolved, wallet::RedeemRequest};
use money::{Asset, Currency};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn business() -> BusinessId {
    BusinessId::try_from("demo".to_owned()).expect("id")
}

fn request(extra: serde_json::Value) -> RedeemRequest {
    let mut body = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 4250 });
    body.as_object_mut().expect("object").extend(extra.as_object().expect("object").clone());
    serde_json::from_value(body).expect("request")
}

fn planned(extra: serde_json::Value, wallet: &Wallet) -> Result<Vec<(u16, i64, i64)>, String> {
    let request = request(extra);
    let tenders = check(&request).map_err(|p| p.code.to_string())?;
    let plan = plan(&business(), &request, tenders.as_deref(), wallet).map_err(|p| p.code.to_string())?;
    Ok(plan.legs.iter().map(|l| (l.leg, l.units, l.amount)).collect())
}

fn lot(remaining: i64, day: u32) -> SpendableLot {
    let expires_at =
        (day > 0).then(|| chrono::DateTime::from_timestamp(i64::from(day) * 86_400, 0).expect("time"));
    SpendableLot { remaining, expires_at, reward_id: None }
}

fn wallet(points: Vec<SpendableLot>, credit: Vec<SpendableLot>) -> Wallet {
    Wallet {
        lots: [(TenderKind::Points, points), (TenderKind::StoreCredit, credit)].into(),
        resolved: HashMap::new(),
    }
}

const REWARD: &str = "0190a000-0000-7000-8000-000000000001";

#[test]
fn exact_amounts_and_the_rest_need_no_balance() {
    let tenders = json!({ "tenders": [
        { "type": "points", "points": 500 }, { "type": "digital_reward", "reward_id": REWARD },
        { "type": "store_credit", "amount": 1500 } ] });
    assert_eq!(
        planned(tenders.clone(), &Wallet::default()),
        Ok(vec![(0, 500, 500), (1, 2250, 2250), (2, 1500, 1500)])
    );
    let request = request(tenders);
    assert!(needs(check(&request).expect("valid").as_deref()).is_nothing());
}

#[test]
fn tenders_that_do_not_add_up_are_refused() {
    let cases = [
        json!([{ "type": "points", "points": 4251 }]),
        json!([{ "type": "store_credit", "amount": 4249 }]),
        json!([{ "type": "store_credit", "amount": i64::MAX }, { "type": "points", "points": i64::MAX }]),
    ];
    for tenders in cases {
        assert_eq!(
            planned(json!({ "tenders": tenders }), &Wallet::default()),
            Err("tenders_do_not_cover".into()),
            "{tenders}"
        );
    }
}

#[test]
fn a_rest_of_nothing_leaves_its_leg_out() {
    let tenders = json!([{ "type": "store_credit", "amount": 4250 }, { "type": "points" }]);
    assert_eq!(planned(json!({ "tenders": tenders }), &Wallet::default()), Ok(vec![(0, 4250, 4250)]));
}

#[test]
fn caps_take_what_is_there_in_request_order() {
    let tenders = json!([{ "type": "points", "max_points": 1000 }, { "type": "store_credit" }]);
    let wallet = wallet(vec![lot(300, 1), lot(400, 2)], vec![]);
    assert_eq!(planned(json!({ "tenders": tenders }), &wallet), Ok(vec![(0, 700, 700), (1, 3550, 3550)]));
    let tenders = json!([{ "type": "points", "max_points": 500 }, { "type": "points", "max_points": 500 }, { "type": "store_credit" }]);
    assert_eq!(
        planned(json!({ "tenders": tenders }), &wallet),
        Ok(vec![(0, 500, 500), (1, 200, 200), (2, 3550, 3550)])
    );
    let tenders = json!([{ "type": "points", "max_points": 5000 }]);
    assert_eq!(planned(json!({ "tenders": tenders }), &wallet), Err("insufficient_balance".into()));
    assert_eq!(
        planned(json!({ "tenders": tenders, "allow_partial": true }), &wallet),
        Ok(vec![(0, 700, 700)])
    );
}

#[test]
fn codes_are_resolved_before_planning() {
    let tenders = json!([{ "type": "digital_reward", "code": "ABCD" }]);
    let request = request(json!({ "tenders": tenders }));
    let read = check(&request).expect("valid");
    assert_eq!(needs(read.as_deref()).codes, vec![(0, "ABCD".to_owned())]);
    let resolved = |asset| Resolved {
        reward_id: REWARD.parse().expect("id"),
        owner: "bearer x".into(),
        asset,
        last_four: "ABCD".into(),
        available: 9_999,
    };
    let mut wallet = Wallet::default();
    wallet.resolved.insert(0, resolved(Asset::Money(Currency::USD)));
    let leg = plan(&business(), &request, read.as_deref(), &wallet).expect("plan").legs.remove(0);
    assert_eq!(
        (leg.units, leg.account.customer_id.as_str(), leg.last_four.as_deref()),
        (4250, "bearer x", Some("ABCD"))
    );
    wallet.resolved.insert(0, resolved(Asset::Money("KHR".parse().expect("currency"))));
    let refused = plan(&business(), &request, read.as_deref(), &wallet).expect_err("mismatch");
    assert_eq!(refused.code(), Some(Code::CurrencyMismatch));
}

#[test]
fn without_tenders_the_soonest_expiring_value_goes_first() {
    let wallet = wallet(vec![lot(1_000, 9), lot(1_000, 0)], vec![lot(3_000, 3), lot(5_000, 0)]);
    assert_eq!(
        planned(json!({ "strategy": "expiring_first" }), &wallet),
        Ok(vec![(0, 3_000, 3_000), (1, 1_250, 1_250)])
    );
    assert_eq!(
        planned(json!({ "strategy": "merchant_order" }), &wallet),
        Ok(vec![(0, 2_000, 2_000), (1, 2_250, 2_250)])
    );
    assert_eq!(planned(json!({ "amount": 10_001 }), &wallet), Err("insufficient_balance".into()));
}

#[test]
fn wallet_value_does_not_pay_tax() {
    let cart = json!({ "cart": { "subtotal": 4249, "tax": 1 }, "tenders": [{ "type": "points" }] });
    assert_eq!(planned(cart, &Wallet::default()), Err("amount_exceeds_subtotal".into()));
}

#[test]
fn requests_that_make_no_sense_are_400() {
    let cases = [
        json!({ "amount": 0 }),
        json!({ "amount": -1 }),
        json!({ "tenders": [] }),
        json!({ "tenders": [{ "type": "points", "points": 0 }] }),
        json!({ "tenders": [{ "type": "points", "amount": 5 }] }),
        json!({ "tenders": [{ "type": "points", "points": 5, "max_points": 5 }] }),
        json!({ "tenders": [{ "type": "points" }, { "type": "store_credit" }] }),
        json!({ "tenders": [{ "type": "digital_reward" }] }),
        json!({ "tenders": [{ "type": "store_credit", "code": "x" }] }),
        json!({ "tenders": [{ "type": "points" }], "strategy": "expiring_first" }),
        json!({ "deadline_ms": 499 }),
        json!({ "hold_ttl_s": 60 }),
        json!({ "order_id": "a b" }),
        json!({ "tenders": vec![json!({ "type": "points", "points": 1 }); 11] }),
    ];
    for case in cases {
        assert_eq!(planned(case.clone(), &Wallet::default()), Err("invalid_field".into()), "{case}");
    }
}

proptest! {
    /// Whatever is asked and whatever is there: a plan's legs sum to the amount (or below it where partial is allowed),
    /// and never ask a capped tender for more than there is.
    #[test]
    fn legs_sum_to_the_amount(
        amount in 1_i64..20_000, cap in 1_i64..20_000, exact in 1_i64..20_000,
        points in prop::collection::vec(1_i64..5_000, 0..5), partial in any::<bool>(), rest in any::<bool>(),
    ) {
        let there: i64 = points.iter().sum();
        let wallet = wallet(points.into_iter().map(|p| lot(p, 1)).collect(), vec![]);
        let mut tenders = vec![json!({ "type": "points", "max_points": cap }), json!({ "type": "store_credit", "amount": exact })];
        if rest {
            tenders.push(json!({ "type": "digital_reward", "reward_id": REWARD }));
        }
        let body = json!({ "amount": amount, "tenders": tenders, "allow_partial": partial });
        if let Ok(legs) = planned(body, &wallet) {
            let sum: i64 = legs.iter().map(|(_, _, amount)| amount).sum();
            prop_assert!(sum == amount || (partial && sum < amount));
            prop_assert!(legs.iter().filter(|l| l.0 == 0).all(|l| l.1 <= cap.min(there)));
            prop_assert!(legs.iter().all(|l| l.1 > 0));
        }
    }
}
