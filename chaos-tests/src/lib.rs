//! Real binaries with real databases, whose plugs are pulled under load.
//!
//! A scenario has four phases: load with a fault in it, heal, quiesce, check. A fault that never fired fails the
//! scenario. The binaries are those of the profile that the tests were built with (`cargo build --bins` before).

mod check;
pub mod cluster;
mod load;
mod process;

pub use check::check;
pub use cluster::Cluster;
pub use load::{Load, Sale, Told};
pub use process::Process;
