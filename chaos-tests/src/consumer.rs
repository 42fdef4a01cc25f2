//! A consumer of redemption events, which writes down what it reads.

use std::time::Duration;

use checker::format::Event;
use redis::{
    AsyncCommands as _, RedisResult,
    aio::MultiplexedConnection,
    streams::{StreamReadOptions, StreamReadReply},
};
use tokio::time::{sleep, timeout};

use crate::evidence::Evidence;

const STREAM: &str = "wallet:redemptions";
/// Longest wait for news, in milliseconds.
const BLOCK_MS: usize = 200;
/// Longest wait for any answer.
const LIMIT: Duration = Duration::from_secs(1);
/// Before it connects again.
const PAUSE: Duration = Duration::from_millis(50);

/// Reads the stream from where it stands now.
pub(crate) struct Consumer {
    url: String,
    /// The last event that was read.
    last: String,
    evidence: Evidence,
}

impl Consumer {
    /// One that begins with what comes from here on, past the proxies.
    ///
    /// # Panics
    /// When Redis cannot be asked.
    pub(crate) async fn new(port: u16, evidence: Evidence) -> Self {
        let url = format!("redis://127.0.0.1:{port}");
        let mut connection = connect(&url).await.expect("Redis");
        let newest: RedisResult<redis::streams::StreamRangeReply> =
            connection.xrevrange_count(STREAM, "+", "-", 1).await;
        let last = newest.expect("the stream").ids.pop().map_or_else(|| "0-0".to_owned(), |entry| entry.id);
        Self { url, last, evidence }
    }

    /// Reads until dropped.
    pub(crate) async fn run(&mut self) {
        loop {
            if let Ok(mut connection) = connect(&self.url).await {
                while self.read(&mut connection, BLOCK_MS).await.is_some() {}
            }
            sleep(PAUSE).await;
        }
    }

    /// Reads what is left; false if Redis could not be asked.
    pub(crate) async fn drain(&mut self) -> bool {
        let Ok(mut connection) = connect(&self.url).await else { return false };
        loop {
            match self.read(&mut connection, 1).await {
                None => return false,
                Some(0) => return true,
                Some(_) => {}
            }
        }
    }

    /// How many events came; `None` if Redis gave no answer.
    async fn read(&mut self, connection: &mut MultiplexedConnection, block_ms: usize) -> Option<usize> {
        let options = StreamReadOptions::default().block(block_ms).count(500);
        let last = [&self.last];
        let reading = connection.xread_options(&[STREAM], &last, &options);
        let reply: Option<StreamReadReply> = timeout(LIMIT, reading).await.ok()?.ok()?;
        let entries = reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids);
        let mut count = 0;
        for entry in entries {
            let text = |name| entry.get::<String>(name).unwrap_or_default();
            let (at, id) = (self.evidence.now(), entry.id.clone());
            self.evidence.event(&Event { at, id, event_id: text("event_id"), event: text("event") });
            self.last = entry.id;
            count += 1;
        }
        Some(count)
    }
}

async fn connect(url: &str) -> RedisResult<MultiplexedConnection> {
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(LIMIT))
        .set_response_timeout(Some(LIMIT));
    redis::Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await
}
