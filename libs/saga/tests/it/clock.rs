//! A saga's time goes on evenly, whatever happens to the database's clock.

use std::time::Duration;

use saga::Config;

use crate::toy::{Does, World, quick};

/// From now on the database tells its services another time.
const SET: &str = "DO $$ BEGIN
    CREATE SCHEMA off;
    CREATE TABLE off.step (step interval NOT NULL);
    CREATE FUNCTION off.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql
        AS 'SELECT pg_catalog.clock_timestamp() + coalesce((SELECT step FROM off.step), interval ''0'')';
    GRANT USAGE ON SCHEMA off TO PUBLIC;
    GRANT SELECT ON off.step TO PUBLIC;
    EXECUTE format('ALTER ROLE test_wallet IN DATABASE %I SET search_path = off, pg_catalog', current_database());
END $$";

/// Nobody claims a saga because its owner's last beat looks old.
fn alone() -> Config {
    Config { scan: Duration::from_secs(60), ..quick() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_ahead_ends_no_budget() {
    let world = World::start().await;
    world.execute(SET).await;
    let mut config = alone();
    config.limits.unreachable_for = 60_000;
    let process = world.process::<false>(config).await;
    process.domain.set("a", Does::Declines);
    process.domain.set("b", Does::HangsOnCancel);
    process.submit("k", 1, &["a", "b"]).await.1.expect("written");
    world.until("SELECT state = 1 FROM saga.saga").await;
    world.execute("INSERT INTO off.step VALUES ('1 h')").await;
    // Several heartbeats, and several cancels that are not answered.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(world.sql::<i16>("SELECT state FROM saga.saga").await, 1, "a second of its minute is over");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_moves_no_deadline() {
    let world = World::start().await;
    world.execute(SET).await;
    let process = world.process::<false>(alone()).await;
    process.domain.set("a", Does::Hangs);
    process.submit_within("k", Duration::from_millis(1_500), &["a"]).await;
    world.execute("INSERT INTO off.step VALUES ('-1 h')").await;
    world.until("SELECT state <> 0 FROM saga.saga").await;
}
