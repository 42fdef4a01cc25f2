//! What a failed call tells: the class decides what the caller may do next.

use crate::Problem;

/// Why a call to another service gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The connection was refused: the request was certainly not sent.
    #[error("connection refused")]
    Refused,
    /// A timeout, a reset, a 5xx or an answer that cannot be read: it may have happened.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// A problem document with a 4xx: it certainly did not happen.
    #[error("rejected: {}", .0.code)]
    Rejected(Box<Problem>),
}
