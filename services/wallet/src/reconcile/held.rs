//! Legs that are held past their end.
//!
//! The wallet alone ends a hold: by a capture, a void, or when it expires by the wallet's own clock. A tender is told a later end
//! (`HOLD_MARGIN_S`), which only means: by now, whatever the wallet meant to do with this leg is done. So each minute the tenders are
//! asked which legs they hold past that end, and every one is judged by the sagas that know it ([`judge`]):
//!
//! | sagas of the leg | redemption | what becomes of the hold |
//! |---|---|---|
//! | none | – | given back |
//! | one that runs, or is a dead letter | any | left to it, or to the operator |
//! | all over | authorized, or being moved | left: the wallet's own sweep ends it |
//! | all over | declined, voided, expired, reversed, refunded | given back: its tender has forgotten that it was |
//! | all over | completed, settled by hand, or lost | parked for an operator, whose replay gives it back |
//!
//! **Why a lost hold goes back.** With its saga lost, a capture of it would have answered 404, and a capture that was lost as well
//! cannot have been told as done: a capture is answered after every leg is captured, and a captured leg is not held any more. So
//! nobody was told that this value was taken. Captures, voids and returns name the redemption's legs in their plans; where only one
//! of those is left, it may have been told as done, so that an operator looks at the leg.
//!
//! **How it goes back.** A leg without a saga is parked like any orphan, and that dead letter replayed at once: from then on no
//! redeem can be written for its legs, a redeem that was written first stops the replay, the cancel is retried, and a dead letter
//! in its turn if it fails, and who did it is on record. A leg whose sagas are over is cancelled directly: none of them sends a
//! forward any more.

use std::{collections::HashMap, time::Duration};

use api::{
    legs::{HoldPastEnd, LegAction, LegCommand},
    wallet::{RedemptionStatus as Status, TenderKind},
};
use metrics::counter;
use saga::{
    in_time,
    ops::{ActionOutcome, DeadLetterAction, OperatorCommand},
};
use sqlx::{PgPool, Row};
use uuid::Uuid;

use super::{Leg, PAGE};
use crate::{app::App, redemption::status::read_status};

/// Most pages of one pass; the next goes on where this one ended.
const PAGES_MAX: usize = 50;
/// Longest wait for one cancel.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// Under whose name the record of operators' actions has what is given back here.
const ACTOR: &str = "wallet";
/// Why, in that record.
const REASON: &str = "The hold has ended, and its saga is lost: nobody was told that it was captured.";

/// Ends lost holds for ever, each tender at its own pace. Any number of processes may: a leg goes back once.
pub async fn end_lost_holds(app: App, every: Duration) {
    let tenders = TenderKind::ALL.map(|kind| end_lost_holds_of(&app, kind, every));
    futures_util::future::join_all(tenders).await;
}

async fn end_lost_holds_of(app: &App, kind: TenderKind, every: Duration) {
    let mut cursor = None;
    loop {
        tokio::time::sleep(every).await;
        cursor = pass(app, kind, cursor).await.unwrap_or_else(|error| {
            let error = format!("{error:#}");
            tracing::warn!(tender = kind.as_str(), error, "could not look for holds past their end");
            None
        });
    }
}

/// Where the next pass goes on; from the beginning if this one came to the end.
async fn pass(app: &App, kind: TenderKind, mut cursor: Option<String>) -> anyhow::Result<Option<String>> {
    for _ in 0..PAGES_MAX {
        let page = app.tenders.get(kind).holds_past_end(cursor.as_deref(), PAGE).await?;
        let outlived = outlived(app, &page.data).await?;
        if !outlived.is_empty() {
            // Between the two reads a capture may have been planned and carried out: a hold has outlived its sagas only if it is
            // held after they were read.
            let again = app.tenders.get(kind).holds_past_end(cursor.as_deref(), PAGE).await?;
            for (hold, verdict) in outlived.into_iter().filter(|(hold, _)| again.data.contains(hold)) {
                let leg = Leg { tender: kind, key: hold.key, account: &hold.account };
                // One leg that cannot be ended now does not keep the others.
                if let Err(error) = carry_out(app, &leg, hold, verdict).await {
                    let error = format!("{error:#}");
                    tracing::warn!(leg = leg.name(), error, "a hold past its end stays for now");
                }
            }
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(None);
        }
    }
    Ok(cursor)
}

/// Those of the holds that nobody else ends, by the sagas as they stand now.
async fn outlived<'a>(
    app: &App,
    holds: &'a [HoldPastEnd],
) -> anyhow::Result<Vec<(&'a HoldPastEnd, Verdict)>> {
    let mut ids: Vec<Uuid> = holds.iter().map(|hold| hold.key.legs_id.0).collect();
    ids.sort_unstable();
    ids.dedup();
    let known = in_time(known(&app.background_pool, &ids)).await?;
    let judged =
        holds.iter().map(|hold| (hold, judge(known.get(&hold.key.legs_id.0).map_or(&[], Vec::as_slice))));
    Ok(judged.filter(|(_, verdict)| *verdict != Verdict::Leave).collect())
}

/// A saga that knows a leg.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// It runs, goes back, or is a dead letter.
    is_open: bool,
    /// Where its redemption stands, unless that is lost.
    redemption: Option<Status>,
}

/// What becomes of a hold past its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Somebody else ends it.
    Leave,
    /// It goes back by way of a dead letter: no saga knows it.
    GiveBackOrphan,
    /// It goes back at once.
    GiveBack,
    /// An operator must look.
    Park,
}

