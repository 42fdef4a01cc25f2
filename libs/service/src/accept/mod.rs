//! The accept loop. `axum::serve` has no limit on how long a client may take to send a request's head or to
//! read its answer, nor on how many connections are open; this one has.
//!
//! A connection has its place for as long as its socket lives, also as a stream or a WebSocket. Where all places are taken,
//! the connection that has waited longest for a request is closed for the next one: only answers under way, which have
//! limits of their own, keep newcomers waiting.

mod framing;
mod idle;

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
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_io_timeout::TimeoutWriter;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

use framing::Watched;
use idle::{BusyBody, Idle};

/// Bytes of a request's head, and of unread input, that a connection may hold in memory.
const BUFFER_LIMIT: usize = 128 * 1024;

/// Pause after `accept` failed, which it does while descriptors are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long an idle connection may take to close before the next one is closed as well.
const CLOSE_LIMIT: Duration = Duration::from_millis(100);

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
    /// Most open connections, streams and WebSockets included. The next one has the place of the longest idle; where all are
    /// being answered, it waits in the kernel's backlog.
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
    let (places, idle) = (Arc::new(Semaphore::new(limits.connections)), Idle::default());
    metrics::counter!("http_listener_full_total").increment(0);
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // One connection at most waits here for its place; those behind it cost the process no memory.
        let Some(Some(place)) = stop.run_until_cancelled(place(&places, &idle)).await else { break };
        let (app, stop, cut, idle) = (app.clone(), stop.clone(), cut.clone(), idle.clone());
        connections.spawn(async move {
            tokio::select! {
                () = connection(stream, place, app, limits, &idle, stop) => {}
                () = cut.cancelled() => {}
            }
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(limits.drain, connections.wait()).await.is_err() {
        tracing::warn!(open = connections.len(), "connections cut: they did not end in time");
        cut.cancel();
    }
}

/// A place for a connection, as soon as there is one; the longest idle connection gives its own up for it.
async fn place(places: &Arc<Semaphore>, idle: &Idle) -> Option<OwnedSemaphorePermit> {
    if let Ok(place) = places.clone().try_acquire_owned() {
        return Some(place);
    }
    metrics::counter!("http_listener_full_total").increment(1);
    loop {
        let wait = match idle.close_longest() {
            Ok(()) => CLOSE_LIMIT,
            Err(wait) => wait,
        };
        if let Ok(place) = tokio::time::timeout(wait, places.clone().acquire_owned()).await {
            return place.ok();
        }
    }
}

async fn connection(
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    app: Router,
    limits: Limits,
    idle: &Idle,
    stop: CancellationToken,
) {
    // Answers are small and complete; waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(limits.stall));
    let stream = Watched::new(Box::pin(stream), place);
    let is_ambiguous = stream.is_ambiguous();
    let client = idle.enter();
    let asking = client.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let busy = asking.begin();
        let mut request: Request = request.map(axum::body::Body::new);
        if is_ambiguous.load(Ordering::Acquire) {
            request.extensions_mut().insert(AmbiguousBody);
        }
        // A router is always ready, and its clone is cheap.
        let answer = app.clone().call(request);
        async move { answer.await.map(|response| response.map(|body| BusyBody::new(body, busy))) }
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
        () = client.close().cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(CLOSE_LIMIT, connection.as_mut()).await {
                Ok(ended) => ended,
                // Its next request came at this very moment.
                Err(_) if client.is_busy() => connection.await,
                // Half a head: the rest of it is not waited for.
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
