//! Who may open live balances, for how long, and how much a client can cost.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use serde_json::json;
use testkit::Tokens;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    live_support::{Client, Heard, LiveSystem, open_events, open_socket},
    support::{BUSINESS, WITHIN, Wallet},
};

/// How far past its end a token is believed, in seconds.
const LEEWAY_S: i64 = 30;

#[tokio::test(flavor = "multi_thread")]
async fn only_its_own_business_and_customer_and_no_token_in_the_url() {
    let live = LiveSystem::start().await;
    let (system, wallet) = (&live.system, live.wallet().await);
    let get = async |path: &str, token: Option<String>, origin: Option<&str>| {
        let mut request = system.client.get(format!("{}/api/v1/wallet/{path}", wallet.url));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        // The body of a stream never ends.
        if status == 200 { (status, String::new()) } else { (status, answer.text().await.expect("text")) }
    };
    let pos = || Some(system.tokens.staff(BUSINESS, "pos"));
    let own = |customer| Some(system.tokens.customer(BUSINESS, customer));
    for (path, token, origin, status) in [
        ("stream?customer_id=c", None, None, 401),
        ("stream?customer_id=c&token=x", None, None, 401),
        ("stream?customer_id=c&access_token=x", pos(), None, 400),
        ("stream", pos(), None, 400),
        ("ws?customer_id=c", None, None, 401),
        ("ws?customer_id=c", pos(), None, 400),
        ("stream?customer_id=c", own("d"), None, 404),
        ("stream?customer_id=c", Some(system.tokens.staff(BUSINESS, "ops")), None, 403),
        ("stream?customer_id=c", pos(), Some("https://evil.example"), 403),
        ("stream?customer_id=c", pos(), Some("null"), 403),
        ("stream?customer_id=c", pos(), Some(&wallet.url), 200),
        ("stream?customer_id=c", own("c"), None, 200),
    ] {
        let (answered, text) = get(path, token, origin).await;
        assert_eq!(answered, status, "{path} {origin:?} {text}");
        assert!(
            answered != 403 || text.contains("origin_not_allowed") || text.contains("role_missing"),
            "{text}"
        );
    }
    // A browser sends the token as a subprotocol, and its page's origin.
    let refused = |opened: Result<_, u16>| opened.map(drop).expect_err("refused");
    assert_eq!(refused(open_socket(&wallet, "c", "nonsense", &[]).await), 401);
    let token = system.tokens.staff(BUSINESS, "pos");
    assert_eq!(refused(open_socket(&wallet, "c", &token, &[("origin", "https://evil.example")]).await), 403);
    let both = [("authorization", format!("Bearer {token}"))];
    let both = both.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(refused(open_socket(&wallet, "c", &token, &both).await), 401);
    let customer = system.tokens.customer(BUSINESS, "d");
    assert_eq!(refused(open_socket(&wallet, "c", &customer, &[]).await), 404);
    open_socket(&wallet, "c", &token, &[("origin", &wallet.url)]).await.expect("its own page");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_business_hears_nothing() {
    let live = LiveSystem::start().await;
    let (system, wallet) = (&live.system, live.wallet().await);
    let token = system.tokens.staff("other", "pos");
    let mut stranger = Client::of_events(open_events(system, &wallet, "c", &token).await);
    let mut own = Client::events(system, &wallet, "c").await;
    own.message().await;
    stranger.message().await;
    system.fund("c", 100, 0, 0).await;
    assert_eq!(own.message().await["balance"]["available"], 100);
    let heard = tokio::time::timeout(Duration::from_millis(3_500), stranger.next()).await;
    assert!(heard.is_err(), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token() {
    let live = LiveSystem::start().await;
    let (system, wallet) = (&live.system, live.wallet().await);
    let mut claims = Tokens::claims(BUSINESS, "pos");
    claims.exp = service::Clock.unix_seconds() - LEEWAY_S + 2;
    let token = system.tokens.sign(&claims);
    let mut events = Client::of_events(open_events(system, &wallet, "c", &token).await);
    let mut socket = Client::of_socket(open_socket(&wallet, "c", &token, &[]).await.expect("a socket"));
    events.message().await;
    socket.message().await;
    let begun = Instant::now();
    assert_eq!(events.message().await, json!({ "type": "wallet.token_expired", "customer_id": "c" }));
    assert_eq!(events.next().await, Heard::End(None));
    assert_eq!(socket.next().await, Heard::End(Some(4401)));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(open_events(system, &wallet, "c", &token).await.status(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_client_is_kept_and_hears_that_it_is() {
    let live = LiveSystem::start().await;
    let (system, wallet) = (&live.system, live.wallet().await);
    system.fund("c", 100, 0, 0).await;
    let token = system.tokens.staff(BUSINESS, "pos");
    let mut response = open_events(system, &wallet, "c", &token).await;
    let mut socket = open_socket(&wallet, "c", &token, &[]).await.expect("a socket");
    assert!(response.chunk().await.expect("a snapshot").is_some());
    assert!(matches!(socket.next().await, Some(Ok(Message::Text(_)))));
    // Longer than a connection may take for a request's head.
    let heartbeats = async { tokio::join!(response.chunk(), socket.next()) };
    let (event, message) =
        tokio::time::timeout(Duration::from_secs(17), heartbeats).await.expect("heartbeats");
    assert_eq!(event.expect("a chunk").as_deref(), Some(&b":\n\n"[..]));
    assert!(matches!(message, Some(Ok(Message::Ping(_)))), "{message:?}");
    assert_eq!(live.spend(&wallet, "c", 1).await.status, 201);
    assert!(response.chunk().await.expect("a change").is_some());
    assert!(matches!(socket.next().await, Some(Ok(Message::Text(_)))));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_move_on_when_the_process_stops() {
    let live = LiveSystem::start().await;
    let (system, wallet) = (&live.system, live.wallet().await);
    let mut events = Client::events(system, &wallet, "c").await;
    let mut socket = Client::socket(system, &wallet, "c").await;
    events.message().await;
    socket.message().await;
    let begun = Instant::now();
    wallet.app.live.draining.cancel();
    assert_eq!(events.next().await, Heard::End(None));
    assert_eq!(socket.next().await, Heard::End(Some(1012)));
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    let token = system.tokens.staff(BUSINESS, "pos");
    assert_eq!(open_events(system, &wallet, "c", &token).await.status(), 503);
    until_unwatched(&wallet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_talks_too_much_is_closed() {
    let live = LiveSystem::start().await;
    let (system, wallet) = (&live.system, live.wallet().await);
    system.fund("c", 100, 0, 0).await;
    let mut client = Client::socket(system, &wallet, "c").await;
    client.message().await;
    for _ in 0..20 {
        client.send(Message::text("x".repeat(4_000))).await;
    }
    assert_eq!(live.spend(&wallet, "c", 1).await.status, 201);
    client.until_points(2).await;
    client.send(Message::text("x".repeat(64 * 1024))).await;
    let heard = client.next().await;
    assert!(matches!(heard, Heard::End(Some(1009) | None)), "{heard:?}");
    until_unwatched(&wallet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_watches_with_fifty_clients_of_their_own_and_staff_with_more() {
    let live = LiveSystem::start().await;
    let (system, wallet) = (&live.system, live.wallet().await);
    let (own, staff) = (system.tokens.customer(BUSINESS, "c"), system.tokens.staff(BUSINESS, "pos"));
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(open_events(system, &wallet, "c", &own).await);
    }
    assert!(clients.iter().all(|answer| answer.status() == 200));
    assert_eq!(open_events(system, &wallet, "c", &own).await.status(), 429);
    assert_eq!(open_events(system, &wallet, "c", &staff).await.status(), 200);
    drop(clients);
    until_unwatched(&wallet).await;
}

async fn until_unwatched(wallet: &Wallet) {
    testkit::until(WITHIN, async || {
        let watched = wallet.app.live.hub.owners();
        if watched.is_empty() { Ok(()) } else { Err(format!("{watched:?} are watched")) }
    })
    .await;
}

/// Memory of this process in KiB.
fn memory_kib() -> i64 {
    let output = Command::new("ps").args(["-o", "rss=", "-p", &std::process::id().to_string()]).output();
    String::from_utf8_lossy(&output.expect("ps").stdout).trim().parse().expect("a number")
}

/// Half of the clients read, half never do; all of them watch while a lot changes. How long after the last change all
/// readers knew, and by how many KiB the process grew.
async fn many_clients(count: usize, changes: i64) -> (Duration, i64) {
    let live = LiveSystem::start().await;
    let wallet = live.wallet().await;
    let customers: Vec<String> = (0..count.div_ceil(50)).map(|number| format!("c{number}")).collect();
    for customer in &customers {
        live.system.fund(customer, 100_000, 0, 0).await;
    }
    let mut readers = Vec::new();
    let mut sleepers = Vec::new();
    for number in 0..count {
        let customer = &customers[number / 50];
        let client = match number % 4 {
            0 | 1 => Client::events(&live.system, &wallet, customer).await,
            _ => Client::socket(&live.system, &wallet, customer).await,
        };
        if number % 2 == 0 { readers.push(client) } else { sleepers.push(client) }
    }
    for reader in &mut readers {
        reader.until_points(1).await;
    }
    let before = memory_kib();
    for _ in 0..changes {
        for customer in &customers {
            assert_eq!(live.spend(&wallet, customer, 1).await.status, 201);
        }
    }
    let begun = Instant::now();
    for reader in &mut readers {
        reader.until_points(1 + changes).await;
    }
    let (took, grown) = (begun.elapsed(), memory_kib() - before);
    assert!(took < Duration::from_secs(2), "{took:?}");
    // What a client that does not read holds is what the kernel buffers, and one message.
    assert!(grown < 64 * 1024, "{grown} KiB");
    drop((readers, sleepers));
    until_unwatched(&wallet).await;
    (took, grown)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_cost_nothing_and_delay_nobody() {
    let (took, grown) = many_clients(200, 30).await;
    println!("200 clients: readers knew after {} ms, {grown} KiB more", took.as_millis());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: cargo nextest run -p wallet --run-ignored only a_thousand"]
async fn a_thousand_clients_half_of_which_do_not_read() {
    let (took, grown) = many_clients(1_000, 100).await;
    println!("1,000 clients: readers knew after {} ms, {grown} KiB more", took.as_millis());
}
