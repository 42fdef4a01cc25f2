//! Who is told of every balance that a leg has changed.

use std::fmt;

use api::{legs::Account, wallet::TenderKind};
use futures_util::future::BoxFuture;

/// Is told of changed accounts before the saga that changed them goes on, and so before any caller hears of it.
pub trait BalanceObserver: fmt::Debug + Send + Sync {
    /// Accounts of a tender have reached versions. A leg's answer waits until this is done, so it has a limit of its own.
    fn reached<'a>(&'a self, tender: TenderKind, versions: &'a [(&'a Account, i64)]) -> BoxFuture<'a, ()>;
}
