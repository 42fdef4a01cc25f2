//! A connection to Redis for which nobody waits.
//!
//! One multiplexed connection is kept by one task. While it is known to be away callers are told so at once; the first
//! call that finds out costs its own limit at most, and every later one nothing.

use std::{sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, RedisResult,
    aio::{ConnectionLike, MultiplexedConnection},
    cmd,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Longest time that a call may take which only saves time.
const CALL_LIMIT: Duration = Duration::from_millis(50);
/// Longest time to connect, and for the answer to a ping.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);
/// How often the connection is looked at when nobody complains.
const PING_EVERY: Duration = Duration::from_secs(1);
/// Pause before connecting again.
const PAUSE: Duration = Duration::from_millis(200);

/// A connection to Redis, or none. Clones share it.
#[derive(Clone, Default)]
pub struct Link(Option<Arc<Shared>>);

struct Shared {
    current: watch::Sender<Option<MultiplexedConnection>>,
    /// Somebody's call failed.
    broken: Notify,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Link")
    }
}

impl Link {
    /// Keeps a connection until `stop`.
    #[must_use]
    pub fn start(client: Client, tasks: &TaskTracker, stop: CancellationToken) -> Self {
        let shared = Arc::new(Shared { current: watch::Sender::new(None), broken: Notify::new() });
        let kept = shared.clone();
        tasks.spawn(stop.run_until_cancelled_owned(async move { kept.keep(client).await }));
        Self(Some(shared))
    }

    /// Whether Redis can be used, as far as is known.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.current.borrow().is_some())
    }

    /// The answer to a command or a pipeline; `None` if Redis is away, slow, or refuses.
    pub async fn call<T: FromRedisValue>(
        &self,
        call: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Option<T> {
        self.call_within(CALL_LIMIT, call).await
    }

    /// The same, with a limit of its own.
    pub async fn call_within<T: FromRedisValue>(
        &self,
        limit: Duration,
        call: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Option<T> {
        let shared = self.0.as_ref()?;
        let mut connection = shared.current.borrow().clone()?;
        match timeout(limit, call(&mut connection)).await {
            Ok(Ok(answer)) => Some(answer),
            // Redis is there, and says no: out of memory, a replica, still loading.
            Ok(Err(error)) if error.code().is_some() => {
                tracing::warn!(%error, "Redis refused");
                None
            }
            Ok(Err(_)) | Err(_) => {
                shared.current.send_replace(None);
                shared.broken.notify_one();
                None
            }
        }
    }
}

impl Shared {
    async fn keep(&self, client: Client) {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_LIMIT))
            .set_response_timeout(None);
        let mut is_reported = false;
        loop {
            match client.get_multiplexed_async_connection_with_config(&config).await {
                Ok(connection) => {
                    tracing::info!("connected to Redis");
                    is_reported = false;
                    self.serve(connection).await;
                    tracing::warn!("connection to Redis lost");
                }
                Err(error) if !is_reported => {
                    tracing::warn!(%error, "Redis is away");
                    is_reported = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Offers a connection for as long as it answers.
    async fn serve(&self, mut connection: MultiplexedConnection) {
        loop {
            let begun = Instant::now();
            let ping = timeout(CONNECT_LIMIT, connection.req_packed_command(&cmd("PING"))).await;
            if !matches!(ping, Ok(Ok(_))) {
                self.current.send_replace(None);
                return;
            }
            // One that is slower than callers wait for is as good as none: each of them would find that out.
            if begun.elapsed() > CALL_LIMIT {
                self.current.send_replace(None);
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            // A caller's complaint may have been about a moment: what answers is offered again.
            self.current.send_replace(Some(connection.clone()));
            let _ = timeout(PING_EVERY, self.broken.notified()).await;
        }
    }
}
