//! The outboxes there are: where their rows lie, and what becomes of a row in Redis.

use redis::Pipeline;
use sqlx::{Row, postgres::PgRow};

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
    /// Takes rows that no other relay has locked, deleting them.
    pub(crate) const fn take(self) -> &'static str {
        match self {
            Self::Balances => {
                "DELETE FROM tender.outbox
                 WHERE id = ANY (ARRAY(SELECT id FROM tender.outbox ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED))
                 RETURNING business_id, owner, payload->>'tender' AS tender, asset, version, payload::text AS payload,
                           extract(epoch FROM clock_timestamp() - created_at)::float8 AS age"
            }
            // In their order, as far as one relay can: consumers must not rely on it.
            Self::Redemptions => {
                "WITH taken AS (
                     DELETE FROM wallet.outbox
                     WHERE id = ANY (ARRAY(SELECT id FROM wallet.outbox ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED))
                     RETURNING id, payload, created_at)
                 SELECT payload::text AS payload, payload->>'event_id' AS event_id, payload->>'type' AS type,
                        extract(epoch FROM clock_timestamp() - created_at)::float8 AS age
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

    /// Adds to the pipeline what tells the world of a row that [`Outbox::take`] returned.
    pub(crate) fn tell(self, row: &PgRow, pipeline: &mut Pipeline) -> sqlx::Result<()> {
        let payload: String = row.try_get("payload")?;
        match self {
            Self::Balances => {
                let changed = Changed {
                    business_id: row.try_get("business_id")?,
                    customer_id: row.try_get("owner")?,
                    tender: row.try_get("tender")?,
                    asset: row.try_get("asset")?,
                    version: row.try_get("version")?,
                };
                // The floor first: who hears of the change and reads again must not meet what was cached before it.
                pipeline.add_command(changed.raise()).ignore();
                pipeline.publish(balance_channel(changed.business_id, changed.customer_id), payload).ignore();
            }
            Self::Redemptions => {
                let (id, kind): (String, String) = (row.try_get("event_id")?, row.try_get("type")?);
                let append =
                    pipeline.cmd("XADD").arg(REDEMPTIONS).arg("MAXLEN").arg("~").arg(REDEMPTIONS_KEPT);
                append
                    .arg("*")
                    .arg("event_id")
                    .arg(id)
                    .arg("type")
                    .arg(kind)
                    .arg("event")
                    .arg(payload)
                    .ignore();
            }
        }
        Ok(())
    }
}
