//! What the store is asked to make durable, and the statements that do it for many sagas at once.
//!
//! One transaction, in this order of locks: parents and guards of new sagas (the domain's `admit`), inserts sorted by
//! key, updates by id, history, the domain's rows. Sorting inserts by id would order nothing: two processes insert the
//! same keys under different ids. On the happy path that is two statements: the sagas', and the domain's.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::{
    domain::{Admission, Begin, Domain, NewSaga, Reason, Response, SagaId},
    machine::{Kind, State},
};

/// A compare-and-set on (id, state, epoch), with everything that belongs to it.
#[derive(Debug)]
pub(crate) struct Move<D: Domain> {
    pub id: SagaId,
    pub from: State,
    pub epoch: i64,
    pub to: State,
    /// Take the saga over in the same statement: the new owner, under the next epoch.
    pub take_over: Option<Uuid>,
    pub cancel_key: bool,
    pub cause: Option<serde_json::Value>,
    pub response: Option<Response>,
    pub change: Option<D::Change>,
    /// History; `None` on the happy path.
    pub event: Option<(&'static str, serde_json::Value)>,
    pub dead_letter: Option<DeadLetter>,
    pub due_ms: i64,
}

#[derive(Debug, Clone)]
pub(crate) struct DeadLetter {
    pub reason: Reason,
    /// Which participant it waits for.
    pub participant: Option<String>,
    /// An object: what is known of it.
    pub detail: serde_json::Value,
}

impl DeadLetter {
    pub(crate) fn of_nobody(reason: Reason, detail: serde_json::Value) -> Self {
        Self { reason, participant: None, detail }
    }
}

#[derive(Debug)]
pub(crate) enum Write<D: Domain> {
    Insert(Box<NewSaga<D>>),
    Move(Box<Move<D>>),
}

impl<D: Domain> Write<D> {
    pub(crate) fn id(&self) -> SagaId {
        match self {
            Self::Insert(new) => new.id,
            Self::Move(change) => change.id,
        }
    }
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Written {
    /// A new saga is durable and runs.
    Inserted { created_at: DateTime<Utc>, deadline_at: DateTime<Utc> },
    /// A new saga was refused by the domain; this answer is durable under its key.
    Refused(Response),
    /// The key has a row already; nothing was written.
    KeyTaken,
    /// What the new saga was planned on has changed; nothing was written.
    Stale,
    /// It was not sent, on its [`crate::pending::Terms`]; an earlier attempt may still land.
    Withheld,
    /// The transition is durable. `answer_given`: the stored answer is an earlier one.
    Moved { answer_given: bool },
    /// The compare-and-set missed; nothing was written.
    Missed,
}

/// Writes a batch inside the transaction that `conn` is in; the results are in the order of `batch`, which holds at
/// most one move a saga. `again`: an earlier attempt may have committed, so rows that look as this batch would leave
/// them are its own. Inserts that are `withheld` are looked for, but not made.
pub(crate) async fn write_batch<D: Domain>(
    conn: &mut PgConnection,
    domain: &D,
    owner: Uuid,
    batch: &[Write<D>],
    again: bool,
    withheld: &HashSet<SagaId>,
) -> sqlx::Result<Vec<Written>> {
    let mut outcome: HashMap<SagaId, Written> = HashMap::with_capacity(batch.len());
    outcome.extend(withheld.iter().map(|id| (*id, Written::Withheld)));
    let mut changes = Vec::new();
    let new: Vec<&NewSaga<D>> =
        batch.iter().filter_map(|w| if let Write::Insert(n) = w { Some(&**n) } else { None }).collect();
    let moves: Vec<&Move<D>> =
        batch.iter().filter_map(|w| if let Write::Move(m) = w { Some(&**m) } else { None }).collect();
    let sent: Vec<_> = new.iter().copied().filter(|n| !withheld.contains(&n.id)).collect();
    let inserts = if sent.is_empty() { Vec::new() } else { admit(conn, domain, &sent, &mut outcome).await? };

    let done = write_sagas(conn, owner, &inserts, &moves).await?;
    let inserted = inserts.iter().map(|insert| insert.new).filter(|new| done.contains_key(&new.id));
    cancel_parent_keys(conn, inserted).await?;
    for Insert { new, refusal, change } in inserts {
        let written = match (done.get(&new.id), refusal) {
            (Some(Done::Inserted { .. }), Some(response)) => Written::Refused(response),
            (Some(&Done::Inserted { created_at, deadline_at }), None) => {
                Written::Inserted { created_at, deadline_at }
            }
            _ => Written::KeyTaken,
        };
        if let (true, Some(change)) = (written != Written::KeyTaken, change) {
            changes.push((new.id, change));
        }
        outcome.insert(new.id, written);
    }
    for m in &moves {
        let written = match done.get(&m.id) {
            Some(&Done::Moved { answer_given }) => Written::Moved { answer_given },
            _ => Written::Missed,
        };
        if let (Written::Moved { .. }, Some(change)) = (&written, &m.change) {
            changes.push((m.id, change.clone()));
        }
        outcome.insert(m.id, written);
    }
    record_history(conn, owner, &moves, &outcome).await?;
    if again {
        recognise_inserts(conn, &new, &mut outcome).await?;
        recognise_moves(conn, &moves, &mut outcome).await?;
    }
    if !changes.is_empty() {
        domain.record(conn, &changes).await?;
    }
    Ok(batch.iter().map(|w| outcome.remove(&w.id()).unwrap_or(Written::Missed)).collect())
}

struct Insert<'a, D: Domain> {
    new: &'a NewSaga<D>,
    refusal: Option<Response>,
    change: Option<D::Change>,
}

impl<D: Domain> Insert<'_, D> {
    /// Whether it is over as soon as it is there.
    fn is_over(&self) -> bool {
        self.refusal.is_some() || matches!(self.new.begin, Begin::Cancelled)
    }
}

