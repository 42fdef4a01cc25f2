//! What an operator may see and do. Every action, also a refused one, is an append-only row.

mod read;
mod remedy;

pub use read::{DeadLetterDetail, DeadLetterLine, Page, SagaDetail, SagaFilter, SagaLine, TimelineEvent};
pub use remedy::{Order, Ordered, Remedy};
