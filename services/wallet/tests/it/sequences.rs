//! A till's own numbers: a second guard beside its keys, judged for a whole batch of new redemptions.

use std::{collections::HashSet, sync::Arc, time::Duration};

use saga::{Admission, Begin, Config, Domain, Key, NewSaga, SagaId, machine::Kind};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use testkit::Mode;
use wallet::{
    plan::Plan,
    redemption::{Change, Opening, Standing},
    sagas::Sagas,
};

use crate::{
    dead_letters::lose_until_parked,
    support::{BUSINESS, IS_SLOWED, System, WITHIN, order, quick, redeem, until},
};

/// Longer than a request takes to reach the queue of a store that is busy.
const QUEUED: Duration = Duration::from_millis(100);

/// A new redemption with this number, at the till of the first test.
fn new(sequence: i64) -> NewSaga<Sagas> {
    let opening = Opening {
        business_id: BUSINESS.to_owned(),
        customer_id: "c".to_owned(),
        order_id: "S042-77120".to_owned(),
        location_id: Some("L1".to_owned()),
        terminal_id: Some("T1".to_owned()),
        operator_id: None,
        sequence: Some(sequence),
        currency: "USD".to_owned(),
        amount: 100,
        standing: Standing::on(api::wallet::RedemptionStatus::Pending),
        metadata: "{}".to_owned(),
    };
    let id = SagaId(uuid::Uuid::now_v7());
    NewSaga {
        id,
        key: Key {
            business_id: BUSINESS.to_owned(),
            operation: "redeem".to_owned(),
            scope: String::new(),
            key: id.to_string(),
        },
        request_hash: None,
        kind: Kind::Compensable,
        legs_id: uuid::Uuid::new_v4(),
        parent_id: None,
        plan: Arc::new(Plan::Nothing),
        deadline: Duration::from_secs(10),
        trace_id: None,
        change: Some(Change::Opened(Box::new(opening))),
        begin: Begin::Run,
        cancel_parent_key: false,
    }
}

/// How many prepared statements this session has run.
async fn statements(connection: &mut PgConnection) -> i64 {
    let counted =
        sqlx::raw_sql("SELECT sum(generic_plans + custom_plans)::bigint FROM pg_prepared_statements");
    let row = counted.fetch_one(connection).await.expect("a row");
    sqlx::Row::try_get::<Option<i64>, _>(&row, 0).expect("a number").unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sequences_of_a_batch_are_judged_in_as_many_statements_as_one() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 620, 5_000, 2_250).await;
    let mut body = order("c", &reward);
    for (name, value) in [("location_id", json!("L1")), ("terminal_id", json!("T1")), ("sequence", json!(7))]
    {
        body[name] = value;
    }
    assert_eq!(system.redeem(&wallet, "k", &body).await.status, 201);

    let sagas = Sagas::new(wallet.app.tenders.clone(), Arc::default(), wallet.engine.clock());
    let mut connection = PgConnection::connect_with(&system.database.admin()).await.expect("a connection");
    let mut cost = Vec::new();
    for count in [1, 64] {
        // The first of them is taken; the last asks for what the one before it asks for.
        let mut batch: Vec<_> = (0..count).map(|n| new(7 + n)).collect();
        batch.push(new(7 + count - 1));
        let asked: Vec<&NewSaga<Sagas>> = batch.iter().collect();
        let before = statements(&mut connection).await;
        let mut transaction = connection.begin().await.expect("begun");
        let verdicts = sagas.admit(&mut transaction, &asked).await.expect("judged");
        transaction.rollback().await.expect("rolled back");
        cost.push(statements(&mut connection).await - before);
        let names = |admission: &Admission<Change>| match admission {
            Admission::Admitted => "admitted",
            Admission::Refused(..) => "refused",
            Admission::Stale => "stale",
        };
        let names: Vec<_> = verdicts.iter().map(names).collect();
        assert_eq!(names[0], "refused", "7 is another redemption's");
        assert_eq!(names.last(), Some(&if count == 1 { "refused" } else { "stale" }));
        let between: HashSet<_> = names[1..names.len() - 1].iter().copied().collect();
        assert!(between.iter().all(|name| *name == "admitted"), "{names:?}");
    }
    assert_eq!(cost, [2, 2], "a lock and a look for the whole batch");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_review_keeps_its_sequence_and_a_replay_completes_it() {
    let system = System::start().await;
    let reward = system.fund("c", 1620, 10_000, 5000).await;
    let wallet = system.wallet_with(Config { poison_limit: 2, ..quick() }).await;
    let mut body = order("c", &reward);
    for (field, value) in [
        ("location_id", json!("L")),
        ("terminal_id", json!("T")),
        ("sequence", json!(1)),
        ("deadline_ms", json!(1000)),
    ] {
        body[field] = value;
    }
    system.credit.proxy.set(Mode::HoldReplies);
    let till = redeem(&system, &wallet, "k", body.clone());
    system.credit.until_applied().await;
    lose_until_parked(&system, &wallet).await;
    till.await.expect("a till");
    system.credit.cut_open().await;
    until(&system, "SELECT status = 'under_review' FROM wallet.redemption").await;
    testkit::until(WITHIN, async || !wallet.engine.is_unreachable("store_credit")).await;
    let second = system.redeem(&wallet, "k2", &body).await;
    assert_eq!((second.status.as_u16(), second.code()), (409, "duplicate_reference".to_owned()));
    system.replay_all(&wallet, "done").await;
    system.until_status(&wallet, "k", "completed").await;
}

/// A key with an answer does not stand in for a guard that is free.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_beside_a_new_key_takes_nobodys_sequence() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    system.fund("c", 100, 0, 0).await;
    let mut body = json!({ "customer_id": "c", "order_id": "o", "currency": "USD", "amount": 200, "tenders": [{ "type": "points", "points": 200 }],
        "location_id": "L", "terminal_id": "T", "sequence": 1 });
    assert_eq!(system.redeem(&wallet, "declined", &body).await.status, 422);
    let first = body.clone();
    body["amount"] = json!(10);
    body["tenders"][0]["points"] = json!(10);
    system
        .execute(
            "CREATE FUNCTION saga.planted() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN IF NEW.key = 'filler' THEN PERFORM pg_sleep(0.5); END IF; RETURN NULL; END $$",
        )
        .await;
    system
        .execute(
            "CREATE CONSTRAINT TRIGGER planted AFTER INSERT ON saga.saga DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION saga.planted()",
        )
        .await;
    let filler = json!({ "customer_id": "c", "order_id": "p", "currency": "USD", "amount": 1, "tenders": [{ "type": "points" }] });
    let filler = redeem(&system, &wallet, "filler", filler);
    until(&system, IS_SLOWED).await;
    let replay = redeem(&system, &wallet, "declined", first);
    // Until it waits behind the filler, in one batch with what comes next.
    tokio::time::sleep(QUEUED).await;
    let new = redeem(&system, &wallet, "new", body).await.expect("a till");
    replay.await.expect("a till");
    filler.await.expect("a till");
    assert_eq!(new.status, 201, "{}", new.text());
}
