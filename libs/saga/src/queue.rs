//! What waits to be written, and when a writer takes it.
//!
//! Idle means a batch of one at once; load forms batches by itself. Where many sagas are on their way, a small batch waits
//! for a moment: each commit costs as much as many sagas in it, and who waits then is served sooner for it (Postgres has the
//! same as `commit_siblings` and `commit_delay`). A writer begins beside another only with as many as make a large batch:
//! then the server and this process work at the same time, in the place of waiting for each other.
//!
//! What something keeps from being written is aside ([`crate::aside`]), with a lane of its own.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    aside::{About, Aside, Subject, Turn, Waiting},
    domain::SagaId,
    error::StoreError,
    registry::Registry,
};

/// Longest queue, with what is aside.
const LONGEST: usize = 8_192;
/// From so many sagas on that are awake, a batch of less than half of them waits for more,
const SIBLINGS: usize = 8;
/// and for at most this long.
const DELAY: Duration = Duration::from_millis(3);
/// A writer that is at work for longer than this is not waited for: its connection may hang.
const BESIDE: Duration = Duration::from_millis(100);

/// What is to be written of a saga.
pub(crate) trait OfSaga: About {
    /// Which one.
    fn saga(&self) -> SagaId;
}

/// Requests that wait, and the sagas that writers are at work on: no saga is with two of them.
pub(crate) struct Queue<T> {
    inner: Mutex<Inner<T>>,
    news: Notify,
    news_aside: Notify,
    /// One writer at a time waits for a batch.
    turn: tokio::sync::Mutex<()>,
    batch: usize,
    registry: Registry,
}

struct Inner<T> {
    waiting: VecDeque<T>,
    aside: Aside<T>,
    /// Empty while no writer is at work: no batch is.
    at_work: HashSet<SagaId>,
    /// With so many waiting, the writer that waits for a batch looks again.
    wanted: usize,
    is_open: bool,
}

/// When a batch is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Now,
    /// With so many, or after [`DELAY`].
    Soon(usize),
    /// With so many, or when another writer is done, or after [`BESIDE`].
    Later(usize),
}

fn when(waiting: usize, siblings: usize, others_at_work: bool, batch: usize) -> When {
    let enough = (siblings / 2).clamp(1, batch);
    match (waiting, others_at_work) {
        (0, _) => When::Later(1),
        (_, true) if siblings < SIBLINGS => When::Later(usize::MAX),
        (_, false) if siblings < SIBLINGS => When::Now,
        _ if waiting >= enough => When::Now,
        (_, true) => When::Later(enough),
        (_, false) => When::Soon(enough),
    }
}

/// What one writer works on. Once `at_work` is dropped, its sagas are free for others.
pub(crate) struct Batch<T> {
    pub requests: Vec<T>,
    pub at_work: AtWork<T>,
}

/// Sagas that a writer is at work on.
pub(crate) struct AtWork<T> {
    queue: Arc<Queue<T>>,
    sagas: Vec<SagaId>,
}

impl<T> Drop for AtWork<T> {
    fn drop(&mut self) {
        let mut inner = self.queue.lock();
        for saga in &self.sagas {
            inner.at_work.remove(saga);
        }
        drop(inner);
        self.queue.news.notify_one();
    }
}

impl<T: OfSaga> Queue<T> {
    /// A queue that hands out at most `batch` at once.
    pub(crate) fn new(batch: usize, registry: Registry) -> Self {
        let inner = Inner {
            waiting: VecDeque::new(),
            aside: Aside::default(),
            at_work: HashSet::new(),
            wanted: 1,
            is_open: true,
        };
        Self {
            inner: Mutex::new(inner),
            news: Notify::new(),
            news_aside: Notify::new(),
            turn: tokio::sync::Mutex::default(),
            batch,
            registry,
        }
    }

    /// Adds a request. It joins what is aside if that is about the same.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when too many wait, or nobody writes any more.
    pub(crate) fn push(&self, request: T) -> Result<(), StoreError> {
        let mut inner = self.lock();
        if !inner.is_open || inner.waiting.len() + inner.aside.len() >= LONGEST {
            return Err(StoreError::Unavailable);
        }
        if inner.aside.concerns(&request) {
            inner.aside.put([request], Instant::now());
            drop(inner);
            self.news_aside.notify_one();
            return Ok(());
        }
        inner.waiting.push_back(request);
        let is_enough = inner.waiting.len() >= inner.wanted;
        drop(inner);
        if is_enough {
            self.news.notify_one();
        }
        Ok(())
    }

