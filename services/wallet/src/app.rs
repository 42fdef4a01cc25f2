//! What the handlers share.

use std::{sync::Arc, time::Duration};

use api::Code;
use metrics::counter;
use moka::sync::Cache;
use saga::Engine;
use service::{ApiError, Clock, limit::RateLimit};
use sqlx::PgPool;

use crate::{live::Live, paused::Paused, sagas::Sagas, tenders::Tenders};

/// Reads a minute of one customer's own token.
const CUSTOMER_READS: u32 = 60;
/// Redeems a minute of one customer's own token.
const CUSTOMER_REDEEMS: u32 = 10;
/// Wrong codes a minute of one business, of all callers together: beyond that somebody guesses, and no code is taken.
const WRONG_CODES: u32 = 120;
/// How long a business's codes are refused then.
const GUESSING_PAUSE: Duration = Duration::from_secs(60);
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
    /// The tenders that businesses have taken out of service.
    pub paused: Paused,
    /// Live balances.
    pub live: Live,
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
    codes: RateLimit,
    wrong_codes: RateLimit,
    guessed: Cache<String, ()>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reads: RateLimit::new(CUSTOMER_READS, MINUTE),
            redeems: RateLimit::new(CUSTOMER_REDEEMS, MINUTE),
            codes: RateLimit::new(CODE_TRIES, MINUTE),
            wrong_codes: RateLimit::new(WRONG_CODES, MINUTE),
            guessed: Cache::builder().max_capacity(10_000).time_to_live(GUESSING_PAUSE).build(),
        }
    }
}

impl Limits {
    /// Refuses codes of a business in which somebody guesses.
    ///
    /// # Errors
    /// 429 `rate_limited`.
    pub fn admit_code(&self, business: &str, customer: &str) -> Result<(), ApiError> {
        if self.guessed.contains_key(business) {
            let error = ApiError::new(Code::RateLimited, "Too many wrong codes were tried.");
            return Err(error.retry_after(GUESSING_PAUSE));
        }
        self.codes.admit(&format!("{business} {customer}"))
    }

    /// Counts a wrong code.
    pub fn note_wrong_code(&self, business: &str) {
        if self.wrong_codes.admit(business).is_err() && !self.guessed.contains_key(business) {
            counter!("wallet_code_guessing_total").increment(1);
            tracing::error!(
                business,
                "somebody guesses reward codes; codes of this business are refused for a minute"
            );
            self.guessed.insert(business.to_owned(), ());
        }
    }
}

impl App {
    /// Refuses a read at once while the database is known to be away, instead of waiting for a connection.
    ///
    /// # Errors
    /// 503 `overloaded`.
    pub fn require_database(&self) -> Result<(), ApiError> {
        if self.engine.is_available() { Ok(()) } else { Err(ApiError::overloaded()) }
    }

    /// The handlers' share of a process.
    #[must_use]
    pub fn new(engine: Arc<Engine<Sagas>>, tenders: Tenders, pool: PgPool, live: Live) -> Self {
        let (limits, paused) = (Limits::default(), Paused::default());
        Self { engine, tenders, pool, limits, paused, live, clock: Clock }
    }
}
