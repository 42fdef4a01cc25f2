//! Gauges of what waits, read from the database: every process shows the whole system, whichever one is asked.
//!
//! Each statement reads a partial index of rows that are few while all is well.

use std::{collections::HashSet, sync::Arc, time::Duration};

use metrics::{counter, gauge};

use crate::{
    claim::is_free,
    domain::{Domain, Reason},
    engine::Engine,
    machine::State,
    statement::in_time,
};

/// How often.
const INTERVAL: Duration = Duration::from_secs(5);

/// What should never happen is shown before it does: a figure that appears with its first event has no rise to alarm on.
fn begin_at_zero() {
    for name in [
        "saga_takeovers_total",
        "saga_cas_lost_total",
        "saga_commit_unknown_total",
        "saga_batch_rerun_total",
        "saga_writes_aside_total",
        "saga_writes_given_up_total",
        "saga_adopted_again_total",
        "saga_database_clock_steps_total",
        "saga_causes_unread_total",
    ] {
        counter!(name).increment(0);
    }
    for place in ["here", "elsewhere", "unheard"] {
        counter!("saga_keys_in_doubt_total", "insert" => place).increment(0);
    }
    for reason in Reason::ALL {
        counter!("saga_dead_letters_total", "code" => reason.as_str()).increment(0);
    }
}

impl<D: Domain> Engine<D> {
    /// Samples until dropped.
    pub(crate) async fn samples(self: Arc<Self>) {
        begin_at_zero();
        let mut codes: HashSet<String> =
            Reason::ALL.iter().map(|reason| reason.as_str().to_owned()).collect();
        loop {
            let mut pause = self.config.scan; // a process that has just started has no word of its database yet
            if self.is_available() {
                pause = INTERVAL;
                if let Err(error) = in_time(self.sample(&mut codes)).await {
                    tracing::warn!(%error, "could not sample sagas and dead letters");
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// `codes`: those that may have dead letters, so that a gauge falls back to 0.
    async fn sample(&self, codes: &mut HashSet<String>) -> sqlx::Result<()> {
        let unfinished: Vec<(i16, i32, f64)> = sqlx::query_as(
            "SELECT state, count(*)::int, extract(epoch FROM clock_timestamp() - min(created_at))::float8
             FROM saga.saga WHERE state IN (0, 1) GROUP BY state",
        )
        .fetch_all(&self.ops_pool)
        .await?;
        for state in [State::Running, State::Compensating] {
            let count =
                unfinished.iter().find(|(code, ..)| *code == state.code()).map_or(0, |(_, count, _)| *count);
            gauge!("sagas_unfinished", "state" => state.as_str()).set(f64::from(count));
        }
        let oldest = unfinished.iter().map(|(.., age)| *age).fold(0.0, f64::max);
        gauge!("saga_oldest_unfinished_seconds").set(oldest);

        let left: i32 =
            sqlx::query_scalar(concat!("SELECT count(*)::int FROM saga.saga f WHERE ", is_free!("$1")))
                .bind(self.ttl_ms())
                .fetch_one(&self.ops_pool)
                .await?;
        gauge!("saga_left_free").set(f64::from(left));

        let open: Vec<(String, i32)> = sqlx::query_as(
            "SELECT code, count(*)::int FROM saga.dead_letter WHERE closed_at IS NULL GROUP BY code",
        )
        .fetch_all(&self.ops_pool)
        .await?;
        for code in codes.iter().filter(|code| open.iter().all(|(has, _)| has != *code)) {
            gauge!("dead_letters_open", "code" => code.clone()).set(0.0);
        }
        for (code, count) in open {
            gauge!("dead_letters_open", "code" => code.clone()).set(f64::from(count));
            codes.insert(code);
        }

        let (running, remaining): (i32, i32) = sqlx::query_as(
            "SELECT count(*)::int, coalesce(sum((
                 SELECT count(*) FROM saga.bulk_replay_item i WHERE i.bulk_id = b.bulk_id AND i.outcome IS NULL)), 0)::int
             FROM saga.bulk_replay b WHERE b.finished_at IS NULL",
        )
        .fetch_one(&self.ops_pool)
        .await?;
        gauge!("bulk_replays_running").set(f64::from(running));
        gauge!("bulk_replay_remaining").set(f64::from(remaining));
        Ok(())
    }
}
