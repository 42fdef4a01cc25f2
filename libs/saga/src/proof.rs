//! The proof that a key was not used and never will be by a call that came before.
//!
//! Who is told "nothing was done" takes the card. So no earlier call under the key, whose caller has left, may still insert it:
//! not from the memory of this process or another, and not by a transaction that the server is still at work on. Until the
//! insert is visible to a read, such a call is in one of these places:
//!
//! | where the insert is | what excludes it |
//! |---|---|
//! | in this process: planned, queued, sent, or sent and in doubt | [`crate::pending`] has the key, asked *before* the row is read: what ends in between is visible to the read |
//! | in another process | a beat of that process from *after* this call came says so: it names the key (`saga.process.pending_keys`), or that the keys cannot be named |
//! | in a process whose beats do not come through | its last beat is older than a live process lets it grow: all keys are in doubt, until [`Horizon::settled_ms`] have passed. By then its lease has ended; no insert from before such a gap is sent, and one that was sent has been ended by the server |
//! | in a transaction at COMMIT, its client gone | the last beat of *this* process is as young as those of the others have to be: it was flushed behind all commits that the server had begun before it |
//!
//! One read answers it all, in one snapshot: the key's row, and the beats. It costs no write, whatever the state of the
//! database. Where other processes live, it is made twice by a call whose key has no row: again once they have beaten.
//!
//! Why the beats of another process suffice. Let an earlier call have come to it at `s`, and this call at `a`, so `s <= a`. A beat
//! names the keys that have been pending for [`NAMED_AFTER`] when they are gathered, and the database takes it within
//! [`NAMED_WITHIN`] after that, or else it names none and says so. So a beat whose time is `a + NAMED_AFTER + NAMED_WITHIN` or later
//! was gathered at `a + NAMED_AFTER` or later, when the earlier call had been pending for `NAMED_AFTER` unless it was settled. If it
//! was not, the beat names its key. If it was, its insert was durable or given up before the beat was gathered, and a read that sees
//! the beat sees the row. Only the order matters here: a beat that becomes visible late is waited for longer. `a` is told on the
//! database's clock, as the time of the read less the age of this call, which is not before it.
//!
//! With a beat each 500 ms such a beat is there 700 ms after `a` at the latest, and is waited for until [`AWAITED`]. Past that, or
//! if too many wait already, the key is in doubt. Alone on a database, a process waits for nobody.
//!
//! Why not an insert that waits on the unique index and is rolled back? It waits for transactions that have inserted the key, and
//! for nothing else: a process that is in doubt about a COMMIT, or has the insert in its queue, sends it afterwards. What it
//! would add are transactions whose process never sends anything again, and those end within `LANDING`.
//!
//! Ages are told by the database's clock, and setting it makes them wrong. So each beat and each read is compared with what is
//! expected of that clock ([`DatabaseClock::observe`](crate::clock::DatabaseClock)); for [`Horizon::settled_ms`] after a step all keys
//! are in doubt beside other processes. By then each of them has beaten again, or nothing of it can come any more.
//!
//! What remains: a request that no process has read yet, for which nothing but its caller's own `cancel` can answer; a step that is
//! smaller than a slew and the round trips of two readings explain; and a step between the last beat of another process and the first
//! of this one.

use std::time::Duration;

use chrono::{DateTime, Utc};
use metrics::counter;
use sqlx::Row;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    domain::{Domain, Key},
    engine::Engine,
    heartbeat::NAMED_WITHIN,
    machine::Millis,
    pending::{self, Intent, LANDING, NAMED_AFTER},
    row::{Raw, Stored, columns},
};

/// A beat may be late by this much on a busy machine.
const LATE: Duration = Duration::from_millis(250);
/// How long a call waits for the beats of other processes before its key is in doubt.
const AWAITED: Duration = Duration::from_millis(750);
/// How long after the time at which a beat is due it is looked for, and again.
const LOOK: Duration = Duration::from_millis(25);
/// Most calls that wait for the beats of other processes; the keys of more are in doubt at once.
pub(crate) const WITHDRAWALS_WAITING: usize = 512;

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
    fresh_ms: Millis,
    /// Nothing can come any more of a process whose beat is older.
    settled_ms: Millis,
}

