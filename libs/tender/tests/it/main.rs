//! The tender against a real Postgres, with the real router on real sockets.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod absent;
mod append_only;
mod batching;
mod commits;
mod concurrency;
mod corrupt;
mod credits;
mod holds;
mod isolation;
mod legs;
mod lots;
mod plans;
mod reading;
mod support;
mod times;
