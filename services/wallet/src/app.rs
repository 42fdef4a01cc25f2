//! What the handlers share.

use std::{sync::Arc, time::Duration};

use saga::Engine;
use service::{Clock, limit::RateLimit};
use sqlx::PgPool;

use crate::{sagas::Sagas, tenders::Tenders};

/// Reads a minute of one customer's own token.
const CUSTOMER_READS: u32 = 60;
/// Redeems a minute of one customer's own token.
const CUSTOMER_REDEEMS: u32 = 10;
/// Reward codes a minute that one customer, or one caller, may try: guessing is the attack on codes.
const CODE_TRIES: u32 = 20;
const MINUTE: Duration = Duration::from_secs(60);

/// Shared by all handlers of one process. Cheap to clone.
#[derive(Clone)]
pub struct App {
    /// Runs the sagas.
    pub engine: Arc<Engine<Sagas>>,
    /// The tenders.
    pub tenders: Tenders,
    /// For reads.
    pub pool: PgPool,
    /// Limits of customers' own tokens.
    pub limits: Limits,
    /// The time.
    pub clock: Clock,
}

/// Rate limits inside this process.
#[derive(Clone)]
pub struct Limits {
    /// Reads.
    pub reads: RateLimit,
    /// Redeems.
    pub redeems: RateLimit,
    /// Reward codes.
    pub codes: RateLimit,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reads: RateLimit::new(CUSTOMER_READS, MINUTE),
            redeems: RateLimit::new(CUSTOMER_REDEEMS, MINUTE),
            codes: RateLimit::new(CODE_TRIES, MINUTE),
        }
    }
}

impl App {
    /// The handlers' share of a process.
    #[must_use]
    pub fn new(engine: Arc<Engine<Sagas>>, tenders: Tenders, pool: PgPool) -> Self {
        Self { engine, tenders, pool, limits: Limits::default(), clock: Clock }
    }
}
