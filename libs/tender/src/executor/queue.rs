//! Commands that wait: two lanes, and beside them the accounts that would keep others waiting.
//!
//! | lane | what | taken |
//! |---|---|---|
//! | urgent | what gives value back or ends a hold | first, so that a burst of new redemptions never delays undoing old ones |
//! | normal | everything else | then |
//!
//! In a lane businesses take turns, and each has a bound of its own: what one sends delays its own commands, not others'.
//! Commands of an account that others have locked, or that has too much to sweep, are put aside (`aside`) and run in turns with
//! the batches of everybody else. They count in their lane's bounds.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use api::BusinessId;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    ExecuteError,
    aside::Aside,
    job::{Cause, Job, LANES, Turn},
};

/// As many businesses can fill their share of a lane at once.
const SHARES: usize = 4;

/// A bounded queue with one reader.
#[derive(Debug)]
pub struct Queue {
    lanes: Mutex<Lanes>,
    filled: Notify,
    /// Most commands of one business in a lane, those aside counted.
    share: usize,
}

#[derive(Debug)]
struct Lanes {
    lanes: [Lane; LANES],
    aside: Aside,
    /// Whether the last turn was that of what is aside.
    was_aside: bool,
    is_open: bool,
}

/// Commands of several businesses, which take turns.
#[derive(Debug, Default)]
struct Lane {
    jobs: HashMap<BusinessId, VecDeque<Job>>,
    turns: VecDeque<BusinessId>,
    len: usize,
}

impl Queue {
    /// A queue that takes `share` commands of one business in each lane, and [`SHARES`] times as many of all.
    pub fn new(share: usize) -> Self {
        let lanes =
            Lanes { lanes: Default::default(), aside: Aside::default(), was_aside: false, is_open: true };
        Self { lanes: Mutex::new(lanes), filled: Notify::new(), share }
    }

    /// Adds a job. Each lane has the whole room: one full of forwards still takes cancels.
    pub fn push(&self, job: Job) -> Result<(), ExecuteError> {
        let mut lanes = self.lanes();
        if !lanes.is_open || !lanes.has_room(&job, self.share) {
            return Err(ExecuteError::Unavailable);
        }
        lanes.lanes[job.lane()].push(job);
        drop(lanes);
        self.filled.notify_one();
        Ok(())
    }

    /// Waits until something can be run: what was put aside and is due, or at most `limit` commands of the lanes.
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

    /// Puts commands aside, until they are due again or have waited for too long.
    pub fn put_aside(&self, jobs: Vec<Job>, cause: Cause) {
        let (mut lanes, now) = (self.lanes(), Instant::now());
        jobs.into_iter().for_each(|job| lanes.aside.put(job, cause, now));
    }

    /// Those of the jobs whose account is not aside; the others join it there, so that commands of an account keep their order.
    pub fn divert(&self, jobs: Vec<Job>) -> Vec<Job> {
        self.lanes().divert(jobs, Instant::now())
    }

