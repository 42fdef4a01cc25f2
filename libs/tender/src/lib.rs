//! A stored-value service minus its rules: accounts, lots, holds, legs, the batching executor, and HTTP.
//!
//! | part | what it does |
//! |---|---|
//! | [`admit`] | refuses what makes no sense, whatever is stored |
//! | `fold` | decides: one command after the other, pure |
//! | [`executor`] | does: many commands, one transaction |
//! | `store` | the SQL of both |
//! | [`App`] | the public calls, and the leg protocol between services |
//! | [`rules`] | what makes points, store credit and digital rewards differ |

pub mod admit;
mod app;
pub mod command;
pub mod executor;
pub mod fold;
mod http;
pub mod rules;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod wire;

pub use app::{App, Options};
