//! What can be done to Redis, and what the suite sees in it: past the proxies.

use std::time::{Duration, Instant};

use redis::{AsyncCommands as _, RedisResult};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::scene::{Armed, Scene};

/// Harm to Redis.
#[derive(Debug, Clone, Copy)]
pub enum RedisFault {
    /// `kill -9`; it comes back empty.
    Killed,
    /// It has no memory left for writes.
    Full,
    /// It is stopped.
    Frozen,
    /// It is told this every 100 ms: FLUSHALL, CLIENT KILL…
    Told(&'static str),
}

impl RedisFault {
    /// What is in Redis is lost while it lasts.
    #[must_use]
    pub fn empties(&self) -> bool {
        matches!(self, Self::Killed) || matches!(self, Self::Told(command) if command.starts_with("FLUSH"))
    }

    pub(crate) async fn arm(&self, scene: &mut Scene<'_>, hold: Duration) -> Armed {
        let (redis, port) = (&mut scene.cluster.redis, scene.cluster.redis_port);
        let mut armed = Armed { fired: 1, ..Armed::default() };
        match *self {
            Self::Killed => redis.kill(),
            Self::Frozen => redis.stop(),
            Self::Full => {
                tell(port, "CONFIG SET maxmemory 1").await;
                armed.fired = refusals(port, hold).await;
            }
            Self::Told(command) => {
                let until = Instant::now() + hold;
                armed.fired = 0;
                while Instant::now() < until {
                    armed.fired += u64::from(tell(port, command).await);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        armed
    }

    pub(crate) async fn heal(&self, scene: &mut Scene<'_>) {
        match *self {
            Self::Killed => scene.cluster.redis.restart(),
            Self::Frozen => scene.cluster.redis.resume(),
            Self::Full => drop(tell(scene.cluster.redis_port, "CONFIG SET maxmemory 0").await),
            Self::Told(_) => {}
        }
    }
}

/// Says an inline command; whether Redis did it, to somebody.
async fn tell(port: u16, command: &str) -> bool {
    let said = async {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
        socket.write_all(format!("{command}\r\n").as_bytes()).await?;
        let mut answer = [0; 64];
        let count = socket.read(&mut answer).await?;
        std::io::Result::Ok(count > 0 && answer[0] != b'-' && !answer.starts_with(b":0"))
    };
    said.await.unwrap_or(false)
}

/// How often Redis refused to write, in so long.
async fn refusals(port: u16, hold: Duration) -> u64 {
    let (until, mut refused) = (Instant::now() + hold, 0);
    while Instant::now() < until {
        refused += u64::from(!tell(port, "SET chaos full PX 1000").await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    refused
}

/// Every key that holds a text, with what it holds.
pub(crate) async fn everything(port: u16) -> RedisResult<Vec<(String, String)>> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let keys: Vec<String> = connection.keys("*").await?;
    let mut everything = Vec::new();
    for key in keys {
        // What is no text, or is gone by now, has nothing to show.
        let value: RedisResult<Option<String>> = connection.get(&key).await;
        everything.push((key, value.ok().flatten().unwrap_or_default()));
    }
    Ok(everything)
}
