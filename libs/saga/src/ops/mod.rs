//! What an operator may see and do. Every action, also a refused one, is an append-only row.
//!
//! | file | what |
//! |---|---|
//! | `sagas`, `saga_line`, `timeline` | sagas, and what happened to one of them, in order |
//! | `dead_letters` | dead letters |
//! | `dead_letter_actions` | replaying or resolving one dead letter |
//! | `bulk_replay`, `bulk_replay_worker` | replaying many: what the replay is, and how it is carried out |
//! | `actions` | who did what, when and why |
//! | `gauges` | gauges of what waits |

mod actions;
mod bulk_replay;
mod bulk_replay_worker;
mod dead_letter_actions;
mod dead_letters;
mod gauges;
mod saga_line;
mod sagas;
mod timeline;

pub use actions::{ActionFilter, ActionLine, NewAction, record, was_done};
pub use bulk_replay::{BulkFiled, BulkPreview, BulkReplay, BulkReplayCommand, MEMBERS_MAX};
pub use dead_letter_actions::{ActionOutcome, DeadLetterAction, OperatorCommand};
pub use dead_letters::{DeadLetterCursor, DeadLetterFilter, DeadLetterLine};
pub use saga_line::SagaLine;
pub use sagas::{DeadLetterDetail, SagaDetail, SagaFilter};
pub use timeline::{LegAnswers, TimelineEvent};

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
