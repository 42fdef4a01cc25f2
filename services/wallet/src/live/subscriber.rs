//! The hub's connection to Redis: one, subscribed to the channel of every watched customer.

use std::time::Duration;

use api::{
    tender::{BalanceChanged, Owner, Totals},
    wallet::TenderKind,
};
use events::balance_channel;
use futures_util::StreamExt;
use metrics::counter;
use redis::{
    Client, RedisResult,
    aio::{PubSubSink, PubSubStream},
};
use tokio::time::{Instant, timeout};

use super::hub::Hub;

/// Longest time to connect, and for Redis to confirm a subscription or a ping.
const LIMIT: Duration = Duration::from_secs(1);
/// How often a silent connection is looked at: one whose other end vanished says nothing.
const PING_EVERY: Duration = Duration::from_secs(5);
/// Pause before the first attempt to connect again; it doubles up to [`PAUSE_CAP`].
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_CAP: Duration = Duration::from_secs(1);
/// A connection that lasted so long was a good one: the next pause is short again.
const GOOD: Duration = Duration::from_secs(5);
/// Channels in one command.
const CHUNK: usize = 500;

/// Keeps the hub subscribed, until dropped.
pub(super) async fn run(hub: Hub, client: Client) {
    let mut pause = PAUSE;
    loop {
        let begun = Instant::now();
        let ended = serve(&hub, &client).await;
        hub.disconnected();
        if begun.elapsed() > GOOD {
            pause = PAUSE;
        }
        let error = ended.err().map_or_else(|| "closed".to_owned(), |error| error.to_string());
        tracing::warn!(
            error,
            pause_ms = pause.as_millis(),
            "no live updates from Redis; balances are compared instead"
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_CAP);
    }
}

async fn serve(hub: &Hub, client: &Client) -> RedisResult<()> {
    let (mut sink, mut messages) = limited(client.get_async_pubsub()).await?.split();
    let owners = hub.connected();
    for owners in owners.chunks(CHUNK) {
        subscribe(hub, &mut sink, owners).await?;
    }
    tracing::info!(customers = owners.len(), "live updates come from Redis");
    // What was published while nobody listened is gone.
    hub.ask_for_comparison();
    listen(hub, &mut sink, &mut messages).await
}

async fn listen(hub: &Hub, sink: &mut PubSubSink, messages: &mut PubSubStream) -> RedisResult<()> {
    let mut ping = tokio::time::interval(PING_EVERY);
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(message) => hear(hub, message.get_payload_bytes()),
                None => return Ok(()),
            },
            (came, went) = hub.changes() => {
                for owners in came.chunks(CHUNK) {
                    subscribe(hub, sink, owners).await?;
                }
                for owners in went.chunks(CHUNK) {
                    limited(sink.unsubscribe(&channels(owners))).await?;
                }
            }
            _ = ping.tick() => drop(limited(sink.ping::<redis::Value>()).await?),
        }
    }
}

async fn subscribe(hub: &Hub, sink: &mut PubSubSink, owners: &[Owner]) -> RedisResult<()> {
    limited(sink.subscribe(&channels(owners))).await?;
    hub.subscribed(owners);
    Ok(())
}

fn channels(owners: &[Owner]) -> Vec<String> {
    owners
        .iter()
        .map(|owner| balance_channel(owner.business_id.as_str(), owner.customer_id.as_str()))
        .collect()
}

async fn limited<T>(call: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
    timeout(LIMIT, call).await.unwrap_or_else(|_| Err(late().into()))
}

fn hear(hub: &Hub, payload: &[u8]) {
    counter!("hub_messages_total").increment(1);
    let Ok(changed) = serde_json::from_slice::<BalanceChanged>(payload) else {
        tracing::warn!("a message that is no balance change");
        return;
    };
    let kind = TenderKind::parse(&changed.tender);
    let (Some(kind), Ok(customer_id)) = (kind, changed.customer_id.try_into()) else { return };
    let owner = Owner { business_id: changed.business_id, customer_id };
    let totals = Totals {
        version: changed.version,
        posted: changed.posted,
        held: changed.held,
        available: changed.available,
    };
    hub.learn(&owner, kind, changed.asset, totals);
}