fn judge(sagas: &[Known]) -> Verdict {
    if sagas.iter().any(|saga| saga.is_open) {
        return Verdict::Leave;
    }
    let Some(saga) = sagas.first() else { return Verdict::GiveBackOrphan };
    match saga.redemption {
        Some(
            Status::Authorized
            | Status::Pending
            | Status::Capturing
            | Status::Reversing
            | Status::UnderReview,
        ) => Verdict::Leave,
        Some(Status::Declined | Status::Voided | Status::Expired | Status::Reversed | Status::Refunded) => {
            Verdict::GiveBack
        }
        Some(Status::Completed | Status::PartiallyRefunded | Status::Resolved) | None => Verdict::Park,
    }
}

async fn carry_out(app: &App, leg: &Leg<'_>, hold: &HoldPastEnd, verdict: Verdict) -> anyhow::Result<()> {
    let is_done = match verdict {
        Verdict::Leave => return Ok(()),
        Verdict::GiveBackOrphan => {
            leg.park(app, false, hold).await?;
            replay(app, leg).await?
        }
        Verdict::GiveBack => {
            cancel(app, leg).await?;
            true
        }
        Verdict::Park => leg.park(app, true, hold).await?,
    };
    if is_done {
        let done = if verdict == Verdict::Park { "parked" } else { "given_back" };
        counter!("wallet_lost_holds_total", "tender" => leg.tender.as_str(), "done" => done).increment(1);
        tracing::error!(leg = leg.name(), done, "a hold had outlived its saga");
    }
    Ok(())
}

/// Replays the dead letter of a leg that was parked for its lack of a saga; false if it is replayed, settled by hand, or a dead
/// letter for another reason by now.
async fn replay(app: &App, leg: &Leg<'_>) -> anyhow::Result<bool> {
    let name = leg.name();
    let Some(dead_letter) = in_time(orphan_dead_letter(&app.background_pool, leg.business(), &name)).await?
    else {
        return Ok(false);
    };
    let command = OperatorCommand {
        business_id: leg.business().to_owned(),
        actor: ACTOR.to_owned(),
        operation_id: format!("hold-ended {name}"),
        reason: REASON.to_owned(),
        reference: None,
        dry_run: false,
    };
    Ok(matches!(
        in_time(app.engine.act_on_dead_letter(dead_letter, DeadLetterAction::Replay, command)).await?,
        ActionOutcome::Done { .. }
    ))
}

/// The open dead letter of a parked leg, while it is only that.
async fn orphan_dead_letter(pool: &PgPool, business: &str, name: &str) -> sqlx::Result<Option<Uuid>> {
    sqlx::query_scalar(
        "SELECT d.dead_letter_id FROM saga.saga s JOIN saga.dead_letter d USING (saga_id)
         WHERE s.business_id = $1 AND s.key = $2 AND s.operation = 'orphan' AND s.scope = ''
           AND d.closed_at IS NULL AND d.code = 'orphan_leg'",
    )
    .bind(business)
    .bind(name)
    .fetch_optional(pool)
    .await
}

async fn cancel(app: &App, leg: &Leg<'_>) -> anyhow::Result<()> {
    let command = LegCommand {
        legs_id: leg.key.legs_id,
        leg: leg.key.leg,
        account: leg.account.clone(),
        action: LegAction::Cancel,
        epoch: None,
        trace: None,
        sent_at: None,
    };
    tokio::time::timeout(CANCEL_TIMEOUT, app.tenders.get(leg.tender).command(command)).await??;
    Ok(())
}

/// The sagas that know these legs: the one to which they belong, and those whose plan takes them further. What stands for orphans is
/// none of them.
async fn known(pool: &PgPool, legs: &[Uuid]) -> sqlx::Result<HashMap<Uuid, Vec<Known>>> {
    // Each half in the words of an index: `saga_legs_once`, and `saga_takes_further`.
    let rows = sqlx::query(
        "SELECT u.legs_id, s.state IN (0, 1, 4), r.status
         FROM unnest($1::uuid[]) AS u(legs_id)
         CROSS JOIN LATERAL (
             (SELECT state, saga_id AS subject, operation FROM saga.saga
              WHERE legs_id = u.legs_id AND operation <> 'orphan' OFFSET 0)
             UNION ALL
             (SELECT state, parent_id, operation FROM saga.saga
              WHERE plan ->> 'of' = u.legs_id::text AND kind = 1 OFFSET 0)
         ) AS s
         LEFT JOIN LATERAL (
             SELECT status FROM wallet.redemption WHERE redemption_id = s.subject OFFSET 0
         ) AS r ON true
         WHERE s.operation <> 'taken_back'",
    )
    .bind(legs)
    .fetch_all(pool)
    .await?;
    let mut known: HashMap<Uuid, Vec<Known>> = HashMap::new();
    for row in rows {
        let status: Option<String> = row.try_get(2)?;
        let redemption = status.as_deref().map(read_status).transpose()?;
        known.entry(row.try_get(0)?).or_default().push(Known { is_open: row.try_get(1)?, redemption });
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_is_ended_by_what_knows_it_and_given_back_where_nothing_does() {
        let over = |redemption| Known { is_open: false, redemption };
        let open = Known { is_open: true, redemption: Some(Status::Capturing) };
        assert_eq!(judge(&[]), Verdict::GiveBackOrphan);
        assert_eq!(judge(&[over(Some(Status::Completed)), open]), Verdict::Leave, "a capture is on its way");
        assert_eq!(judge(&[over(None)]), Verdict::Park, "a capture is known, and its redeem is lost");
        for status in Status::ALL {
            let wanted = match status {
                Status::Declined | Status::Voided | Status::Expired | Status::Reversed | Status::Refunded => {
                    Verdict::GiveBack
                }
                Status::Completed | Status::PartiallyRefunded | Status::Resolved => Verdict::Park,
                _ => Verdict::Leave,
            };
            assert_eq!(judge(&[over(Some(status))]), wanted, "{status:?}");
        }
    }
}
