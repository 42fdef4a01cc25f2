//! A stored-value service minus its rules: lots, holds, legs, the batching executor, HTTP.
pub mod command;
pub mod executor;
pub mod fold;
pub mod store;
mod wire;
