//! The relay against a real Postgres and a real Redis.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{collections::HashSet, sync::Arc, time::Duration};

use events::{Changed, Outbox, Passed, REDEMPTIONS, Relay, balance_channel, floor_key};
use futures_util::StreamExt;
use redis::AsyncCommands;
use schema::Database;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use testkit::{Mode, Proxy, TestDatabase, Weather, until};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Longest time that what was begun may take until it shows.
const WITHIN: Duration = Duration::from_secs(10);
/// Longer than a relay takes to begin, to find nothing and to wait for its next look.
const IDLE: Duration = Duration::from_millis(200);
/// As [`IDLE`], where Redis is away: its statements are prepared by then.
const PREPARED: Duration = Duration::from_millis(100);
/// By then a relay whose database is away pauses for three seconds.
const PAUSES_FOR_LONG: Duration = Duration::from_millis(3_300);
/// Some passes of a relay, which may delete nothing.
const PASSES: Duration = Duration::from_millis(300);
/// Some rounds in which an outbox is measured.
const MEASURED: Duration = Duration::from_millis(2_500);
/// Longer than a pass may take, and the pause after it.
const NEVER_ANSWERED: Duration = Duration::from_secs(12);
/// Nobody listens here.
const CLOSED: &str = "redis://127.0.0.1:9";

fn redis_url() -> String {
    std::env::var("TEST_REDIS_URL")
        .expect("TEST_REDIS_URL is not set: name a Redis for tests, or run script/test")
}

fn pool(database: &TestDatabase) -> PgPool {
    service::db::pool(service::db::connect_options(&database.url(), "test").expect("options"), 4)
}

async fn write(pool: &PgPool, business: &str, count: i32) {
    sqlx::query(
        // As batches of three leave them.
        "INSERT INTO tender.outbox (payload)
         SELECT json_agg(json_build_object('tender', 'points', 'business_id', $1, 'customer_id', 'c', 'asset', 'points',
                                           'version', n) ORDER BY n)
         FROM generate_series(1, $2) n GROUP BY (n - 1) / 3",
    )
    .bind(business)
    .bind(count)
    .execute(pool)
    .await
    .unwrap();
}

async fn waiting(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM tender.outbox").fetch_one(pool).await.unwrap()
}

/// Messages of `business`, which is a name of its own, since Redis is shared by all tests.
async fn subscribe(business: &str) -> redis::aio::PubSub {
    let client = redis::Client::open(redis_url()).unwrap();
    let mut listener = client.get_async_pubsub().await.unwrap();
    listener.subscribe(balance_channel(business, "c")).await.unwrap();
    listener
}

async fn versions(listener: redis::aio::PubSub, count: usize) -> Vec<i64> {
    let read = listener.into_on_message().take(count).map(|message| {
        let payload: String = message.get_payload().unwrap();
        serde_json::from_str::<serde_json::Value>(&payload).unwrap()["version"].as_i64().unwrap()
    });
    let mut versions: Vec<i64> =
        tokio::time::timeout(Duration::from_secs(10), read.collect()).await.expect("messages in time");
    versions.sort_unstable();
    versions
}

#[tokio::test]
async fn everything_is_published_by_several_relays_and_then_gone() {
    let database = TestDatabase::create(Database::Points).await;
    let pool = pool(&database);
    let business = uuid::Uuid::new_v4().to_string();
    let listener = subscribe(&business).await;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    for _ in 0..2 {
        let relay =
            Relay::new(Outbox::Balances, pool.clone(), Some(&redis_url()), Arc::new(Notify::new())).unwrap();
        tasks.spawn(relay.run(stop.clone()));
    }
    write(&pool, &business, 1200).await;
    assert_eq!(versions(listener, 1200).await, (1..=1200).collect::<Vec<_>>());
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    assert_eq!(waiting(&pool).await, 0);
}

#[tokio::test]
async fn a_wake_up_does_not_wait_for_the_scan() {
    let database = TestDatabase::create(Database::Points).await;
    let pool = pool(&database);
    let business = uuid::Uuid::new_v4().to_string();
    let listener = subscribe(&business).await;
    let wake = Arc::new(Notify::new());
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let relay = Relay::new(Outbox::Balances, pool.clone(), Some(&redis_url()), wake.clone()).unwrap();
    tasks.spawn(relay.run(stop.clone()));
    tokio::time::sleep(IDLE).await;
    let begun = std::time::Instant::now();
    write(&pool, &business, 1).await;
    wake.notify_one();
    assert_eq!(versions(listener, 1).await, [1]);
    assert!(begun.elapsed() < Duration::from_millis(700), "{:?}", begun.elapsed());
    stop.cancel();
}