/// The new sagas that are to be written, in the order of their keys; the others have their outcome.
async fn admit<'a, D: Domain>(
    conn: &mut PgConnection,
    domain: &D,
    new: &[&'a NewSaga<D>],
    outcome: &mut HashMap<SagaId, Written>,
) -> sqlx::Result<Vec<Insert<'a, D>>> {
    let verdicts = domain.admit(conn, new).await?;
    let mut inserts = Vec::with_capacity(new.len());
    for (&new, verdict) in new.iter().zip(verdicts) {
        match verdict {
            Admission::Stale => {
                outcome.insert(new.id, Written::Stale);
            }
            Admission::Refused(response, change) => {
                inserts.push(Insert { new, refusal: Some(response), change })
            }
            Admission::Admitted => {
                let refusal =
                    if let Begin::Refused(response) = &new.begin { Some(response.clone()) } else { None };
                inserts.push(Insert { new, refusal, change: new.change.clone() });
            }
        }
    }
    inserts.sort_by(|a, b| a.new.key.cmp(&b.new.key));
    Ok(inserts)
}

/// What the statement did to a saga.
enum Done {
    Inserted { created_at: DateTime<Utc>, deadline_at: DateTime<Utc> },
    Moved { answer_given: bool },
}

/// Inserts and moves, in one statement. What is not in its answer was not done: the key was taken, or the compare-and-set
/// missed.
async fn write_sagas<D: Domain>(
    conn: &mut PgConnection,
    owner: Uuid,
    inserts: &[Insert<'_, D>],
    moves: &[&Move<D>],
) -> sqlx::Result<HashMap<SagaId, Done>> {
    let text = |f: fn(&NewSaga<D>) -> &str| inserts.iter().map(|r| f(r.new)).collect::<Vec<_>>();
    let plans = inserts.iter().map(|r| encode(&*r.new.plan)).collect::<sqlx::Result<Vec<_>>>()?;
    let state = |r: &Insert<'_, D>| if r.is_over() { State::Compensated } else { State::Running }.code();
    let mut moves = moves.to_vec();
    moves.sort_by_key(|m| m.id);
    let causes =
        moves.iter().map(|m| m.cause.as_ref().map(encode).transpose()).collect::<sqlx::Result<Vec<_>>>()?;
    let rows = sqlx::query(include_str!("sql/write_sagas.sql"))
        .bind(inserts.iter().map(|r| r.new.id.0).collect::<Vec<_>>())
        .bind(text(|n| &n.key.business_id))
        .bind(text(|n| &n.key.operation))
        .bind(text(|n| &n.key.scope))
        .bind(text(|n| &n.key.key))
        .bind(inserts.iter().map(|r| hash_of(r.new).0).collect::<Vec<_>>())
        .bind(inserts.iter().map(|r| kind_code(r.new.kind)).collect::<Vec<_>>())
        // A saga that never runs has no legs: it must not hide those of one that was lost.
        .bind(
            inserts.iter().map(|r| if r.is_over() { r.new.id.0 } else { r.new.legs_id }).collect::<Vec<_>>(),
        )
        .bind(inserts.iter().map(|r| r.new.parent_id.map(|p| p.0)).collect::<Vec<_>>())
        .bind(plans)
        .bind(inserts.iter().map(state).collect::<Vec<_>>())
        .bind(inserts.iter().map(|r| matches!(r.new.begin, Begin::Cancelled)).collect::<Vec<_>>())
        .bind(inserts.iter().map(|r| r.refusal.as_ref().map(|x| status_code(x.status))).collect::<Vec<_>>())
        .bind(inserts.iter().map(|r| r.refusal.as_ref().map(|x| &*x.body)).collect::<Vec<_>>())
        .bind(inserts.iter().map(|r| r.new.trace_id.as_deref()).collect::<Vec<_>>())
        .bind(inserts.iter().map(|r| millis(r.new.deadline)).collect::<Vec<_>>())
        .bind(
            inserts.iter().map(|r| millis(r.new.deadline).saturating_add(STUCK_AFTER_MS)).collect::<Vec<_>>(),
        )
        .bind(owner)
        .bind(inserts.iter().map(|r| D::version(&r.new.plan)).collect::<Vec<_>>())
        .bind(moves.iter().map(|m| m.id.0).collect::<Vec<_>>())
        .bind(moves.iter().map(|m| m.from.code()).collect::<Vec<_>>())
        .bind(moves.iter().map(|m| m.epoch).collect::<Vec<_>>())
        .bind(moves.iter().map(|m| m.to.code()).collect::<Vec<_>>())
        .bind(moves.iter().map(|m| m.take_over).collect::<Vec<_>>())
        .bind(moves.iter().map(|m| goes_back(m.from, m.to)).collect::<Vec<_>>())
        .bind(moves.iter().map(|m| m.cancel_key).collect::<Vec<_>>())
        .bind(causes)
        .bind(moves.iter().map(|m| m.response.as_ref().map(|r| status_code(r.status))).collect::<Vec<_>>())
        .bind(moves.iter().map(|m| m.response.as_ref().map(|r| &*r.body)).collect::<Vec<_>>())
        .bind(moves.iter().map(|m| m.due_ms).collect::<Vec<_>>())
        .bind(inserts.iter().map(|r| hash_of(r.new).1).collect::<Vec<_>>())
        .fetch_all(conn)
        .await?;
    let mut done = HashMap::with_capacity(rows.len());
    for row in rows {
        let what = match row.try_get(3)? {
            Some(answer_given) => Done::Moved { answer_given },
            None => Done::Inserted { created_at: row.try_get(1)?, deadline_at: row.try_get(2)? },
        };
        done.insert(row.try_get(0)?, what);
    }
    Ok(done)
}

/// Of its request, empty if there is none; and its version.
fn hash_of<D: Domain>(new: &NewSaga<D>) -> (&[u8], i16) {
    new.request_hash.as_ref().map_or((&[], 0), |hash| (&hash.bytes, hash.version))
}

async fn cancel_parent_keys<'a, D: Domain>(
    conn: &mut PgConnection,
    inserted: impl Iterator<Item = &'a NewSaga<D>>,
) -> sqlx::Result<()> {
    let mut parents: Vec<Uuid> =
        inserted.filter(|n| n.cancel_parent_key).filter_map(|n| n.parent_id).map(|id| id.0).collect();
    if parents.is_empty() {
        return Ok(());
    }
    parents.sort_unstable();
    sqlx::query("UPDATE saga.saga SET key_cancelled = true WHERE saga_id = ANY($1)")
        .bind(parents)
        .execute(conn)
        .await?;
    Ok(())
}

