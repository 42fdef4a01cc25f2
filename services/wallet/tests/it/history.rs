//! One history of a customer over all tenders.

use reqwest::Method;
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use testkit::{Mode, snapshot};

use crate::support::{System, Wallet, order};

/// All pages of the history under these filters.
async fn history(system: &System, wallet: &Wallet, filters: &str, limit: usize) -> Vec<Value> {
    let (mut lines, mut cursor) = (Vec::new(), String::new());
    for _ in 0..100 {
        let page = format!("/wallet/transactions?customer_id=c&limit={limit}{filters}{cursor}");
        let page = system.get(wallet, &page).await;
        assert_eq!(page.status, 200, "{}", page.text());
        let page = page.json();
        let data = page["data"].as_array().expect("data");
        assert!(data.len() <= limit);
        lines.extend(data.iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return lines,
        }
    }
    panic!("the pages have no end");
}

fn kinds(lines: &[Value]) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    lines.iter().map(|line| (text(&line["tender"]), text(&line["kind"]))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_history_over_all_tenders_newest_first() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let redeemed = system.redeem(&wallet, "k1", &order("c", &reward)).await;
    assert_eq!(redeemed.status, 201);
    system.cancel(&wallet, "k1").await;
    system.until_status(&wallet, "k1", "reversed").await;

    let debits = "/wallet/transactions?customer_id=c&kind=debit&tender=store_credit";
    snapshot!(system.get(&wallet, debits).await, @r#"
        200 application/json
        {
          "data": [
            {
              "amount": -1500,
              "balance_after": 3500,
              "created_at": "[time]",
              "currency": "USD",
              "held_after": 0,
              "kind": "debit",
              "operation_id": "[id 1]",
              "order_id": "S042-77120",
              "redemption_id": "[id 2]",
              "tender": "store_credit",
              "version": 2
            }
          ],
          "next_cursor": null
        }
        "#);
    let all = history(&system, &wallet, "", 200).await;
    assert_eq!(all.len(), 9, "three credits, three debits, three returns: {all:#?}");
    let times: Vec<&str> = all.iter().map(|line| line["created_at"].as_str().expect("a time")).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "{times:?}");
    let redemption = redeemed.json()["id"].clone();
    for line in &all {
        let belongs = line["kind"] != "credit";
        assert_eq!(line.get("redemption_id"), belongs.then_some(&redemption), "{line}");
        assert_eq!(line["tender"] == "points", line.get("points").is_some(), "{line}");
    }
    // Whatever the size of the pages, they are the same history.
    for limit in [1, 2, 4] {
        assert_eq!(history(&system, &wallet, "", limit).await, all, "pages of {limit}");
    }

    assert_eq!(history(&system, &wallet, "&tender=points", 2).await.len(), 3);
    let debits = history(&system, &wallet, "&kind=debit", 2).await;
    assert_eq!(debits.len(), 3, "{:?}", kinds(&debits));
    assert!(debits.iter().all(|line| line["order_id"] == "S042-77120"));
    assert_eq!(
        history(&system, &wallet, "&order_id=S042-77120&kind=debit&tender=store_credit", 5).await.len(),
        1
    );
    assert!(history(&system, &wallet, "&order_id=other", 5).await.is_empty());
    let middle = debits[0]["created_at"].as_str().expect("a time");
    let (before, after) = (format!("&to={middle}"), format!("&from={middle}"));
    let halves = (history(&system, &wallet, &before, 3).await, history(&system, &wallet, &after, 3).await);
    assert_eq!(halves.0.len() + halves.1.len(), all.len());
    assert_eq!([halves.1, halves.0].concat(), all);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_stable_while_new_lines_come() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    let all = history(&system, &wallet, "", 200).await;
    let first = system.get(&wallet, "/wallet/transactions?customer_id=c&limit=1").await.json();
    assert_eq!(system.redeem(&wallet, "k1", &order("c", &reward)).await.status, 201);
    let cursor = first["next_cursor"].as_str().expect("a cursor");
    let rest = format!("/wallet/transactions?customer_id=c&limit=50&cursor={cursor}");
    let rest = system.get(&wallet, &rest).await.json();
    assert_eq!(
        rest["data"].as_array().expect("data")[..2],
        all[1..],
        "what came meanwhile is not on later pages"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_its_customers_and_never_has_holes() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.fund("c", 620, 5000, 0).await;
    let path = "/wallet/transactions?customer_id=c";
    let own = async |customer: &str| {
        let request = system.client.get(format!("{}/api/v1{path}", wallet.url));
        let token = system.tokens.customer("demo", customer);
        request.bearer_auth(token).send().await.expect("an answer").status().as_u16()
    };
    assert_eq!((own("c").await, own("other").await), (200, 404));
    assert_eq!(system.call(&wallet, "ops", Method::GET, path, None, None).await.status, 403);
    for bad in [
        "&cursor=x",
        "&cursor=points=x:1",
        "&kind=theft",
        "&tender=cash",
        "&from=yesterday",
        "&limit=0",
        "&x=1",
    ] {
        let answer = system.get(&wallet, &format!("{path}{bad}")).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "invalid_field"), "{bad}");
    }
    system.points.proxy.set(Mode::Cut);
    let answer = system.get(&wallet, path).await;
    snapshot!(answer, @r#"
        503 application/problem+json, retry-after: 1
        {
          "code": "tender_unavailable",
          "detail": "points does not answer; the others can be read with tender=.",
          "instance": "/api/v1/wallet/transactions",
          "outcome": "not_applied",
          "retryable": true,
          "status": 503,
          "suggestion": "Try again shortly with the same key, or use another tender.",
          "title": "A tender is unavailable",
          "trace_id": "[trace]",
          "type": "/problems/tender_unavailable"
        }
        "#);
    assert_eq!(history(&system, &wallet, "&tender=store_credit", 5).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_little_matches_goes_on_to_its_end() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5000, 2250).await;
    assert_eq!(system.redeem(&wallet, "k1", &order("c", &reward)).await.status, 201);
    // More than a tender looks at for a page comes after it.
    let mut points =
        PgConnection::connect_with(&system.points.tender.database.admin()).await.expect("a connection");
    for statement in [
        "INSERT INTO tender.operation (operation_id, business_id, account_no, kind, state, amount, response, created_at, updated_at)
         SELECT md5(n::text)::uuid, business_id, account_no, 'hold', 'reversed', 1, '{}', now(), now()
         FROM tender.account, generate_series(1, 4500) n WHERE owner = 'c'",
        "INSERT INTO tender.entry (operation_id, business_id, asset, kind, amount, account_no, version, balance_after, held_after,
                                   created_at)
         SELECT md5(n::text)::uuid, business_id, asset, CASE n % 2 WHEN 1 THEN 'hold' ELSE 'release' END, 0, account_no,
                version + n, posted, n % 2, now()
         FROM tender.account, generate_series(1, 4500) n WHERE owner = 'c'",
        "UPDATE tender.account SET version = version + 4500 WHERE owner = 'c'",
    ] {
        sqlx::query(statement).execute(&mut points).await.expect("a long history");
    }
    let debits = history(&system, &wallet, "&kind=debit", 2).await;
    assert_eq!(debits.len(), 3, "{:?}", kinds(&debits));
    assert!(debits.iter().any(|line| line["tender"] == "points"), "{:?}", kinds(&debits));
    // No other tender has a line that keeps this list open.
    assert_eq!(history(&system, &wallet, "&kind=debit&tender=points", 2).await.len(), 1);
}
