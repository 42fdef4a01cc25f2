//! Accounts that nothing was ever issued to: whatever is asked of them is answered, and none of it makes them.

use api::legs::{Forward, LegKey, LegState, Mode, Take};
use reqwest::Method;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tender::{
    command::{Action, Command, Outcome, Rejection},
    testing::plan,
};

use crate::support::{Server, cancel, credit, debit, forward, leg_answer, legs_id, run};

fn query(of: Command) -> Command {
    Command { action: Action::Query, ..of }
}

#[tokio::test]
async fn a_question_a_decline_and_a_cancel_make_no_account() {
    let server = Server::points().await;
    let asked = server.executor().submit(query(debit("nobody", "k0", 5))).await.unwrap();
    assert_eq!(asked.outcome, Outcome::Rejected(Rejection::NotFound));
    let declined = run(server.executor(), debit("nobody", "k1", 5)).await;
    assert_eq!(leg_answer(&declined).decline.unwrap().code, "insufficient_balance");
    let nothing = forward("nobody", "k2", plan(Mode::Debit, 5, Take::AtMost));
    let nothing = leg_answer(&run(server.executor(), nothing).await);
    assert_eq!((nothing.state, nothing.amount), (LegState::Applied, 0));
    assert_eq!(nothing.after, None, "an account that is not there has no version");
    assert_eq!(run(server.executor(), cancel("nobody", "k3")).await.state, LegState::Tombstoned);
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    let accounts = "SELECT count(*) FROM tender.account";
    assert_eq!(sqlx::query_scalar::<_, i64>(accounts).fetch_one(&mut admin).await.unwrap(), 0);

    // What was answered stands, also once there is an account; and it is nobody else's.
    for _ in 0..2 {
        assert_eq!(run(server.executor(), debit("nobody", "k1", 5)).await, declined);
        assert_eq!(run(server.executor(), query(debit("nobody", "k1", 5))).await, declined);
        assert_eq!(run(server.executor(), debit("nobody", "k3", 5)).await.state, LegState::Tombstoned);
        assert_eq!(run(server.executor(), cancel("nobody", "k2")).await.state, LegState::Reversed);
        // Another owner's leg of the same saga and number is another leg: its id has another bucket.
        assert_eq!(run(server.executor(), cancel("other", "k1")).await.state, LegState::Tombstoned);
        run(server.executor(), credit("nobody", "c", 10, None)).await;
    }
    assert_eq!(sqlx::query_scalar::<_, i64>(accounts).fetch_one(&mut admin).await.unwrap(), 1);
    assert_eq!(server.get("pos", "/points/accounts/nobody").await.json()["available"], 10);
}

/// A page of one: what is looked at in vain would stand in the place of the leg behind it.
#[tokio::test]
async fn a_leg_that_has_nothing_in_force_is_not_open() {
    let server = Server::points().await;
    let at_most = |customer, key| forward(customer, key, plan(Mode::Debit, 5, Take::AtMost));
    run(server.executor(), at_most("nobody", "absent")).await;
    run(server.executor(), credit("cus", "c", 10, None)).await;
    run(server.executor(), debit("cus", "refunded", 10)).await;
    run(server.executor(), at_most("cus", "empty")).await;
    let of = LegKey { legs_id: legs_id("refunded"), leg: 0 };
    let refund = Forward { of: Some(of), ..plan(Mode::Reverse, 10, Take::Exact) };
    run(server.executor(), forward("cus", "refund", refund)).await;
    run(server.executor(), debit("cus", "open", 3)).await;
    let page = server.internal(Method::GET, "/legs?limit=1", None).await.json();
    let found: Vec<_> = page["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|leg| (leg["key"]["legs_id"].clone(), leg["amount"].clone()))
        .collect();
    assert_eq!(found, [(json!(legs_id("open")), json!(3))], "{page}");
}

#[tokio::test]
async fn what_was_recorded_before_its_account_is_shown_to_its_customer() {
    let server = Server::points().await;
    let declined = debit("nobody", "k1", 5);
    let path = format!("/points/operations/{}", declined.operation_id);
    run(server.executor(), declined).await;
    let tombstone = cancel("nobody", "k2");
    let buried = format!("/points/operations/{}", tombstone.operation_id);
    run(server.executor(), tombstone).await;
    for _ in 0..2 {
        let shown = server.get("pos", &path).await.json();
        assert_eq!((&shown["customer_id"], &shown["status"]), (&json!("nobody"), &json!("declined")));
        assert_eq!(shown["points"], 0, "{shown}");
        assert_eq!(server.get("pos", &buried).await.json()["status"], "tombstoned");
        assert_eq!(server.get_as_customer("nobody", &path).await.status, 200);
        assert_eq!(server.get_as_customer("other", &path).await.status, 404);
        run(server.executor(), credit("nobody", "c", 10, None)).await;
    }
}

#[tokio::test]
async fn nothing_of_value_is_recorded_for_an_account_that_is_not_there() {
    let server = Server::points().await;
    run(server.executor(), debit("nobody", "k", 5)).await;
    let mut admin = PgConnection::connect_with(&server.tender.database.admin()).await.unwrap();
    let set = async |admin: &mut PgConnection, amount: i64| {
        let set = "ALTER TABLE tender.operation DISABLE TRIGGER operation_state_guarded;
                   UPDATE tender.operation SET amount = AMOUNT;
                   ALTER TABLE tender.operation ENABLE ALWAYS TRIGGER operation_state_guarded";
        let set = set.replace("AMOUNT", &amount.to_string());
        sqlx::raw_sql(AssertSqlSafe(set)).execute(&mut *admin).await.unwrap();
        let findings = schema::check(admin, schema::Database::Points).await.unwrap();
        findings.into_iter().filter(|finding| finding.violations > 0).count()
    };
    assert_eq!(set(&mut admin, 5).await, 1);
    assert_eq!(set(&mut admin, 0).await, 0);
    // Who could be told apart by nothing else is named.
    let nameless = "INSERT INTO tender.operation
                        (operation_id, business_id, account_no, kind, state, amount, response, created_at, updated_at)
                    SELECT gen_random_uuid(), business_id, account_no, 'cancel', 'tombstoned', 0, '{}', now(), now()
                    FROM tender.operation";
    let refused = sqlx::query(nameless).execute(&mut admin).await.unwrap_err();
    let constraint = refused.as_database_error().and_then(|error| error.constraint());
    assert_eq!(constraint, Some("operation_of_no_account_names_its_owner"));
}
