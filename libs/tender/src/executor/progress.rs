//! Since when a shard has had commands in hand without a commit.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The progress of one shard.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<Option<Instant>>);

impl Progress {
    /// Commands are in hand.
    pub(super) fn begin(&self) {
        self.set(|since| Some(since.unwrap_or_else(Instant::now)));
    }

    /// A batch is committed; others may be in hand still.
    pub(super) fn committed(&self) {
        self.set(|since| since.map(|_| Instant::now()));
    }

    /// Nothing is in hand and nothing waits, whatever came of the last batch: a shard that nobody asks is not stalled.
    pub(super) fn rest(&self) {
        self.set(|_| None);
    }

    /// How long commands have been in hand without a commit.
    pub(super) fn stalled_for(&self) -> Duration {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn set(&self, next: impl FnOnce(Option<Instant>) -> Option<Instant>) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *since = next(*since);
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
}
