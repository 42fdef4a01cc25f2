//! What a process says of itself with each heartbeat: that it lives, and under which keys its inserts may still come.

use std::time::{Duration, Instant};

use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

use crate::{
    lease::Lease,
    machine::Millis,
    pending::{NAMED_AFTER, PendingKeys},
};

/// Pending keys are named only in a beat that the database takes within this time after they were gathered. A beat that was held up
/// on its way says that it cannot name them.
pub(crate) const NAMED_WITHIN: Duration = Duration::from_millis(100);

/// The connection that heartbeats go over: its own, so that no other wait can delay them.
pub(crate) struct Heartbeat {
    pub options: PgConnectOptions,
    pub process: Uuid,
    pub name: String,
    pub connection: Option<PgConnection>,
    /// The database's time in its last answer, and when that came.
    pub answered: Option<(Millis, Instant)>,
}

impl Heartbeat {
    /// Beats once, within `limit`, and names the keys whose inserts may still come.
    pub(crate) async fn beat(
        &mut self,
        lease: &Lease,
        pending: &PendingKeys,
        limit: Duration,
    ) -> Result<(), sqlx::Error> {
        let sent = lease.local();
        match tokio::time::timeout(limit, self.write(pending)).await {
            Ok(Ok((connection, database_now))) => {
                self.connection = Some(connection);
                self.answered = Some((database_now, Instant::now()));
                lease.renewed(sent, database_now);
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        }
    }

    /// The connection is kept only if the beat went through.
    async fn write(&mut self, pending: &PendingKeys) -> sqlx::Result<(PgConnection, Millis)> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.options.connect().await?,
        };
        // By the database's clock it is this time at least. Before the first answer no insert is sent that could be named.
        let gathered = self.answered.map(|(at, since)| at + millis(since.elapsed()));
        let now: i64 = sqlx::query_scalar(
            "INSERT INTO saga.process (process_id, name, beat_at, pending_keys)
             SELECT $1, $2, now.at,
                 CASE WHEN $3::text[] IS NOT NULL
                     AND ($4::bigint IS NULL OR abs(extract(epoch FROM now.at) * 1000 - $4) <= $5)
                 THEN ARRAY(SELECT hashtextextended(pending, 0) FROM unnest($3::text[]) AS pending) END
             FROM (SELECT clock_timestamp() AS at OFFSET 0) AS now
             ON CONFLICT (process_id) DO UPDATE SET beat_at = excluded.beat_at, pending_keys = excluded.pending_keys
             RETURNING (extract(epoch FROM clock_timestamp()) * 1000)::bigint",
        )
        .bind(self.process)
        .bind(&self.name)
        .bind(pending.older_than(NAMED_AFTER))
        .bind(gathered)
        .bind(millis(NAMED_WITHIN))
        .fetch_one(&mut connection)
        .await?;
        Ok((connection, now))
    }
}

fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX / 4)
}
