//! Persisted sagas: a pure state machine, a group-commit store, recovery, dead letters. Knows no domain words.
//!
//! | file | what |
//! |---|---|
//! | [`machine`] | decides: `(state, event) -> (state, actions)`, pure |
//! | `engine`, `start` | what the parts share, and who starts them |
//! | `submit`, `task`, `adopt` | a new saga, one run of one saga, a run that is taken up again |
//! | `admission` | how much new work is taken, and of one business |
//! | `queue`, `store`, `write` | transitions of concurrent sagas: when they become a batch, and how it is made durable in one transaction |
//! | `aside`, `single` | writes that a locked row or a conflict keeps from being written, tried one by one beside the others |
//! | `lease`, `heartbeat`, `recovery` | whether a process may act and what it says of itself, claims of what has no live owner, rescans |
//! | `parking` | dead letters that the database cannot refuse |
//! | `clock` | the saga database's time |
//! | `pending`, `proof` | keys that may still be inserted; the proof that one was not used, and never will be |
//! | `wait`, `cancel` | waiting for a saga's answer, compensating it from outside |
//! | `reachability` | participants that do not answer: breaker, bulkhead, and a paced release of what waits |
//! | `orphan` | effects of which no saga is known |
//! | [`ops`] | what an operator may do: list, replay, resolve |
//! | [`Domain`] | what a domain brings: its plan, its participants, its own rows |

mod admission;
mod adopt;
mod aside;
mod attempts;
mod cancel;
mod claim;
mod clock;
mod config;
mod domain;
mod engine;
mod error;
mod heartbeat;
mod lane;
mod lease;
pub mod machine;
pub mod ops;
mod orphan;
mod parking;
mod pending;
mod proof;
mod queue;
mod reachability;
mod recovery;
mod registry;
mod row;
mod start;
mod state;
mod statement;
mod store;
mod submit;
mod task;
mod wait;
mod write;

pub use cancel::CompensateOutcome;
pub use clock::{DatabaseClock, DatabaseTime};
pub use config::{Config, Retry};
pub use domain::{
    Admission, Begin, Call, CompensationCause, Domain, Ending, Key, NewSaga, Reason, Replied, RequestHash,
    Response, Saga, SagaId, TransitionEffect,
};
pub use engine::Engine;
pub use error::StoreError;
pub use orphan::Orphan;
pub use pending::Intent;
pub use proof::{KeyUnused, Withdrawn};
pub use row::Stored;
pub use statement::{in_time, past_locks};
pub use submit::Submitted;
pub use wait::Waited;
