//! What a fault works on, and what is left of it while it lasts.

use sqlx::PgConnection;
use testkit::Dice;

use crate::{cluster::Cluster, load::Load, sale::Sale};

/// What a fault works on.
pub struct Scene<'a> {
    /// The system.
    pub cluster: &'a mut Cluster,
    /// The tills at work.
    pub load: &'a Load,
    /// The name of the scenario, and its customers.
    pub name: &'a str,
    /// Customers and the reward of each.
    pub customers: &'a [(String, String)],
    /// Decides what chance decides.
    pub dice: &'a mut Dice,
}

/// A fault that has begun.
#[derive(Default)]
pub struct Armed {
    /// How often it has hit something so far.
    pub(crate) fired: u64,
    /// What was counted before it began.
    pub(crate) before: u64,
    /// What ends it when this is dropped.
    pub(crate) undo: Vec<Undo>,
    /// Sessions that are stopped.
    pub(crate) frozen: Vec<u32>,
    /// Connections that hold something.
    pub(crate) taken: Vec<PgConnection>,
    /// Tills that it has brought along.
    pub(crate) extra: Option<Load>,
    /// What was sold for it.
    pub(crate) sales: Vec<Sale>,
    /// What should not have been while it lasted.
    pub(crate) complaints: Vec<String>,
}

/// What has to be done even if the suite fails: it outlives no scenario.
pub(crate) struct Undo(Option<Box<dyn FnOnce() + Send>>);

impl Undo {
    pub(crate) fn with(undo: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(undo)))
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(undo) = self.0.take() {
            undo();
        }
    }
}
