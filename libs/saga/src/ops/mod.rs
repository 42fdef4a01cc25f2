//! What an operator may see and do. Every action, also a refused one, is an append-only row.
//!
//! | file | what |
//! |---|---|
//! | `sagas`, `saga_line`, `story` | sagas, and what happened to one of them, told in order |
//! | `letters` | dead letters |
//! | `remedy` | replaying or resolving one dead letter |
//! | `bulk`, `carry` | replaying many: what the replay is, and how it is carried out |
//! | `actions` | who did what, when and why |
//! | `sample` | gauges of what waits |

mod actions;
mod bulk;
mod carry;
mod letters;
mod remedy;
mod saga_line;
mod sagas;
mod sample;
mod story;

pub use actions::{ActionFilter, ActionLine, NewAction, record, was_done};
pub use bulk::{BulkFiled, BulkOrder, BulkPreview, BulkReplay, MEMBERS_MAX};
pub use letters::{DeadLetterLine, LetterFilter, LetterPlace};
pub use remedy::{Order, Ordered, Remedy};
pub use saga_line::SagaLine;
pub use sagas::{DeadLetterDetail, SagaDetail, SagaFilter};
pub use story::{LegAnswers, TimelineEvent};

/// Which rows of a list.
#[derive(Debug, Clone)]
pub struct Page<A> {
    /// Where the page before ended.
    pub after: Option<A>,
    /// Most rows.
    pub limit: i64,
}

/// Documents, any of which a plan may contain, as the database takes them; `None` where every plan will do.
fn alternatives(documents: &[serde_json::Value]) -> Option<Vec<String>> {
    (!documents.is_empty()).then(|| documents.iter().map(ToString::to_string).collect())
}
