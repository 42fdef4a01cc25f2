//! A rolling restart moves clients of live balances on, at once and in good order.

use std::time::{Duration, Instant};

use chaos_tests::{Cluster, business::BUSINESS, funding::fund};
use futures_util::StreamExt;
use tokio::time::timeout;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

const SOON: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_told_to_stop_sends_its_clients_away_first() {
    let mut cluster = Cluster::start().await;
    fund(&cluster, BUSINESS, "watched").await;
    let token = cluster.tokens.staff(BUSINESS, "pos");
    let (first, second) = (cluster.wallets[0].url.clone(), cluster.wallets[1].url.clone());
    let open = async |url: &str| {
        let request = cluster.client.get(format!("{url}/api/v1/wallet/stream?customer_id=watched"));
        request.bearer_auth(&token).send().await.expect("an answer")
    };
    let mut events = open(&first).await;
    let url = format!("{}/api/v1/wallet/ws?customer_id=watched", first.replace("http", "ws"));
    let mut request = url.into_client_request().expect("a request");
    let protocol = format!("bearer, {token}").parse().expect("a value");
    request.headers_mut().insert("sec-websocket-protocol", protocol);
    let (mut socket, _) = connect_async(request).await.expect("a socket");
    assert!(events.chunk().await.expect("a snapshot").is_some());
    assert!(matches!(socket.next().await, Some(Ok(Message::Text(_)))));

    let begun = Instant::now();
    cluster.wallets[0].process.terminate();
    let rest = timeout(SOON, async { while let Ok(Some(_)) = events.chunk().await {} });
    rest.await.expect("the stream ends");
    let close = timeout(SOON, socket.next()).await.expect("a word");
    let Some(Ok(Message::Close(Some(frame)))) = close else { panic!("not closed: {close:?}") };
    assert_eq!(u16::from(frame.code), 1012);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(open(&second).await.status(), 200, "another instance goes on");
    cluster.wallets[0].process.ended(Duration::from_secs(10)).await;
    let log = cluster.log("wallet-1");
    assert!(log.contains("\"stopped\"") && !log.contains("connections cut"), "{log}");
}
