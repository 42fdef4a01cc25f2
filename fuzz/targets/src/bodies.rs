//! A redeem request, from its bytes to its plan.

use std::collections::HashMap;

use api::{
    BusinessId,
    derive::requests,
    rewards::Resolved,
    wallet::{RedeemRequest, TenderKind},
};
use chrono::{DateTime, TimeDelta};
use money::Asset;
use serde_json::Value;
use service::json::Body;
use uuid::Uuid;
use wallet::{
    plan::RedeemPlan,
    planning::{self, SpendableLot, Tender, Wallet, Want},
};

use crate::request::{check_refusal, from_body};

const JSON: &str = "application/json";

/// Reads the bytes as the body of a redemption.
pub fn run(data: &[u8]) {
    let body = match from_body::<Body<RedeemRequest>>(JSON, data) {
        Ok(body) => body,
        Err(refusal) => return check_refusal(&refusal),
    };
    let plain: Value = serde_json::from_slice(data).expect("what is accepted is JSON");
    let written = serde_json::to_value(&body.value).expect("a request is plain data");
    agrees(&plain, &written, "");

    // Spaces, escapes and the order of fields do not count, everything else does.
    let again = from_body::<Body<RedeemRequest>>(JSON, plain.to_string().as_bytes()).ok();
    let again = again.expect("what was accepted once is accepted again");
    assert_eq!(again.value, body.value);
    assert_eq!(requests::redeem(&again.value), requests::redeem(&body.value));

    let business = BusinessId::try_from("demo".to_owned()).expect("an id");
    match planning::check(&body.value) {
        Err(refusal) => assert_eq!(refusal.status, 400),
        Ok(tenders) => {
            assert!(body.value.amount >= 1);
            for wallet in [Wallet::default(), full_wallet(&body.value)] {
                match planning::plan(&business, &body.value, tenders.as_deref(), &wallet) {
                    Err(refusal) => assert!((400..500).contains(&refusal.status), "{refusal:?}"),
                    Ok(plan) => sums_up(&plan, &body.value, tenders.as_deref()),
                }
            }
        }
    }
}

/// Everything that was sent is in what was read, unchanged: no number rounded, nothing dropped.
fn agrees(sent: &Value, read: &Value, at: &str) {
    match (sent, read) {
        (Value::Object(sent), Value::Object(read)) => {
            for (name, value) in
                sent.iter().filter(|(name, value)| !value.is_null() || read.contains_key(*name))
            {
                let at = format!("{at}/{name}");
                match read.get(name) {
                    Some(read) => agrees(value, read, &at),
                    None => assert_eq!(value, &Value::Object(serde_json::Map::new()), "{at} was dropped"),
                }
            }
        }
        (Value::Array(sent), Value::Array(read)) => {
            assert_eq!(sent.len(), read.len(), "{at}");
            sent.iter().zip(read).for_each(|(sent, read)| agrees(sent, read, at));
        }
        (Value::String(sent), Value::String(read)) if at.ends_with("/reward_id") => {
            assert_eq!(sent.parse::<Uuid>().ok(), read.parse::<Uuid>().ok(), "{at}");
        }
        (sent, read) => assert_eq!(sent, read, "{at}"),
    }
}

fn full_wallet(request: &RedeemRequest) -> Wallet {
    let lot = |remaining, day| SpendableLot {
        remaining,
        expires_at: (day > 0).then(|| DateTime::UNIX_EPOCH + TimeDelta::days(day)),
        reward_id: None,
    };
    let reward = |id| SpendableLot { reward_id: Some(Uuid::from_u128(id)), ..lot(700, 2) };
    let resolved = |owner: &str| Resolved {
        reward_id: Uuid::from_u128(1),
        asset: Asset::Money(request.currency),
        owner: owner.to_owned(),
        last_four: "ABCD".to_owned(),
        available: 700,
    };
    Wallet {
        lots: HashMap::from([
            (TenderKind::Points, vec![lot(1_000, 3), lot(i64::MAX / 2, 0)]),
            (TenderKind::DigitalReward, vec![reward(1), reward(2)]),
            (TenderKind::StoreCredit, vec![lot(5, 1), lot(50_000, 0)]),
        ]),
        resolved: (0..10).map(|position| (position, resolved("bearer:x"))).collect(),
    }
}

fn sums_up(plan: &RedeemPlan, request: &RedeemRequest, tenders: Option<&[Tender]>) {
    let sum: i128 = plan.legs.iter().map(|leg| i128::from(leg.amount)).sum();
    let amount = i128::from(request.amount);
    assert!(sum == amount || (request.allow_partial && sum < amount), "{sum} of {amount}: {plan:?}");
    assert!(!plan.legs.is_empty() && plan.legs.len() <= 10);
    assert!(plan.legs.iter().all(|leg| leg.units > 0 && leg.amount > 0 && leg.step > 0), "{plan:?}");
    assert!(plan.legs.windows(2).all(|pair| pair[0].leg < pair[1].leg), "{plan:?}");
    for leg in &plan.legs {
        let want = tenders.map(|tenders| tenders[usize::from(leg.leg)].want);
        match want {
            Some(Want::Exactly(units)) => assert_eq!(leg.units, units),
            Some(Want::UpTo(units)) => assert!(leg.units <= units),
            Some(Want::TheRest) | None => {}
        }
    }
    let text = serde_json::to_string(plan).expect("a plan is plain data");
    assert_eq!(serde_json::from_str::<RedeemPlan>(&text).ok().as_ref(), Some(plan));
}
