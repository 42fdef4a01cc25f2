//! Whether a shard can commit: it has, and nothing has failed it since; and since when it has had commands in hand without a commit.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The progress of one shard.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// A batch was committed, and none was given up since for a reason that is no command's.
    is_proven: bool,
    since: Option<Instant>,
}

impl Progress {
    /// Commands are in hand.
    pub(super) fn begin(&self) {
        self.state().since.get_or_insert_with(Instant::now);
    }

    /// A batch is committed; others may be in hand still.
    pub(super) fn committed(&self) {
        let mut state = self.state();
        state.is_proven = true;
        state.since = state.since.map(|_| Instant::now());
    }

    /// A batch was given up, and not for what was in it: no batch can be expected to be committed.
    pub(super) fn failed(&self) {
        self.state().is_proven = false;
    }

    /// Nothing is in hand and nothing waits: a shard that nobody asks is not stalled.
    pub(super) fn rest(&self) {
        self.state().since = None;
    }

    /// Whether a batch can be expected to be committed.
    pub(super) fn is_proven(&self) -> bool {
        self.state().is_proven
    }

    /// How long commands have been in hand without a commit.
    pub(super) fn stalled_for(&self) -> Duration {
        self.state().since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_shard_stalls_while_it_has_work_and_commits_nothing() {
        let (progress, second) = (Progress::default(), Duration::from_secs(1));
        tokio::time::advance(second).await;
        assert_eq!(progress.stalled_for(), Duration::ZERO, "nobody asks");
        progress.begin();
        tokio::time::advance(second).await;
        progress.begin();
        tokio::time::advance(second).await;
        assert_eq!(progress.stalled_for(), second * 2, "the next batch is no progress");
        progress.committed();
        assert_eq!(progress.stalled_for(), Duration::ZERO);
        tokio::time::advance(second).await;
        assert_eq!(progress.stalled_for(), second, "the rest of the batch is in hand");
        progress.rest();
        assert_eq!(progress.stalled_for(), Duration::ZERO);
    }

    #[test]
    fn a_shard_that_failed_has_to_commit_before_it_counts_again() {
        let progress = Progress::default();
        assert!(!progress.is_proven(), "it has shown nothing yet");
        progress.committed();
        assert!(progress.is_proven());
        progress.begin();
        progress.failed();
        progress.rest();
        assert!(!progress.is_proven(), "that nobody asks proves nothing");
        progress.committed();
        assert!(progress.is_proven());
    }
}