/// What one read shows of a key.
enum Look {
    Used(Box<Stored>),
    Unused(Beats),
}

/// What the beats of other processes say of a key that has no row.
#[derive(Debug, PartialEq, Eq)]
enum Beats {
    /// No process has it.
    Clear,
    /// A process names it, or is silent.
    InDoubt,
    /// The ages in milliseconds of the last beats of live processes, where those say nothing of calls as young as this one.
    Unheard(Vec<Millis>),
}

const SQL: &str = concat!(
    "SELECT beat.is_alone, beat.is_silent, beat.is_named, beat.unheard, ",
    columns!(),
    " FROM (
         SELECT bool_and(is_own) AS is_alone,
             NOT bool_or(is_own AND is_fresh) OR bool_or(NOT is_own AND NOT is_fresh AND age_ms < $7) AS is_silent,
             bool_or(NOT is_own AND is_fresh AND hashtextextended($8, 0) = ANY (pending_keys)) AS is_named,
             array_agg(age_ms) FILTER (WHERE NOT is_own AND is_fresh AND (age_ms > $9 OR pending_keys IS NULL)) AS unheard
         FROM (SELECT process_id = $5 AS is_own, pending_keys, age_ms, age_ms <= $6 AS is_fresh
               FROM (SELECT process_id, pending_keys,
                         ceil(abs(extract(epoch FROM clock_timestamp() - beat_at)) * 1000)::bigint AS age_ms
                     FROM saga.process) AS p) AS p
     ) AS beat
     LEFT JOIN saga.saga s ON s.business_id = $1 AND s.operation = $2 AND s.scope = $3 AND s.key = $4"
);

impl<D: Domain> Engine<D> {
    /// Gives a call's intent up, and says what can be said of its key. Where other processes live, it waits for their next beats, at
    /// most 750 ms.
    ///
    /// # Errors
    /// Of the database.
    pub async fn withdraw(&self, intent: Intent) -> sqlx::Result<Withdrawn> {
        let (key, since) = (intent.key.clone(), intent.since);
        // Two calls that are refused at once do not take each other for a doubt.
        drop(intent);
        let name = pending::name(&key);
        let until = Instant::now() + AWAITED;
        let mut place = None;
        loop {
            let is_pending = self.pending.contains(&name);
            let age_ms = self.lease.local() - since;
            let unheard = match self.look(&key, &name, age_ms).await? {
                Look::Used(stored) => return Ok(Withdrawn::Used(stored)),
                Look::Unused(_) if is_pending => return Ok(in_doubt("here")),
                Look::Unused(Beats::InDoubt) => return Ok(in_doubt("elsewhere")),
                Look::Unused(Beats::Clear) => return Ok(Withdrawn::Unused(KeyUnused(()))),
                Look::Unused(Beats::Unheard(unheard)) => unheard,
            };
            if place.is_none() {
                place = self.withdrawals.try_acquire().ok();
            }
            let again = Instant::now() + until_heard(&unheard, age_ms, self.config.heartbeat);
            if place.is_none() || again > until {
                return Ok(in_doubt("unheard"));
            }
            tokio::time::sleep_until(again).await;
        }
    }

    /// Reads the key's row and the beats, for a call of this age.
    async fn look(&self, key: &Key, name: &str, age_ms: Millis) -> sqlx::Result<Look> {
        let (pool, process, horizon, clock) =
            (self.lookups.clone(), self.process, self.horizon(), self.clock.clone());
        let (key, name) = (key.clone(), name.to_owned());
        let looking = async move {
            let mut connection = pool.acquire().await?;
            let sent = clock.local();
            let row = sqlx::query(SQL)
                .bind(&key.business_id)
                .bind(&key.operation)
                .bind(&key.scope)
                .bind(&key.key)
                .bind(process)
                .bind(horizon.fresh_ms)
                .bind(horizon.settled_ms)
                .bind(name)
                .bind(age_ms - millis(NAMED_AFTER + NAMED_WITHIN))
                .fetch_one(&mut *connection)
                .await?;
            drop(connection);
            clock.observe(sent, row.try_get::<DateTime<Utc>, _>("read_at")?.timestamp_millis());
            if row.try_get::<Option<Uuid>, _>("saga_id")?.is_some() {
                return Ok(Look::Used(Box::new(Raw::read(&row)?.stored)));
            }
            if clock.has_stepped_within(horizon.settled_ms)
                && row.try_get::<Option<bool>, _>("is_alone")? != Some(true)
            {
                return Ok(Look::Unused(Beats::InDoubt));
            }
            let (is_silent, is_named) = (row.try_get("is_silent")?, row.try_get("is_named")?);
            Ok(Look::Unused(Beats::of(is_silent, is_named, row.try_get("unheard")?)))
        };
        self.to_its_end(looking).await
    }

