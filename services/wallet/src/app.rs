//! What the handlers share.

use std::{sync::Arc, time::Duration};

use api::Code;
use metrics::counter;
use moka::sync::Cache;
use saga::Engine;
use service::{ApiError, Clock, auth::Caller, limit::RateLimit};
use sqlx::PgPool;

use crate::{live::Live, paused::Paused, sagas::Sagas, tenders::Tenders};

/// Reads a minute of one customer's own token.
const CUSTOMER_READS: u32 = 60;
/// Redeems a minute of one customer's own token.
const CUSTOMER_REDEEMS: u32 = 10;
/// Wrong codes a minute of one caller: beyond that it guesses, and none of its codes is taken.
const WRONG_CODES_OF_CALLER: u32 = 20;
/// Wrong codes a minute of one business, of all callers together: beyond that many guess, and no code is taken.
const WRONG_CODES: u32 = 120;
/// How long codes are refused then.
const GUESSING_PAUSE: Duration = Duration::from_secs(60);
/// Reward codes a minute that may be tried for one customer: guessing is the attack on codes.
const CODE_TRIES: u32 = 20;
const MINUTE: Duration = Duration::from_secs(60);

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
    wrong_codes_of_caller: RateLimit,
    wrong_codes: RateLimit,
    /// Callers and businesses whose codes are refused for now.
    guessed: Cache<String, ()>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reads: RateLimit::new(CUSTOMER_READS, MINUTE),
            redeems: RateLimit::new(CUSTOMER_REDEEMS, MINUTE),
            codes: RateLimit::new(CODE_TRIES, MINUTE),
            wrong_codes_of_caller: RateLimit::new(WRONG_CODES_OF_CALLER, MINUTE),
            wrong_codes: RateLimit::new(WRONG_CODES, MINUTE),
            guessed: Cache::builder().max_capacity(10_000).time_to_live(GUESSING_PAUSE).build(),
        }
    }
}

impl Limits {
    /// Refuses codes of a caller that guesses, and of a business in which many do.
    ///
    /// # Errors
    /// 429 `rate_limited`.
    pub fn admit_code(&self, caller: &Caller, customer: &str) -> Result<(), ApiError> {
        let business = caller.business_id.as_str();
        if self.guessed.contains_key(business) || self.guessed.contains_key(&named(caller)) {
            let error = ApiError::new(Code::RateLimited, "Too many wrong codes were tried.");
            return Err(error.retry_after(GUESSING_PAUSE));
        }
        self.codes.admit(&format!("{business} {customer}"))
    }

    /// Counts a wrong code.
    pub fn note_wrong_code(&self, caller: &Caller) {
        let business = caller.business_id.as_str();
        let who = named(caller);
        if self.wrong_codes_of_caller.admit(&who).is_err() {
            self.refuse_codes(who, business, &caller.subject);
        }
        if self.wrong_codes.admit(business).is_err() {
            self.refuse_codes(business.to_owned(), business, "many");
        }
    }

    fn refuse_codes(&self, key: String, business: &str, caller: &str) {
        if !self.guessed.contains_key(&key) {
            counter!("wallet_code_guessing_total").increment(1);
            tracing::error!(
                business,
                caller,
                "reward codes are guessed; codes of this caller are refused for a minute"
            );
            self.guessed.insert(key, ());
        }
    }
}

/// A caller, told from its business by the blank.
fn named(caller: &Caller) -> String {
    format!("{} {}", caller.business_id, caller.subject)
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
