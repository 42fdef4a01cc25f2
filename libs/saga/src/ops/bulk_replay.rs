//! Replaying many dead letters: what such a replay is, and how far it is.
//!
//! Its members are fixed when it is made, in one transaction, so that whatever happens later the same operation id always
//! means the same dead letters. A saga that parks again gets a new dead letter, which is no member.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{PgConnection, QueryBuilder, Row};
use uuid::Uuid;

use super::{
    actions::{self, NewAction},
    dead_letters::{DeadLetterFilter, push_matching},
};
use crate::{
    domain::{Domain, RequestHash},
    engine::Engine,
    row,
};

/// Most dead letters that one replay has.
pub const MEMBERS_MAX: i64 = 10_000;
/// Ids that a preview names.
const SAMPLE: i64 = 20;
/// The name in the list of actions.
const ACTION: &str = "bulk_replay";

/// An operator's order to replay many.
#[derive(Debug, Clone)]
pub struct BulkReplayCommand {
    /// The tenant of the operator.
    pub business_id: String,
    /// Who.
    pub actor: String,
    /// Makes the order idempotent.
    pub operation_id: String,
    /// Why.
    pub reason: String,
    /// Of the order, to tell a repetition from a reuse of the operation id.
    pub request_hash: RequestHash,
    /// Which.
    pub filter: DeadLetterFilter,
    /// The filter as it was asked for, to be shown.
    pub filter_shown: Value,
    /// Dead letters a second, at most: 1 to 500.
    pub rate: i32,
}

/// What a replay would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BulkPreview {
    /// How many match.
    pub matched: i64,
    /// How many of them by code.
    pub by_code: Vec<(String, i64)>,
    /// How many of them by the participant that stands in the way.
    pub by_participant: Vec<(Option<String>, i64)>,
    /// The oldest of them.
    pub sample: Vec<Uuid>,
}

/// A replay of many, as it stands.
#[derive(Debug, Clone)]
pub struct BulkReplay {
    /// The operator's own name for it.
    pub operation_id: String,
    /// Which dead letters were asked for.
    pub filter: Value,
    /// Dead letters a second, at most.
    pub rate: i32,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// How many it has.
    pub matched: i64,
    /// Whether more matched than one replay may have.
    pub truncated: bool,
    /// How many were taken up again.
    pub replayed: i64,
    /// How many somebody else had dealt with before.
    pub already_closed: i64,
    /// How many could not be taken up again.
    pub refused: i64,
    /// Why the first of those could not be: (dead letter, reason).
    pub refusals: Vec<(Uuid, String)>,
    /// When it was made.
    pub started_at: DateTime<Utc>,
    /// When its last member was dealt with.
    pub finished_at: Option<DateTime<Utc>>,
}

impl BulkReplay {
    /// How many members wait for their turn.
    #[must_use]
    pub const fn remaining(&self) -> i64 {
        self.matched - self.replayed - self.already_closed - self.refused
    }
}

/// What came of an order to replay many.
#[derive(Debug, Clone)]
pub enum BulkFiled {
    /// It was written now.
    Started(BulkReplay),
    /// It was written before, under the same operation id.
    Known(BulkReplay),
    /// The operation id was used for something else.
    Reused,
    /// Whether it is the order that is stored cannot be said.
    NotJudged,
}

impl<D: Domain> Engine<D> {
    /// Writes a replay of many down, for a process to carry out. `is_same`: whether the order is the one whose hash is
    /// stored under its operation id, if that can be said.
    ///
    /// # Errors
    /// Of the database; at COMMIT it may have been written, and the same order again tells.
    pub async fn file_bulk_replay(
        &self,
        command: &BulkReplayCommand,
        is_same: impl Fn(RequestHash) -> Option<bool> + Send,
    ) -> sqlx::Result<BulkFiled> {
        let mut tx = self.ops_pool.begin().await?;
        let is_used =
            actions::was_done(&mut tx, &command.business_id, &command.operation_id, None).await?.is_some();
        let matched = if is_used { None } else { insert(&mut tx, command).await? };
        let filed = match matched {
            Some(matched) => {
                record(&mut tx, command, true, json!({ "matched": matched })).await?;
                BulkFiled::Started(show(&mut tx, &command.business_id, &command.operation_id).await?)
            }
            None => known(&mut tx, command, is_same).await?,
        };
        tx.commit().await?;
        Ok(filed)
    }

