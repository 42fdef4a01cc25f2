//! The accept loop. `axum::serve` has no limit on how long a client may take to send a request's head or to
//! read its answer, nor on how many connections are open; this one has.

mod framing;

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{Router, extract::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_io_timeout::TimeoutWriter;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

use framing::Watched;

/// Bytes of a request's head, and of unread input, that a connection may hold in memory.
const BUFFER_LIMIT: usize = 128 * 1024;

/// Pause after `accept` failed, which it does while descriptors are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Marks a request on a connection that said twice where a body ends; [`crate::http::finish`] refuses it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AmbiguousBody;

/// What one listener allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest time for a request's head to arrive in full, counted from the connection's start or the previous
    /// answer: it limits slow senders and idle connections alike.
    pub head: Duration,
    /// Longest time that a client may read nothing while something is to be written to it; then it is cut off. It also
    /// holds for what a connection is upgraded to.
    pub stall: Duration,
    /// Most open connections; more wait in the kernel's backlog.
    pub connections: usize,
    /// Longest time that a stop waits for open requests.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            stall: Duration::from_secs(20),
            connections: 8192,
            drain: Duration::from_secs(20),
        }
    }
}

/// Serves `app` until `stop`, then lets open requests end, for at most `limits.drain`.
pub async fn serve(listener: TcpListener, app: Router, limits: Limits, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    loop {
        // Room first: a connection that cannot be served stays in the backlog instead of costing memory.
        let accepted = tokio::select! {
            accepted = async { (Arc::clone(&room).acquire_owned().await, listener.accept().await) } => accepted,
            () = stop.cancelled() => break,
        };
        let (Ok(permit), accepted) = accepted else { break };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (app, stop, cut) = (app.clone(), stop.clone(), cut.clone());
        connections.spawn(async move {
            tokio::select! {
                () = connection(stream, app, limits, stop) => {}
                () = cut.cancelled() => {}
            }
            drop(permit);
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(limits.drain, connections.wait()).await.is_err() {
        tracing::warn!(open = connections.len(), "connections cut: they did not end in time");
        cut.cancel();
    }
}

async fn connection(stream: TcpStream, app: Router, limits: Limits, stop: CancellationToken) {
    // Answers are small and complete; waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(limits.stall));
    let stream = Watched::new(Box::pin(stream));
    let is_ambiguous = stream.is_ambiguous();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(axum::body::Body::new);
        if is_ambiguous.load(Ordering::Acquire) {
            request.extensions_mut().insert(AmbiguousBody);
        }
        // A router is always ready, and its clone is cheap.
        app.clone().call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(BUFFER_LIMIT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