/// How long past its deadline, or past its last transition, a saga may go on without another before it is looked at: its
/// run may be stuck.
pub(crate) const STUCK_AFTER_MS: i64 = 10_000;

/// Whether a transition decides, or follows, the backward direction.
const fn goes_back(from: State, to: State) -> bool {
    matches!(from, State::Compensating) || matches!(to, State::Compensating | State::Compensated)
}

async fn record_history<D: Domain>(
    conn: &mut PgConnection,
    owner: Uuid,
    moves: &[&Move<D>],
    outcome: &HashMap<SagaId, Written>,
) -> sqlx::Result<()> {
    let moved: Vec<_> =
        moves.iter().filter(|m| matches!(outcome.get(&m.id), Some(Written::Moved { .. }))).collect();
    let events: Vec<_> = moved.iter().filter_map(|m| m.event.as_ref().map(|e| (m, e))).collect();
    if !events.is_empty() {
        let details = events.iter().map(|(_, (_, d))| encode(d)).collect::<sqlx::Result<Vec<_>>>()?;
        sqlx::query(
            "INSERT INTO saga.saga_event (saga_id, epoch, owner, event, detail)
             SELECT u.saga_id, u.epoch, $5, u.event, u.detail::jsonb
             FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[]) AS u(saga_id, epoch, event, detail)",
        )
        .bind(events.iter().map(|(m, _)| m.id.0).collect::<Vec<_>>())
        .bind(events.iter().map(|(m, _)| m.epoch + i64::from(m.take_over.is_some())).collect::<Vec<_>>())
        .bind(events.iter().map(|(_, (event, _))| (*event).to_owned()).collect::<Vec<_>>())
        .bind(details)
        .bind(owner)
        .execute(&mut *conn)
        .await?;
    }
    let dead_letters: Vec<_> =
        moved.iter().filter_map(|m| m.dead_letter.as_ref().map(|d| (m.id.0, d))).collect();
    if !dead_letters.is_empty() {
        let details =
            dead_letters.iter().map(|(_, d)| encode(&d.detail)).collect::<sqlx::Result<Vec<_>>>()?;
        sqlx::query(
            "INSERT INTO saga.dead_letter (saga_id, business_id, code, participant, detail)
             SELECT s.saga_id, s.business_id, u.code, u.participant, u.detail::jsonb
             FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) AS u(saga_id, code, participant, detail)
             JOIN saga.saga s USING (saga_id)",
        )
        .bind(dead_letters.iter().map(|(id, _)| *id).collect::<Vec<_>>())
        .bind(dead_letters.iter().map(|(_, d)| d.reason.as_str()).collect::<Vec<_>>())
        .bind(dead_letters.iter().map(|(_, d)| d.participant.clone()).collect::<Vec<_>>())
        .bind(details)
        .execute(conn)
        .await?;
    }
    Ok(())
}

