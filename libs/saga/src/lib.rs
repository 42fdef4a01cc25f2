//! Persisted sagas: a pure state machine, a group-commit store, recovery, dead letters. Knows no domain words.
//!
//! | file | what |
//! |---|---|
//! | [`machine`] | decides: `(state, event) -> (state, actions)`, pure |
//! | `task` | one run of one saga: carries the actions out |
//! | `queue`, `store`, `write` | transitions of concurrent sagas: when they become a batch, and how it is made durable in one transaction |
//! | `lease`, `recovery` | heartbeat, claims of what has no live owner, rescans of what a process owns |
//! | `pending`, `proof` | keys that may still be inserted; the proof that one was not used, and never will be |
//! | `wait`, `cancel` | waiting for a saga's answer, turning it back from outside |
//! | `gate` | participants that cannot be reached: one probe each, a wake-up for all |
//! | `orphan` | effects of which no saga is known |
//! | [`ops`] | what an operator may do: list, replay, resolve |
//! | [`Domain`] | what a domain brings: its plan, its participants, its own rows |

mod cancel;
mod config;
mod domain;
mod engine;
mod gate;
mod lease;
pub mod machine;
pub mod ops;
mod orphan;
mod pending;
mod proof;
mod queue;
mod recovery;
mod registry;
mod row;
mod store;
mod task;
mod wait;
mod write;

pub use cancel::TurnBack;
pub use config::{Config, Retry};
pub use domain::{
    Admission, Begin, Call, Conclusion, Domain, Ending, Key, NewSaga, Reason, Replied, Response, Saga,
    SagaId, Turned,
};
pub use engine::{Engine, Submitted};
pub use orphan::Orphan;
pub use pending::Intent;
pub use proof::{KeyUnused, Withdrawn};
pub use row::Stored;
pub use store::StoreError;
pub use task::state_name;
pub use wait::Waited;
