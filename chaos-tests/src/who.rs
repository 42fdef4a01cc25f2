//! The processes under test by their numbers, and which of them are of an older version.

use std::path::PathBuf;

/// A process, from 0: points, store credit, digital rewards, wallet-1, wallet-2.
pub type Who = usize;

/// The tender of loyalty points.
pub const POINTS: Who = 0;
/// The tender of store credit.
pub const CREDIT: Who = 1;
/// The tender of digital rewards.
pub const REWARDS: Who = 2;
/// The first orchestrator; before it are the tenders.
pub const WALLET: Who = 3;
/// The second orchestrator.
pub const SECOND: Who = WALLET + 1;

/// The processes of the older version where two versions run side by side.
const OLDER: [Who; 2] = [CREDIT, SECOND];

/// `CHAOS_BESIDE` says where the binaries of an older version are, which have no fail points: their folder, if a process
/// runs them.
pub(crate) fn older(who: Who) -> Option<PathBuf> {
    let folder = std::env::var_os("CHAOS_BESIDE")?;
    OLDER.contains(&who).then(|| folder.into())
}
