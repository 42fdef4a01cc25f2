//! Why the store has no answer.

/// Why a write has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database is away, more waits than can be taken, or this process does not know the saga's version. Certainly not
    /// written.
    #[error("the saga store cannot take this now")]
    Unavailable,
    /// For as long as the store's patience a row was locked, conflicts came again, or the server refused this one write, alone, for a
    /// reason that may pass. Certainly not written.
    #[error("the saga store cannot write this now: {0}")]
    Busy(String),
    /// This one write makes the transaction fail, whatever it is batched with. Certainly not written.
    #[error("the saga store refuses this: {0}")]
    Refused(String),
    /// The writer is gone; whether it was written is unknown.
    #[error("the saga store stopped")]
    Unknown,
}
