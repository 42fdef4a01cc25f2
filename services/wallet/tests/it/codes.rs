//! Wrong reward codes stop whoever tries them, and no till that takes right ones.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{BUSINESS, System, Wallet};

/// Wrong codes a minute of one source, as `limits.rs` has them.
const WRONG_CODES: usize = 20;
/// The same of one token's subject.
const WRONG_CODES_OF_SUBJECT: usize = 300;
/// The same of all customers of a business.
const WRONG_CODES_OF_ALL: usize = 120;

/// Codes of gift cards that belong to whoever bears them.
async fn issue(system: &System, cards: usize) -> Vec<String> {
    let url = format!("{}/api/v1/digital-rewards/credits", system.rewards.tender.public_url);
    let mut codes = Vec::new();
    for card in 0..cards {
        let reference = format!("card-{card}");
        let body = json!({ "amount": 100, "currency": "USD", "kind": "issue", "funding": "paid", "reference": reference });
        let request = system.client.post(&url).bearer_auth(system.tokens.staff(BUSINESS, "admin"));
        let answer =
            request.header("idempotency-key", &reference).json(&body).send().await.expect("an answer");
        let issued: Value = answer.json().await.expect("JSON");
        codes.push(issued["code"].as_str().expect("a code").to_owned());
    }
    codes
}

fn sale(customer: &str, code: &str) -> Value {
    json!({ "customer_id": customer, "order_id": "o", "currency": "USD", "amount": 100,
        "tenders": [{ "type": "digital_reward", "code": code }] })
}

fn wrong(number: usize) -> String {
    format!("AAAA-BBBB-CCCC-{number:04}")
}

/// A customer redeems by a token of their own.
async fn own(system: &System, wallet: &Wallet, customer: &str, key: &str, code: &str) -> u16 {
    let request = system.client.post(format!("{}/api/v1/wallet/redeem", wallet.url));
    let request = request.bearer_auth(system.tokens.customer(BUSINESS, customer));
    let request = request.header("idempotency-key", key).json(&sale(customer, code));
    request.send().await.expect("an answer").status().as_u16()
}

/// A chain sells anonymously: every sale is the same customer's.
#[tokio::test(flavor = "multi_thread")]
async fn right_codes_of_one_customer_have_no_limit_at_tills() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    for (number, code) in issue(&system, WRONG_CODES + 5).await.iter().enumerate() {
        for status in [201, 200] {
            let answer = system.redeem(&wallet, &format!("k{number}"), &sale("guest", code)).await;
            assert_eq!(answer.status, status, "{number}: {}", answer.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_codes_of_many_customers_stop_customers_and_no_till() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let codes = issue(&system, 2).await;
    let mut statuses = Vec::new();
    for customer in 0..13 {
        for number in 0..10 {
            let (customer, key) = (format!("c{customer}"), format!("k{number}"));
            statuses.push(own(&system, &wallet, &customer, &key, &wrong(number)).await);
        }
    }
    assert!(statuses[..WRONG_CODES_OF_ALL].iter().all(|status| *status == 404), "{statuses:?}");
    let till = system.redeem(&wallet, "till", &sale("guest", &codes[0])).await;
    assert_eq!(till.status, 201, "{}", till.text());
    assert_eq!(own(&system, &wallet, "honest", "k", &codes[1]).await, 429, "codes of customers are guessed");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_codes_at_one_terminal_stop_that_terminal_alone() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let codes = issue(&system, 2).await;
    let at = |terminal: &str, customer: &str, code: &str| {
        let mut body = sale(customer, code);
        body["terminal_id"] = json!(terminal);
        body
    };
    // Of as many customers: at a till that says nothing.
    for number in 0..=WRONG_CODES {
        let body = at("t1", &format!("c{number}"), &wrong(number));
        let answer = system.redeem(&wallet, &format!("wrong-{number}"), &body).await;
        assert_eq!(answer.status, 404, "{number}: {}", answer.text());
    }
    let refused = system.redeem(&wallet, "t1", &at("t1", "guest", &codes[0])).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (429, "rate_limited".to_owned()));
    // What was answered before is no try.
    let again = system.redeem(&wallet, "wrong-0", &at("t1", "c0", &wrong(0))).await;
    assert_eq!(again.status, 404, "{}", again.text());
    let other = system.redeem(&wallet, "t2", &at("t2", "guest", &codes[0])).await;
    assert_eq!(other.status, 201, "{}", other.text());
    let other = at("t1", "guest", &codes[1]);
    let other = system.call(&wallet, "admin", Method::POST, "/wallet/redeem", Some("a"), Some(&other)).await;
    assert_eq!(other.status, 201, "another caller at that terminal: {}", other.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_names_other_terminals_is_stopped_later() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let at = |number: usize| {
        let mut body = sale("guest", &wrong(number));
        body["terminal_id"] = json!(format!("t{}", number / WRONG_CODES));
        body
    };
    let mut tried = 0;
    // While it tries, its bucket is refilled.
    let refused = loop {
        let answer = system.redeem(&wallet, &format!("wrong-{tried}"), &at(tried)).await;
        if answer.status != 404 || tried == 3 * WRONG_CODES_OF_SUBJECT {
            break answer;
        }
        tried += 1;
    };
    assert_eq!((refused.status.as_u16(), refused.code()), (429, "rate_limited".to_owned()), "after {tried}");
    assert!(tried >= WRONG_CODES_OF_SUBJECT, "{tried}");
}