    fn horizon(&self) -> Horizon {
        Horizon {
            fresh_ms: millis(self.config.heartbeat * 2 + LATE),
            settled_ms: millis(self.config.ttl + LANDING),
        }
    }
}

impl Beats {
    /// Without any beat `is_silent` says nothing; without a list of keys `is_named` does not.
    fn of(is_silent: Option<bool>, is_named: Option<bool>, unheard: Option<Vec<Millis>>) -> Self {
        match (is_silent, unheard) {
            (None | Some(true), _) => Self::InDoubt,
            // An older beat that names the key may be out of date.
            (_, Some(unheard)) => Self::Unheard(unheard),
            (_, None) if is_named == Some(true) => Self::InDoubt,
            (_, None) => Self::Clear,
        }
    }
}

/// When the last of the beats should be there that say something of a call of this age.
fn until_heard(unheard: &[Millis], age_ms: Millis, heartbeat: Duration) -> Duration {
    let unsigned = |millis: Millis| u64::try_from(millis).unwrap_or(0);
    let beat = unsigned(millis(heartbeat)).max(1);
    let wanted = unsigned(millis(NAMED_AFTER + NAMED_WITHIN) - age_ms);
    let heard = |since: Millis| {
        let next = beat.saturating_sub(unsigned(since));
        next + wanted.saturating_sub(next).div_ceil(beat) * beat
    };
    Duration::from_millis(unheard.iter().map(|since| heard(*since)).max().unwrap_or(0)) + LOOK
}

fn in_doubt(place: &'static str) -> Withdrawn {
    counter!("saga_keys_in_doubt_total", "insert" => place).increment(1);
    Withdrawn::InDoubt
}

fn millis(limit: Duration) -> Millis {
    Millis::try_from(limit.as_millis()).unwrap_or(Millis::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_millis(500);

    #[test]
    fn the_beat_that_is_waited_for_is_the_first_that_says_something_of_the_call() {
        for (since, age, wait) in [
            (100, 0, 425),   // the next
            (400, 0, 625),   // the next, in 100 ms, would be too early
            (400, 150, 125), // for a call that has been here for a while it is not
            (510, 900, 25),  // it is overdue
        ] {
            assert_eq!(until_heard(&[since], age, BEAT), Duration::from_millis(wait), "{since} {age}");
        }
        assert_eq!(until_heard(&[400, 100], 150, BEAT), Duration::from_millis(425), "of all");
    }

    #[test]
    fn a_wait_for_a_healthy_process_is_always_in_time() {
        for since in 0..500 {
            let wait = until_heard(&[since], 0, BEAT);
            assert!(wait > NAMED_AFTER + NAMED_WITHIN && wait <= AWAITED, "{since}: {wait:?}");
        }
    }

    #[test]
    fn what_was_not_heard_is_no_proof() {
        assert_eq!(Beats::of(None, None, None), Beats::InDoubt, "no beat at all");
        assert_eq!(Beats::of(Some(true), Some(false), None), Beats::InDoubt);
        assert_eq!(Beats::of(Some(false), Some(true), None), Beats::InDoubt);
        assert_eq!(Beats::of(Some(false), Some(true), Some(vec![1])), Beats::Unheard(vec![1]));
        assert_eq!(Beats::of(Some(false), Some(false), None), Beats::Clear);
        assert_eq!(Beats::of(Some(false), None, None), Beats::Clear, "alone");
    }
}