#[tokio::test]
async fn while_redis_is_away_everything_waits_and_then_arrives() {
    let database = TestDatabase::create(Database::Points).await;
    let pool = pool(&database);
    let business = uuid::Uuid::new_v4().to_string();
    write(&pool, &business, 3).await;
    let away = Relay::new(Outbox::Balances, pool.clone(), Some(CLOSED), Arc::new(Notify::new())).unwrap();
    away.pass().await.unwrap_err();
    assert_eq!(waiting(&pool).await, 1);

    let listener = subscribe(&business).await;
    let back =
        Relay::new(Outbox::Balances, pool.clone(), Some(&redis_url()), Arc::new(Notify::new())).unwrap();
    assert_eq!(back.pass().await.unwrap(), Passed { messages: 3, is_full: false });
    assert_eq!(versions(listener, 3).await, [1, 2, 3]);
    assert_eq!(waiting(&pool).await, 0);
}

#[tokio::test]
async fn without_redis_messages_are_discarded() {
    let database = TestDatabase::create(Database::Points).await;
    let pool = pool(&database);
    write(&pool, "b", 3).await;
    let relay = Relay::new(Outbox::Balances, pool.clone(), None, Arc::new(Notify::new())).unwrap();
    assert_eq!(relay.pass().await.unwrap(), Passed { messages: 3, is_full: false });
    assert_eq!(waiting(&pool).await, 0);
}

#[tokio::test]
async fn a_change_raises_the_floor_before_it_is_published() {
    let database = TestDatabase::create(Database::Points).await;
    let pool = pool(&database);
    let business = uuid::Uuid::new_v4().to_string();
    let listener = subscribe(&business).await;
    let relay =
        Relay::new(Outbox::Balances, pool.clone(), Some(&redis_url()), Arc::new(Notify::new())).unwrap();
    write(&pool, &business, 3).await;
    relay.pass().await.unwrap();
    assert_eq!(versions(listener, 3).await, [1, 2, 3]);
    let client = redis::Client::open(redis_url()).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let key = floor_key(&business, "c", "points");
    let floor = async |redis: &mut redis::aio::MultiplexedConnection| -> String {
        redis::cmd("GET").arg(&key).query_async(redis).await.unwrap()
    };
    assert_eq!(floor(&mut redis).await, "points=3");
    // It never falls, and knows each account.
    for (asset, version) in [("points", 2), ("USD", 9_007_199_254_740_991), ("points", 4)] {
        let changed = Changed {
            business_id: business.as_str().into(),
            customer_id: "c".into(),
            tender: "points".into(),
            asset: asset.into(),
            version,
        };
        changed.raise().query_async::<i64>(&mut redis).await.unwrap();
    }
    assert_eq!(floor(&mut redis).await, "USD=9007199254740991,points=4");
    let left_ms: i64 = redis::cmd("PTTL").arg(&key).query_async(&mut redis).await.unwrap();
    assert!((14_000..=15_000).contains(&left_ms), "{left_ms}");
}

#[tokio::test]
async fn who_has_written_wakes_a_relay_whose_database_was_away() {
    let database = TestDatabase::create(Database::Points).await;
    let admin = database.admin();
    let proxy = Proxy::start(admin.get_host(), admin.get_port()).await;
    let options = service::db::connect_options(&database.url(), "test").expect("options");
    let behind = service::db::pool(options.host("127.0.0.1").port(proxy.port), 1);
    let business = uuid::Uuid::new_v4().to_string();
    let (listener, wake) = (subscribe(&business).await, Arc::new(Notify::new()));
    let relay = Relay::new(Outbox::Balances, behind, Some(&redis_url()), wake.clone()).unwrap();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    proxy.set(Mode::Cut);
    tasks.spawn(relay.run(stop.clone()));
    tokio::time::sleep(PAUSES_FOR_LONG).await;
    proxy.set(Mode::Pass);
    write(&pool(&database), &business, 3).await;
    wake.notify_one();
    let begun = std::time::Instant::now();
    assert_eq!(versions(listener, 3).await, [1, 2, 3]);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}

#[tokio::test]
async fn a_relay_whose_statement_is_never_answered_goes_on() {
    let database = TestDatabase::create(Database::Points).await;
    let admin = database.admin();
    let proxy = Proxy::start(admin.get_host(), admin.get_port()).await;
    let options = service::db::connect_options(&database.url(), "test").expect("options");
    let behind = service::db::pool(options.host("127.0.0.1").port(proxy.port), 1);
    let business = uuid::Uuid::new_v4().to_string();
    let (listener, wake) = (subscribe(&business).await, Arc::new(Notify::new()));
    let relay = Relay::new(Outbox::Balances, behind, Some(&redis_url()), wake.clone()).unwrap();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    tasks.spawn(relay.run(stop.clone()));
    tokio::time::sleep(IDLE).await;
    proxy.hold_next(1);
    write(&pool(&database), &business, 3).await;
    wake.notify_one();
    until(WITHIN, async || proxy.is_holding()).await;
    let told = tokio::time::timeout(NEVER_ANSWERED, versions(listener, 3)).await;
    assert_eq!(told.expect("in time"), [1, 2, 3]);
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}

