//! Tenders that a business has taken out of service: its new redemptions that need one are refused before anything is
//! written. Sagas in flight, cancels, captures, voids and replays go on.
//!
//! The database holds what is paused. Every process reads it twice a second and keeps it in memory, so that the door costs
//! no round trip: a change is in force at once where it was made, and everywhere else within [`INTERVAL`] and one query.
//! While the database is away the last reading stands; nothing can be redeemed then anyway.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use api::{
    BusinessId,
    derive::{lock_key, pause_guard},
    wallet::TenderKind,
};
use chrono::{DateTime, Utc};
use metrics::gauge;
use saga::ops::{NewAction, record, was_done};
use serde_json::json;
use sqlx::{FromRow, PgPool};
use tokio::sync::Mutex;

/// How often a process reads what is paused.
pub const INTERVAL: Duration = Duration::from_millis(500);

/// What is paused, as this process knows it. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Paused(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The names of tenders, by business.
    known: RwLock<HashMap<String, Vec<String>>>,
    /// Readings follow one another: one that began before a change must not end after the reading that saw it.
    reading: Mutex<()>,
}

/// A paused tender of one business.
#[derive(Debug, Clone, FromRow)]
pub struct Pause {
    /// Which tender.
    pub tender: String,
    /// Since when.
    pub paused_at: DateTime<Utc>,
    /// By whom.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// An operator's order.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// Whose redemptions.
    pub business_id: &'a str,
    /// Which tender.
    pub tender: TenderKind,
    /// Pause, or resume.
    pub pause: bool,
    /// Makes the order idempotent.
    pub operation_id: &'a str,
    /// Who.
    pub actor: &'a str,
    /// Why.
    pub reason: &'a str,
}

/// What came of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// Done now.
    Done,
    /// Done earlier under the same operation id.
    AlreadyDone,
    /// It was so already.
    AlreadySo,
    /// The operation id was used for something else.
    Reused,
}

impl Change<'_> {
    const fn action(&self) -> &'static str {
        if self.pause { "pause" } else { "resume" }
    }
}

impl Paused {
    /// Whether this business's new redemptions that need the tender are refused.
    #[must_use]
    pub fn is_paused(&self, business: &BusinessId, tender: TenderKind) -> bool {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(business.as_str()).is_some_and(|names| names.iter().any(|name| name == tender.as_str()))
    }

    /// Reads what is paused, again and again, until dropped.
    pub async fn follow(self, pool: PgPool) {
        loop {
            if let Err(error) = self.read(&pool).await {
                tracing::warn!(%error, "could not read which tenders are paused; the last reading stands");
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    async fn read(&self, pool: &PgPool) -> sqlx::Result<()> {
        let _one_at_a_time = self.0.reading.lock().await;
        let rows = sqlx::query_as("SELECT business_id, tender FROM wallet.paused_tender").fetch_all(pool);
        let rows: Vec<(String, String)> = saga::in_time(rows).await?;
        let mut counts: BTreeMap<&str, u32> = TenderKind::ALL.map(|kind| (kind.as_str(), 0)).into();
        let mut known: HashMap<String, Vec<String>> = HashMap::new();
        for (business_id, tender) in rows {
            if let Some(count) = counts.get_mut(tender.as_str()) {
                *count += 1;
            }
            known.entry(business_id).or_default().push(tender);
        }
        for (tender, count) in counts {
            gauge!("wallet_tender_paused_businesses", "tender" => tender.to_owned()).set(f64::from(count));
        }
        *self.0.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(())
    }

    /// Pauses or resumes a tender, and records who did so and why: also where nothing was to be done.
    ///
    /// # Errors
    /// Of the database; at COMMIT it may have been done, and the same order again tells.
    pub async fn change(&self, pool: &PgPool, change: &Change<'_>) -> sqlx::Result<Changed> {
        let changed = write(pool, change).await?;
        // Whatever came of it, this process knows from here on.
        self.read(pool).await?;
        Ok(changed)
    }
}

/// The paused tenders of a business.
///
/// # Errors
/// Of the database.
pub async fn of_business(pool: &PgPool, business_id: &str) -> sqlx::Result<Vec<Pause>> {
    sqlx::query_as("SELECT tender, paused_at, actor, reason FROM wallet.paused_tender WHERE business_id = $1")
        .bind(business_id)
        .fetch_all(pool)
        .await
}

async fn write(pool: &PgPool, change: &Change<'_>) -> sqlx::Result<Changed> {
    let mut tx = pool.begin().await?;
    // One order at a time for each business and tender: whether it changes anything depends on the one before.
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(lock_key(pause_guard(change.business_id, change.tender.as_str())))
        .execute(&mut *tx)
        .await?;
    let earlier = was_done(&mut tx, change.business_id, change.operation_id, None).await?;
    let is_same = |(action, tender): &(String, Option<String>)| {
        action == change.action() && tender.as_deref() == Some(change.tender.as_str())
    };
    if earlier.as_ref().is_some_and(is_same) {
        return Ok(Changed::AlreadyDone);
    }
    let was_paused: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM wallet.paused_tender WHERE business_id = $1 AND tender = $2)",
    )
    .bind(change.business_id)
    .bind(change.tender.as_str())
    .fetch_one(&mut *tx)
    .await?;
    let changed = match earlier {
        Some(_) => Changed::Reused,
        None if was_paused == change.pause => Changed::AlreadySo,
        None => Changed::Done,
    };
    if changed == Changed::Done {
        set(&mut tx, change).await?;
    }
    let is_paused = if changed == Changed::Done { change.pause } else { was_paused };
    let after = match changed {
        Changed::Reused => json!({ "paused": is_paused, "refused": "operation_id_reused" }),
        Changed::AlreadySo => json!({ "paused": is_paused, "refused": "already_so" }),
        Changed::Done | Changed::AlreadyDone => json!({ "paused": is_paused }),
    };
    let action = NewAction {
        business_id: change.business_id,
        operation_id: change.operation_id,
        actor: change.actor,
        action: change.action(),
        dead_letter_id: None,
        saga_id: None,
        participant: Some(change.tender.as_str()),
        reason: change.reason,
        reference: None,
        accepted: changed == Changed::Done,
        before: json!({ "paused": was_paused }),
        after,
    };
    record(&mut *tx, &action).await?;
    tx.commit().await?;
    Ok(changed)
}

async fn set(tx: &mut sqlx::PgConnection, change: &Change<'_>) -> sqlx::Result<()> {
    let query = if change.pause {
        sqlx::query(
            "INSERT INTO wallet.paused_tender (business_id, tender, actor, reason) VALUES ($1, $2, $3, $4)",
        )
        .bind(change.business_id)
        .bind(change.tender.as_str())
        .bind(change.actor)
        .bind(change.reason)
    } else {
        sqlx::query("DELETE FROM wallet.paused_tender WHERE business_id = $1 AND tender = $2")
            .bind(change.business_id)
            .bind(change.tender.as_str())
    };
    query.execute(tx).await.map(drop)
}
