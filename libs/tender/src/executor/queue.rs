//! Commands that wait: two lanes, and beside them the accounts that would keep others waiting.
//!
//! | lane | what | taken |
//! |---|---|---|
//! | urgent | what gives value back or ends a hold | first, so that a burst of new redemptions never delays undoing old ones |
//! | normal | everything else | then |
//!
//! In a lane businesses take turns, and each has a bound of its own: what one sends delays its own commands, not others'.
//! Commands of an account that others have locked, or that has too much to sweep, are put aside and run alone, in turns with
//! the batches of everybody else.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use api::BusinessId;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{BATCH_MAX, ExecuteError, job::Job};
use crate::command::AccountKey;

/// As many businesses can fill their share of a lane at once.
const SHARES: usize = 4;
/// Lanes, in the order in which they are taken.
const LANES: usize = 2;
const URGENT: usize = 0;
const NORMAL: usize = 1;

/// What is run next.
#[derive(Debug)]
pub enum Turn {
    /// Commands of any accounts.
    Shared(Vec<Job>),
    /// Commands of one account that was put aside.
    Alone(Vec<Job>),
}

/// A bounded queue with one reader.
#[derive(Debug)]
pub struct Queue {
    lanes: Mutex<Lanes>,
    filled: Notify,
    /// Most commands of one business in a lane.
    share: usize,
}

#[derive(Debug)]
struct Lanes {
    lanes: [Lane; LANES],
    aside: HashMap<AccountKey, Aside>,
    was_alone: bool,
    is_open: bool,
}

/// Commands of several businesses, which take turns.
#[derive(Debug, Default)]
struct Lane {
    jobs: HashMap<BusinessId, VecDeque<Job>>,
    turns: VecDeque<BusinessId>,
    len: usize,
}

/// Commands of one account, in the order in which they came.
#[derive(Debug)]
struct Aside {
    jobs: Vec<Job>,
    due: Instant,
}

impl Queue {
    /// A queue that takes `share` commands of one business in each lane, and [`SHARES`] times as many of all.
    pub fn new(share: usize) -> Self {
        let lanes =
            Lanes { lanes: Default::default(), aside: HashMap::new(), was_alone: false, is_open: true };
        Self { lanes: Mutex::new(lanes), filled: Notify::new(), share }
    }

    /// Adds a job. Each lane has the whole room: one full of forwards still takes cancels.
    pub fn push(&self, job: Job) -> Result<(), ExecuteError> {
        let mut lanes = self.lanes();
        let lane = if job.command.action.is_urgent() { URGENT } else { NORMAL };
        if !lanes.is_open || !lanes.lanes[lane].push(job, self.share) {
            return Err(ExecuteError::Unavailable);
        }
        drop(lanes);
        self.filled.notify_one();
        Ok(())
    }

    /// Waits until something can be run: an account that was put aside and is due, or at most `limit` commands of the lanes.
    pub async fn take(&self, limit: usize) -> Turn {
        loop {
            let (turn, due) = self.lanes().next(limit, Instant::now());
            if let Some(turn) = turn {
                return turn;
            }
            let Some(due) = due else {
                self.filled.notified().await;
                continue;
            };
            tokio::select! {
                () = self.filled.notified() => {}
                () = sleep_until(due) => {}
            }
        }
    }

    /// Puts commands of accounts that others have locked aside, until they are due again. What has waited for too long is
    /// refused.
    pub fn put_aside(&self, jobs: Vec<Job>) {
        let now = Instant::now();
        for mut job in jobs {
            match job.again_at(now) {
                Some(due) => self.lanes().put_aside(job, due),
                None => job.refuse(ExecuteError::Unavailable),
            }
        }
    }

    /// Puts commands aside whose account is to be swept before: its turn is the next but one.
    pub fn put_aside_to_sweep(&self, jobs: Vec<Job>) {
        let now = Instant::now();
        jobs.into_iter().for_each(|job| self.lanes().put_aside(job, now));
    }

    /// Those of the jobs whose account is not aside; the others join it there, so that commands of an account keep their order.
    pub fn divert(&self, jobs: Vec<Job>) -> Vec<Job> {
        self.lanes().divert(jobs)
    }

    /// Takes nothing more, and answers everything that waits: none of it was tried.
    pub fn close(&self) {
        let jobs = {
            let mut lanes = self.lanes();
            lanes.is_open = false;
            let aside: Vec<Job> = lanes.aside.drain().flat_map(|(_, aside)| aside.jobs).collect();
            lanes.drain(usize::MAX).into_iter().chain(aside).collect::<Vec<_>>()
        };
        for job in jobs {
            job.refuse(ExecuteError::Unavailable);
        }
    }

