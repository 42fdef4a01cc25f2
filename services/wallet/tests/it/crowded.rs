//! Live clients by the dozen against tills, on a wallet of few connections.

use std::time::{Duration, Instant};

use tokio_tungstenite::{
    client_async,
    tungstenite::{self, client::IntoClientRequest},
};

use crate::{
    process::{SOON, WalletProcess, fresh_client},
    support::{System, WITHIN},
};

/// Connections of the wallet; streams have half of them.
const CONNECTIONS: usize = 64;
/// Live clients that want to connect.
const CLIENTS: usize = 90;
/// Longer than the listener takes to accept what has connected.
const ACCEPTED: Duration = Duration::from_millis(100);

async fn crowded() -> (System, WalletProcess) {
    let system = System::start().await;
    system.fund("c", 1_000, 0, 0).await;
    let wallet = WalletProcess::start(&system, &[("MAX_CONNECTIONS", "64")]).await;
    (system, wallet)
}

/// A token of one of four businesses, and whom it watches: no business and no customer has the half of it.
fn watcher(system: &System, number: usize) -> (String, String) {
    (system.tokens.staff(&format!("business-{}", number % 4), "pos"), format!("c{number}"))
}

async fn tills_are_served(system: &System, wallet: &WalletProcess) {
    for _ in 0..10 {
        let begun = Instant::now();
        assert_eq!(wallet.sell(system).await.status, 201);
        assert_eq!(wallet.health(&fresh_client()).await, Some(200));
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_by_the_dozen_keep_no_till_out() {
    let (system, wallet) = crowded().await;
    let mut refused = 0;
    let mut open = Vec::new();
    for number in 0..CLIENTS {
        let (token, customer) = watcher(&system, number);
        let url = format!("{}/api/v1/wallet/stream?customer_id={customer}", wallet.url);
        // Each keeps its connection, also one that is refused.
        let client = fresh_client();
        let answer = tokio::time::timeout(SOON, client.get(url).bearer_auth(token).send());
        let answer = answer.await.expect("in time").expect("an answer");
        if answer.status() != 200 {
            assert_eq!(answer.status(), 503);
            assert_eq!(answer.headers()["retry-after"], "5");
            assert!(answer.headers()["content-type"].to_str().expect("text").contains("problem+json"));
            refused += 1;
            assert!(!answer.text().await.expect("a problem").is_empty());
            open.push((client, None));
        } else {
            open.push((client, Some(answer)));
        }
    }
    assert_eq!(refused, CLIENTS - CONNECTIONS / 2);
    tills_are_served(&system, &wallet).await;
    drop(open);
    // Those who left make room.
    let (token, customer) = watcher(&system, 0);
    let url = format!("{}/api/v1/wallet/stream?customer_id={customer}", wallet.url);
    testkit::until(WITHIN, async || {
        fresh_client().get(&url).bearer_auth(&token).send().await.expect("an answer").status() == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_by_the_dozen_keep_no_till_out_and_are_counted_as_connections() {
    let (system, wallet) = crowded().await;
    let mut open = Vec::new();
    let mut refused = 0;
    for number in 0..CLIENTS {
        let (token, customer) = watcher(&system, number);
        let url = format!("{}/api/v1/wallet/ws?customer_id={customer}", wallet.url.replace("http", "ws"));
        let mut request = url.into_client_request().expect("a request");
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
        let address = wallet.url.trim_start_matches("http://");
        let connect = async {
            let stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
            client_async(request, stream).await
        };
        match tokio::time::timeout(SOON, connect).await.expect("in time") {
            Ok((socket, _)) => open.push(socket),
            Err(tungstenite::Error::Http(answer)) => {
                assert_eq!(answer.status(), 503);
                assert_eq!(answer.headers()["retry-after"], "5");
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((open.len(), refused), (CONNECTIONS / 2, CLIENTS - CONNECTIONS / 2));
    // Half of the places are the sockets': this many idle connections fill the rest, and the next one still has its place.
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS / 2 {
        idle.push(
            tokio::net::TcpStream::connect(wallet.url.trim_start_matches("http://"))
                .await
                .expect("a connection"),
        );
    }
    tokio::time::sleep(ACCEPTED).await;
    tills_are_served(&system, &wallet).await;
    let full = wallet.metric(&fresh_client(), "http_listener_full_total").await;
    assert!(full > 0.0, "sockets have places: the listener was full");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_whose_streams_could_keep_tills_out_does_not_start() {
    let system = System::start().await;
    for (variables, named) in [
        ([("MAX_CONNECTIONS", "64"), ("STREAMS_MAX", "33")], "MAX_CONNECTIONS"),
        ([("STREAMS_MAX", "10"), ("STREAMS_PER_BUSINESS_MAX", "11")], "STREAMS_PER_BUSINESS_MAX"),
    ] {
        let said = WalletProcess::refuses_to_start(&system, &variables);
        assert!(said.contains(named), "{said}");
    }
}