    /// Takes nothing more, and answers everything that waits: none of it was tried.
    pub fn close(&self) {
        let jobs = {
            let mut lanes = self.lanes();
            lanes.is_open = false;
            let mut jobs = lanes.drain(usize::MAX);
            jobs.extend(lanes.aside.drain());
            jobs
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
        let aside: usize = (0..LANES).map(|lane| lanes.aside.count(lane).all()).sum();
        (lanes.lanes.iter().map(|lane| lane.len).sum::<usize>() + aside, aside)
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        // Nothing that can panic runs under this lock, so its data are sound whatever happened.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lanes {
    /// Whether the job's business, and all of them together, have fewer commands here than they may.
    fn has_room(&self, job: &Job, share: usize) -> bool {
        let (lane, aside) = (&self.lanes[job.lane()], self.aside.count(job.lane()));
        let business = &job.command.account.business_id;
        lane.len + aside.all() < share.saturating_mul(SHARES)
            && lane.of(business) + aside.of(business) < share
    }

    /// What is to be run now; when something that is aside is due.
    fn next(&mut self, limit: usize, now: Instant) -> (Option<Turn>, Option<Instant>) {
        let turn = if self.was_aside {
            self.shared(limit, now).or_else(|| self.aside.take(limit, now))
        } else {
            self.aside.take(limit, now).or_else(|| self.shared(limit, now))
        };
        self.was_aside = matches!(turn, Some(Turn::Isolated(_) | Turn::Alone(_)));
        (turn, self.aside.due())
    }

    /// Commands of the lanes whose accounts are not aside.
    fn shared(&mut self, limit: usize, now: Instant) -> Option<Turn> {
        loop {
            let drained = self.drain(limit);
            if drained.is_empty() {
                return None;
            }
            let jobs = self.divert(drained, now);
            if !jobs.is_empty() {
                return Some(Turn::Shared(jobs));
            }
        }
    }

    /// All that is urgent, then the rest.
    fn drain(&mut self, limit: usize) -> Vec<Job> {
        let mut jobs = Vec::new();
        for lane in &mut self.lanes {
            lane.drain(limit, &mut jobs);
        }
        jobs
    }

    fn divert(&mut self, jobs: Vec<Job>, now: Instant) -> Vec<Job> {
        if self.aside.is_empty() {
            return jobs;
        }
        jobs.into_iter().filter_map(|job| self.aside.join(job, now)).collect()
    }
}

impl Lane {
    fn push(&mut self, job: Job) {
        let business = &job.command.account.business_id;
        match self.jobs.get_mut(business) {
            Some(own) => own.push_back(job),
            None => {
                self.turns.push_back(business.clone());
                self.jobs.insert(business.clone(), VecDeque::from([job]));
            }
        }
        self.len += 1;
    }

    fn of(&self, business: &BusinessId) -> usize {
        self.jobs.get(business).map_or(0, VecDeque::len)
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
    use std::time::Duration;

    use api::{LegsId, legs::LegKey};
    use money::Asset;
    use tokio::sync::oneshot::Receiver;
    use uuid::Uuid;

    use super::*;
    use crate::{
        command::{AccountKey, Action, Command},
        executor::{BATCH_MAX, Reply},
    };

    type Waiting = Receiver<Result<Reply, ExecuteError>>;

    fn job(business: &str, owner: &str, action: Action) -> (Job, Waiting) {
        let business_id = BusinessId::try_from(business.to_owned()).unwrap();
        let account = AccountKey { business_id, owner: owner.to_owned(), asset: Asset::Points };
        Job::new(Command { operation_id: Uuid::nil(), account, action })
    }

    /// A job whose caller waits for ever.
    fn awaited(business: &str, owner: &str, action: Action) -> Job {
        let (job, answer) = job(business, owner, action);
        std::mem::forget(answer);
        job
    }

    fn push(queue: &Queue, business: &str, owner: &str, action: Action) -> Result<(), ExecuteError> {
        queue.push(awaited(business, owner, action))
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
            other => panic!("{other:?}"),
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
        queue.put_aside(vec![awaited("b", "aside", Action::Query)], Cause::Overdue);
        for owner in ["x", "aside", "y", "aside"] {
            push(&queue, "b", owner, Action::Query).unwrap();
        }
        let Turn::Alone(jobs) = queue.take(2).await else { panic!("it is due") };
        queue.put_aside(jobs, Cause::Overdue);
        assert_eq!(names(&shared(&queue, 2).await), [("b", "x")]);
        let Turn::Alone(jobs) = queue.take(2).await else { panic!("it is due again") };
        assert_eq!(jobs.len(), 2, "what came later joined it");
        queue.put_aside(jobs, Cause::Overdue);
        assert_eq!(names(&shared(&queue, 9).await), [("b", "y")]);
        assert!(matches!(queue.take(9).await, Turn::Alone(jobs) if jobs.len() == 3));

        // Behind more than a batch of commands that all join it, others are found at once.
        queue.put_aside(vec![awaited("b", "aside", Action::Query)], Cause::AccountLocked);
        for owner in ["aside", "aside", "aside", "z"] {
            push(&queue, "b", owner, Action::Query).unwrap();
        }
        assert_eq!(names(&shared(&queue, 2).await), [("b", "z")]);
    }

    #[tokio::test(start_paused = true)]
    async fn accounts_that_were_locked_come_back_together_in_the_order_in_which_they_came() {
        let queue = Queue::new(1_000);
        let owners: Vec<String> = (0..BATCH_MAX).map(|number| number.to_string()).collect();
        let jobs = owners.iter().map(|owner| awaited("b", owner, Action::Query)).collect();
        queue.put_aside(jobs, Cause::AccountLocked);
        push(&queue, "b", "0", cancel()).unwrap();
        let Turn::Isolated(jobs) = queue.take(BATCH_MAX).await else { panic!("they are due") };
        assert_eq!(jobs.len(), BATCH_MAX, "one batch is enough");
        let Turn::Isolated(rest) = queue.take(BATCH_MAX).await else { panic!("the others are due") };
        let of_first: Vec<bool> = jobs
            .iter()
            .chain(&rest)
            .filter(|job| job.command.account.owner == "0")
            .map(|job| job.command.action.is_urgent())
            .collect();
        assert_eq!((rest.len(), of_first), (1, vec![false, true]));
        assert_eq!(queue.len(), (0, 0));

        // What would keep the others waiting runs by itself.
        queue.put_aside(vec![awaited("b", "row", Action::Query)], Cause::RowLocked);
        queue.put_aside(vec![awaited("b", "account", Action::Query)], Cause::AccountLocked);
        tokio::time::advance(Duration::from_millis(100)).await;
        let turns = [queue.take(9).await, queue.take(9).await];
        let is_alone = turns.iter().map(|turn| matches!(turn, Turn::Alone(_))).filter(|is_alone| *is_alone);
        assert_eq!(is_alone.count(), 1, "{turns:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_aside_waits_less_than_its_caller_and_hears_that_it_was_not_done() {
        let queue = Queue::new(100);
        let ((first, mut refused), (gone, _)) =
            (job("b", "locked", Action::Query), job("b", "gone", Action::Query));
        let began = Instant::now();
        queue.put_aside(vec![first, gone], Cause::AccountLocked);
        let mut tries = 0;
        while let Ok(turn) = tokio::time::timeout(Duration::from_secs(1), queue.take(9)).await {
            let Turn::Isolated(jobs) = turn else { panic!("{turn:?}") };
            assert_eq!(names(&jobs), [("b", "locked")], "nobody waits for the other");
            assert!(began.elapsed() < Duration::from_millis(1_500));
            tries += 1;
            queue.put_aside(jobs, Cause::AccountLocked);
        }
        assert!((5..20).contains(&tries), "{tries} tries");
        assert_eq!(refused.try_recv().unwrap(), Err(ExecuteError::Unavailable));
        assert_eq!(queue.len(), (0, 0));
    }

    #[tokio::test]
    async fn what_is_aside_counts_in_the_bounds_of_its_lane() {
        let queue = Queue::new(100);
        let many: Vec<Job> = (0..100).map(|n| awaited("big", &n.to_string(), Action::Query)).collect();
        queue.put_aside(many, Cause::AccountLocked);
        assert_eq!(push(&queue, "big", "x", Action::Query), Err(ExecuteError::Unavailable));
        assert_eq!(push(&queue, "small", "x", Action::Query), Ok(()));
        assert_eq!(push(&queue, "big", "0", cancel()), Ok(()), "cancels have room of their own");
        let more = |business: usize| {
            (0..100).map(|n| awaited(&format!("b{business}"), &n.to_string(), Action::Query)).collect()
        };
        (0..SHARES - 1).for_each(|business| queue.put_aside(more(business), Cause::AccountLocked));
        assert_eq!(push(&queue, "other", "x", Action::Query), Err(ExecuteError::Unavailable));
    }

    #[tokio::test]
    async fn an_account_that_is_aside_takes_cancels_behind_as_many_forwards_as_it_may_have() {
        let queue = Queue::new(2 * BATCH_MAX);
        let forwards = (0..BATCH_MAX).map(|_| awaited("b", "locked", Action::Query)).collect();
        queue.put_aside(forwards, Cause::AccountLocked);
        let ((forward, mut refused), (undo, mut waiting)) =
            (job("b", "locked", Action::Query), job("b", "locked", cancel()));
        assert_eq!(queue.divert(vec![forward, undo]).len(), 0);
        assert_eq!(refused.try_recv().unwrap(), Err(ExecuteError::Unavailable));
        assert!(waiting.try_recv().is_err(), "it waits");
        assert_eq!(queue.len(), (BATCH_MAX + 1, BATCH_MAX + 1));
    }

    #[tokio::test]
    async fn what_is_in_doubt_is_never_called_undone() {
        let queue = Queue::new(100);
        let ((mut doubted, mut one), (known, mut other)) =
            (job("b", "a", Action::Query), job("b", "b", Action::Query));
        doubted.doubt();
        queue.put_aside(vec![doubted, known], Cause::Overdue);
        queue.close();
        assert_eq!(one.try_recv().unwrap(), Err(ExecuteError::Unknown));
        assert_eq!(other.try_recv().unwrap(), Err(ExecuteError::Unavailable));
    }
}
