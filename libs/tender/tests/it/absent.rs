//! Accounts that nothing was ever issued to: whatever is asked of them is answered, and none of it makes them.

use api::legs::{LegState, Mode, Take};
use sqlx::{Connection, PgConnection};
use tender::command::{Action, Command, Outcome, Rejection};

use crate::support::{Server, cancel, credit, debit, forward, leg_answer, plan, run};

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
