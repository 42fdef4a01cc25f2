//! Participants that cannot be reached: one probe each, and a wake-up for all who wait.
//!
//! Sagas back off on their own, up to a minute. So that a participant's return is noticed at once, and once, each one
//! that failed is probed every second by this process; the first success wakes every saga that waits for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

/// Woken sagas start within this time of each other, not all at once.
const PACE: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
struct Participant {
    unreachable: bool,
    back: Arc<Notify>,
}

#[derive(Debug, Default)]
pub(crate) struct Gate(Mutex<HashMap<String, Participant>>);

impl Gate {
    /// Waits `backoff`, or less if the participant comes back before.
    pub(crate) async fn wait(&self, participant: &str, backoff: Duration) {
        let back = self.with(participant, |p| p.back.clone());
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = back.notified() => tokio::time::sleep(rand::random_range(Duration::ZERO..=PACE.min(backoff))).await,
        }
    }

    pub(crate) fn failed(&self, participant: &str) {
        self.with(participant, |p| p.unreachable = true);
    }

    pub(crate) fn answered(&self, participant: &str) {
        self.with(participant, |p| {
            if std::mem::take(&mut p.unreachable) {
                p.back.notify_waiters();
            }
        });
    }

    /// Whom to probe.
    pub(crate) fn unreachable(&self) -> Vec<String> {
        let participants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        participants.iter().filter(|(_, p)| p.unreachable).map(|(name, _)| name.clone()).collect()
    }

    fn with<T>(&self, participant: &str, f: impl FnOnce(&mut Participant) -> T) -> T {
        let mut participants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(participant) = participants.get_mut(participant) {
            return f(participant);
        }
        f(participants.entry(participant.to_owned()).or_default())
    }
}