#[tokio::test]
async fn what_became_of_redemptions_is_appended_to_a_stream() {
    let database = TestDatabase::create(Database::Wallet).await;
    let pool = pool(&database);
    let ids: Vec<String> = (0..1200).map(|_| uuid::Uuid::new_v4().to_string()).collect();
    sqlx::query(
        "INSERT INTO wallet.outbox (payload)
         SELECT json_agg(json_build_object('event_id', id, 'type', 'wallet.redemption_completed'))
         FROM unnest($1::text[]) WITH ORDINALITY AS u(id, n) GROUP BY n / 7",
    )
    .bind(&ids)
    .execute(&pool)
    .await
    .unwrap();
    let away = Relay::new(Outbox::Redemptions, pool.clone(), Some(CLOSED), Arc::new(Notify::new())).unwrap();
    away.pass().await.unwrap_err();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    for _ in 0..2 {
        let relay =
            Relay::new(Outbox::Redemptions, pool.clone(), Some(&redis_url()), Arc::new(Notify::new()))
                .unwrap();
        tasks.spawn(relay.run(stop.clone()));
    }
    let client = redis::Client::open(redis_url()).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let mut missing: HashSet<String> = ids.into_iter().collect();
    until(WITHIN, async || {
        // Redis is shared by all tests: others append too.
        let last: redis::streams::StreamRangeReply =
            redis.xrevrange_count(REDEMPTIONS, "+", "-", 5_000).await.unwrap();
        for entry in last.ids {
            missing.remove(&entry.get::<String>("event_id").unwrap());
        }
        if missing.is_empty() { Ok(()) } else { Err(format!("{} are missing", missing.len())) }
    })
    .await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM wallet.outbox").fetch_one(&pool).await.unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_set_aside_and_stops_no_other() {
    let database = TestDatabase::create(Database::Points).await;
    let pool = pool(&database);
    let business = uuid::Uuid::new_v4().to_string();
    let bad: Vec<i64> = sqlx::query_scalar(
        "INSERT INTO tender.outbox (payload) VALUES ('[{\"version\": 1}]'), ('{\"of\": \"the next version\"}') RETURNING id",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    write(&pool, &business, 3).await;
    let listener = subscribe(&business).await;
    let relay =
        Relay::new(Outbox::Balances, pool.clone(), Some(&redis_url()), Arc::new(Notify::new())).unwrap();
    assert_eq!(relay.pass().await.unwrap(), Passed { messages: 3, is_full: false });
    assert_eq!(versions(listener, 3).await, [1, 2, 3]);
    assert_eq!(waiting(&pool).await, 0);
    let kept: Vec<(i64, String, String)> =
        sqlx::query_as("SELECT id, payload::text, error FROM tender.outbox_set_aside ORDER BY id")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(kept.iter().map(|(id, ..)| *id).collect::<Vec<_>>(), bad);
    assert_eq!(kept[1].1, "{\"of\": \"the next version\"}");
    assert!(kept[0].2.contains("business_id"), "{}", kept[0].2);
}

#[tokio::test]
async fn a_balance_that_waited_for_a_minute_is_deleted_while_redis_is_away_and_when_it_is_back() {
    let database = TestDatabase::create(Database::Points).await;
    let pool = pool(&database);
    let business = uuid::Uuid::new_v4().to_string();
    // More than one statement looks at, so that one round would leave some.
    write(&pool, &business, 4_500).await;
    age(&database, "tender", 61).await;
    write(&pool, &business, 3).await;
    let away = Relay::new(Outbox::Balances, pool.clone(), Some(CLOSED), Arc::new(Notify::new())).unwrap();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    tasks.spawn(away.run(stop.clone()));
    until_waiting(&pool, 1).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;

    age(&database, "tender", 61).await;
    write(&pool, &business, 6).await;
    let listener = subscribe(&business).await;
    let back =
        Relay::new(Outbox::Balances, pool.clone(), Some(&redis_url()), Arc::new(Notify::new())).unwrap();
    assert_eq!(back.pass().await.unwrap(), Passed { messages: 6, is_full: false });
    assert_eq!(versions(listener, 6).await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(waiting(&pool).await, 0);
}

#[tokio::test]
async fn events_of_redemptions_wait_for_redis_however_long() {
    let database = TestDatabase::create(Database::Wallet).await;
    let pool = pool(&database);
    sqlx::query("INSERT INTO wallet.outbox (payload) VALUES ('[{\"event_id\": \"e\", \"type\": \"t\"}]')")
        .execute(&pool)
        .await
        .unwrap();
    age(&database, "wallet", 90_000).await;
    let left = || async {
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM wallet.outbox").fetch_one(&pool).await.unwrap()
    };
    for redis in [None, Some(CLOSED)] {
        let relay = Relay::new(Outbox::Redemptions, pool.clone(), redis, Arc::new(Notify::new())).unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(relay.run(stop.clone()));
        tokio::time::sleep(PASSES).await;
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        assert_eq!(left().await, 1, "{redis:?}");
    }
    let there =
        Relay::new(Outbox::Redemptions, pool.clone(), Some(&redis_url()), Arc::new(Notify::new())).unwrap();
    assert_eq!(there.pass().await.unwrap(), Passed { messages: 1, is_full: false });
    assert_eq!(left().await, 0);
}

#[tokio::test]
async fn a_full_outbox_is_measured_without_reading_it() {
    let database = TestDatabase::create(Database::Points).await;
    let options = service::db::connect_options(&database.url(), "test").expect("options");
    let relayed = service::db::pool(service::db::for_executor(options), 1);
    let away = Relay::new(Outbox::Balances, relayed.clone(), Some(CLOSED), Arc::new(Notify::new())).unwrap();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    // What it prepares on an empty outbox it uses on a full one.
    tasks.spawn(away.run(stop.clone()));
    tokio::time::sleep(PREPARED).await;
    write(&pool(&database), "b", 60_000).await;
    tokio::time::sleep(MEASURED).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    relayed.close().await; // a session sends its statistics when it ends
    let mut admin = PgConnection::connect_with(&database.admin()).await.unwrap();
    let read_by = async |admin: &mut PgConnection| -> (i64, i64) {
        sqlx::query_as("SELECT seq_tup_read, idx_scan FROM pg_stat_user_tables WHERE relname = 'outbox'")
            .fetch_one(admin)
            .await
            .unwrap()
    };
    let by_scan = until(WITHIN, async || {
        let (by_scan, by_index) = read_by(&mut admin).await;
        if by_index > 0 { Ok(by_scan) } else { Err("no statistics came") }
    })
    .await;
    assert!(by_scan < 20_000, "{by_scan} rows read by scans of the table");
}

/// Makes what was written older; only the owner of the table may do that.
async fn age(database: &TestDatabase, schema: &str, seconds: i32) {
    let mut admin = PgConnection::connect_with(&database.admin()).await.unwrap();
    let statement = format!("UPDATE {schema}.outbox SET created_at = created_at - make_interval(secs => $1)");
    sqlx::query(AssertSqlSafe(statement)).bind(f64::from(seconds)).execute(&mut admin).await.unwrap();
}

async fn until_waiting(pool: &PgPool, rows: i64) {
    until(WITHIN, async || {
        let waiting = waiting(pool).await;
        if waiting == rows { Ok(()) } else { Err(format!("{waiting} rows wait, and not {rows}")) }
    })
    .await;
}

/// Bytes a second between a relay and Redis. A pass of as many rows as one may have does not fit its time by far, one row does.
const SLOW_LINK: u32 = 200_000;
/// Rows whose events such a link carries in about three seconds.
const ROWS: i64 = 60;
/// By then they are through, and were sent several times besides.
const THROUGH: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_slow_link_carries_an_outbox_that_is_too_much_for_one_pass() {
    let database = TestDatabase::create(Database::Points).await;
    let pool = pool(&database);
    let url = redis_url();
    let (host, port) = url.trim_start_matches("redis://").trim_end_matches('/').split_once(':').unwrap();
    let proxy = Proxy::start(host, port.parse().unwrap()).await;
    proxy.set_weather(Weather { bandwidth: SLOW_LINK, ..Weather::default() });
    sqlx::query(
        "INSERT INTO tender.outbox (payload)
         SELECT json_build_array(json_build_object('tender', 'points', 'business_id', $1, 'customer_id', 'c',
             'asset', 'points', 'version', n, 'note', repeat('x', 10000)))
         FROM generate_series(1, $2) n",
    )
    .bind(uuid::Uuid::new_v4().to_string())
    .bind(ROWS)
    .execute(&pool)
    .await
    .unwrap();
    let behind = format!("redis://127.0.0.1:{}", proxy.port);
    let relay = Relay::new(Outbox::Balances, pool.clone(), Some(&behind), Arc::new(Notify::new())).unwrap();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    tasks.spawn(relay.run(stop.clone()));
    until(THROUGH, async || waiting(&pool).await == 0).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}
