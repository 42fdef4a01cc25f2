//! The outboxes there are: where their rows lie, and what becomes of a row in Redis.

use std::borrow::Cow;

use redis::Pipeline;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{balance_channel, floor::Changed};

/// The stream of what became of redemptions.
pub const REDEMPTIONS: &str = "wallet:redemptions";
/// About so many entries are kept in the stream. A consumer that is further behind looks redemptions up.
const REDEMPTIONS_KEPT: usize = 100_000;

/// Whose outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outbox {
    /// A tender's balance changes: each raises its account's floor and is published on its owner's channel.
    Balances,
    /// What became of redemptions: each is appended to the stream [`REDEMPTIONS`].
    Redemptions,
}

impl Outbox {
    /// Takes rows that no other relay has locked, deleting them. A row holds the messages of one batch.
    pub(crate) const fn take(self) -> &'static str {
        match self {
            Self::Balances => {
                "DELETE FROM tender.outbox
                 WHERE id = ANY (ARRAY(SELECT id FROM tender.outbox ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED))
                 RETURNING payload::text AS payload, extract(epoch FROM clock_timestamp() - created_at)::float8 AS age"
            }
            // In their order, as far as one relay can: consumers must not rely on it.
            Self::Redemptions => {
                "WITH taken AS (
                     DELETE FROM wallet.outbox
                     WHERE id = ANY (ARRAY(SELECT id FROM wallet.outbox ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED))
                     RETURNING id, payload, created_at)
                 SELECT payload::text AS payload, extract(epoch FROM clock_timestamp() - created_at)::float8 AS age
                 FROM taken ORDER BY id"
            }
        }
    }

    /// How old the oldest row is, in seconds.
    pub(crate) const fn oldest(self) -> &'static str {
        match self {
            Self::Balances => {
                "SELECT coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 FROM tender.outbox"
            }
            Self::Redemptions => {
                "SELECT coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 FROM wallet.outbox"
            }
        }
    }

    /// Adds to the pipeline what tells the world of a row's payload; how many messages those are.
    ///
    /// # Errors
    /// When the payload is no list of messages.
    pub(crate) fn tell(self, payload: &str, pipeline: &mut Pipeline) -> serde_json::Result<usize> {
        // The version before wrote a row for each message.
        let is_one = payload.starts_with('{');
        let messages: Vec<&RawValue> =
            if is_one { vec![serde_json::from_str(payload)?] } else { serde_json::from_str(payload)? };
        for message in &messages {
            match self {
                Self::Balances => tell_balance(message, pipeline)?,
                Self::Redemptions => tell_redemption(message, pipeline)?,
            }
        }
        Ok(messages.len())
    }
}

fn tell_balance(message: &RawValue, pipeline: &mut Pipeline) -> serde_json::Result<()> {
    let changed: Changed<'_> = serde_json::from_str(message.get())?;
    // The floor first: who hears of the change and reads again must not meet what was cached before it.
    pipeline.add_command(changed.raise()).ignore();
    pipeline.publish(balance_channel(&changed.business_id, &changed.customer_id), message.get()).ignore();
    Ok(())
}

fn tell_redemption(message: &RawValue, pipeline: &mut Pipeline) -> serde_json::Result<()> {
    let event: Event<'_> = serde_json::from_str(message.get())?;
    let append = pipeline.cmd("XADD").arg(REDEMPTIONS).arg("MAXLEN").arg("~").arg(REDEMPTIONS_KEPT).arg("*");
    append.arg("event_id").arg(&*event.event_id).arg("type").arg(&*event.kind);
    append.arg("event").arg(message.get()).ignore();
    Ok(())
}

/// What the stream's entries say beside the event itself.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    event_id: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
}
