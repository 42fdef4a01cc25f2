//! The sagas that this process has in memory, and who waits for them.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::AbortHandle};

use crate::domain::{Response, SagaId};

/// Runs of a saga that may vanish before it rests.
const LOST_AT_ONCE: i16 = 6;
/// How long it rests then; each further one doubles it,
const REST: Duration = Duration::from_secs(1);
/// up to this.
const REST_MAX: Duration = Duration::from_secs(300);

/// What those who wait for a saga can see of it.
#[derive(Debug, Clone)]
pub(crate) enum Progress {
    Running,
    Compensating,
    /// Over, or parked. `None`: read the stored answer.
    Ended(Option<Arc<Response>>),
}

struct Entry {
    /// Tells a run from the one that replaced it.
    run: u64,
    task: Option<AbortHandle>,
    progress: watch::Sender<Progress>,
    /// When something last happened to it.
    touched: Instant,
}

#[derive(Default)]
struct Inner {
    runs: u64,
    entries: HashMap<SagaId, Entry>,
    /// Runs of a saga that vanished without an end, one after the other, and when the last one did.
    lost: HashMap<SagaId, (i16, Instant)>,
}

/// Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Registry {
    inner: Arc<Mutex<Inner>>,
    /// Runs that wait for an answer or for a write, and not for a backoff to end.
    awake: Arc<AtomicUsize>,
}

/// A run's entry in the registry. Dropping it, also by a panic or an abort, removes the entry, and the next rescan
/// finds a saga that nobody has in memory.
pub(crate) struct RunGuard {
    registry: Registry,
    id: SagaId,
    run: u64,
    is_awake: bool,
    pub progress: watch::Sender<Progress>,
}

impl Registry {
    /// Makes an entry for a run; an earlier run of the same saga is stopped, those who wait for it stay.
    pub(crate) fn enter(&self, id: SagaId) -> RunGuard {
        let mut inner = self.lock();
        inner.runs += 1;
        let run = inner.runs;
        let progress = match inner.entries.remove(&id) {
            Some(earlier) => {
                if let Some(task) = earlier.task {
                    task.abort();
                }
                earlier.progress
            }
            None => watch::Sender::new(Progress::Running),
        };
        inner
            .entries
            .insert(id, Entry { run, task: None, progress: progress.clone(), touched: Instant::now() });
        drop(inner);
        self.awake.fetch_add(1, Ordering::Relaxed);
        RunGuard { registry: self.clone(), id, run, is_awake: true, progress }
    }

    /// Says which task carries a run, so that a later one can stop it.
    pub(crate) fn carry(&self, id: SagaId, run: u64, task: AbortHandle) {
        if let Some(entry) = self.lock().entries.get_mut(&id).filter(|e| e.run == run) {
            entry.task = Some(task);
        }
    }

    pub(crate) fn watch(&self, id: SagaId) -> Option<watch::Receiver<Progress>> {
        self.lock().entries.get(&id).map(|entry| entry.progress.subscribe())
    }

    pub(crate) fn contains(&self, id: SagaId) -> bool {
        self.lock().entries.contains_key(&id)
    }

    /// Whether a saga that this process owns is to be started anew: it is not in memory and does not rest, or it is past its time and
    /// nothing has happened to it in memory within `limit`.
    pub(crate) fn is_lost(&self, id: SagaId, overdue: bool, limit: Duration) -> bool {
        let touched = self.lock().entries.get(&id).map(|entry| entry.touched);
        touched.map_or_else(|| !self.rests(id), |touched| overdue && touched.elapsed() >= limit)
    }

    /// Forgets the vanished runs of sagas that are not among these any more: they ended, or are another process's.
    pub(crate) fn keep_lost(&self, own: &HashSet<SagaId>) {
        self.lock().lost.retain(|id, _| own.contains(id));
    }

    /// Counts a run that vanished without an end; how many of this saga did so far.
    pub(crate) fn count_lost(&self, id: SagaId) -> i16 {
        let mut inner = self.lock();
        let (lost, at) = inner.lost.entry(id).or_insert((0, Instant::now()));
        (*lost, *at) = (lost.saturating_add(1), Instant::now());
        *lost
    }

