//! One HTTP/1.1 connection of one caller, kept open.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::load::Outcome;

/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(30);

/// A connection, opened again when it has ended.
pub struct Connection {
    port: u16,
    sender: Option<http1::SendRequest<Full<Bytes>>>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Whether it says when to come back.
    pub may_retry: bool,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// What it means for a caller that wanted something done.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self.status {
            200..=299 => Outcome::Done,
            422 => Outcome::Declined,
            429 | 503 if self.may_retry => Outcome::Shed,
            _ => Outcome::Failed,
        }
    }
}

impl Connection {
    /// To a port of this machine. Nothing is opened yet.
    #[must_use]
    pub const fn to(port: u16) -> Self {
        Self { port, sender: None }
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// When there was none.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Vec<u8>,
    ) -> anyhow::Result<Answer> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "bench");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request =
            request.header(header::CONTENT_TYPE, "application/json").body(Full::new(body.into()))?;
        let exchange = async {
            let sender = self.sender().await?;
            let answer = sender.send_request(request).await?;
            let status = answer.status().as_u16();
            let may_retry = answer.headers().contains_key(header::RETRY_AFTER);
            let body = answer.into_body().collect().await?.to_bytes();
            Ok(Answer { status, may_retry, body })
        };
        let answer = tokio::time::timeout(LIMIT, exchange).await.context("no answer").and_then(|done| done);
        if answer.is_err() {
            self.sender = None;
        }
        answer
    }

    async fn sender(&mut self) -> anyhow::Result<&mut http1::SendRequest<Full<Bytes>>> {
        let is_open = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !is_open {
            let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            self.sender = Some(sender);
        }
        self.sender.as_mut().context("a connection")
    }
}