/// After an unknown COMMIT: a key taken by our own id is our own insert.
async fn recognise_inserts<D: Domain>(
    conn: &mut PgConnection,
    new: &[&NewSaga<D>],
    outcome: &mut HashMap<SagaId, Written>,
) -> sqlx::Result<()> {
    let ids: Vec<Uuid> = new.iter().map(|n| n.id.0).collect();
    let rows = sqlx::query(
        // One that has moved since is somebody else's by now: the key says what became of it.
        "SELECT saga_id, created_at, deadline_at, response_status, response
         FROM saga.saga WHERE saga_id = ANY($1) AND epoch = 1 AND state IN (0, 3)",
    )
    .bind(ids)
    .fetch_all(conn)
    .await?;
    for row in rows {
        let id: SagaId = row.try_get(0)?;
        if !matches!(outcome.get(&id), Some(Written::KeyTaken | Written::Stale | Written::Withheld)) {
            continue;
        }
        let refusal = stored_response(row.try_get(3)?, row.try_get(4)?);
        let written = match refusal {
            Some(response) => Written::Refused(response),
            None => Written::Inserted { created_at: row.try_get(1)?, deadline_at: row.try_get(2)? },
        };
        outcome.insert(id, written);
    }
    Ok(())
}

/// After an unknown COMMIT: a row in the state, epoch and hands that this move leads to, its key cancelled if the move cancels it, was
/// moved by it.
async fn recognise_moves<D: Domain>(
    conn: &mut PgConnection,
    moves: &[&Move<D>],
    outcome: &mut HashMap<SagaId, Written>,
) -> sqlx::Result<()> {
    let missed: HashSet<_> =
        outcome.iter().filter(|(_, w)| **w == Written::Missed).map(|(id, _)| *id).collect();
    let ids: Vec<Uuid> = missed.iter().map(|id| id.0).collect();
    let rows = sqlx::query(
        "SELECT saga_id, state, epoch, owner, answer_given, key_cancelled FROM saga.saga WHERE saga_id = ANY($1)",
    )
    .bind(ids)
    .fetch_all(conn)
    .await?;
    for row in rows {
        let (id, state, epoch): (SagaId, i16, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let (owner, answer_given): (Option<Uuid>, bool) = (row.try_get(3)?, row.try_get(4)?);
        let key_cancelled: bool = row.try_get(5)?;
        let ours = moves.iter().any(|m| {
            m.id == id
                && m.to.code() == state
                && (key_cancelled || !m.cancel_key)
                && match m.take_over {
                    Some(me) => epoch == m.epoch + 1 && owner == Some(me),
                    None => epoch == m.epoch,
                }
        });
        if ours {
            outcome.insert(id, Written::Moved { answer_given });
        }
    }
    Ok(())
}

pub(crate) fn stored_response(status: Option<i16>, body: Option<Vec<u8>>) -> Option<Response> {
    let status = u16::try_from(status?).ok()?;
    Some(Response { status, body: body? })
}

pub(crate) const fn kind_code(kind: Kind) -> i16 {
    match kind {
        Kind::Compensable => 0,
        Kind::ForwardOnly => 1,
    }
}

/// As JSON that the database can store: it has no U+0000, which a participant's answer might.
fn encode(value: &(impl serde::Serialize + ?Sized)) -> sqlx::Result<String> {
    let json = serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    Ok(if json.contains(ESCAPED_NUL) { without_nul(&json) } else { json })
}

/// How JSON writes U+0000, unless the backslash is itself escaped.
const ESCAPED_NUL: &str = "\\u0000";

/// The same JSON with U+FFFD in the place of U+0000.
fn without_nul(json: &str) -> String {
    let mut clean = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        // An escape is the backslash and at least one character more.
        let end = at + if rest[at..].starts_with(ESCAPED_NUL) { ESCAPED_NUL.len() } else { 2 };
        clean.push_str(&rest[..at]);
        clean.push_str(if end - at == 2 { &rest[at..end] } else { "\\ufffd" });
        rest = &rest[end..];
    }
    clean.push_str(rest);
    clean
}

fn status_code(status: u16) -> i16 {
    i16::try_from(status).expect("an HTTP status has three digits")
}

fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_as_json_has_no_nul() {
        for (text, stored) in [
            ("plain", r#""plain""#),
            ("a\u{0}b", r#""a\ufffdb""#),
            ("\u{0}\u{0}", r#""\ufffd\ufffd""#),
            (r"\u0000", r#""\\u0000""#),
            ("\\\u{0}", r#""\\\ufffd""#),
        ] {
            assert_eq!(encode(text).expect("JSON"), stored);
        }
    }
}
