//! What tests of live balances share: a Redis of their own, tenders whose changes are relayed, and clients of both kinds.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use events::{Outbox, Relay};
use futures_util::StreamExt;
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use service::db;
use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest, protocol::CloseFrame},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::support::{Answer, BUSINESS, System, WITHIN, Wallet};

/// A Redis that a test may kill.
pub struct Redis {
    port: u16,
    server: Child,
}

impl Redis {
    async fn start() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let port = socket.local_addr().expect("an address").port();
        drop(socket);
        let redis = Self { port, server: spawn(port) };
        drop(redis.connection().await);
        redis
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A connection, as soon as there can be one.
    pub async fn connection(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.url()).expect("a URL");
        testkit::until(WITHIN, async || client.get_multiplexed_async_connection().await).await
    }

    pub async fn kill(&mut self) {
        self.server.kill().await.expect("killed");
    }

    /// As empty as it was at first.
    pub async fn restart(&mut self) {
        self.server = spawn(self.port);
        drop(self.connection().await);
    }
}

fn spawn(port: u16) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("redis-server is installed")
}

/// A system with Redis.
pub struct LiveSystem {
    _relays: DropGuard, // dropped first: relays stop before databases go
    pub system: System,
    pub redis: Redis,
}

impl LiveSystem {
    pub async fn start() -> Self {
        let live = Self::start_mute().await;
        for part in [&live.system.points, &live.system.credit, &live.system.rewards] {
            let options = db::connect_options(&part.tender.database.url(), "relay").expect("a URL");
            let wake = part.tender.app.executor().outbox_wake();
            let url = live.redis.url();
            let relay = Relay::new(Outbox::Balances, db::pool(options, 1), Some(&url), wake).expect("a URL");
            TaskTracker::new().spawn(relay.run(live._relays.token().clone()));
        }
        live
    }

    /// A system in which no change of a tender is ever published.
    pub async fn start_mute() -> Self {
        let redis = Redis::start().await;
        let mut system = System::start().await;
        system.redis_url = Some(redis.url());
        Self { _relays: CancellationToken::new().drop_guard(), system, redis }
    }

    /// An orchestrator that is connected to Redis.
    pub async fn wallet(&self) -> Wallet {
        let wallet = self.system.wallet().await;
        self.until_redis(&wallet, true).await;
        wallet
    }

    /// Waits until an orchestrator knows whether Redis is there.
    pub async fn until_redis(&self, wallet: &Wallet, is_up: bool) {
        testkit::until(WITHIN, async || wallet.app.live.cache.is_up() == is_up).await;
    }

    /// Cuts the connection of whoever listens for changes.
    pub async fn cut_subscribers(&self) {
        let mut redis = self.redis.connection().await;
        let mut kill = redis::cmd("CLIENT");
        kill.arg("KILL").arg("TYPE").arg("pubsub");
        let killed: i64 = kill.query_async(&mut redis).await.expect("killed");
        assert_eq!(killed, 1, "the fault fired");
    }

    /// Takes points from a customer, each worth a cent.
    pub async fn spend(&self, wallet: &Wallet, customer: &str, points: i64) -> Answer {
        let key = uuid::Uuid::new_v4().to_string();
        self.system.redeem(wallet, &key, &points_order(customer, points)).await
    }

    /// The points of a customer: what can be spent, and the version.
    pub async fn points(&self, wallet: &Wallet, customer: &str) -> (i64, i64) {
        let path = format!("/wallet/balance?customer_id={customer}");
        points(&self.system.get(wallet, &path).await.json()["balances"])
    }
}

pub fn points_order(customer: &str, points: i64) -> Value {
    json!({
        "customer_id": customer, "order_id": "o", "currency": "USD", "amount": points,
        "tenders": [{ "type": "points", "points": points }],
    })
}

/// What can be spent of the points among some balances, and their version.
pub fn points(balances: &Value) -> (i64, i64) {
    let line = balances.as_array().expect("balances").iter().find(|line| line["tender"] == "points");
    let line = line.expect("points");
    (line["available"].as_i64().expect("units"), line["version"].as_i64().expect("a version"))
}

/// A client of either kind. It fails the test when a version falls.
pub struct Client {
    transport: Transport,
    versions: HashMap<String, i64>,
}

enum Transport {
    Events { response: reqwest::Response, buffer: String },
    Socket(Box<WebSocketStream<TcpStream>>),
}

/// What a client hears.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    Message(Value),
    /// The end, with a WebSocket's close code.
    End(Option<u16>),
}

impl Client {
    /// Listens by server-sent events.
    pub async fn events(system: &System, wallet: &Wallet, customer: &str) -> Self {
        let token = system.tokens.staff(BUSINESS, "pos");
        let response = open_events(system, wallet, customer, &token).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self::of(Transport::Events { response, buffer: String::new() })
    }