    /// Says what a replay would do; writes nothing.
    ///
    /// # Errors
    /// Of the database.
    pub async fn preview_bulk_replay(
        &self,
        business_id: &str,
        filter: &DeadLetterFilter,
    ) -> sqlx::Result<BulkPreview> {
        let mut counts = QueryBuilder::new("SELECT d.code, d.participant, count(*)");
        push_matching(&mut counts, business_id, filter);
        counts.push(" GROUP BY d.code, d.participant ORDER BY d.code, d.participant");
        let counts: Vec<(String, Option<String>, i64)> =
            counts.build_query_as().fetch_all(&self.ops_pool).await?;
        let mut sample = QueryBuilder::new("SELECT d.dead_letter_id");
        push_matching(&mut sample, business_id, filter);
        sample.push(" ORDER BY d.opened_at, d.dead_letter_id LIMIT ").push_bind(SAMPLE);
        let sample = sample.build_query_scalar().fetch_all(&self.ops_pool).await?;
        Ok(BulkPreview {
            matched: counts.iter().map(|(_, _, count)| count).sum(),
            by_code: sums(counts.iter().map(|(code, _, count)| (code.clone(), *count))),
            by_participant: sums(counts.iter().map(|(_, participant, count)| (participant.clone(), *count))),
            sample,
        })
    }

