//! The orders of tills, and what their tills ask for.

use std::rc::Rc;

use crate::{
    Time,
    db::{Process, Response, SagaId},
    plan::Redeem,
};

/// An order, and what its till was told.
#[derive(Debug)]
pub struct Order {
    pub redeem: Rc<Redeem>,
    /// The answer to its redeem.
    pub told: Option<Response>,
    /// Its cancel was acknowledged, or its redeem answered with "cancelled".
    pub is_cancelled: bool,
}

/// What a till wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    Redeem,
    Cancel,
    /// A part of what is held, in per mille.
    Capture(i64),
    Void,
    /// A part of what was taken, in per mille.
    Refund(i64),
}

/// A till's request, repeated until it is answered.
#[derive(Debug)]
pub struct Ask {
    pub order: u32,
    pub want: Want,
    /// The attempt under way; what comes of an earlier one is not heard any more.
    pub attempt: u32,
    /// At which orchestrator it waits for which saga.
    pub waits: Option<(Process, SagaId)>,
    /// Since when it knows that its saga is compensated.
    pub turned_since: Option<Time>,
    pub is_settled: bool,
    pub told: Option<Response>,
}
