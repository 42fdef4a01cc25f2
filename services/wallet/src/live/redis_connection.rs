//! A connection to Redis for which nobody waits longer than it is worth.
//!
//! One multiplexed connection is kept by one task. A call that only saves time gives up early, and the connection is doubted
//! from then on: such calls are told at once that there is none, until it has answered a ping as fast as they need. A call
//! that others rely on is still made, with a limit of its own; only when that ran out, or the ping did, Redis counts as away,
//! and costs nobody anything.

use std::{sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, RedisResult,
    aio::{ConnectionLike, MultiplexedConnection},
    cmd,
};
use service::Supervisor;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};

/// Longest time that a call may take which only saves time.
const CALL_LIMIT: Duration = Duration::from_millis(50);
/// Longest time that a call may take on which others rely; what is slower than that is away.
const RELIED_ON_LIMIT: Duration = Duration::from_millis(250);
/// Longest time to connect, and for the answer to a ping.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);
/// How often the connection is looked at when nobody complains.
const PING_EVERY: Duration = Duration::from_secs(1);
/// Pause before connecting again.
const PAUSE: Duration = Duration::from_millis(200);

/// A connection to Redis, or none. Clones share it.
#[derive(Clone, Default)]
pub struct RedisConnection(Option<Arc<Shared>>);

struct Shared {
    standing: watch::Sender<Standing>,
    /// Somebody's call failed.
    broken: Notify,
}

/// What is thought of the connection.
#[derive(Clone)]
enum Standing {
    /// It answers as fast as anybody needs.
    Up(MultiplexedConnection),
    /// It was too slow for a call that only saves time, and may be fast enough for one that others rely on.
    Doubted(MultiplexedConnection),
    /// There is none, or it was too slow for everybody.
    Away,
}

impl Standing {
    /// Of a connection that took so long to answer.
    fn of(connection: &MultiplexedConnection, took: Duration) -> Self {
        match took {
            _ if took <= CALL_LIMIT => Self::Up(connection.clone()),
            _ if took <= RELIED_ON_LIMIT => Self::Doubted(connection.clone()),
            _ => Self::Away,
        }
    }

    /// After a call to it failed, or had no answer in time.
    fn without(self, limit: Duration) -> Self {
        match self {
            Self::Up(connection) | Self::Doubted(connection) if limit < RELIED_ON_LIMIT => {
                Self::Doubted(connection)
            }
            _ => Self::Away,
        }
    }
}

impl std::fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Link")
    }
}

impl RedisConnection {
    /// Keeps a connection as long as the process serves.
    #[must_use]
    pub fn start(client: Client, supervisor: &Supervisor) -> Self {
        let shared = Arc::new(Shared { standing: watch::Sender::new(Standing::Away), broken: Notify::new() });
        let kept = shared.clone();
        supervisor.supervise("redis_connection", move || {
            let (kept, client) = (kept.clone(), client.clone());
            async move { kept.keep(client).await }
        });
        Self(Some(shared))
    }

    /// Whether there is a Redis at all, here or away.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.0.is_some()
    }

    /// Whether Redis can be used for what only saves time, as far as is known.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.0.as_ref().is_some_and(|shared| matches!(*shared.standing.borrow(), Standing::Up(_)))
    }

    /// The answer to a command or a pipeline that only saves time; `None` if Redis is away, slow, or refuses.
    pub async fn call<T: FromRedisValue>(
        &self,
        call: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Option<T> {
        let shared = self.0.as_ref()?;
        let Standing::Up(connection) = shared.standing.borrow().clone() else { return None };
        shared.run(connection, CALL_LIMIT, call).await
    }

    /// The same for one that others rely on: it is also made while the connection is doubted, and has more time, or as much as
    /// its caller has left.
    pub async fn call_relied_on<T: FromRedisValue>(
        &self,
        at_most: Option<Duration>,
        call: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Option<T> {
        let shared = self.0.as_ref()?;
        let connection = match shared.standing.borrow().clone() {
            Standing::Up(connection) | Standing::Doubted(connection) => connection,
            Standing::Away => return None,
        };
        let limit = at_most.map_or(RELIED_ON_LIMIT, |at_most| at_most.min(RELIED_ON_LIMIT));
        shared.run(connection, limit, call).await
    }
}

impl Shared {
    async fn run<T: FromRedisValue>(
        &self,
        mut connection: MultiplexedConnection,
        limit: Duration,
        call: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Option<T> {
        match timeout(limit, call(&mut connection)).await {
            Ok(Ok(answer)) => Some(answer),
            // Redis is there, and says no: out of memory, a replica, still loading.
            Ok(Err(error)) if error.code().is_some() => {
                tracing::warn!(%error, "Redis refused");
                None
            }
            Ok(Err(_)) | Err(_) => {
                self.standing.send_modify(|standing| *standing = standing.clone().without(limit));
                self.broken.notify_one();
                None
            }
        }
    }

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
                self.standing.send_replace(Standing::Away);
                return;
            }
            // A caller's complaint may have been about a moment: what answers is offered again.
            let standing = Standing::of(&connection, begun.elapsed());
            let is_up = matches!(standing, Standing::Up(_));
            self.standing.send_replace(standing);
            // So may the ping: it is sent again at once, since a slow one has taken its time.
            if !is_up {
                continue;
            }
            let _ = timeout(PING_EVERY, self.broken.notified()).await;
        }
    }
}
