//! Deterministic simulation of the whole system: several orchestrators, three tenders, tills, an operator, and whatever can
//! go wrong between them, in one thread and on a simulated clock.
//!
//! What decides is the code that runs in production: [`saga::machine`] and [`tender::fold`]. Modelled around them is only
//! what is I/O. A *world* is one such system with some dozens of sagas; everything that happens in it is a function of its
//! seed. After a while it is healed: faults stop, everything must become terminal, and the invariants are checked.
//!
//! | file | what |
//! |---|---|
//! | `world` | the queue of events, the network, faults of whole processes |
//! | `run` | one saga in one orchestrator, around the real machine |
//! | `store`, `node` | an orchestrator: its writer, heartbeat, claims and rescans |
//! | `sql`, `db` | the wallet's database: what production leaves to SQL |
//! | `serve`, `tender` | a tender: its database and executor, around the real fold |
//! | `till` | tills: redeem, cancel by key, capture, void, refund, ask again |
//! | `check` | what must hold, at every commit and at the end |
//! | `faults` | what may go wrong, and whether it did |
//!
//! What it does not show: that SQL does what `sql` says (the integration tests and the chaos suite do), anything about
//! threads, sockets and real clocks, the paced wake-up after an outage (`gate`), rewards, orphans, and hand-made resolutions.
#![expect(missing_docs, reason = "modules of one program; what is not plain from its name is documented")]

mod check;
mod db;
mod ending;
mod event;
mod faults;
mod node;
mod order;
mod plan;
mod rng;
mod run;
mod serve;
mod sql;
mod store;
mod tender;
mod till;
mod trace;
mod world;

pub use faults::{Coverage, Defect, Fired};

/// Milliseconds.
pub type Time = i64;

/// Sagas that a world starts from its tills' redeems; returns, captures and refunds come on top.
pub const ORDERS: u32 = 40;

/// What became of a world.
#[derive(Debug)]
pub struct Outcome {
    /// Sagas that were written.
    pub sagas: u64,
    /// Hash of the trace: the same for the same seed.
    pub hash: u64,
    /// What happened in it, and how often.
    pub coverage: Coverage,
    /// The first rule that was broken, with the time.
    pub violation: Option<String>,
    /// From healing to the last terminal state.
    pub healed_in: Time,
}

/// Runs the world of a seed; `print` sends its trace to standard output.
#[must_use]
pub fn simulate(seed: u64, print: bool) -> Outcome {
    world::World::new(seed, print, None).run()
}

/// Runs the world of a seed with a defect planted.
#[must_use]
pub fn simulate_with(seed: u64, defect: Defect) -> Outcome {
    world::World::new(seed, false, Some(defect)).run()
}