    /// Listens by WebSocket, its token given as a browser would.
    pub async fn socket(system: &System, wallet: &Wallet, customer: &str) -> Self {
        let token = system.tokens.staff(BUSINESS, "pos");
        let socket = open_socket(wallet, customer, &token, &[]).await.expect("a socket");
        Self::of(Transport::Socket(Box::new(socket)))
    }

    pub fn of_socket(socket: WebSocketStream<TcpStream>) -> Self {
        Self::of(Transport::Socket(Box::new(socket)))
    }

    pub fn of_events(response: reqwest::Response) -> Self {
        Self::of(Transport::Events { response, buffer: String::new() })
    }

    fn of(transport: Transport) -> Self {
        Self { transport, versions: HashMap::new() }
    }

    /// What comes next, within ten seconds.
    pub async fn next(&mut self) -> Heard {
        let heard = match &mut self.transport {
            Transport::Events { response, buffer } => timeout(PATIENCE, next_event(response, buffer)).await,
            Transport::Socket(socket) => timeout(PATIENCE, next_text(socket)).await,
        };
        let heard = heard.expect("a message in time");
        if let Heard::Message(message) = &heard {
            self.check(message);
        }
        heard
    }

    /// The next message.
    pub async fn message(&mut self) -> Value {
        match self.next().await {
            Heard::Message(message) => message,
            Heard::End(code) => panic!("ended: {code:?}"),
        }
    }

    fn check(&mut self, message: &Value) {
        let single = [message.clone()];
        for line in message["balances"].as_array().map_or(&single[..], Vec::as_slice) {
            let Some(version) = line["version"].as_i64() else { continue };
            let account = format!("{} {}", line["tender"], line["currency"]);
            let before = self.versions.insert(account, version).unwrap_or(-1);
            assert!(before < version || message["type"] == "wallet.snapshot", "{version} after {before}");
        }
    }

    /// Waits until the points have this version; how long it took.
    pub async fn until_points(&mut self, version: i64) -> Duration {
        let begun = Instant::now();
        while self.versions.get("\"points\" null").is_none_or(|seen| *seen < version) {
            self.message().await;
        }
        begun.elapsed()
    }

    /// Sends something over a WebSocket.
    pub async fn send(&mut self, message: Message) {
        let Transport::Socket(socket) = &mut self.transport else { panic!("no WebSocket") };
        let _ = futures_util::SinkExt::send(&mut **socket, message).await;
    }
}

/// Longest time that a test waits for a message.
const PATIENCE: Duration = Duration::from_secs(10);

async fn next_event(response: &mut reqwest::Response, buffer: &mut String) -> Heard {
    loop {
        if let Some(end) = buffer.find("\n\n") {
            let event: String = buffer.drain(..end + 2).collect();
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
            let Some(data) = field("data: ") else { continue };
            let message: Value = serde_json::from_str(data).expect("JSON");
            assert_eq!(field("event: "), message["type"].as_str());
            return Heard::Message(message);
        }
        match response.chunk().await {
            Ok(Some(chunk)) => buffer.push_str(std::str::from_utf8(&chunk).expect("text")),
            Ok(None) | Err(_) => return Heard::End(None),
        }
    }
}

async fn next_text(socket: &mut WebSocketStream<TcpStream>) -> Heard {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => {
                return Heard::Message(serde_json::from_str(&text).expect("JSON"));
            }
            Some(Ok(Message::Close(frame))) => {
                return Heard::End(frame.map(|CloseFrame { code, .. }| code.into()));
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Heard::End(None),
        }
    }
}

pub async fn open_events(system: &System, wallet: &Wallet, customer: &str, token: &str) -> reqwest::Response {
    let url = format!("{}/api/v1/wallet/stream?customer_id={customer}", wallet.url);
    system.client.get(url).bearer_auth(token).send().await.expect("an answer")
}

/// Opens a WebSocket with more headers; the answer's status if it is refused.
pub async fn open_socket(
    wallet: &Wallet,
    customer: &str,
    token: &str,
    headers: &[(&'static str, &str)],
) -> Result<WebSocketStream<TcpStream>, u16> {
    let address = wallet.url.trim_start_matches("http://");
    let url = format!("ws://{address}/api/v1/wallet/ws?customer_id={customer}");
    let mut request = url.into_client_request().expect("a request");
    request
        .headers_mut()
        .insert("sec-websocket-protocol", format!("bearer, {token}").parse().expect("a value"));
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().expect("a value"));
    }
    let stream = TcpStream::connect(address).await.expect("a connection");
    match client_async(request, stream).await {
        Ok((socket, answer)) => {
            assert_eq!(answer.headers()["sec-websocket-protocol"], "bearer");
            Ok(socket)
        }
        Err(tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}
