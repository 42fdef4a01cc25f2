//! Holds and their ends.

use api::legs::{HoldPage, Mode, Take};
use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use reqwest::Method;
use tender::{
    command::{Action, Command},
    testing::plan,
};

use crate::support::{Server, cancel, credit, debit, forward, leg_answer, legs_id, run};

fn hold(key: &str, amount: i64, until: DateTime<Utc>) -> Command {
    forward(
        "cus",
        key,
        api::legs::Forward { hold_until: Some(until), ..plan(Mode::Hold, amount, Take::Exact) },
    )
}

async fn page(server: &Server, query: &str) -> HoldPage {
    let reply = server.internal(Method::GET, &format!("/holds-past-end{query}"), None).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    serde_json::from_str(&reply.text).unwrap()
}

#[tokio::test]
async fn holds_past_their_end_are_listed_the_first_to_end_first() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 100, None)).await;
    let now = service::Clock.now().trunc_subsecs(6);
    for (key, hours) in [("a", -3), ("b", -1), ("c", -2), ("voided", -4), ("taken", -5), ("later", 1)] {
        run(server.executor(), hold(key, 7, now + TimeDelta::hours(hours))).await;
    }
    run(server.executor(), cancel("cus", "voided")).await;
    let capture = Command { action: Action::Capture { amount: 7 }, ..cancel("cus", "taken") };
    run(server.executor(), capture).await;
    let all = page(&server, "").await;
    let keys: Vec<_> = all.data.iter().map(|hold| hold.key.legs_id).collect();
    assert_eq!(keys, ["a", "c", "b"].map(legs_id));
    assert_eq!(all.next_cursor, None);
    let first = &all.data[0];
    assert_eq!((first.amount, first.hold_until), (7, now - TimeDelta::hours(3)));
    assert_eq!((first.account.customer_id.as_str(), first.account.business_id.as_str()), ("cus", "demo"));

    let mut paged = Vec::new();
    let mut query = "?limit=1".to_owned();
    for _ in 0..3 {
        let page = page(&server, &query).await;
        assert_eq!(page.data.len(), 1);
        paged.extend(page.data);
        let Some(next) = page.next_cursor else { break };
        query = format!("?limit=1&after={next}");
    }
    assert_eq!(paged, all.data);
    let bad = server.internal(Method::GET, "/holds-past-end?after=x", None).await;
    assert_eq!(bad.code(), "invalid_field");
}

#[tokio::test]
async fn a_refusal_for_the_sake_of_a_hold_says_when_it_ends() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 10, None)).await;
    let now = service::Clock.now().trunc_subsecs(6);
    for (key, hours) in [("late", 3), ("soon", 1), ("middle", 2)] {
        run(server.executor(), hold(key, 3, now + TimeDelta::hours(hours))).await;
    }
    for (key, amount, hours) in [("k1", 2, 1), ("k2", 4, 1), ("k3", 5, 2), ("k4", 10, 3)] {
        let refused = leg_answer(&run(server.executor(), debit("cus", key, amount)).await).decline.unwrap();
        assert_eq!(refused.code, "held_by_other_order");
        assert_eq!(refused.held_until, Some(now + TimeDelta::hours(hours)), "{key}");
    }
    run(server.executor(), cancel("cus", "soon")).await;
    let refused = leg_answer(&run(server.executor(), debit("cus", "k5", 5)).await).decline.unwrap();
    assert_eq!(refused.held_until, Some(now + TimeDelta::hours(2)));
}

#[tokio::test]
async fn holds_of_nothing_hide_no_other_past_its_end() {
    let server = Server::points().await;
    run(server.executor(), credit("cus", "c", 100, None)).await;
    let now = service::Clock.now().trunc_subsecs(6);
    for (number, customer) in ["cus-1", "cus-2", "cus"].into_iter().enumerate() {
        let until = Some(now - TimeDelta::hours(9));
        // Of an account that is not there, and of one of which a step is more than it has.
        let step = if customer == "cus" { 1_000 } else { 1 };
        let plan = api::legs::Forward { hold_until: until, step, ..plan(Mode::Hold, 7, Take::AtMost) };
        let nothing =
            leg_answer(&run(server.executor(), forward(customer, &format!("n{number}"), plan)).await);
        assert_eq!((nothing.state, nothing.amount), (api::legs::LegState::Held, 0));
    }
    run(server.executor(), hold("k", 7, now - TimeDelta::hours(1))).await;
    let first = page(&server, "?limit=1").await;
    let keys: Vec<_> = first.data.iter().map(|hold| hold.key.legs_id).collect();
    assert_eq!(keys, [legs_id("k")]);
    // It is captured like any other.
    let capture = Command { action: Action::Capture { amount: 0 }, ..cancel("cus-1", "n0") };
    assert_eq!(run(server.executor(), capture).await.state, api::legs::LegState::Applied);
}
