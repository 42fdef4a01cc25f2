//! What happened to a saga, in order: pure, from what its row and its events hold.
//!
//! The happy path writes no events, and the attempts of one run are stored with the event that ends it. Here they take
//! their places, each with a sentence.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::saga_line::SagaLine;

/// One event of a saga's timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineEvent {
    /// When.
    pub at: DateTime<Utc>,
    /// Milliseconds since the saga was written.
    pub after_ms: i64,
    /// What: `began`, `attempt`, or a recorded event.
    pub event: String,
    /// Under which epoch.
    pub epoch: i64,
    /// By which process.
    pub owner: Option<Uuid>,
    /// What, in a sentence.
    pub text: String,
    /// What was recorded.
    pub detail: Value,
}

/// Answers by leg, in the participants' own form; null where there was none.
#[derive(Debug, Clone, Default)]
pub struct LegAnswers {
    /// Of the way forward.
    pub forward: Vec<Value>,
    /// Of the way back.
    pub back: Vec<Value>,
}

/// An event as its row holds it.
#[derive(Debug, Clone)]
pub(super) struct Recorded {
    pub at: DateTime<Utc>,
    pub event: String,
    pub epoch: i64,
    pub owner: Option<Uuid>,
    pub detail: Value,
}

/// The timeline of `saga`, whose leg `n` the `n`th participant carries out.
pub(super) fn build(
    saga: &SagaLine,
    deadline_at: DateTime<Utc>,
    participants: &[String],
    events: &[Recorded],
) -> Vec<TimelineEvent> {
    let began = saga.created_at;
    let mut timeline = vec![beginning(saga, deadline_at, participants)];
    for recorded in events {
        timeline.extend(attempts(recorded, participants).map(|attempt| since(began, attempt)));
        let detail = without_attempts(&recorded.detail);
        let text = sentence(&recorded.event, &recorded.detail, recorded.owner, participants);
        let Recorded { at, epoch, owner, .. } = *recorded;
        timeline.push(since(
            began,
            TimelineEvent { at, after_ms: 0, event: recorded.event.clone(), epoch, owner, text, detail },
        ));
    }
    // The happy path ends without an event of its own.
    let has_end = events.iter().any(|e| matches!(e.event.as_str(), "completed" | "compensated" | "declined"));
    if let (Some(at), false, "completed") = (saga.ended_at, has_end, saga.status) {
        let text = "Completed: every leg is in force.".to_owned();
        let (event, epoch, owner) = ("completed".to_owned(), saga.epoch, saga.owner);
        timeline.push(since(
            began,
            TimelineEvent { at, after_ms: 0, event, epoch, owner, text, detail: json!({}) },
        ));
    }
    // Attempts overlap with what was written meanwhile; a stable sort keeps what was written together together.
    timeline.sort_by_key(|event| event.at);
    timeline
}

/// The participants' answers that the events hold: the last ones of each way.
pub(super) fn answers(events: &[Recorded]) -> LegAnswers {
    let mut answers = LegAnswers::default();
    for recorded in events {
        let Some(given) = recorded.detail["answers"].as_array() else { continue };
        let is_back = recorded.detail["way"] == "cancel";
        *(if is_back { &mut answers.back } else { &mut answers.forward }) = given.clone();
    }
    answers
}

fn since(began: DateTime<Utc>, event: TimelineEvent) -> TimelineEvent {
    TimelineEvent { after_ms: (event.at - began).num_milliseconds(), ..event }
}

fn beginning(saga: &SagaLine, deadline_at: DateTime<Utc>, participants: &[String]) -> TimelineEvent {
    let legs = if participants.is_empty() { "no legs".to_owned() } else { participants.join(", ") };
    let within = (deadline_at - saga.created_at).num_milliseconds();
    TimelineEvent {
        at: saga.created_at,
        after_ms: 0,
        event: "began".to_owned(),
        epoch: 1,
        owner: None,
        text: format!("Written: {} over {legs}, to be done within {within} ms.", saga.operation),
        detail: json!({ "participants": participants }),
    }
}

