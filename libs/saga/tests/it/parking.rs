//! A saga that cannot go on becomes a dead letter, whatever the database refuses of the domain's part.

use std::time::Duration;

use futures_util::future::join_all;
use saga::{
    Config,
    ops::{DeadLetterAction, OperatorCommand},
};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use testkit::{Mode, Proxy};
use uuid::Uuid;

use crate::toy::{Does, Process, World, quick};

/// Several scans for what may be taken up.
const SCANS: Duration = Duration::from_millis(600);

/// Cancels that are never confirmed use their budget up at once.
fn impatient() -> Config {
    let mut config = quick();
    config.limits.unreachable_for = 300;
    config
}

const FORBID: &str = "ALTER TABLE toy.thing ALTER COLUMN forbidden SET DEFAULT 'parked'";

async fn stuck_on_its_way_back(world: &World, process: &Process<false>) {
    world.execute(FORBID).await;
    process.domain.set("a", Does::Declines);
    process.domain.set("b", Does::HangsOnCancel);
    process.submit("k", 1, &["a", "b"]).await.1.expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_park_that_the_domain_cannot_record_is_a_dead_letter_all_the_same() {
    let world = World::start().await;
    let process = world.process::<false>(impatient()).await;
    stuck_on_its_way_back(&world, &process).await;
    world.until("SELECT count(*) = 1 FROM saga.dead_letter WHERE closed_at IS NULL").await;
    assert_eq!(world.sql::<i16>("SELECT state FROM saga.saga").await, 4);
    assert_eq!(world.sql::<String>("SELECT code FROM saga.dead_letter").await, "participant_unreachable");
    assert_eq!(world.sql::<String>("SELECT status FROM toy.thing").await, "going back", "what it was before");
    let told = "SELECT detail -> 'detail' ->> 'refused' LIKE '%thing_is_allowed%' FROM saga.saga_event WHERE event = 'dead_letter'";
    assert!(world.sql::<bool>(told).await, "the history says what was refused");
    let known = "SELECT participant = 'b' AND detail -> 'pending_legs' = '[1]' AND detail ->> 'state' = 'compensating'
                 AND jsonb_array_length(detail -> 'attempts') > 0 AND detail ->> 'refused' IS NOT NULL FROM saga.dead_letter";
    assert!(world.sql::<bool>(known).await, "and the dead letter what is known besides");
    // It rests: nobody takes it up again by itself.
    let epoch = world.sql::<i64>("SELECT epoch FROM saga.saga").await;
    tokio::time::sleep(SCANS).await;
    assert_eq!(world.sql::<i64>("SELECT epoch FROM saga.saga").await, epoch);
    assert_eq!(world.sql::<i64>("SELECT count(*) FROM saga.dead_letter").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_parked_alone_can_be_replayed() {
    let world = World::start().await;
    let process = world.process::<false>(impatient()).await;
    stuck_on_its_way_back(&world, &process).await;
    world.until("SELECT count(*) = 1 FROM saga.dead_letter WHERE closed_at IS NULL").await;
    process.domain.set("b", Does::Applies);
    let letter = world.sql::<Uuid>("SELECT dead_letter_id FROM saga.dead_letter").await;
    let command = OperatorCommand {
        business_id: "demo".to_owned(),
        actor: "op".to_owned(),
        operation_id: "o".to_owned(),
        reason: "b is back".to_owned(),
        reference: None,
        dry_run: false,
    };
    process.engine.act_on_dead_letter(letter, DeadLetterAction::Replay, command).await.expect("a database");
    world.until("SELECT state = 3 FROM saga.saga").await;
    assert_eq!(world.sql::<String>("SELECT status FROM toy.thing").await, "back");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_cannot_be_recorded_is_parked_even_if_parking_cannot_be_recorded_either() {
    let world = World::start().await;
    world
        .execute("ALTER TABLE toy.thing ADD CONSTRAINT neither CHECK (status NOT IN ('completed', 'parked'))")
        .await;
    let process = world.process::<false>(quick()).await;
    process.submit("k", 1, &["a"]).await.1.expect("written");
    world.until("SELECT state = 4 FROM saga.saga").await;
    assert_eq!(world.sql::<String>("SELECT code FROM saga.dead_letter").await, "unwritable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_note_that_the_database_cannot_store_stops_nothing() {
    let world = World::start().await;
    let mut config = quick();
    config.limits.wrong_answers = 2;
    let process = world.process::<false>(config).await;
    process.domain.set("a", Does::Nonsense);
    process.submit("k", 1, &["a"]).await.1.expect("written");
    world.until("SELECT state = 4 FROM saga.saga").await;
    assert_eq!(world.sql::<String>("SELECT code FROM saga.dead_letter").await, "wrong_answers");
    let kept = "SELECT detail -> 'attempts' -> 0 ->> 'note' FROM saga.dead_letter";
    assert_eq!(world.sql::<String>(kept).await, "a \u{fffd}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_that_refuses_later_only_does_not_matter_to_what_is_parked() {
    let world = World::start().await;
    let process = world.process::<false>(impatient()).await;
    process.domain.set("a", Does::Declines);
    process.domain.set("b", Does::HangsOnCancel);
    process.submit("k", 1, &["a", "b"]).await.1.expect("written");
    world.until("SELECT state = 4 FROM saga.saga").await;
    assert_eq!(
        world.sql::<String>("SELECT status FROM toy.thing").await,
        "parked",
        "with the domain's part where it can be"
    );
}

/// Codes that say of a write that it may succeed later: a conflict, a lock, a time limit, a server that cannot write.
const TRANSIENT: [&str; 5] = ["40001", "55P03", "57014", "25006", "53400"];

/// From now on the domain's rows cannot be changed, for a reason that may pass. Tests with a world for each code keep all of them until
/// the last is done: to drop a database waits for connections that are being made, also for those of the test itself.
async fn refuse_changes(world: &World, code: &str) {
    let sql = format!(
        "CREATE OR REPLACE FUNCTION toy.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '{code}'; END $$;
         CREATE OR REPLACE TRIGGER refuse BEFORE UPDATE ON toy.thing FOR EACH ROW EXECUTE FUNCTION toy.refuse()"
    );
    world.execute(sql.leak()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_may_pass_and_does_not_keeps_no_saga_from_being_parked() {
    let parked = TRANSIENT.map(|code| async move {
        let world = World::start().await;
        let process = world.process::<false>(impatient()).await;
        process.domain.set("a", Does::Declines);
        process.domain.set("b", Does::HangsOnCancel);
        process.submit("k", 1, &["a", "b"]).await.1.expect("written");
        world.until("SELECT state = 1 FROM saga.saga").await;
        refuse_changes(&world, code).await;
        world.until("SELECT state = 4 FROM saga.saga").await;
        let letter = world.sql::<String>("SELECT code FROM saga.dead_letter").await;
        assert_eq!(letter, "participant_unreachable", "{code}");
        (process, world)
    });
    drop(join_all(parked).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_refused_for_longer_than_the_budget_is_parked() {
    let parked = TRANSIENT.map(|code| async move {
        let world = World::start().await;
        refuse_changes(&world, code).await;
        let process = world.process::<false>(impatient()).await;
        process.submit("k", 1, &["a"]).await.1.expect("written");
        world.until("SELECT state = 4 FROM saga.saga").await;
        let letter = world.sql::<String>("SELECT code FROM saga.dead_letter").await;
        assert_eq!(letter, "unwritable", "{code}");
        (process, world)
    });
    drop(join_all(parked).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_whose_row_is_locked_waits_for_as_long_as_the_budget_and_is_parked_then() {
    let world = World::start().await;
    let mut config = quick();
    config.limits.unreachable_for = 4_000;
    let process = world.process::<false>(config).await;
    process.domain.set("a", Does::Hangs);
    process.submit("k", 1, &["a"]).await.1.expect("written");
    let mut hand = PgConnection::connect_with(&world.database.admin()).await.expect("a connection");
    let mut locking = hand.begin().await.expect("a transaction");
    sqlx::query("SELECT FROM toy.thing FOR UPDATE").execute(&mut *locking).await.expect("locked");
    process.domain.set("a", Does::Applies);
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(world.sql::<i16>("SELECT state FROM saga.saga").await, 0, "it has time");
    world.until("SELECT state = 4 FROM saga.saga").await;
    assert_eq!(world.sql::<String>("SELECT code FROM saga.dead_letter").await, "unwritable");
    locking.rollback().await.expect("done");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_no_part_of_the_time_for_which_an_end_is_refused() {
    let world = World::start().await;
    let admin = world.database.admin();
    let proxy = Proxy::start(admin.get_host(), admin.get_port()).await;
    let mut config = quick();
    config.limits.unreachable_for = 7_000;
    let behind = |options: PgConnectOptions| options.host("127.0.0.1").port(proxy.port);
    let process = world.process_with::<false>(config, behind).await;
    process.domain.set("a", Does::Hangs);
    process.submit("k", 1, &["a"]).await.1.expect("written");
    let mut hand = PgConnection::connect_with(&admin).await.expect("a connection");
    let mut locking = hand.begin().await.expect("a transaction");
    sqlx::query("SELECT FROM toy.thing FOR UPDATE").execute(&mut *locking).await.expect("locked");
    process.domain.set("a", Does::Applies);
    world.until("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')").await;
    // Once, and no more often, it is refused for as long as the store tries a write; then nothing answers for longer than the budget.
    tokio::time::sleep(Duration::from_millis(2_700)).await;
    proxy.set(Mode::Cut);
    tokio::time::sleep(Duration::from_secs(7)).await;
    proxy.set(Mode::Pass);
    tokio::time::sleep(Duration::from_millis(4_500)).await;
    assert_eq!(world.sql::<i16>("SELECT state FROM saga.saga").await, 0, "three refusals are within it");
    locking.rollback().await.expect("done");
    world.until("SELECT state > 1 FROM saga.saga").await;
    assert_ne!(world.sql::<i16>("SELECT state FROM saga.saga").await, 4, "it is not parked");
}
