//! Background tasks that are to run as long as their process does.
//!
//! Each has a task of its own. One that panics or ends is logged, counted in `background_restarts_total` by its name, and
//! begins again after a pause that doubles while it keeps failing; no other task notices.

use std::{future::Future, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt as _;
use metrics::counter;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::http::panic_text;

/// Pause before a task begins again; it doubles with each failure in a row.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest pause.
const PAUSE_CAP: Duration = Duration::from_secs(30);
/// A task that ran so long was well: the pause after it is the shortest again.
const WELL_AFTER: Duration = Duration::from_mins(1);

/// Starts background tasks and keeps them running. Clones share the tasks.
#[derive(Debug, Clone)]
pub struct Supervisor {
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl Supervisor {
    /// A supervisor whose tasks `tasks` owns, until `stopping`.
    #[must_use]
    pub fn new(tasks: TaskTracker, stopping: CancellationToken) -> Self {
        Self { tasks, stopping }
    }

    /// Owns the supervised tasks, and may own others.
    #[must_use]
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Runs what `begin` makes, from the beginning whenever it has ended, until the process stops: then it is dropped.
    /// `name` is the task's in logs and metrics.
    pub fn supervise<F>(&self, name: &'static str, mut begin: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.supervise_to_end(name, move |stopping| {
            let work = begin();
            async move {
                let _ = stopping.run_until_cancelled_owned(work).await;
            }
        });
    }

    /// The same for work that has something to do when the process stops: it is given the token that says so, and ends by
    /// itself.
    pub fn supervise_to_end<F>(
        &self,
        name: &'static str,
        begin: impl FnMut(CancellationToken) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(keep(name, self.stopping.clone(), begin));
    }
}

async fn keep<F: Future<Output = ()>>(
    name: &'static str,
    stopping: CancellationToken,
    mut begin: impl FnMut(CancellationToken) -> F,
) {
    let restarts = || counter!("background_restarts_total", "task" => name);
    // Shown before the first restart: a figure that appears with its first event has no rise to alarm on.
    restarts().increment(0);
    let mut pause = PAUSE;
    loop {
        let begun = Instant::now();
        let ended = AssertUnwindSafe(async { begin(stopping.clone()).await }).catch_unwind().await;
        if stopping.is_cancelled() {
            return;
        }
        if begun.elapsed() > WELL_AFTER {
            pause = PAUSE;
        }
        let cause = ended.as_ref().err().map_or("it ended", |panic| panic_text(&**panic));
        tracing::error!(task = name, cause, pause_ms = pause.as_millis(), "a background task begins again");
        restarts().increment(1);
        if stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
        pause = (pause * 2).min(PAUSE_CAP);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;
    use crate::telemetry;

    fn restarts(task: &str) -> String {
        let shown = telemetry::metrics().unwrap().render();
        let line = format!("background_restarts_total{{task=\"{task}\"}} ");
        shown.lines().find_map(|one| one.strip_prefix(&line)).unwrap_or("not shown").to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_or_ends_begins_again_and_is_counted() {
        telemetry::metrics().unwrap();
        let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
        let supervisor = Supervisor::new(tasks.clone(), stopping.clone());
        let (runs, last_words) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let count = runs.clone();
        supervisor.supervise("fragile", move || {
            let run = count.fetch_add(1, Ordering::SeqCst);
            async move {
                match run {
                    0 => panic!("the first time"),
                    1 => {}
                    _ => std::future::pending().await,
                }
            }
        });
        let said = last_words.clone();
        supervisor.supervise_to_end("sound", move |stopping| {
            let said = said.clone();
            async move {
                stopping.cancelled().await;
                said.fetch_add(1, Ordering::SeqCst);
            }
        });
        tokio::time::sleep(PAUSE / 2).await;
        assert_eq!((runs.load(Ordering::SeqCst), restarts("fragile")), (1, "1".to_owned()));
        tokio::time::sleep(PAUSE * 4).await;
        assert_eq!((runs.load(Ordering::SeqCst), restarts("fragile")), (3, "2".to_owned()));
        assert_eq!(restarts("sound"), "0");
        stopping.cancel();
        tasks.close();
        tasks.wait().await;
        assert_eq!(last_words.load(Ordering::SeqCst), 1, "the last work of a task is done, once");
    }
}
