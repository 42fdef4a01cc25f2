//! Commands whose accounts would keep a batch waiting, by account.
//!
//! Commands of an account stay in the order in which they came. Those of an account that others have locked run together with those
//! of all others that are due: a batch passes over the accounts that are still locked. Where another row is locked, or lapsed lots
//! are to be moved out first, an account runs alone.

use std::collections::{BTreeSet, HashMap};

use api::BusinessId;
use tokio::time::Instant;

use super::{
    BATCH_MAX, ExecuteError,
    job::{Cause, Job, LANES, Turn},
};
use crate::command::AccountKey;

/// The accounts that are aside.
#[derive(Debug, Default)]
pub struct Aside {
    accounts: HashMap<AccountKey, Waiting>,
    /// The same accounts in the order in which they are due.
    schedule: BTreeSet<(Instant, AccountKey)>,
    /// Commands here, by the lane through which they came.
    counts: [Count; LANES],
}

/// Commands of one account.
#[derive(Debug)]
struct Waiting {
    jobs: Vec<Job>,
    due: Instant,
    cause: Cause,
}

/// How many commands there are.
#[derive(Debug, Default)]
pub struct Count {
    all: usize,
    of: HashMap<BusinessId, usize>,
}

impl Aside {
    /// Puts a command aside.
    pub fn put(&mut self, mut job: Job, cause: Cause, now: Instant) {
        let due = job.put_aside(cause, now);
        let key = job.command.account.clone();
        self.counts[job.lane()].add(&key.business_id);
        let waiting =
            self.accounts.entry(key.clone()).or_insert_with(|| Waiting { jobs: Vec::new(), due, cause });
        self.schedule.remove(&(waiting.due, key.clone()));
        waiting.due = waiting.due.min(due);
        waiting.jobs.push(job);
        self.schedule.insert((waiting.due, key));
    }

    /// Adds a command to those of its account, or gives it back if the account is not aside. An account has room for a batch of
    /// each lane: cancels find room behind forwards.
    pub fn join(&mut self, mut job: Job, now: Instant) -> Option<Job> {
        let Some(waiting) = self.accounts.get_mut(&job.command.account) else { return Some(job) };
        let lane = job.lane();
        if waiting.jobs.iter().filter(|other| other.lane() == lane).count() >= BATCH_MAX {
            job.refuse(ExecuteError::Unavailable);
            return None;
        }
        job.wait_from(now, waiting.cause);
        self.counts[lane].add(&job.command.account.business_id);
        waiting.jobs.push(job);
        None
    }

    /// What is due: about `limit` commands of accounts that run together, or those of one that runs alone.
    pub fn take(&mut self, limit: usize, now: Instant) -> Option<Turn> {
        let mut together = Vec::new();
        while together.len() < limit
            && let Some((due, key)) = self.schedule.first()
            && *due <= now
        {
            let runs_alone = self.accounts.get(key).is_some_and(|waiting| waiting.cause.runs_alone());
            if runs_alone && !together.is_empty() {
                break;
            }
            let Some((_, key)) = self.schedule.pop_first() else { break };
            let jobs = self.remove(&key, now);
            if runs_alone && !jobs.is_empty() {
                return Some(Turn::Alone(jobs));
            }
            together.extend(jobs);
        }
        (!together.is_empty()).then_some(Turn::Isolated(together))
    }

    /// When the first account is due.
    pub fn due(&self) -> Option<Instant> {
        self.schedule.first().map(|(due, _)| *due)
    }

    /// Takes everything out.
    pub fn drain(&mut self) -> Vec<Job> {
        std::mem::take(self).accounts.into_values().flat_map(|waiting| waiting.jobs).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// The commands that came through this lane.
    pub fn count(&self, lane: usize) -> &Count {
        &self.counts[lane]
    }

    /// The commands of an account. A command whose caller has gone is dropped, and one that has waited for too long is refused.
    fn remove(&mut self, key: &AccountKey, now: Instant) -> Vec<Job> {
        let Some(waiting) = self.accounts.remove(key) else { return Vec::new() };
        let mut jobs = Vec::with_capacity(waiting.jobs.len());
        for job in waiting.jobs {
            self.counts[job.lane()].remove(&key.business_id);
            if job.is_abandoned() {
                continue;
            }
            if job.has_waited_too_long(now) {
                job.refuse(ExecuteError::Unavailable);
            } else {
                jobs.push(job);
            }
        }
        jobs
    }
}

impl Count {
    /// Commands of all businesses.
    pub const fn all(&self) -> usize {
        self.all
    }

    /// Commands of one business.
    pub fn of(&self, business: &BusinessId) -> usize {
        self.of.get(business).copied().unwrap_or_default()
    }

    fn add(&mut self, business: &BusinessId) {
        self.all += 1;
        *self.of.entry(business.clone()).or_default() += 1;
    }

    fn remove(&mut self, business: &BusinessId) {
        self.all -= 1;
        if let Some(count) = self.of.get_mut(business) {
            *count -= 1;
            if *count == 0 {
                self.of.remove(business);
            }
        }
    }
}