    /// Whether a saga whose runs vanish is left alone for now: the first are taken up again at once, later ones after a pause that
    /// doubles. What the database refuses of it, it refuses again.
    fn rests(&self, id: SagaId) -> bool {
        let lost = self.lock().lost.get(&id).copied();
        lost.is_some_and(|(lost, at)| at.elapsed() < rest(lost))
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Runs that may soon have something to write.
    pub(crate) fn awake(&self) -> usize {
        self.awake.load(Ordering::Relaxed)
    }

    /// Stops one run.
    #[cfg(feature = "testing")]
    pub(crate) fn stop(&self, id: SagaId) {
        if let Some(task) = self.lock().entries.get(&id).and_then(|entry| entry.task.as_ref()) {
            task.abort();
        }
    }

    /// Stops every run, as a crash would.
    pub(crate) fn stop_all(&self) {
        let entries = std::mem::take(&mut self.lock().entries);
        for task in entries.into_values().filter_map(|entry| entry.task) {
            task.abort();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while the lock was held left a map that is still a map.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a saga rests of which so many runs have vanished.
fn rest(lost: i16) -> Duration {
    let doubled = u32::try_from(lost.saturating_sub(LOST_AT_ONCE)).unwrap_or(0);
    if doubled == 0 {
        Duration::ZERO
    } else {
        REST.saturating_mul(2_u32.saturating_pow(doubled)).min(REST_MAX)
    }
}

impl RunGuard {
    pub(crate) fn run(&self) -> u64 {
        self.run
    }

    /// Says whether the run waits for an answer or a write, or only for a backoff to end.
    pub(crate) fn set_awake(&mut self, is_awake: bool) {
        match (self.is_awake, is_awake) {
            (false, true) => drop(self.registry.awake.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.registry.awake.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        self.is_awake = is_awake;
    }

    /// Something happened: the run is not stuck.
    pub(crate) fn touch(&self) {
        if let Some(entry) =
            self.registry.lock().entries.get_mut(&self.id).filter(|entry| entry.run == self.run)
        {
            entry.touched = Instant::now();
        }
    }

    /// The run made its saga move, came to its end, or was left on purpose: it did not vanish.
    pub(crate) fn not_lost(&self) {
        self.registry.lock().lost.remove(&self.id);
    }
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        self.set_awake(false);
        let mut inner = self.registry.lock();
        if inner.entries.get(&self.id).is_some_and(|entry| entry.run == self.run) {
            inner.entries.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saga_whose_runs_vanish_rests_for_longer_and_longer() {
        let registry = Registry::default();
        let id = SagaId(uuid::Uuid::now_v7());
        for lost in 1..=LOST_AT_ONCE {
            assert!(!registry.rests(id), "{lost}");
            assert_eq!(registry.count_lost(id), lost);
        }
        assert!(!registry.rests(id));
        registry.count_lost(id);
        assert!(registry.rests(id));
        assert_eq!((rest(LOST_AT_ONCE + 1), rest(LOST_AT_ONCE + 2)), (REST * 2, REST * 4));
        assert_eq!(rest(i16::MAX), REST_MAX);
        assert!(!registry.is_lost(id, true, Duration::ZERO), "past its time or not");
        registry.keep_lost(&HashSet::from([id]));
        assert!(registry.rests(id), "it is still this process's");
        registry.keep_lost(&HashSet::new());
        assert!(!registry.rests(id) && registry.is_lost(id, false, Duration::ZERO));
        registry.count_lost(id);
        registry.enter(id).not_lost();
        assert!(registry.lock().lost.is_empty(), "a transition makes all of it forgotten");
    }

    #[test]
    fn what_is_in_memory_is_lost_when_it_is_past_its_time_and_does_not_move() {
        let registry = Registry::default();
        let id = SagaId(uuid::Uuid::now_v7());
        let _guard = registry.enter(id);
        assert!(!registry.is_lost(id, false, Duration::ZERO));
        assert!(!registry.is_lost(id, true, Duration::from_secs(60)));
        assert!(registry.is_lost(id, true, Duration::ZERO));
    }
}
