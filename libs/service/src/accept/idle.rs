//! Which connections wait for a request: when a listener is full, the one that has waited longest makes room.
//!
//! Without that, whoever holds connections open without asking anything, or after an answer, keeps everybody else out
//! until the connections' own time limit.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio_util::sync::CancellationToken;

/// A connection is not closed for another one before it has waited this long: its next request may be on its way.
const GRACE: Duration = Duration::from_secs(1);

/// The connections of one listener that wait for a request. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Idle(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    /// In the order in which they began to wait.
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    close: CancellationToken,
}

/// One connection. Dropped, it waits no more.
#[derive(Debug)]
pub(super) struct Connection {
    idle: Idle,
    close: CancellationToken,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Its place in the queue while it waits.
    place: Option<u64>,
    /// Requests of it that are being answered.
    busy: u32,
}

/// A request whose answer is not sent in full. Dropped, it is.
#[derive(Debug)]
pub(super) struct Busy(Arc<Connection>);

/// A body that keeps its connection busy until it is sent or given up.
#[derive(Debug)]
pub(super) struct BusyBody {
    body: Body,
    _busy: Busy,
}

impl Idle {
    /// A new connection, which waits for its first request.
    pub(super) fn enter(&self) -> Arc<Connection> {
        let close = CancellationToken::new();
        let place = self.wait(&close);
        let state = Mutex::new(State { place: Some(place), busy: 0 });
        Arc::new(Connection { idle: self.clone(), close, state })
    }

    /// Has the connection closed that has waited longest, if it has waited long enough; otherwise how long until then.
    pub(super) fn close_longest(&self) -> Result<(), Duration> {
        let mut queue = lock(&self.0);
        let Some(longest) = queue.waiting.first_entry() else { return Err(GRACE) };
        let waited = longest.get().since.elapsed();
        if waited < GRACE {
            return Err(GRACE - waited);
        }
        longest.remove().close.cancel();
        Ok(())
    }

    fn wait(&self, close: &CancellationToken) -> u64 {
        let mut queue = lock(&self.0);
        let place = queue.next;
        queue.next += 1;
        queue.waiting.insert(place, Waiting { since: Instant::now(), close: close.clone() });
        place
    }
}

impl Connection {
    /// Cancelled when the connection is to make room for another.
    pub(super) fn close(&self) -> &CancellationToken {
        &self.close
    }

    /// Whether a request of it is being answered.
    pub(super) fn is_busy(&self) -> bool {
        lock(&self.state).busy > 0
    }

    /// A request has come.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        let mut state = lock(&self.state);
        if let Some(place) = state.place.take() {
            lock(&self.idle.0).waiting.remove(&place);
        }
        state.busy += 1;
        Busy(self.clone())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(place) = lock(&self.state).place {
            lock(&self.idle.0).waiting.remove(&place);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.busy -= 1;
        if state.busy == 0 {
            state.place = Some(self.0.idle.wait(&self.0.close));
        }
    }
}

impl BusyBody {
    pub(super) fn new(body: Body, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl HttpBody for BusyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_idle_makes_room_and_nobody_who_is_answered() {
        let idle = Idle::default();
        let connections: Vec<_> = (0..3).map(|_| idle.enter()).collect();
        assert!(idle.close_longest().is_err_and(|wait| wait <= GRACE), "nobody has waited long enough");
        for waiting in lock(&idle.0).waiting.values_mut() {
            waiting.since -= GRACE;
        }
        let answered = connections[0].begin();
        assert_eq!(idle.close_longest(), Ok(()));
        let closed = || connections.iter().map(|one| one.close().is_cancelled()).collect::<Vec<_>>();
        assert_eq!(closed(), [false, true, false]);
        // Answered just now, it waits anew, behind the others.
        drop(answered);
        assert_eq!(idle.close_longest(), Ok(()));
        assert_eq!(closed(), [false, true, true]);
        assert!(idle.close_longest().is_err());
        drop(connections);
        assert_eq!(lock(&idle.0).waiting.len(), 0);
    }
}
