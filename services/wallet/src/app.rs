//! What the handlers share.

use std::sync::Arc;

use saga::Engine;
use service::{ApiError, Clock};
use sqlx::PgPool;

use crate::{limits::Limits, live::Live, paused::Paused, sagas::Sagas, tenders::Tenders};

/// Shared by all handlers of one process. Cheap to clone.
#[derive(Clone)]
pub struct App {
    /// Runs the sagas.
    pub engine: Arc<Engine<Sagas>>,
    /// The tenders.
    pub tenders: Tenders,
    /// For lists and other reads.
    pub pool: PgPool,
    /// For what calls under a key read: no list takes their connections.
    pub keyed_pool: PgPool,
    /// For work that nobody waits for.
    pub background_pool: PgPool,
    /// Limits of customers' own tokens, and of wrong codes.
    pub limits: Limits,
    /// The tenders that businesses have taken out of service.
    pub paused: Paused,
    /// Live balances.
    pub live: Live,
    /// The time.
    pub clock: Clock,
}

impl App {
    /// Refuses a read at once while the database is known to be away, instead of waiting for a connection.
    ///
    /// # Errors
    /// 503 `overloaded`.
    pub fn require_database(&self) -> Result<(), ApiError> {
        if self.engine.is_available() { Ok(()) } else { Err(ApiError::unreadable()) }
    }

    /// The handlers' share of a process.
    #[must_use]
    pub fn new(engine: Arc<Engine<Sagas>>, tenders: Tenders, pool: PgPool, live: Live) -> Self {
        let (limits, paused) = (Limits::default(), Paused::default());
        let (keyed_pool, background_pool) = (pool.clone(), pool.clone());
        Self { engine, tenders, pool, keyed_pool, background_pool, limits, paused, live, clock: Clock }
    }

    /// With connections of their own for calls under a key, and for background work.
    #[must_use]
    pub fn with_pools(self, keyed_pool: PgPool, background_pool: PgPool) -> Self {
        Self { keyed_pool, background_pool, ..self }
    }
}
