//! Views of a database while everything goes on: each is one statement, and so one moment, past the proxies.

use std::time::{Duration, Instant};

use checker::format::Snapshot;
use schema::Database;
use serde_json::Value;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::time::{sleep, timeout};

use crate::evidence::Evidence;

/// From one view to the next.
const EVERY: Duration = Duration::from_millis(250);
/// A view that takes longer is given up: Postgres is down, or stopped.
const LIMIT: Duration = Duration::from_secs(2);
/// A view is followed by a pause of so many times what it took, so that a long history does not slow what is looked at.
const REST: u32 = 4;

/// Sums over everything, and the accounts of customers whose names begin with `$1`.
const LEDGER: &str = "
    SELECT jsonb_build_object(
        'totals', (SELECT coalesce(jsonb_agg(t), '[]') FROM (
            SELECT business_id, asset, coalesce(posted, 0) AS posted, coalesce(lots, 0) AS lots,
                   coalesce(entries, 0) AS entries, coalesce(contra, 0) AS contra
            FROM (SELECT business_id, asset, sum(posted)::bigint AS posted FROM tender.account GROUP BY 1, 2) a
            FULL JOIN (SELECT business_id, asset, sum(remaining + l.held)::bigint AS lots
                       FROM tender.lot l JOIN tender.account USING (account_no) GROUP BY 1, 2) l USING (business_id, asset)
            FULL JOIN (SELECT business_id, asset, sum(amount) FILTER (WHERE contra IS NULL)::bigint AS entries,
                              sum(amount) FILTER (WHERE contra IS NOT NULL)::bigint AS contra
                       FROM tender.entry GROUP BY 1, 2) e USING (business_id, asset)) t),
        'accounts', (SELECT coalesce(jsonb_agg(t), '[]') FROM (
            SELECT business_id, owner, posted, version,
                   (SELECT coalesce(sum(amount), 0)::bigint FROM tender.entry e WHERE e.account_no = a.account_no) AS entries,
                   (SELECT coalesce(sum(remaining + held), 0)::bigint FROM tender.lot l WHERE l.account_no = a.account_no) AS lots
            FROM tender.account a WHERE starts_with(owner, $1)) t))";

/// Sagas that are not over. `$1` is not asked for.
const SAGAS: &str = "
    SELECT jsonb_build_object('sagas', coalesce(jsonb_agg(t), '[]')) FROM (
        SELECT saga_id, state, epoch, (extract(epoch FROM clock_timestamp() - beat_at) * 1000)::bigint AS beat_ago_ms
        FROM saga.saga LEFT JOIN saga.process ON process_id = owner WHERE state IN (0, 1, 4) AND $1 IS NOT NULL) t";

/// Looks at one database again and again.
pub(crate) struct Observer {
    database: Database,
    options: PgConnectOptions,
    /// The customers that are watched have names that begin with this.
    customers: String,
    evidence: Evidence,
}

impl Observer {
    pub(crate) fn new(database: Database, options: PgConnectOptions, tag: &str, evidence: Evidence) -> Self {
        Self { database, options: options.application_name("chaos"), customers: format!("{tag}-"), evidence }
    }

    /// Looks until dropped.
    pub(crate) async fn run(&self) {
        loop {
            if let Ok(Ok(mut connection)) = timeout(LIMIT, PgConnection::connect_with(&self.options)).await {
                while let Some(took) = self.look(&mut connection).await {
                    sleep(EVERY.max(took * REST)).await;
                }
            }
            sleep(EVERY).await;
        }
    }

    /// One view; how long it took, or `None` if there was none.
    pub(crate) async fn look(&self, connection: &mut PgConnection) -> Option<Duration> {
        let query = if self.database == Database::Wallet { SAGAS } else { LEDGER };
        let (begun, from) = (Instant::now(), self.evidence.now());
        let looking = sqlx::query_scalar::<_, Value>(query).bind(&self.customers).fetch_one(connection);
        let mut seen = timeout(LIMIT, looking).await.ok()?.ok()?;
        seen["from"] = from.into();
        seen["until"] = self.evidence.now().into();
        seen["database"] = self.database.name().into();
        let snapshot: Snapshot = serde_json::from_value(seen).expect("a snapshot");
        self.evidence.snapshot(&snapshot);
        Some(begun.elapsed())
    }
}
