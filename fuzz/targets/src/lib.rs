//! Every parser of what comes from outside, each under rules that any input must keep. A target is a function of bytes that
//! panics where a rule is broken: more than "no panic", it reads the same bytes a second time in the plainest way there is,
//! and nothing may be accepted that the plain reading refuses.
//!
//! | target | reads | what must hold |
//! |---|---|---|
//! | [`amounts`] | integers in bodies and queries, assets | plain digits or nothing; never rounded |
//! | [`bodies`] | a redeem request, then its plan | written and read again it is the same; legs sum to the amount |
//! | [`codes`] | reward codes as typed | one hash for all spellings of a code, none for anything else |
//! | [`cursors`] | places in lists | only what the list itself would write |
//! | [`events`] | messages and floors from Redis, answers of tenders | written and read again they are the same |
//! | [`headers`] | idempotency keys, `traceparent`, media types | one word of visible ASCII; 32 hexadecimal digits; JSON only |
//! | [`key_sets`] | JWKS files | every key has an id, none is for development |
//! | [`legs`] | batches of leg commands, then the fold | answers repeat; lots and balance agree; nothing below zero |
//! | [`queries`] | query strings | each parameter once, as a second decoder reads it |
//! | [`tokens`] | `Authorization` headers | only what is signed, for us, now, and says so without doubt |
//!
//! The corpus in `fuzz/corpus` runs through them in every `script/test`; `script/fuzz` looks for more.

pub mod amounts;
pub mod bodies;
pub mod codes;
pub mod cursors;
pub mod events;
pub mod headers;
pub mod key_sets;
pub mod legs;
pub mod queries;
mod request;
pub mod tokens;

/// A target.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const ALL: [(&str, Target); 10] = [
    ("amounts", amounts::run),
    ("bodies", bodies::run),
    ("codes", codes::run),
    ("cursors", cursors::run),
    ("events", events::run),
    ("headers", headers::run),
    ("key_sets", key_sets::run),
    ("legs", legs::run),
    ("queries", queries::run),
    ("tokens", tokens::run),
];
