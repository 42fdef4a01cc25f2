//! What a call that gives its key up is told of it, with another process at work.

use std::time::{Duration, Instant};

use saga::{Config, Key, Withdrawn};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};

use crate::toy::{Process, World};

async fn withdraw(process: &Process<false>, key: &str) -> Withdrawn {
    let key = Key {
        business_id: "demo".to_owned(),
        operation: "toy".to_owned(),
        scope: String::new(),
        key: key.to_owned(),
    };
    process.engine.withdraw(process.engine.intend(&key)).await.expect("a database")
}

/// Has the COMMIT of each new saga hang.
async fn have_commits_hang(world: &World) {
    world
        .execute(
            "CREATE FUNCTION saga.hanging() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_sleep(3); RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER hanging AFTER INSERT ON saga.saga DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION saga.hanging()",
        )
        .await;
}

/// Has the COMMIT of the first saga hang, whose caller leaves soon after the process has beaten, before a beat can name the key.
async fn leave_during_commit(world: &World, process: &Process<false>) {
    have_commits_hang(world).await;
    world.until("SELECT max(clock_timestamp() - beat_at) < interval '0.1 s' FROM saga.process WHERE name = 'first'").await;
    let submitted = process.submit("k", 1, &["a"]);
    assert!(tokio::time::timeout(Duration::from_millis(150), submitted).await.is_err(), "its COMMIT hangs");
}

fn named(name: &str) -> Config {
    Config { name: name.to_owned(), ..Config::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_insert_another_process_has_just_sent_is_in_doubt() {
    let world = World::start().await;
    let first = world.process::<false>(named("first")).await;
    let second = world.process::<false>(named("second")).await;
    leave_during_commit(&world, &first).await;
    let told = withdraw(&second, "k").await;
    assert!(matches!(told, Withdrawn::InDoubt), "{told:?}");
    world.until("SELECT count(*) = 1 FROM saga.saga").await;
    assert!(matches!(withdraw(&second, "k").await, Withdrawn::Used(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_insert_a_process_has_sent_that_died_at_once_is_in_doubt() {
    let world = World::start().await;
    let first = world.process::<false>(named("first")).await;
    let second = world.process::<false>(named("second")).await;
    leave_during_commit(&world, &first).await;
    first.engine.crash();
    let told = withdraw(&second, "k").await;
    assert!(matches!(told, Withdrawn::InDoubt), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_key_is_told_so_at_once_alone_and_after_a_beat_beside_others() {
    let world = World::start().await;
    let first = world.process::<false>(named("first")).await;
    let began = Instant::now();
    for key in ["1", "2", "3", "4", "5"] {
        assert!(matches!(withdraw(&first, key).await, Withdrawn::Unused(_)));
    }
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "alone, nobody is waited for: {:?}",
        began.elapsed()
    );
    let _second = world.process::<false>(named("second")).await;
    let began = Instant::now();
    let told = withdraw(&first, "k").await;
    assert!(matches!(told, Withdrawn::Unused(_)), "{told:?}");
    assert!(began.elapsed() > Duration::from_millis(150), "a beat from before the call says nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beat_that_was_held_up_on_its_way_names_no_keys() {
    let world = World::start().await;
    let _process = world.process::<false>(named("first")).await;
    let mut hand = PgConnection::connect_with(&world.database.admin()).await.expect("a connection");
    let mut locking = hand.begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE saga.process IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *locking)
        .await
        .expect("a lock");
    // One beat at least is sent meanwhile, and waits for 200 ms or longer.
    tokio::time::sleep(Duration::from_millis(700)).await;
    locking.rollback().await.expect("done");
    world.until("SELECT pending_keys IS NULL FROM saga.process").await;
    world.until("SELECT pending_keys IS NOT NULL FROM saga.process").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_of_the_clock_hides_no_process_that_is_at_work() {
    let world = World::start().await;
    world
        .execute(
            "CREATE TABLE toy.clock (step interval NOT NULL);
             INSERT INTO toy.clock VALUES ('0');
             GRANT SELECT ON toy.clock TO wallet_writer;
             CREATE FUNCTION toy.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
                 AS 'SELECT pg_catalog.clock_timestamp() + step FROM toy.clock'",
        )
        .await;
    // In front of the system's own, so that its clock can be set.
    let found_first = |options: PgConnectOptions| options.options([("search_path", "toy,pg_catalog,public")]);
    let slow = Config { heartbeat: Duration::from_secs(30), ttl: Duration::from_secs(60), ..named("first") };
    let first = world.process_with::<false>(slow, found_first).await;
    let second = world.process_with::<false>(named("second"), found_first).await;
    have_commits_hang(&world).await;
    let submitted = first.submit("k", 1, &["a"]);
    assert!(tokio::time::timeout(Duration::from_millis(150), submitted).await.is_err(), "its COMMIT hangs");
    world.execute("UPDATE toy.clock SET step = '1 hour'").await;
    world
        .until(
            "SELECT beat_at > clock_timestamp() + interval '30 min' FROM saga.process WHERE name = 'second'",
        )
        .await;
    let told = withdraw(&second, "k").await;
    assert!(matches!(told, Withdrawn::InDoubt), "{told:?}");
}
