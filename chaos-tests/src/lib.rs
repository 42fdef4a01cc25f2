//! Real binaries with real databases, whose plugs are pulled under load.
//!
//! A scenario ([`table`]) has four phases ([`run`]): load with faults in it ([`fault`]), heal, quiesce, check. A fault that
//! never fired fails the scenario. Every process is reached through a TCP proxy ([`links`]). `script/chaos` builds the
//! services with fail points, starts a Postgres server for each database, whose clocks are their own ([`server`]), and runs
//! the program `chaos`; the tests beside it are what is short enough for every change, on one server, with the binaries
//! of the profile that they were built with (`cargo build --bins` before).
//!
//! Files import downwards only: [`run`] and [`table`] use [`fault`], faults what they work on ([`scene`], [`outage`], [`disk`],
//! [`machine`]), and all of them the system ([`cluster`]), which knows none of them.

mod apart;
pub mod business;
pub mod check;
pub mod cluster;
mod consumer;
pub mod disk;
mod dumps;
pub mod evidence;
pub mod fault;
pub mod funding;
pub mod links;
mod load;
pub mod machine;
pub mod outage;
pub mod parking;
pub mod points;
pub mod postgres;
mod process;
mod races;
mod readers;
pub mod redis;
pub mod run;
pub mod sale;
pub mod scene;
pub mod server;
mod snapshots;
pub mod spent;
mod subscribers;
pub mod table;
pub mod till;
pub mod who;
mod witnesses;

pub use cluster::Cluster;
pub use evidence::Evidence;
pub use links::Links;
pub use load::Load;
pub use process::Process;
pub use sale::{Sale, Told};
pub use till::Shop;
