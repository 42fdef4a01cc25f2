//! The lane of what is aside: one write at a time, on a connection of its own.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use metrics::{counter, gauge};
use tokio_util::sync::CancellationToken;

use crate::{
    aside::{About, Waiting},
    domain::Domain,
    error::StoreError,
    store::{Failure, RECONNECT_PAUSE, Request, Writer},
};

impl<D: Domain> Writer<D> {
    /// Tries what is aside until `stop`, which is heeded between writes only. Of what is aside then nothing more is known: its
    /// sagas are handed over.
    pub(crate) async fn run_singly(mut self, stop: CancellationToken) {
        loop {
            let turn = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                turn = self.open.0.take_aside() => turn,
            };
            gauge!("saga_writes_aside")
                .set(f64::from(u32::try_from(self.open.0.aside()).unwrap_or(u32::MAX)));
            turn.over.into_iter().for_each(give_up);
            let Some(next) = turn.next else { continue };
            let subject = next.request.subject();
            let tried = AssertUnwindSafe(self.try_alone(next)).catch_unwind().await.unwrap_or_else(|_| {
                // Its caller hears that the outcome is unknown.
                tracing::error!("the lane of what is aside panicked");
                counter!("background_restarts_total", "task" => "saga_single_writer").increment(1);
                self.connection = None;
                None
            });
            self.open.0.end_turn(&subject, tried);
        }
    }

    /// Tries a write once. Gives it back if it is to be tried again.
    async fn try_alone(&mut self, tried: Waiting<Request<D>>) -> Option<Waiting<Request<D>>> {
        let Request { write, caller, is_in_doubt } = tried.request;
        let attempt = self
            .attempt(std::slice::from_ref(&write), std::slice::from_ref(&caller), is_in_doubt)
            .await
            .map(|mut written| written.pop());
        let failure = match attempt {
            Ok(Some(written)) => {
                caller.answer(Ok(written), is_in_doubt);
                return None;
            }
            // There is one result a write.
            Ok(None) => Failure::Lost("no result".to_owned()),
            Err(failure) => failure,
        };
        if let Failure::Unknown(error) = &failure {
            counter!("saga_commit_unknown_total").increment(1);
            tracing::warn!(error, "outcome of a commit is unknown; the write is tried again");
        }
        if self.connection.is_none() {
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
        let is_in_doubt = is_in_doubt || matches!(failure, Failure::Unknown(_));
        let request = Request { write, caller, is_in_doubt };
        if !is_tried_again(&failure, is_in_doubt) {
            request.fail(&failure);
            return None;
        }
        tracing::debug!(?failure, saga_id = %request.write.id(), "a write that is aside is tried again");
        Some(Waiting { request, refusal: refusal(failure), ..tried })
    }
}

/// Whether another attempt at a write that is alone may succeed, or has to say what became of an earlier one.
const fn is_tried_again(failure: &Failure, is_in_doubt: bool) -> bool {
    match failure {
        Failure::Unknown(_)
        | Failure::Again(_)
        | Failure::Slow(_)
        | Failure::Server(_)
        | Failure::Lost(_) => true,
        Failure::Unreachable => is_in_doubt,
        Failure::Data(_) | Failure::Panicked => false,
    }
}

/// Why the database, which is there, did not write it.
fn refusal(failure: Failure) -> Option<String> {
    match failure {
        Failure::Again(error) | Failure::Slow(error) | Failure::Server(error) => Some(error.to_string()),
        _ => None,
    }
}

/// Answers what has no patience left. Nothing of it was written: what is in doubt never comes here.
fn give_up<D: Domain>(over: Waiting<Request<D>>) {
    let saga_id = over.request.write.id();
    let error = over.refusal.map_or(StoreError::Unavailable, StoreError::Busy);
    counter!("saga_writes_given_up_total").increment(1);
    tracing::warn!(%error, %saga_id, "a write that was aside is given up");
    over.request.caller.answer(Err(error), false);
}
