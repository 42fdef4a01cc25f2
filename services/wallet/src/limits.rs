//! Rate limits inside this process: what customers' own tokens may ask for, and how many wrong reward codes anybody may try.
//!
//! Staff have no limit but on wrong codes, and each terminal has its own: a till that guesses, or whose scanner is broken, stops
//! itself; of staff that name no terminal, each customer has. A token that names another terminal each time stops itself later.
//! Over all of a business wrong codes are counted for customers and for staff apart. Too many of either raise the alarm, and those
//! of customers stop the codes of customers: no till hears of it.

use std::time::Duration;

use api::{Code, wallet::RedeemRequest};
use metrics::counter;
use moka::sync::Cache;
use service::{ApiError, auth::Caller, limit::RateLimit};

/// Reads a minute of one customer's own token.
const CUSTOMER_READS: u32 = 60;
/// Redeems a minute of one customer's own token.
const CUSTOMER_REDEEMS: u32 = 10;
/// Wrong codes a minute of one source: beyond that it guesses, and none of its codes is taken.
const WRONG_CODES_OF_SOURCE: u32 = 20;
/// Wrong codes a minute of one token's subject, whatever terminals it names: more than tills that share one mistype.
const WRONG_CODES_OF_SUBJECT: u32 = 300;
/// Wrong codes a minute of all customers of a business, or of all its staff: beyond that many guess.
const WRONG_CODES: u32 = 120;
/// How long codes are refused then, and how long one alarm lasts.
const GUESSING_PAUSE: Duration = Duration::from_mins(1);
/// Most sources, subjects and groups that are known to guess at once; beyond that the least used is forgotten.
const GUESSING_MAX: u64 = 10_000;
const MINUTE: Duration = Duration::from_mins(1);

/// The limits of one process. Clones share them.
#[derive(Clone)]
pub struct Limits {
    /// Reads of customers' own tokens.
    pub reads: RateLimit,
    /// Redeems of customers' own tokens.
    pub redeems: RateLimit,
    wrong_codes_of_source: RateLimit,
    wrong_codes_of_subject: RateLimit,
    wrong_codes: RateLimit,
    /// Sources, subjects and groups that guess.
    guessing: Cache<String, ()>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reads: RateLimit::new(CUSTOMER_READS, MINUTE),
            redeems: RateLimit::new(CUSTOMER_REDEEMS, MINUTE),
            wrong_codes_of_source: RateLimit::new(WRONG_CODES_OF_SOURCE, MINUTE),
            wrong_codes_of_subject: RateLimit::new(WRONG_CODES_OF_SUBJECT, MINUTE),
            wrong_codes: RateLimit::new(WRONG_CODES, MINUTE),
            guessing: Cache::builder().max_capacity(GUESSING_MAX).time_to_live(GUESSING_PAUSE).build(),
        }
    }
}

/// Where reward codes come from: a customer's own token, or staff at a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeSource {
    business: String,
    subject: String,
    is_customer: bool,
    /// Its key among sources.
    key: String,
    /// The key of the token's subject.
    subject_key: String,
    /// The key of all customers of the business, or of all its staff.
    group: String,
}

impl CodeSource {
    /// The source of a request's codes. What a customer says of a terminal makes no other source.
    #[must_use]
    pub fn of(caller: &Caller, request: &RedeemRequest) -> Self {
        let (business, subject) = (caller.business_id.as_str(), caller.subject.as_str());
        let is_customer = caller.own_customer.is_some();
        // A caller that names no terminal has many behind it: each customer is a source.
        let terminal = request.terminal_id.as_deref();
        let bearer = if terminal.is_some() { None } else { Some(request.customer_id.as_str()) };
        let place = if is_customer { None } else { Some((&request.location_id, terminal, bearer)) };
        Self {
            business: business.to_owned(),
            subject: subject.to_owned(),
            is_customer,
            // As Debug has it no two run together, whatever characters the parts have.
            key: format!("{:?}", (business, subject, &caller.own_customer, place)),
            subject_key: format!("{:?}", (business, subject, is_customer)),
            group: format!("{:?}", (business, is_customer)),
        }
    }
}

impl Limits {
    /// Refuses the codes of a source that guesses, and those of all customers of a business in which many do.
    ///
    /// # Errors
    /// 429 `rate_limited`.
    pub fn admit_code(&self, source: &CodeSource) -> Result<(), ApiError> {
        let is_refused = self.guessing.contains_key(&source.key)
            || self.guessing.contains_key(&source.subject_key)
            || source.is_customer && self.guessing.contains_key(&source.group);
        if is_refused {
            let error = ApiError::new(Code::RateLimited, "Too many wrong codes were tried.");
            return Err(error.retry_after(GUESSING_PAUSE));
        }
        Ok(())
    }

    /// Counts a wrong code, and raises the alarm where there are too many.
    pub fn note_wrong_code(&self, source: &CodeSource) {
        let CodeSource { business, subject, is_customer, key, subject_key, group } = source;
        if self.wrong_codes.admit(group).is_err() && self.is_news(group) {
            tracing::error!(business, is_customer, "reward codes are guessed by many");
        }
        if self.wrong_codes_of_subject.admit(subject_key).is_err() && self.is_news(subject_key) {
            tracing::error!(
                business,
                subject,
                "reward codes are guessed under many terminals; those of this subject are refused"
            );
        }
        // Last: what this bucket says is sent with the answer.
        if self.wrong_codes_of_source.admit(key).is_err() && self.is_news(key) {
            tracing::error!(business, subject, "reward codes are guessed; those of this source are refused");
        }
    }

    /// Whether it was not known that somebody guesses; it is from now on, for a while.
    fn is_news(&self, key: &str) -> bool {
        if self.guessing.contains_key(key) {
            return false;
        }
        self.guessing.insert(key.to_owned(), ());
        counter!("wallet_code_guessing_total").increment(1);
        true
    }
}