fn attempts<'a>(
    recorded: &'a Recorded,
    participants: &'a [String],
) -> impl Iterator<Item = TimelineEvent> + 'a {
    let attempts = recorded.detail["attempts"].as_array().map(Vec::as_slice).unwrap_or_default();
    attempts.iter().filter_map(move |attempt| {
        let at = DateTime::from_timestamp_millis(attempt["at_ms"].as_i64()?)?;
        Some(TimelineEvent {
            // An attempt that led to this event is not told after it, whatever the clocks say.
            at: at.min(recorded.at - TimeDelta::microseconds(1)),
            after_ms: 0,
            event: "attempt".to_owned(),
            epoch: attempt["epoch"].as_i64().unwrap_or(recorded.epoch),
            owner: recorded.owner,
            text: attempt_sentence(attempt, participants),
            detail: attempt.clone(),
        })
    })
}

fn without_attempts(detail: &Value) -> Value {
    let mut detail = detail.clone();
    if let Some(fields) = detail.as_object_mut() {
        fields.remove("attempts");
    }
    detail
}

/// `leg 2 (store_credit)`.
fn name(leg: &Value, participants: &[String]) -> String {
    let number = leg.as_u64().and_then(|leg| usize::try_from(leg).ok());
    match number.and_then(|leg| Some((leg, participants.get(leg)?))) {
        Some((leg, participant)) => format!("leg {leg} ({participant})"),
        None => format!("leg {leg}"),
    }
}

fn attempt_sentence(attempt: &Value, participants: &[String]) -> String {
    let what = match attempt["way"].as_str() {
        Some("cancel") => "Asked to take back",
        _ => "Asked for",
    };
    let came = match attempt["reply"].as_str().unwrap_or_default() {
        "done" => "done",
        "empty" => "there was nothing to take",
        "refused" => "declined",
        "not_sent" => "the connection was refused",
        "unknown" => "no answer that can be used",
        "foreign" => "the leg exists with another plan",
        "wrong" => "an answer outside the protocol",
        other => other,
    };
    let note = attempt["note"].as_str().map(|note| format!(" ({note})")).unwrap_or_default();
    let took = attempt["took_ms"].as_i64().unwrap_or_default();
    format!("{what} {}: {came}{note}, after {took} ms.", name(&attempt["leg"], participants))
}

fn sentence(event: &str, detail: &Value, owner: Option<Uuid>, participants: &[String]) -> String {
    let why = because(&detail["because"], participants);
    let who = owner.map_or_else(|| "nobody".to_owned(), |owner| format!("process {owner}"));
    match event {
        "taken_over" => {
            format!("Taken over by {who}: its owner was gone ({} died so far).", detail["poison"])
        }
        "adopted_again" => format!("Started anew by {who}: its run was lost or stuck."),
        "compensating" => format!("Compensating{why}: every leg is to be taken back."),
        "completed" => "Completed: every leg is in force.".to_owned(),
        "declined" => format!("Declined{why}. No leg was in force."),
        "compensated" => format!("Undone{why}: no leg is in force."),
        "dead_letter" => format!("Parked as a dead letter{why}."),
        "key_cancelled" => "Its key was cancelled: no other answer is given under it any more.".to_owned(),
        "replayed" => format!("Taken up again by {}: {}", plain(&detail["by"]), plain(&detail["reason"])),
        "resolved" => format!(
            "Settled by hand by {} ({}): {}",
            plain(&detail["by"]),
            plain(&detail["reference"]),
            plain(&detail["reason"])
        ),
        other => other.to_owned(),
    }
}