    /// A replay of many, as it stands.
    ///
    /// # Errors
    /// Of the database.
    pub async fn show_bulk_replay(
        &self,
        business_id: &str,
        operation_id: &str,
    ) -> sqlx::Result<Option<BulkReplay>> {
        let mut connection = self.ops_pool.acquire().await?;
        match show(&mut connection, business_id, operation_id).await {
            Ok(bulk) => Ok(Some(bulk)),
            Err(sqlx::Error::RowNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn sums<K: Ord>(counts: impl Iterator<Item = (K, i64)>) -> Vec<(K, i64)> {
    let mut sums = std::collections::BTreeMap::new();
    for (key, count) in counts {
        *sums.entry(key).or_default() += count;
    }
    sums.into_iter().collect()
}

/// Writes a replay and its members in one statement; how many it has, unless the operation id was used before. Waits for
/// another order under it to be decided.
async fn insert(tx: &mut PgConnection, command: &BulkReplayCommand) -> sqlx::Result<Option<i64>> {
    let mut sql = QueryBuilder::new(
        "WITH member AS (
             SELECT d.dead_letter_id, row_number() OVER (ORDER BY d.opened_at, d.dead_letter_id) AS position",
    );
    push_matching(&mut sql, &command.business_id, &command.filter);
    sql.push(" ORDER BY d.opened_at, d.dead_letter_id LIMIT ").push(MEMBERS_MAX + 1);
    sql.push(
        "), replay AS (
             INSERT INTO saga.bulk_replay (business_id, operation_id, request_hash, filter, rate, actor, reason,
                 matched, truncated, finished_at, hash_version)
             SELECT ",
    );
    sql.push_bind(&command.business_id).push(", ").push_bind(&command.operation_id);
    sql.push(", ").push_bind(&command.request_hash.bytes[..]).push(", ").push_bind(&command.filter_shown);
    sql.push(", ").push_bind(command.rate).push(", ").push_bind(&command.actor);
    sql.push(", ").push_bind(&command.reason);
    sql.push(format_args!(
        ", least(count(*), {MEMBERS_MAX}), count(*) > {MEMBERS_MAX}, CASE WHEN count(*) = 0 THEN clock_timestamp() END, ",
    ));
    sql.push_bind(command.request_hash.version);
    sql.push(format_args!(
        "
             FROM member
             ON CONFLICT ON CONSTRAINT bulk_replay_once DO NOTHING RETURNING bulk_id, matched
         ), fixed AS (
             INSERT INTO saga.bulk_replay_item (bulk_id, dead_letter_id, position)
             SELECT replay.bulk_id, member.dead_letter_id, member.position
             FROM replay, member WHERE member.position <= {MEMBERS_MAX}
         )
         SELECT matched FROM replay"
    ));
    sql.build_query_scalar().fetch_optional(tx).await
}

/// What is stored under an operation id that was used before.
async fn known(
    tx: &mut PgConnection,
    command: &BulkReplayCommand,
    is_same: impl Fn(RequestHash) -> Option<bool>,
) -> sqlx::Result<BulkFiled> {
    let stored = sqlx::query(
        "SELECT request_hash, hash_version FROM saga.bulk_replay WHERE business_id = $1 AND operation_id = $2",
    )
    .bind(&command.business_id)
    .bind(&command.operation_id)
    .fetch_optional(&mut *tx)
    .await?;
    let hash = stored.as_ref().map(row::request_hash).transpose()?.flatten();
    match hash.map_or(Some(false), is_same) {
        Some(true) => {
            return Ok(BulkFiled::Known(show(tx, &command.business_id, &command.operation_id).await?));
        }
        Some(false) => {}
        None => return Ok(BulkFiled::NotJudged),
    }
    record(tx, command, false, json!({ "refused": "operation_id_reused" })).await?;
    Ok(BulkFiled::Reused)
}

async fn record(
    tx: &mut PgConnection,
    command: &BulkReplayCommand,
    accepted: bool,
    after: Value,
) -> sqlx::Result<()> {
    let action = NewAction {
        business_id: &command.business_id,
        operation_id: &command.operation_id,
        actor: &command.actor,
        action: ACTION,
        dead_letter_id: None,
        saga_id: None,
        participant: None,
        reason: &command.reason,
        reference: None,
        accepted,
        before: json!({ "filter": command.filter_shown }),
        after,
    };
    actions::record(tx, &action).await
}

async fn show(conn: &mut PgConnection, business_id: &str, operation_id: &str) -> sqlx::Result<BulkReplay> {
    let row = sqlx::query(
        "SELECT b.bulk_id, b.operation_id, b.filter, b.rate, b.actor, b.reason, b.matched, b.truncated, b.started_at,
             b.finished_at, count(*) FILTER (WHERE i.outcome = 'replayed') AS replayed,
             count(*) FILTER (WHERE i.outcome = 'already_closed') AS already_closed,
             count(*) FILTER (WHERE i.outcome = 'refused') AS refused
         FROM saga.bulk_replay b LEFT JOIN saga.bulk_replay_item i USING (bulk_id)
         WHERE b.business_id = $1 AND b.operation_id = $2 GROUP BY b.bulk_id",
    )
    .bind(business_id)
    .bind(operation_id)
    .fetch_one(&mut *conn)
    .await?;
    let refusals = sqlx::query_as(
        "SELECT dead_letter_id, detail FROM saga.bulk_replay_item
         WHERE bulk_id = $1 AND outcome = 'refused' ORDER BY position LIMIT $2",
    )
    .bind(row.try_get::<i64, _>("bulk_id")?)
    .bind(SAMPLE)
    .fetch_all(conn)
    .await?;
    Ok(BulkReplay {
        operation_id: row.try_get("operation_id")?,
        filter: row.try_get("filter")?,
        rate: row.try_get("rate")?,
        actor: row.try_get("actor")?,
        reason: row.try_get("reason")?,
        matched: row.try_get("matched")?,
        truncated: row.try_get("truncated")?,
        replayed: row.try_get("replayed")?,
        already_closed: row.try_get("already_closed")?,
        refused: row.try_get("refused")?,
        refusals,
        started_at: row.try_get("started_at")?,
        finished_at: row.try_get("finished_at")?,
    })
}
