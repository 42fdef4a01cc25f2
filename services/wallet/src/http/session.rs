//! One client's connection, whatever it is made of: a snapshot, then changes, until the token or the process ends.

use std::time::Duration;

use api::{live::LiveMessage, tender::Owner};
use axum::http::HeaderMap;
use service::{ApiError, Clock, auth::Caller};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::{app::App, live::hub::Watcher};

/// Longest time that a new client waits for its turn.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(5);

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The token's time is up.
    TokenExpired,
    /// The process stops: another instance serves the client from here on.
    Draining,
}

/// A client that is being served.
#[derive(Debug)]
pub(super) struct Session {
    customer_id: String,
    snapshot: Option<LiveMessage>,
    watcher: Watcher,
    expires_at: Instant,
    draining: CancellationToken,
}

impl Session {
    /// Serves a caller that watches a customer; `kind` is the transport, for metrics.
    ///
    /// # Errors
    /// 404 for another's wallet, 403 for a page of another site, 429 and 503 where there is no room.
    pub(super) async fn open(
        app: &App,
        caller: &Caller,
        headers: &HeaderMap,
        owner: Owner,
        kind: &'static str,
    ) -> Result<Self, ApiError> {
        caller.require_customer(&owner.customer_id)?;
        app.live.origins.admit(headers)?;
        app.admit_read(caller)?;
        if app.live.draining.is_cancelled() {
            return Err(ApiError::overloaded());
        }
        // In this order: registered first, no change between snapshot and stream is lost.
        let mut watcher = app.live.hub.watch(owner.clone(), caller.own_customer.is_some(), kind).await?;
        let (balance, lines) = {
            // When another instance stops, all of its clients come at once: they are served in turn.
            let turn = timeout(SNAPSHOT_LIMIT, app.live.snapshots.acquire()).await;
            let _turn = turn.map_err(|_| ApiError::overloaded())?;
            app.balance(&owner).await?
        };
        for (tender, line) in &lines {
            watcher.tell(*tender, line);
        }
        let left_s = u64::try_from(caller.expires_at - Clock.unix_seconds()).unwrap_or(0);
        Ok(Self {
            customer_id: owner.customer_id.into(),
            snapshot: Some(LiveMessage::Snapshot(balance)),
            watcher,
            expires_at: Instant::now() + Duration::from_secs(left_s),
            draining: app.live.draining.clone(),
        })
    }

    /// The next message. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Why there is none any more.
    pub(super) async fn next(&mut self) -> Result<LiveMessage, Ended> {
        if let Some(snapshot) = self.snapshot.take() {
            return Ok(snapshot);
        }
        tokio::select! {
            biased;
            () = self.draining.cancelled() => Err(Ended::Draining),
            () = tokio::time::sleep_until(self.expires_at) => Err(Ended::TokenExpired),
            updated = self.watcher.next() => Ok(LiveMessage::BalanceUpdated(updated)),
        }
    }

    /// What the client is told when its token's time is up.
    #[must_use]
    pub(super) fn token_expired(&self) -> LiveMessage {
        LiveMessage::TokenExpired { customer_id: self.customer_id.clone() }
    }
}
