//! Real binaries with real databases, whose plugs are pulled under load.
//!
//! A scenario ([`table`]) has four phases ([`run`]): load with faults in it ([`fault`]), heal, quiesce, check. A fault that
//! never fired fails the scenario. Every process is reached through a TCP proxy ([`links`]). `script/chaos` builds the
//! services with fail points, starts a Postgres that may be killed, and runs the program `chaos`; the tests beside it are
//! what is short enough for every change, with the binaries of the profile that they were built with (`cargo build
//! --bins` before).

pub mod check;
pub mod cluster;
mod consumer;
pub mod disk;
mod dumps;
pub mod evidence;
pub mod fault;
mod funding;
pub mod links;
mod load;
pub mod machine;
pub mod points;
pub mod postgres;
mod process;
mod races;
mod readers;
pub mod redis;
pub mod run;
pub mod server;
mod snapshots;
pub mod spent;
mod subscribers;
pub mod table;
mod witnesses;

pub use cluster::Cluster;
pub use evidence::Evidence;
pub use links::Links;
pub use load::{Load, Sale, Shop, Told};
pub use process::Process;