    /// The next batch, which is not empty, and how many wait behind it.
    pub(crate) async fn take(self: &Arc<Self>) -> (Batch<T>, usize) {
        let _turn = self.turn.lock().await;
        let (mut until, mut beside) = (None, None);
        loop {
            let siblings = self.registry.awake();
            let limit = {
                let mut inner = self.lock();
                let (wanted, limit) =
                    match when(inner.waiting.len(), siblings, !inner.at_work.is_empty(), self.batch) {
                        When::Now => (None, None),
                        When::Soon(enough) => {
                            let until = *until.get_or_insert_with(|| Instant::now() + DELAY);
                            ((Instant::now() < until).then_some(enough), Some(until))
                        }
                        When::Later(enough) if inner.waiting.is_empty() => (Some(enough), None),
                        When::Later(enough) => {
                            let now = Instant::now();
                            let until = *beside.get_or_insert(now + BESIDE);
                            if now < until {
                                (Some(enough), Some(until))
                            } else {
                                beside = None;
                                (None, Some(now + BESIDE))
                            }
                        }
                    };
                let taken = if wanted.is_none() { self.hand_out(&mut inner) } else { None };
                if let Some(taken) = taken {
                    return taken;
                }
                // All that waits may belong to sagas that another writer is at work on.
                inner.wanted = wanted.unwrap_or(usize::MAX);
                limit
            };
            match limit {
                Some(limit) => drop(tokio::time::timeout_at(limit, self.news.notified()).await),
                None => self.news.notified().await,
            }
        }
    }

    /// What waits, however little, if anything does.
    pub(crate) fn take_now(self: &Arc<Self>) -> Option<(Batch<T>, usize)> {
        self.hand_out(&mut self.lock())
    }

    /// Has another writer take what this one could not even send.
    pub(crate) fn give_back(&self, requests: Vec<T>) {
        let mut inner = self.lock();
        for request in requests.into_iter().rev() {
            inner.waiting.push_front(request);
        }
    }

    /// Puts aside what could not be written together, and what waits about the same.
    pub(crate) fn put_aside(&self, requests: Vec<T>) {
        let now = Instant::now();
        let mut inner = self.lock();
        inner.aside.put(requests, now);
        for request in std::mem::take(&mut inner.waiting) {
            if inner.aside.concerns(&request) {
                inner.aside.put([request], now);
            } else {
                inner.waiting.push_back(request);
            }
        }
        drop(inner);
        self.news_aside.notify_one();
    }

    /// What is due of what is aside; for one lane alone.
    pub(crate) async fn take_aside(&self) -> Turn<T> {
        loop {
            let due = {
                let mut inner = self.lock();
                let turn = inner.aside.take(Instant::now());
                if !turn.is_empty() {
                    return turn;
                }
                inner.aside.due()
            };
            match due {
                Some(due) => drop(tokio::time::timeout_at(due, self.news_aside.notified()).await),
                None => self.news_aside.notified().await,
            }
        }
    }

    /// Ends the turn of these subjects: what was tried is put back, or all of it was answered.
    pub(crate) fn end_turn(&self, subjects: &[Subject], again: Vec<Waiting<T>>) {
        let mut inner = self.lock();
        if again.is_empty() {
            inner.aside.settle(subjects);
        } else {
            inner.aside.put_back(again, Instant::now());
        }
    }

    /// How many are aside.
    pub(crate) fn aside(&self) -> usize {
        self.lock().aside.len()
    }

    /// What nobody is at work on, in the order in which it came, each saga once.
    fn hand_out(self: &Arc<Self>, inner: &mut Inner<T>) -> Option<(Batch<T>, usize)> {
        let (mut requests, mut sagas) = (Vec::new(), Vec::new());
        for request in std::mem::take(&mut inner.waiting) {
            let id = request.saga();
            if requests.len() < self.batch && inner.at_work.insert(id) {
                sagas.push(id);
                requests.push(request);
            } else {
                inner.waiting.push_back(request);
            }
        }
        if requests.is_empty() {
            return None;
        }
        inner.wanted = 1;
        Some((Batch { requests, at_work: AtWork { queue: self.clone(), sagas } }, inner.waiting.len()))
    }
}

