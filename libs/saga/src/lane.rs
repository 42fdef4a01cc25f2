//! The lane of what is aside ([`crate::aside`]), on a connection of its own.

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
    /// Tries what is aside until `stop`, which is heeded between attempts only. Of what is aside then nothing more is known: its
    /// sagas are handed over.
    pub(crate) async fn run_aside(mut self, stop: CancellationToken) {
        // Later there may be no connection left to have.
        self.connection = self.connect().await.ok();
        loop {
            let turn = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                turn = self.open.0.take_aside() => turn,
            };
            gauge!("saga_writes_aside")
                .set(f64::from(u32::try_from(self.open.0.aside()).unwrap_or(u32::MAX)));
            turn.over.into_iter().for_each(give_up);
            if turn.next.is_empty() {
                continue;
            }
            let subjects: Vec<_> = turn.next.iter().map(|waiting| waiting.request.subject()).collect();
            let tried = AssertUnwindSafe(self.try_together(turn.next)).catch_unwind().await;
            let again = tried.unwrap_or_else(|_| {
                // The callers hear that the outcome is unknown.
                tracing::error!("the lane of what is aside panicked");
                counter!("background_restarts_total", "task" => "saga_single_writer").increment(1);
                self.connection = None;
                Vec::new()
            });
            self.open.0.end_turn(&subjects, again);
        }
    }

    /// Tries writes once, in one transaction. Gives them back if they are to be tried again.
    async fn try_together(&mut self, tried: Vec<Waiting<Request<D>>>) -> Vec<Waiting<Request<D>>> {
        let was_in_doubt = tried.iter().any(|waiting| waiting.request.is_in_doubt);
        let is_alone = tried.len() == 1;
        let (mut writes, mut callers, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for Waiting { request, until, .. } in tried {
            writes.push(request.write);
            callers.push(request.caller);
            ends.push(until);
        }
        let failure = match self.attempt(&writes, &callers, was_in_doubt).await {
            Ok(written) => {
                for (caller, written) in callers.into_iter().zip(written) {
                    caller.answer(Ok(written), was_in_doubt);
                }
                return Vec::new();
            }
            Err(failure) => failure,
        };
        if let Failure::Unknown(error) = &failure {
            counter!("saga_commit_unknown_total").increment(1);
            tracing::warn!(error, "outcome of a commit is unknown; it is tried again");
        }
        if self.connection.is_none() {
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
        let is_in_doubt = was_in_doubt || matches!(failure, Failure::Unknown(_));
        let requests =
            writes.into_iter().zip(callers).map(|(write, caller)| Request { write, caller, is_in_doubt });
        let is_lane_alone = matches!(failure, Failure::Unreachable) && self.others_are_connected();
        if !is_lane_alone && !is_tried_again(&failure, is_in_doubt, is_alone) {
            requests.for_each(|request| request.fail(&failure));
            return Vec::new();
        }
        tracing::debug!(?failure, size = ends.len(), "what is aside is tried again");
        let refusal = if is_alone { refusal(failure) } else { None };
        let again = requests.zip(ends);
        again.map(|(request, until)| Waiting { request, refusal: refusal.clone(), until }).collect()
    }
}

/// Whether another attempt may succeed, in parts or later, or has to say what became of an earlier one.
const fn is_tried_again(failure: &Failure, is_in_doubt: bool, is_alone: bool) -> bool {
    match failure {
        Failure::Unknown(_)
        | Failure::Again(_)
        | Failure::Slow(_)
        | Failure::Server(_)
        | Failure::Lost(_) => true,
        Failure::Unreachable => is_in_doubt,
        Failure::Data(_) | Failure::Panicked => !is_alone,
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