fn because(because: &Value, participants: &[String]) -> String {
    let reason = match because["reason"].as_str() {
        None => return String::new(),
        Some("refused") => "a leg was declined",
        Some("took_nothing") => "there was nothing to take",
        Some("participant_unreachable") => "a participant could not be reached in time",
        Some("wrong_answers") => "a participant kept answering outside the protocol",
        Some("foreign_leg") => "a leg exists with another plan",
        Some("cancelled") => "its key was cancelled",
        Some("poison") => "processes kept dying while they ran it",
        Some("unreadable") => "this version cannot read it",
        Some("unwritable") => "the database refuses its next step",
        Some("orphan_leg") => "a participant holds legs of which no saga is known",
        Some(other) => other,
    };
    let leg = if because["leg"].is_null() {
        String::new()
    } else {
        format!(", {}", name(&because["leg"], participants))
    };
    let code = because["answer"]["decline"]["code"].as_str().map(|code| format!(": {code}"));
    format!(" because {reason}{leg}{}", code.unwrap_or_default())
}

fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::SagaId;

    fn at(ms: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_000_000 + ms).expect("a time")
    }

    fn saga(status: &'static str, ended_ms: Option<i64>) -> SagaLine {
        SagaLine {
            saga_id: SagaId(Uuid::nil()),
            operation: "redeem".into(),
            key: "k".into(),
            status,
            epoch: 1,
            owner: None,
            backward: false,
            cause: None,
            created_at: at(0),
            ended_at: ended_ms.map(at),
        }
    }

    fn texts_of(saga: &SagaLine, events: &[Recorded]) -> Vec<(i64, String)> {
        let participants = ["points".to_owned(), "store_credit".to_owned()];
        let timeline = build(saga, at(10_000), &participants, events);
        timeline.into_iter().map(|event| (event.after_ms, event.text)).collect()
    }

    #[test]
    fn the_happy_path_has_a_beginning_and_an_end() {
        let timeline = texts_of(&saga("completed", Some(12)), &[]);
        let expected = [
            (0, "Written: redeem over points, store_credit, to be done within 10000 ms."),
            (12, "Completed: every leg is in force."),
        ];
        assert_eq!(timeline, expected.map(|(ms, text)| (ms, text.to_owned())));
        assert_eq!(texts_of(&saga("running", None), &[]).len(), 1, "what has not ended has no end");
    }

    #[test]
    fn attempts_take_their_places_before_the_event_that_they_led_to() {
        let attempt = |leg: u64, direction: &str, reply: &str, ms: i64| json!({ "leg": leg, "way": direction, "reply": reply, "note": null, "took_ms": 5, "at_ms": 1_000_000 + ms, "epoch": 1 });
        let turned = Recorded {
            at: at(20),
            event: "compensating".into(),
            epoch: 1,
            owner: None,
            detail: json!({ "because": { "reason": "refused", "leg": 0, "answer": { "decline": { "code": "insufficient_balance" } } },
                "attempts": [attempt(0, "forward", "refused", 25)], "way": "forward", "answers": [{ "state": "declined" }, null] }),
        };
        let parked = Recorded {
            at: at(90),
            event: "dead_letter".into(),
            detail: json!({ "because": { "reason": "participant_unreachable", "leg": 1 },
                "attempts": [attempt(0, "cancel", "done", 30), attempt(1, "cancel", "unknown", 80)],
                "way": "cancel", "answers": [{ "state": "reversed" }, null] }),
            ..turned.clone()
        };
        let events = [turned, parked];
        let timeline = texts_of(&saga("dead_letter", None), &events);
        let texts: Vec<_> = timeline.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(
            texts[1..],
            [
                "Asked for leg 0 (points): declined, after 5 ms.",
                "Compensating because a leg was declined, leg 0 (points): insufficient_balance: every leg is to be taken back.",
                "Asked to take back leg 0 (points): done, after 5 ms.",
                "Asked to take back leg 1 (store_credit): no answer that can be used, after 5 ms.",
                "Parked as a dead letter because a participant could not be reached in time, leg 1 (store_credit).",
            ]
        );
        let answers = answers(&events);
        assert_eq!(
            (answers.forward, answers.back),
            (
                vec![json!({ "state": "declined" }), Value::Null],
                vec![json!({ "state": "reversed" }), Value::Null]
            )
        );
    }
}
