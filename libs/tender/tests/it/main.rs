//! The tender against a real Postgres, with the real router on real sockets.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod append_only;
mod batching;
mod commits;
mod concurrency;
mod credits;
mod legs;
mod plans;
mod reading;
mod support;
mod times;
