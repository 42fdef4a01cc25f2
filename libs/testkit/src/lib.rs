//! What integration tests share: a database of their own, tokens, and waits for what a test has brought about.
//!
//! Tests need `TEST_DATABASE_URL`, the URL of a server on which they may create databases and roles;
//! `script/test` starts one.

#[cfg(feature = "snapshots")]
mod answer;
mod database;
mod proxy;
mod tender;
mod tokens;
mod until;

#[cfg(feature = "snapshots")]
#[doc(hidden)]
pub use insta;

#[cfg(feature = "snapshots")]
pub use answer::Answer;
pub use database::TestDatabase;
pub use proxy::{Dice, Mode, Proxy, Strike, Weather};
pub use tender::{TestTender, executor};
pub use tokens::Tokens;
pub use until::{Look, until};