    pub fn open(&self) {
        self.lanes().is_open = true;
    }

    pub fn is_open(&self) -> bool {
        self.lanes().is_open
    }

    /// Commands that wait, and of these those aside.
    pub fn len(&self) -> (usize, usize) {
        let lanes = self.lanes();
        let aside: usize = lanes.aside.values().map(|aside| aside.jobs.len()).sum();
        (lanes.lanes.iter().map(|lane| lane.len).sum::<usize>() + aside, aside)
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        // Nothing that can panic runs under this lock, so its data are sound whatever happened.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lanes {
    /// What is to be run now; otherwise when an account that was put aside is due.
    fn next(&mut self, limit: usize, now: Instant) -> (Option<Turn>, Option<Instant>) {
        let first = self.aside.iter().min_by_key(|(_, aside)| aside.due);
        let (first, due) = first.map(|(key, aside)| (key.clone(), aside.due)).unzip();
        let is_due = due.is_some_and(|due| due <= now);
        if !is_due || self.was_alone {
            self.was_alone = false;
            while let Some(drained) = Some(self.drain(limit)).filter(|jobs| !jobs.is_empty()) {
                let jobs = self.divert(drained);
                if !jobs.is_empty() {
                    return (Some(Turn::Shared(jobs)), None);
                }
            }
        }
        let alone = first.filter(|_| is_due).and_then(|key| self.aside.remove(&key));
        self.was_alone = alone.is_some();
        (alone.map(|aside| Turn::Alone(aside.jobs)), due)
    }

    /// All that is urgent, then the rest.
    fn drain(&mut self, limit: usize) -> Vec<Job> {
        let mut jobs = Vec::new();
        for lane in &mut self.lanes {
            lane.drain(limit, &mut jobs);
        }
        jobs
    }

    fn divert(&mut self, jobs: Vec<Job>) -> Vec<Job> {
        if self.aside.is_empty() {
            return jobs;
        }
        let mut rest = Vec::with_capacity(jobs.len());
        for job in jobs {
            match self.aside.get_mut(&job.command.account) {
                Some(aside) if aside.jobs.len() < BATCH_MAX => aside.jobs.push(job),
                Some(_) => job.refuse(ExecuteError::Unavailable),
                None => rest.push(job),
            }
        }
        rest
    }

    fn put_aside(&mut self, job: Job, due: Instant) {
        match self.aside.get_mut(&job.command.account) {
            Some(aside) => {
                aside.due = aside.due.min(due);
                aside.jobs.push(job);
            }
            None => drop(self.aside.insert(job.command.account.clone(), Aside { jobs: vec![job], due })),
        }
    }
}

impl Lane {
    /// Adds a job; false if its business, or all of them, have as much here as they may.
    fn push(&mut self, job: Job, share: usize) -> bool {
        let business = &job.command.account.business_id;
        if self.len >= share.saturating_mul(SHARES) {
            return false;
        }
        match self.jobs.get_mut(business) {
            Some(own) if own.len() >= share => return false,
            Some(own) => own.push_back(job),
            None => {
                self.turns.push_back(business.clone());
                self.jobs.insert(business.clone(), VecDeque::from([job]));
            }
        }
        self.len += 1;
        true
    }

