//! A small service on a real socket.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    routing::{get, post},
};
use futures_util::stream;
use reqwest::header::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};
use service::{
    ApiError,
    accept::{self, Limits},
    auth::{Allow, AllowSocket, Issue, Read, Verifier},
    extract::Path,
    http, json,
};
use testkit::Tokens;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

/// In the place of ten seconds.
pub const HEAD_LIMIT: Duration = Duration::from_millis(500);
/// In the place of twenty seconds.
pub const STALL_LIMIT: Duration = Duration::from_secs(1);

pub struct Server {
    pub address: SocketAddr,
    pub tokens: Tokens,
    pub verifier: Verifier,
    http: reqwest::Client,
    stop: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Debit {
    amount: i64,
    #[serde(default)]
    note: Option<String>,
}

async fn debit(_caller: Allow<Issue>, body: json::Body<Debit>) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({ "amount": body.value.amount, "note_bytes": body.value.note.map(|note| note.len()) })))
}

async fn whoami(caller: Allow<Read>) -> Json<Value> {
    Json(
        json!({ "subject": caller.subject, "business": caller.business_id, "own_customer": caller.own_customer }),
    )
}

async fn thing(Path(id): Path<Uuid>) -> Json<Uuid> {
    Json(id)
}

async fn panics() -> Json<Value> {
    panic!("a secret detail")
}

/// Still at work when the server is told to stop.
async fn slow() -> &'static str {
    tokio::time::sleep(Duration::from_millis(600)).await;
    "done"
}

/// More than any buffer holds, for as long as somebody takes it.
async fn endless() -> Body {
    let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
    Body::from_stream(stream::repeat_with(move || Ok::<_, Infallible>(chunk.clone())))
}

async fn socket(AllowSocket(caller): AllowSocket<Read>) -> Json<Value> {
    Json(json!({ "subject": caller.subject, "expires_at": caller.expires_at }))
}

async fn down() -> Result<(), ApiError> {
    Err(sqlx::Error::PoolTimedOut.into())
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(Limits { head: HEAD_LIMIT, stall: STALL_LIMIT, ..Limits::default() }).await
    }

    pub async fn start_with(limits: Limits) -> Self {
        let tokens = Tokens::new();
        let verifier = tokens.public_verifier();
        let routes = Router::new()
            .route("/debit", post(debit))
            .route("/whoami", get(whoami))
            .route("/thing/{id}", get(thing))
            .route("/panic", get(panics))
            .route("/slow", get(slow))
            .route("/endless", get(endless))
            .route("/socket", get(socket))
            .route("/down", get(down))
            .route("/health/live", get(async || "live"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(accept::serve(listener, http::finish(routes, verifier.clone()), limits, stop.clone()));
        Self { address, tokens, verifier, http: reqwest::Client::new(), stop, tasks }
    }

    pub fn stop(&self) {
        self.stop.cancel();
    }

    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes and returns what comes back until the server closes.
    pub async fn raw(&self, text: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut read, mut write) = self.connect().await.into_split();
        let send = async {
            // The answer may come, and the socket close, before everything is sent.
            let _ = write.write_all(text.as_bytes()).await;
        };
        let mut answer = Vec::new();
        let receive = async {
            let _ = read.read_to_end(&mut answer).await;
        };
        tokio::join!(send, receive);
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub async fn full(&self, method: &str, path: &str, token: Option<&str>) -> (u16, HeaderMap, String) {
        let url = format!("http://{}{path}", self.address);
        let mut request = self.http.request(method.parse().unwrap(), url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.headers().clone(), response.text().await.unwrap())
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        let (status, _, text) = self.full("GET", path, None).await;
        (status, text)
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        authorization: &[&str],
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> (u16, Value) {
        let url = format!("http://{}{path}", self.address);
        let mut request =
            self.http.request(method.parse().unwrap(), url).header("content-type", content_type);
        for value in authorization {
            request = request.header("authorization", *value);
        }
        let response = request.body(body).send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or_default())
    }

    pub async fn whoami(&self, authorization: &[&str]) -> (u16, Value) {
        self.send("GET", "/whoami", authorization, "application/json", "").await
    }

    pub async fn debit(&self, body: impl Into<reqwest::Body>) -> (u16, Value) {
        self.debit_as("application/json", body).await
    }

    pub async fn debit_as(&self, content_type: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let token = self.tokens.staff("demo", "manager");
        self.send("POST", "/debit", &[&format!("Bearer {token}")], content_type, body).await
    }
}
