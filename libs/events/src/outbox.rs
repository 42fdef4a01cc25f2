//! The outboxes there are: their statements, and what becomes of a row in Redis.

use std::{borrow::Cow, time::Duration};

use redis::Pipeline;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{balance_channel, floor::Changed};

/// The stream of what became of redemptions.
pub const REDEMPTIONS: &str = "wallet:redemptions";
/// About so many entries are kept in the stream. A consumer that is further behind looks redemptions up.
const REDEMPTIONS_KEPT: usize = 100_000;
/// A balance message that waited so long is worth nothing: clients compare versions every few seconds, and no cached balance
/// lives as long.
const BALANCE_WORTH: Duration = Duration::from_mins(1);

/// Whose outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outbox {
    /// A tender's balance changes: each raises its account's floor and is published on its owner's channel.
    Balances,
    /// What became of redemptions: each is appended to the stream [`REDEMPTIONS`].
    Redemptions,
}

/// The statements of one outbox. Each finds its rows by the primary key, however many rows there are.
pub(crate) struct Statements {
    /// Takes at most $1 of the first rows that no other relay has locked, deleting them: (id, payload, age in seconds), in their
    /// order as far as one relay can. A row holds the messages of one batch.
    pub take: &'static str,
    /// Keeps rows that cannot be read: ids $1, payloads $2, errors $3.
    pub set_aside: &'static str,
    /// The age of the first row in seconds, and how many rows there are at most; no row from an empty outbox.
    pub measure: &'static str,
}

macro_rules! statements {
    ($schema:literal) => {
        Statements {
            take: concat!(
                "WITH taken AS (DELETE FROM ", $schema, ".outbox
                     WHERE id = ANY (ARRAY(SELECT id FROM ", $schema, ".outbox ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED))
                     RETURNING id, payload, created_at)
                 SELECT id, payload::text, extract(epoch FROM clock_timestamp() - created_at)::float8 FROM taken ORDER BY id"
            ),
            set_aside: concat!(
                "INSERT INTO ", $schema, ".outbox_set_aside (id, payload, error)
                 SELECT u.id, u.payload::json, u.error FROM unnest($1::bigint[], $2::text[], $3::text[]) AS u(id, payload, error)"
            ),
            measure: concat!(
                "SELECT extract(epoch FROM clock_timestamp() - first.created_at)::float8, last.id - first.id + 1
                 FROM (SELECT id, created_at FROM ", $schema, ".outbox ORDER BY id LIMIT 1) AS first,
                      (SELECT id FROM ", $schema, ".outbox ORDER BY id DESC LIMIT 1) AS last"
            ),
        }
    };
}

static OF_TENDERS: Statements = statements!("tender");
static OF_THE_WALLET: Statements = statements!("wallet");

impl Outbox {
    pub(crate) const fn statements(self) -> &'static Statements {
        match self {
            Self::Balances => &OF_TENDERS,
            Self::Redemptions => &OF_THE_WALLET,
        }
    }

    /// How old a row may grow before it is deleted without being published; `None` where every row is kept until it is.
    pub(crate) const fn worth(self) -> Option<Duration> {
        match self {
            Self::Balances => Some(BALANCE_WORTH),
            Self::Redemptions => None,
        }
    }

    /// The messages of a row's payload.
    ///
    /// # Errors
    /// When the payload is no list of messages, or one of them cannot be read.
    pub(crate) fn read(self, payload: &str) -> serde_json::Result<Vec<Message<'_>>> {
        let messages: Vec<&RawValue> = serde_json::from_str(payload)?;
        let texts = messages.into_iter().map(RawValue::get);
        match self {
            Self::Balances => {
                texts.map(|text| Ok(Message::Balance(serde_json::from_str(text)?, text))).collect()
            }
            Self::Redemptions => {
                texts.map(|text| Ok(Message::Redemption(serde_json::from_str(text)?, text))).collect()
            }
        }
    }
}

/// A message, as far as it is understood here, and its text.
pub(crate) enum Message<'a> {
    /// An account has changed.
    Balance(Changed<'a>, &'a str),
    /// What became of a redemption.
    Redemption(Event<'a>, &'a str),
}

impl Message<'_> {
    /// Adds to the pipeline what tells the world of it.
    pub(crate) fn add_to(&self, pipeline: &mut Pipeline) {
        match self {
            Self::Balance(changed, text) => {
                // The floor first: a client that hears of the change and reads again must not meet what was cached before it.
                pipeline.add_command(changed.raise()).ignore();
                pipeline.publish(balance_channel(&changed.business_id, &changed.customer_id), *text).ignore();
            }
            Self::Redemption(event, text) => {
                let append = pipeline.cmd("XADD").arg(REDEMPTIONS);
                append.arg("MAXLEN").arg("~").arg(REDEMPTIONS_KEPT).arg("*");
                append.arg("event_id").arg(&*event.event_id).arg("type").arg(&*event.kind);
                append.arg("event").arg(*text).ignore();
            }
        }
    }
}

/// What the stream's entries say beside the event itself.
#[derive(Deserialize)]
pub(crate) struct Event<'a> {
    #[serde(borrow)]
    event_id: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        r#"{"business_id":"b","customer_id":"c","tender":"points","asset":"points","version":1}"#;

    #[test]
    fn a_row_is_read_as_a_whole_or_not_at_all() {
        let count = |payload: &str| Outbox::Balances.read(payload).ok().map(|messages| messages.len());
        assert_eq!(count(&format!("[{GOOD},{GOOD}]")), Some(2));
        assert_eq!(count("[]"), Some(0));
        for bad in [GOOD, "7", "[7]", &format!(r#"[{GOOD},{{"version":2}}]"#)] {
            assert_eq!(count(bad), None, "{bad}");
        }
        assert!(Outbox::Redemptions.read(&format!("[{GOOD}]")).is_err(), "a balance is no event");
    }
}
