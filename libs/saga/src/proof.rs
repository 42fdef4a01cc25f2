//! The proof that a key was not used and never will be by a call that came before.
//!
//! Who is told "nothing was done" takes the card. So no earlier call under the key, whose caller has left, may still insert it:
//! not from the memory of this process or another, and not by a transaction that the server is still at work on. Until the
//! insert is visible to a read, such a call is in one of these places:
//!
//! | where the insert is | what excludes it |
//! |---|---|
//! | in this process: planned, queued, sent, or sent and in doubt | [`crate::pending`] has the key, asked *before* the row is read: what ends in between is visible to the read |
//! | in another process, for more than `NAMED_AFTER` | its last beat names the key (`saga.process.pending_keys`), or says that there are too many to name |
//! | in a process whose beats do not come through | its last beat is older than a live process lets it grow: all keys are in doubt, until [`Horizon::settled_ms`] have passed. By then its lease has ended; no insert from before such a gap is sent, and one that was sent has been ended by the server |
//! | in a transaction at COMMIT, its client gone | the last beat of *this* process is as young as those of the others have to be: it was flushed behind all commits that the server had begun before it |
//!
//! One read answers it all, in one snapshot: the key's row, and the beats. It costs no write, whatever the state of the
//! database.
//!
//! Why not an insert that waits on the unique index and is rolled back? It waits for transactions that have inserted the key, and
//! for nothing else: a process that is in doubt about a COMMIT, or has the insert in its queue, sends it afterwards. What it
//! would add are transactions whose process never sends anything again, and those end within `LANDING`.
//!
//! What remains: an insert that another process has had for less than `NAMED_AFTER` plus the age of its last beat (1.5 s by
//! default, together), of which the proof does not know. Its caller must have left within that time: if the process heard of it,
//! the insert must already be on its way to the server, as it is not sent any more otherwise. And a request that no process
//! has read yet, for which nothing but its caller's own `cancel` can answer.

use std::time::Duration;

use metrics::counter;
use sqlx::Row;
use uuid::Uuid;

use crate::{
    domain::Domain,
    engine::Engine,
    pending::{self, Intent, LANDING},
    row::{Raw, Stored, columns},
};

/// A beat may be late by this much on a busy machine.
const LATE: Duration = Duration::from_millis(250);

/// The proof that no call has used a key, and that none which came before will. There is no other way to it than
/// [`Engine::withdraw`].
#[derive(Debug)]
pub struct KeyUnused(());

/// What can be said of a key by a call that does not insert it.
#[derive(Debug)]
pub enum Withdrawn {
    /// It was used before.
    Used(Box<Stored>),
    /// It was not used.
    Unused(KeyUnused),
    /// It may have been used: nobody can say so now.
    InDoubt,
}

/// Which ages of a process's last beat leave its inserts in doubt.
struct Horizon {
    /// A live process's beat is younger.
    fresh_ms: i64,
    /// Nothing can come any more of a process whose beat is older.
    settled_ms: i64,
}

const SQL: &str = concat!(
    "SELECT (
         SELECT NOT bool_or(p.process_id = $5 AND p.is_fresh) OR bool_or(p.process_id <> $5 AND CASE WHEN p.is_fresh
             THEN p.pending_keys IS NULL OR hashtextextended($8, 0) = ANY (p.pending_keys) ELSE p.age_ms < $7 END)
         FROM (SELECT process_id, pending_keys, age_ms, age_ms <= $6 AS is_fresh
               FROM (SELECT *, abs(extract(epoch FROM clock_timestamp() - beat_at)) * 1000 AS age_ms FROM saga.process)
                   AS beat) AS p) AS in_doubt, ",
    columns!(),
    " FROM (VALUES (1)) AS one LEFT JOIN saga.saga s
        ON s.business_id = $1 AND s.operation = $2 AND s.scope = $3 AND s.key = $4"
);

impl<D: Domain> Engine<D> {
    /// Gives a call's intent up, and says what can be said of its key.
    ///
    /// # Errors
    /// Of the database.
    pub async fn withdraw(&self, intent: Intent) -> sqlx::Result<Withdrawn> {
        let key = intent.key.clone();
        // Two calls that are refused at once do not take each other for a doubt.
        drop(intent);
        let name = pending::name(&key);
        let is_pending = self.pending.contains(&name);
        let (pool, process, horizon) = (self.lookups.clone(), self.process, self.horizon());
        let lookup = async move {
            let row = sqlx::query(SQL)
                .bind(&key.business_id)
                .bind(&key.operation)
                .bind(&key.scope)
                .bind(&key.key)
                .bind(process)
                .bind(horizon.fresh_ms)
                .bind(horizon.settled_ms)
                .bind(&*name)
                .fetch_one(&pool)
                .await?;
            let is_used = row.try_get::<Option<Uuid>, _>("saga_id")?.is_some();
            let stored = if is_used { Some(Raw::read(&row)?.stored) } else { None };
            Ok::<_, sqlx::Error>((stored, row.try_get::<Option<bool>, _>("in_doubt")?))
        };
        let (stored, in_doubt) = self.to_its_end(lookup).await?;
        Ok(match stored {
            Some(stored) => Withdrawn::Used(Box::new(stored)),
            // Without any beat the sums say nothing.
            None if is_pending || in_doubt.unwrap_or(true) => {
                let place = if is_pending { "here" } else { "elsewhere" };
                counter!("saga_keys_in_doubt_total", "insert" => place).increment(1);
                Withdrawn::InDoubt
            }
            None => Withdrawn::Unused(KeyUnused(())),
        })
    }

    fn horizon(&self) -> Horizon {
        let millis = |limit: Duration| i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        Horizon {
            fresh_ms: millis(self.config.heartbeat * 2 + LATE),
            settled_ms: millis(self.config.ttl + LANDING),
        }
    }
}
