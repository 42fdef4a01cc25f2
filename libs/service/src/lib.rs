//! What every process of the system needs, once: configuration, telemetry, authentication, problem
//! responses, strict bodies, the accept loop, health and an orderly stop.
//!
//! A `main` reads its configuration, asks [`Process`] for what it shares, builds its routers and hands
//! them to [`Process::run`]. Handlers take what they need as types: [`auth::Allow`] for the caller,
//! [`json::Body`] for the body, [`extract::IdempotencyKey`], [`extract::Query`] and [`extract::Path`];
//! each refuses with the problem document that belongs to it, in the order in which the handler names them.

pub mod accept;
pub mod auth;
pub mod clock;
pub mod config;
pub mod db;
pub mod extract;
#[cfg(feature = "failpoints")]
pub mod failpoints;
pub mod health;
pub mod http;
pub mod json;
pub mod limit;
mod log_writer;
pub mod openapi;
mod otlp;
pub mod problem;
pub mod process;
pub mod supervisor;
pub mod telemetry;
pub mod trace;

pub use clock::Clock;
pub use config::Config;
pub use problem::ApiError;
pub use process::Process;
pub use supervisor::Supervisor;