    /// Takes jobs until there are `limit`, one of each business in turn.
    fn drain(&mut self, limit: usize, jobs: &mut Vec<Job>) {
        while jobs.len() < limit {
            let Some(business) = self.turns.pop_front() else { break };
            let Some(own) = self.jobs.get_mut(&business) else { continue };
            jobs.extend(own.pop_front().inspect(|_| self.len -= 1));
            if own.is_empty() {
                self.jobs.remove(&business);
            } else {
                self.turns.push_back(business);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use api::{LegsId, legs::LegKey};
    use money::Asset;
    use tokio::sync::oneshot::Receiver;
    use uuid::Uuid;

    use super::*;
    use crate::{
        command::{Action, Command},
        executor::Reply,
    };

    type Waiting = Receiver<Result<Reply, ExecuteError>>;

    fn job(business: &str, owner: &str, action: Action) -> (Job, Waiting) {
        let business_id = BusinessId::try_from(business.to_owned()).unwrap();
        let account = AccountKey { business_id, owner: owner.to_owned(), asset: Asset::Points };
        Job::new(Command { operation_id: Uuid::nil(), account, action })
    }

    fn push(queue: &Queue, business: &str, owner: &str, action: Action) -> Result<(), ExecuteError> {
        queue.push(job(business, owner, action).0)
    }

    fn cancel() -> Action {
        Action::Cancel(LegKey { legs_id: LegsId(Uuid::nil()), leg: 0 })
    }

    fn names(jobs: &[Job]) -> Vec<(&str, &str)> {
        let accounts = jobs.iter().map(|job| &job.command.account);
        accounts.map(|account| (account.business_id.as_str(), account.owner.as_str())).collect()
    }

    async fn shared(queue: &Queue, limit: usize) -> Vec<Job> {
        match queue.take(limit).await {
            Turn::Shared(jobs) => jobs,
            Turn::Alone(jobs) => panic!("alone: {jobs:?}"),
        }
    }

    #[tokio::test]
    async fn one_businesss_burst_neither_turns_others_away_nor_keeps_them_waiting() {
        let queue = Queue::new(100);
        let burst = (0..150).filter(|n| push(&queue, "big", &n.to_string(), Action::Query).is_ok()).count();
        assert_eq!(burst, 100);
        assert_eq!(push(&queue, "small", "a", Action::Query), Ok(()));
        assert_eq!(push(&queue, "small", "b", Action::Query), Ok(()));
        assert_eq!(push(&queue, "big", "urgent", cancel()), Ok(()), "each lane has its own room");
        let first = shared(&queue, 4).await;
        assert_eq!(names(&first), [("big", "urgent"), ("big", "0"), ("small", "a"), ("big", "1")]);
        assert_eq!(names(&shared(&queue, 3).await), [("small", "b"), ("big", "2"), ("big", "3")]);
        assert_eq!(queue.len(), (96, 0));
    }

    #[tokio::test]
    async fn all_businesses_together_have_a_bound() {
        let queue = Queue::new(2);
        let taken = (0..20).filter(|n| push(&queue, &format!("b{n}"), "a", Action::Query).is_ok()).count();
        assert_eq!(taken, 2 * SHARES);
    }

    #[tokio::test]
    async fn an_account_that_is_aside_takes_turns_with_the_others_and_keeps_its_order() {
        let queue = Queue::new(100);
        queue.put_aside_to_sweep(vec![job("b", "aside", Action::Query).0]);
        for owner in ["x", "aside", "y", "aside"] {
            push(&queue, "b", owner, Action::Query).unwrap();
        }
        let Turn::Alone(jobs) = queue.take(2).await else { panic!("it is due") };
        queue.put_aside_to_sweep(jobs);
        assert_eq!(names(&shared(&queue, 2).await), [("b", "x")]);
        let Turn::Alone(jobs) = queue.take(2).await else { panic!("it is due again") };
        assert_eq!(jobs.len(), 2, "what came later joined it");
        queue.put_aside_to_sweep(jobs);
        assert_eq!(names(&shared(&queue, 9).await), [("b", "y")]);
        assert!(matches!(queue.take(9).await, Turn::Alone(jobs) if jobs.len() == 3));

        // Behind more than a batch of commands that all join it, others are found at once.
        let far = job("b", "aside", Action::Query).0;
        queue.lanes().put_aside(far, Instant::now() + std::time::Duration::from_secs(60));
        for owner in ["aside", "aside", "aside", "z"] {
            push(&queue, "b", owner, Action::Query).unwrap();
        }
        assert_eq!(names(&shared(&queue, 2).await), [("b", "z")]);
    }

    #[tokio::test]
    async fn a_locked_account_is_tried_again_and_then_given_up() {
        let (mut job, _answer) = job("b", "locked", Action::Query);
        let began = Instant::now();
        let (mut now, mut tries) = (began, 0);
        while let Some(due) = job.again_at(now) {
            assert!(due > now);
            (now, tries) = (due, tries + 1);
        }
        assert!((10..40).contains(&tries), "{tries} tries");
        assert_eq!((now - began).as_secs(), 5);
    }

    #[tokio::test]
    async fn what_is_in_doubt_is_never_called_undone() {
        let queue = Queue::new(100);
        let ((mut doubted, mut one), (known, mut other)) =
            (job("b", "a", Action::Query), job("b", "b", Action::Query));
        doubted.doubt();
        queue.put_aside_to_sweep(vec![doubted, known]);
        queue.close();
        assert_eq!(one.try_recv().unwrap(), Err(ExecuteError::Unknown));
        assert_eq!(other.try_recv().unwrap(), Err(ExecuteError::Unavailable));
    }
}