impl<T> Queue<T> {
    /// Takes nothing more; who waits hears that its outcome is unknown.
    fn close(&self) {
        let mut inner = self.lock();
        inner.is_open = false;
        inner.waiting.clear();
        inner.aside = Aside::default();
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // Nothing that can panic runs under this lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held by each writer. When the last one is gone, the queue closes.
pub(crate) struct CloseOnDrop<T>(pub Arc<Queue<T>>);

impl<T> Drop for CloseOnDrop<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    impl OfSaga for SagaId {
        fn saga(&self) -> SagaId {
            *self
        }
    }

    impl About for SagaId {
        fn subject(&self) -> Subject {
            Subject::Saga(*self)
        }

        fn is_in_doubt(&self) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn what_is_about_something_that_is_aside_goes_there() {
        let queue = Arc::new(Queue::new(256, Registry::default()));
        let (locked, other) = (SagaId(Uuid::now_v7()), SagaId(Uuid::now_v7()));
        for saga in [locked, other] {
            queue.push(saga).expect("room");
        }
        queue.put_aside(vec![locked]);
        queue.push(locked).expect("room");
        assert_eq!((queue.take().await.0.requests, queue.aside()), (vec![other], 3));
        for _ in 0..3 {
            let tried = queue.take_aside().await.next;
            assert_eq!(tried.len(), 1, "one a subject");
            queue.end_turn(&[tried[0].request.subject()], Vec::new());
        }
        queue.push(locked).expect("room");
        assert_eq!(queue.take().await.0.requests, [locked], "nothing keeps it any more");
    }

    #[tokio::test]
    async fn no_saga_is_with_two_writers() {
        let queue = Arc::new(Queue::new(256, Registry::default()));
        let writers = CloseOnDrop(queue.clone());
        let (one, other) = (SagaId(Uuid::now_v7()), SagaId(Uuid::now_v7()));
        for saga in [one, one, other] {
            queue.push(saga).expect("room");
        }
        let (first, behind) = queue.take().await;
        assert_eq!((&first.requests, behind), (&vec![one, other], 1));
        assert!(queue.take_now().is_none(), "what waits is with somebody");
        drop(first.at_work);
        let (second, _) = queue.take().await;
        assert_eq!(second.requests, [one]);
        drop(writers);
        assert_eq!(queue.push(one), Err(StoreError::Unavailable), "nobody writes any more");
    }

    #[tokio::test]
    async fn a_writer_that_hangs_is_not_waited_for() {
        let queue = Arc::new(Queue::new(256, Registry::default()));
        queue.push(SagaId(Uuid::now_v7())).expect("room");
        let (hangs, _) = queue.take().await;
        let other = SagaId(Uuid::now_v7());
        queue.push(other).expect("room");
        let taken = tokio::time::timeout(Duration::from_secs(5), queue.take()).await;
        assert_eq!(taken.expect("in time").0.requests, [other]);
        drop(hangs.at_work);
    }

    #[tokio::test]
    async fn what_is_less_than_half_waits_for_a_moment_only() {
        let registry = Registry::default();
        let places: Vec<_> = (0..SIBLINGS).map(|_| registry.enter(SagaId(Uuid::now_v7()))).collect();
        let queue = Arc::new(Queue::new(256, registry));
        queue.push(SagaId(Uuid::now_v7())).expect("room");
        let taken = tokio::time::timeout(Duration::from_secs(5), queue.take()).await;
        assert_eq!(taken.expect("in time").0.requests.len(), 1);
        drop(places);
    }

    #[tokio::test]
    async fn sagas_that_sleep_are_no_siblings() {
        let registry = Registry::default();
        let mut asleep: Vec<_> = (0..64).map(|_| registry.enter(SagaId(Uuid::now_v7()))).collect();
        asleep.iter_mut().for_each(|guard| guard.set_awake(false));
        let _lone = registry.enter(SagaId(Uuid::now_v7()));
        assert_eq!((registry.len(), registry.awake()), (65, 1));
        assert_eq!(when(1, registry.awake(), false, 256), When::Now, "a lone caller waits for nobody");
        asleep.clear();
        assert_eq!((registry.len(), registry.awake()), (1, 1));
    }

    #[test]
    fn few_are_written_at_once_by_one_writer() {
        assert_eq!(when(0, 0, false, 256), When::Later(1));
        assert_eq!(when(1, 1, false, 256), When::Now);
        assert_eq!(when(7, 7, false, 256), When::Now);
        assert_eq!(when(3, 7, true, 256), When::Later(usize::MAX), "until the other is done");
    }

    #[test]
    fn many_are_gathered_and_written_side_by_side() {
        assert_eq!(when(1, 64, false, 256), When::Soon(32));
        assert_eq!(when(32, 64, false, 256), When::Now);
        assert_eq!(when(31, 64, true, 256), When::Later(32));
        assert_eq!(when(32, 64, true, 256), When::Now);
        assert_eq!(when(256, 4_096, true, 256), When::Now, "no more than a batch is waited for");
    }
}
