//! What integration tests share: a database of their own, and tokens.
//!
//! Tests need `TEST_DATABASE_URL`, the URL of a server on which they may create databases and roles;
//! `script/test` starts one.

mod database;
mod proxy;
mod tender;
mod tokens;

pub use database::TestDatabase;
pub use proxy::{Dice, Mode, Proxy, Strike, Weather};
pub use tender::{TestTender, executor};
pub use tokens::Tokens;
