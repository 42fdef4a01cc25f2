//! Ends holds that ran out, and carries out reversals that were asked for while a redemption was being moved.
//!
//! Many are tried at the same time: a redemption whose row is locked costs the store's whole patience. What is due is walked through
//! from end to end, again and again, so that however much of it cannot be reversed now, everything else has its turn.

use std::{collections::HashSet, time::Duration};

use api::wallet::{RedemptionStatus, TenderKind};
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream::FuturesUnordered};
use metrics::counter;
use saga::Submitted;
use sqlx::{Postgres, QueryBuilder, Row, postgres::PgRow};
use tokio::time::{Instant, MissedTickBehavior, interval};
use uuid::Uuid;

use crate::{
    app::App,
    plan::{ReversalReason, VERSIONS},
    reversal::{read, reversible, saga},
};

/// How often redemptions that are due are looked for.
const LOOK: Duration = Duration::from_millis(250);
/// Most redemptions whose reversals are being written at the same time.
const AT_ONCE: usize = 64;
/// From the end of a walk to the next: what could not be reversed is not tried again at once.
const REST: Duration = Duration::from_secs(1);

/// Reverses what is held past its end by this database's clock, and what was asked back while it was being captured.
/// Any instance may; one wins.
pub async fn sweep(app: App) {
    let (mut under_way, mut work) = (HashSet::new(), FuturesUnordered::new());
    let mut walks = [Walk::new(Due::AskedBack), Walk::new(Due::HoldEnded)];
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(id) = work.next() => {
                under_way.remove(&id);
            }
            _ = looks.tick() => {
                for walk in &mut walks {
                    let passed_over: Vec<Uuid> = under_way.iter().copied().collect();
                    for (id, row) in walk.look(&app, &passed_over, AT_ONCE - under_way.len()).await {
                        under_way.insert(id);
                        work.push(reverse(app.clone(), id, row));
                    }
                }
                // The other one has the first choice next time.
                walks.reverse();
            }
        }
    }
}

/// Why a redemption is due.
#[derive(Debug, Clone, Copy)]
enum Due {
    /// Its reversal was asked for.
    AskedBack,
    /// Its hold has ended.
    HoldEnded,
}

/// Goes through all that is due for one reason, again and again.
struct Walk {
    due: Due,
    /// The redemption at which the last look ended, with the end of its hold.
    place: Option<(Option<DateTime<Utc>>, Uuid)>,
    /// When it is gone through again after its end.
    again: Instant,
}

impl Walk {
    fn new(due: Due) -> Self {
        Self { due, place: None, again: Instant::now() }
    }

    /// The next redemptions, at most as many as there is `room` for, and none that is `passed_over`.
    async fn look(&mut self, app: &App, passed_over: &[Uuid], room: usize) -> Vec<(Uuid, PgRow)> {
        if room == 0 || !app.engine.is_ready() || Instant::now() < self.again {
            return Vec::new();
        }
        let away: Vec<&str> = TenderKind::ALL
            .iter()
            .map(|kind| kind.as_str())
            .filter(|name| app.engine.is_unreachable(name))
            .collect();
        let mut sql = self.sql(&away, passed_over, room);
        let found = async {
            let rows = sql.build().fetch_all(&app.background_pool).await?;
            let ids =
                rows.iter().map(|row| Ok((row.try_get("hold_expires_at")?, row.try_get("redemption_id")?)));
            Ok((ids.collect::<sqlx::Result<Vec<_>>>()?, rows))
        };
        match saga::in_time(found).await {
            Ok((places, rows)) => {
                self.place = places.last().copied().filter(|_| rows.len() == room);
                if self.place.is_none() {
                    self.again = Instant::now() + REST;
                }
                places.into_iter().map(|(_, id)| id).zip(rows).collect()
            }
            Err(error) => {
                tracing::warn!(%error, "could not look for redemptions that are due to be reversed");
                Vec::new()
            }
        }
    }

    /// Each reason has an index of its own, which is read from the place on. None is found that needs a tender which is `away`, since its
    /// saga would only wait in memory, where a long outage would gather all of them. What a newer release has planned is that release's
    /// to sweep, and must not fill the page.
    fn sql(&self, away: &[&str], passed_over: &[Uuid], room: usize) -> QueryBuilder<Postgres> {
        let mut sql = QueryBuilder::new(concat!(reversible!(), "WHERE s.version = ANY ("));
        sql.push_bind(VERSIONS)
            .push(") AND r.redemption_id <> ALL (")
            .push_bind(passed_over.to_vec())
            .push(")");
        if !away.is_empty() {
            sql.push(" AND NOT EXISTS (SELECT FROM jsonb_array_elements(s.plan -> 'legs') AS l WHERE l ->> 'tender' = ANY (");
            sql.push_bind(away.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).push("))");
        }
        match self.due {
            Due::AskedBack => {
                sql.push(" AND r.cancel_requested AND r.status IN ('authorized', 'completed', 'partially_refunded')");
                if let Some((_, id)) = self.place {
                    sql.push(" AND r.redemption_id > ").push_bind(id);
                }
                sql.push(" ORDER BY r.redemption_id");
            }
            Due::HoldEnded => {
                sql.push(" AND r.status = 'authorized' AND r.hold_expires_at < statement_timestamp()");
                if let Some((end, id)) = self.place {
                    sql.push(" AND (r.hold_expires_at, r.redemption_id) > (").push_bind(end).push(", ");
                    sql.push_bind(id).push(")");
                }
                sql.push(" ORDER BY r.hold_expires_at, r.redemption_id");
            }
        }
        sql.push(" LIMIT ").push_bind(i64::try_from(room).unwrap_or(i64::MAX));
        sql
    }
}

async fn reverse(app: App, id: Uuid, row: PgRow) -> Uuid {
    let redemption = match read(&row) {
        Ok(redemption) => redemption,
        Err(error) => {
            tracing::error!(redemption_id = %id, %error, "a redemption that is due to be reversed cannot be read");
            return id;
        }
    };
    if redemption.is_short_of_room(&app.engine) {
        return id;
    }
    let (reason, why) = match (redemption.is_cancelled, redemption.status) {
        (true, RedemptionStatus::Authorized) => (ReversalReason::Void, "requested"),
        (true, _) => (ReversalReason::Reversal, "requested"),
        (false, _) => (ReversalReason::HoldExpired, "hold_expired"),
    };
    let Some(saga) = saga(&redemption, reason) else {
        tracing::error!(redemption_id = %id, "a redemption in force without legs; it is left as it is");
        return id;
    };
    match app.engine.submit(saga).await {
        Ok(Submitted::Running) => counter!("wallet_swept_total", "why" => why).increment(1),
        // Another instance was first, or it has moved meanwhile.
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(redemption_id = %id, %error, "a redemption that is due could not be reversed now");
        }
    }
    id
}
