//! What is about to happen in a world, and what is on its way in it.

use std::rc::Rc;

use api::legs::LegAnswer;
use saga::machine::{Direction, Transition};

use crate::{
    db::{Process, SagaId, Written},
    node::Waiter,
    tender::Parcel,
};

/// Something that is about to happen.
#[derive(Debug)]
pub enum Event {
    Start(usize),
    Beat(Process),
    Scan(Process),
    Sweep(Process),
    HandOver(Process),
    Commit(Process),
    Answered(Process, Vec<(Waiter, Wrote)>),
    WalletPending(usize),
    Rewrite { process: Process, id: SagaId, no: u64, transition: Transition },
    Wake { process: Process, id: SagaId, no: u64, leg: usize, direction: Direction },
    Deadline { process: Process, id: SagaId, no: u64 },
    Reply { call: u64, heard: Heard },
    Deliver(Rc<Parcel>),
    Serve(usize, u32),
    TenderPending(usize, usize),
    Ask(usize, u32),
    Operate,
    Disturb,
    Heal,
    Look,
}

/// A command that has no answer yet.
#[derive(Debug, Clone)]
pub struct Call {
    pub process: Process,
    pub id: SagaId,
    pub no: u64,
    pub leg: usize,
    pub direction: Direction,
    pub is_cancel: bool,
}

/// What is heard of a command.
#[derive(Debug, Clone)]
pub enum Heard {
    Answer(LegAnswer),
    /// The connection was refused.
    NotSent,
    /// Nothing, or nothing that makes sense.
    Silence,
    /// A definite answer that the protocol does not know.
    Wrong,
}

/// The store cannot take it now: certainly not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away;

/// What became of a write, as its caller hears it.
pub type Wrote = Result<Written, Away>;
