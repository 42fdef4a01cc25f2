//! Waiting for a saga's answer, wherever it runs.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    domain::{Domain, Response, SagaId},
    engine::Engine,
    machine::State,
    registry::Progress,
    row::{self, Outcome},
    statement::past_locks,
    write::stored_response,
};

/// How long a caller of a saga that was compensated waits for everything to be back.
const WAIT_FOR_REVERSAL: Duration = Duration::from_secs(1);
/// Pause after the first look at a saga that runs elsewhere; each further one doubles it.
const POLL: Duration = Duration::from_millis(20);
/// Longest pause between two looks.
const POLL_MAX: Duration = Duration::from_millis(200);

const FREEZE: &str =
    "WITH free AS (SELECT saga_id FROM saga.saga WHERE saga_id = $1 FOR NO KEY UPDATE NOWAIT)
     UPDATE saga.saga s SET answer_given = true FROM free WHERE s.saga_id = free.saga_id
     RETURNING s.response_status, s.response";

/// What waiting for a saga came to.
#[derive(Debug, Clone)]
pub enum Waited {
    /// This is its answer for ever.
    Answered(Response),
    /// It is over, its key was cancelled.
    KeyCancelled,
    /// It is over without an answer: an operator has settled it by hand.
    Settled,
    /// It goes on (or waits for an operator); no answer yet.
    Pending(State),
}

impl<D: Domain> Engine<D> {
    /// Waits for a saga's answer, wherever it runs, at most until `until`. Once it is compensated it waits for at most a
    /// second more; the answer that it then gives is frozen.
    ///
    /// # Errors
    /// Of the database.
    pub async fn wait(&self, id: SagaId, until: Instant) -> sqlx::Result<Waited> {
        let mut until = until;
        let mut is_compensating = false;
        let mut pause = POLL;
        loop {
            let progress = match self.registry.watch(id) {
                Some(mut watch) => {
                    let progress = watch.borrow_and_update().clone();
                    let news = match progress {
                        Progress::Ended(_) => true,
                        Progress::Compensating if !is_compensating => true,
                        _ => false,
                    };
                    if !news {
                        // An error means that the run is gone: the row says what became of it.
                        let _ = tokio::time::timeout_at(until, watch.changed()).await;
                    }
                    watch.borrow().clone()
                }
                None => self.read_progress(id).await?,
            };
            match progress {
                Progress::Ended(Some(response)) => return Ok(Waited::Answered((*response).clone())),
                Progress::Ended(None) => return self.answer(id, is_compensating).await,
                Progress::Compensating if !is_compensating => {
                    is_compensating = true;
                    until = until.min(Instant::now() + WAIT_FOR_REVERSAL);
                }
                _ if Instant::now() >= until => return self.answer(id, is_compensating).await,
                _ if !self.registry.contains(id) => {
                    tokio::time::sleep_until(until.min(Instant::now() + pause)).await;
                    pause = longer(pause);
                }
                _ => {}
            }
        }
    }

    async fn read_progress(&self, id: SagaId) -> sqlx::Result<Progress> {
        Ok(match self.outcome(id).await?.state {
            State::Running => Progress::Running,
            State::Compensating => Progress::Compensating,
            _ => Progress::Ended(None),
        })
    }

    async fn outcome(&self, id: SagaId) -> sqlx::Result<Outcome> {
        let pool = self.lookups.clone();
        let looking = async move { row::outcome(&pool, id).await };
        self.to_its_end(looking).await?.ok_or(sqlx::Error::RowNotFound)
    }

    /// The stored answer. One that compensation would still improve is frozen before anybody sees it, so that every later
    /// caller gets the same bytes.
    async fn answer(&self, id: SagaId, is_compensating: bool) -> sqlx::Result<Waited> {
        let stored = self.outcome(id).await?;
        if stored.key_cancelled {
            return Ok(Waited::KeyCancelled);
        }
        let Some(response) = stored.response else {
            let is_settled = stored.state == State::Resolved;
            return Ok(if is_settled { Waited::Settled } else { Waited::Pending(stored.state) });
        };
        match stored.state {
            State::Compensating if !is_compensating => Ok(Waited::Pending(stored.state)),
            State::Compensating | State::DeadLetter => Ok(Waited::Answered(self.freeze(id).await?)),
            _ => Ok(Waited::Answered(response)),
        }
    }

    async fn freeze(&self, id: SagaId) -> sqlx::Result<Response> {
        let pool = self.lookups.clone();
        let freezing = async move {
            let freeze = || sqlx::query_as::<_, (i16, Vec<u8>)>(FREEZE).bind(id).fetch_one(&pool);
            past_locks(freeze).await
        };
        let (status, body) = self.to_its_end(freezing).await?;
        stored_response(Some(status), Some(body)).ok_or(sqlx::Error::RowNotFound)
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).min(POLL_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_long_looks_less_often() {
        let pauses: Vec<_> =
            std::iter::successors(Some(POLL), |pause| Some(longer(*pause))).take(6).collect();
        assert_eq!(pauses.iter().map(Duration::as_millis).collect::<Vec<_>>(), [20, 40, 80, 160, 200, 200]);
    }
}
