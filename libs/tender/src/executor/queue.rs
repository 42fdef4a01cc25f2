//! Commands that wait, in two lanes.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, oneshot};

use super::{ExecuteError, Reply};
use crate::command::Command;

/// A command and who waits for it.
#[derive(Debug)]
pub struct Job {
    pub command: Command,
    reply: oneshot::Sender<Result<Reply, ExecuteError>>,
}

impl Job {
    pub fn new(command: Command) -> (Self, oneshot::Receiver<Result<Reply, ExecuteError>>) {
        let (reply, answer) = oneshot::channel();
        (Self { command, reply }, answer)
    }

    /// Answers. Nobody may be waiting any more: the command is done all the same.
    pub fn answer(self, reply: Result<Reply, ExecuteError>) {
        let _ = self.reply.send(reply);
    }
}

/// A bounded queue with one reader. What gives value back or ends a hold overtakes the rest, so that a burst of new
/// redemptions never delays undoing old ones.
#[derive(Debug)]
pub struct Queue {
    lanes: Mutex<Lanes>,
    filled: Notify,
    capacity: usize,
}

#[derive(Debug)]
struct Lanes {
    urgent: VecDeque<Job>,
    normal: VecDeque<Job>,
    is_open: bool,
}

impl Queue {
    pub fn new(capacity: usize) -> Self {
        let lanes = Lanes { urgent: VecDeque::new(), normal: VecDeque::new(), is_open: true };
        Self { lanes: Mutex::new(lanes), filled: Notify::new(), capacity }
    }

    /// Adds a job. Each lane has the whole capacity: one full of forwards still takes cancels.
    pub fn push(&self, job: Job) -> Result<(), ExecuteError> {
        let mut lanes = self.lanes();
        let is_open = lanes.is_open;
        let lane = if job.command.action.is_urgent() { &mut lanes.urgent } else { &mut lanes.normal };
        if !is_open || lane.len() >= self.capacity {
            return Err(ExecuteError::Unavailable);
        }
        lane.push_back(job);
        drop(lanes);
        self.filled.notify_one();
        Ok(())
    }

    /// Waits until something waits, and takes at most `limit` of it: all that is urgent, then the rest.
    pub async fn take(&self, limit: usize) -> Vec<Job> {
        loop {
            let jobs = self.lanes().drain(limit);
            if !jobs.is_empty() {
                return jobs;
            }
            self.filled.notified().await;
        }
    }

    /// Takes nothing more, and answers everything that waits: none of it was tried.
    pub fn close(&self) {
        let jobs = {
            let mut lanes = self.lanes();
            lanes.is_open = false;
            lanes.drain(usize::MAX)
        };
        for job in jobs {
            job.answer(Err(ExecuteError::Unavailable));
        }
    }

    pub fn open(&self) {
        self.lanes().is_open = true;
    }

    pub fn is_open(&self) -> bool {
        self.lanes().is_open
    }

    pub fn len(&self) -> usize {
        let lanes = self.lanes();
        lanes.urgent.len() + lanes.normal.len()
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        // Nothing that can panic runs under this lock, so its data are sound whatever happened.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lanes {
    fn drain(&mut self, limit: usize) -> Vec<Job> {
        let urgent = self.urgent.len().min(limit);
        let normal = self.normal.len().min(limit - urgent);
        self.urgent.drain(..urgent).chain(self.normal.drain(..normal)).collect()
    }
}
