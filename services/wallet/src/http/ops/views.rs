//! What the engine tells operators, in the words of the API: the one place where the two meet.

use api::ops::{
    ActionLine, BulkPreview, BulkRefusal, BulkReplay, BulkStatus, DeadLetterDetail, DeadLetterLine,
    SagaDetail, SagaLine, StoredAnswer, TimelineEvent,
};
use saga::{machine::Kind, ops};
use serde_json::Value;
use service::Clock;

use super::legs;

pub(super) fn saga_line(saga: ops::SagaLine) -> SagaLine {
    SagaLine {
        saga_id: saga.saga_id.0,
        operation: saga.operation,
        idempotency_key: saga.key,
        status: saga.status.to_owned(),
        epoch: saga.epoch,
        owner: saga.owner,
        backward: saga.backward,
        cause: saga.cause,
        created_at: saga.created_at,
        ended_at: saga.ended_at,
    }
}

/// A saga that has not ended is as old as `clock` says.
pub(super) fn saga_detail(detail: ops::SagaDetail, clock: Clock) -> SagaDetail {
    let legs = legs::of(&detail);
    let until = detail.saga.ended_at.unwrap_or_else(|| clock.now());
    SagaDetail {
        kind: detail
            .kind
            .map(|kind| if kind == Kind::Compensable { "compensable" } else { "forward_only" }.to_owned()),
        // The two clocks may differ: nothing ends before it began.
        duration_ms: (until - detail.saga.created_at).num_milliseconds().max(0),
        deadline_at: detail.deadline_at,
        trace_id: detail.trace_id,
        parent_id: detail.parent_id.map(|id| id.0),
        legs_id: detail.legs_id,
        key_cancelled: detail.key_cancelled,
        plan: detail.plan,
        legs,
        answer: detail.answer.map(|answer| StoredAnswer {
            status: answer.status,
            body: serde_json::from_slice(&answer.body).unwrap_or(Value::Null),
        }),
        timeline: detail.timeline.into_iter().map(timeline_event).collect(),
        dead_letters: detail.dead_letters.into_iter().map(dead_letter_line).collect(),
        saga: saga_line(detail.saga),
    }
}

fn timeline_event(event: ops::TimelineEvent) -> TimelineEvent {
    TimelineEvent {
        at: event.at,
        after_ms: event.after_ms,
        event: event.event,
        text: event.text,
        epoch: event.epoch,
        owner: event.owner,
        detail: event.detail,
    }
}

pub(super) fn dead_letter_line(dead_letter: ops::DeadLetterLine) -> DeadLetterLine {
    DeadLetterLine {
        dead_letter_id: dead_letter.dead_letter_id,
        saga_id: dead_letter.saga_id.0,
        operation: dead_letter.operation,
        idempotency_key: dead_letter.key,
        code: dead_letter.code,
        tender: dead_letter.participant,
        detail: dead_letter.detail,
        opened_at: dead_letter.opened_at,
        closed_at: dead_letter.closed_at,
        closed_as: dead_letter.closed_as,
    }
}

pub(super) fn dead_letter_detail(detail: ops::DeadLetterDetail, clock: Clock) -> DeadLetterDetail {
    DeadLetterDetail {
        dead_letter: dead_letter_line(detail.dead_letter),
        saga: saga_detail(detail.saga, clock),
    }
}

pub(super) fn action_line(action: ops::ActionLine) -> ActionLine {
    ActionLine {
        action_id: action.action_id,
        at: action.at,
        operation_id: action.operation_id,
        actor: action.actor,
        action: action.action,
        accepted: action.accepted,
        dead_letter_id: action.dead_letter_id,
        saga_id: action.saga_id.map(|id| id.0),
        tender: action.participant,
        reason: action.reason,
        reference: action.reference,
        before: action.before,
        after: action.after,
    }
}

pub(super) fn bulk_replay(bulk: ops::BulkReplay) -> BulkReplay {
    let refusal = |(dead_letter_id, reason)| BulkRefusal { dead_letter_id, reason };
    BulkReplay {
        status: if bulk.finished_at.is_some() { BulkStatus::Finished } else { BulkStatus::Running },
        remaining: bulk.remaining(),
        operation_id: bulk.operation_id,
        matched: bulk.matched,
        truncated: bulk.truncated,
        replayed: bulk.replayed,
        already_closed: bulk.already_closed,
        refused: bulk.refused,
        refusals: bulk.refusals.into_iter().map(refusal).collect(),
        filter: bulk.filter,
        rate_per_second: bulk.rate,
        actor: bulk.actor,
        reason: bulk.reason,
        started_at: bulk.started_at,
        finished_at: bulk.finished_at,
    }
}

/// Dead letters for which no tender is to blame are counted under `none`.
pub(super) fn bulk_preview(preview: ops::BulkPreview) -> BulkPreview {
    let tender =
        |(tender, count): (Option<String>, i64)| (tender.unwrap_or_else(|| "none".to_owned()), count);
    BulkPreview {
        matched: preview.matched,
        truncated: preview.matched > ops::MEMBERS_MAX,
        by_code: preview.by_code.into_iter().collect(),
        by_tender: preview.by_participant.into_iter().map(tender).collect(),
        sample: preview.sample,
    }
}
