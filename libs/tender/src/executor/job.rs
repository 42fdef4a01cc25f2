//! A command on its way, and who waits for it.

use std::time::Duration;

use tokio::{sync::oneshot, time::Instant};

use super::{ExecuteError, Reply};
use crate::command::Command;

/// How long a command waits for an account that others have locked before its caller hears 503.
const PATIENCE: Duration = Duration::from_secs(5);
/// First pause before a locked account is tried again; it doubles up to sixteen times as much.
const PAUSE: Duration = Duration::from_millis(20);
const DOUBLINGS: u32 = 4;

/// A command and who waits for it.
#[derive(Debug)]
pub struct Job {
    pub command: Command,
    reply: oneshot::Sender<Result<Reply, ExecuteError>>,
    /// A COMMIT with it was sent, and no answer came: whatever becomes of it later, it may have been done.
    in_doubt: bool,
    /// Since when others have had its account locked, and how often it was tried since.
    locked: Option<(Instant, u32)>,
}

impl Job {
    pub fn new(command: Command) -> (Self, oneshot::Receiver<Result<Reply, ExecuteError>>) {
        let (reply, answer) = oneshot::channel();
        (Self { command, reply, in_doubt: false, locked: None }, answer)
    }

    /// Answers. Nobody may be waiting any more: the command is done all the same.
    pub fn answer(self, reply: Reply) {
        let _ = self.reply.send(Ok(reply));
    }

    /// Answers that there is no outcome. A command in doubt was neither surely tried nor surely not.
    pub fn refuse(self, error: ExecuteError) {
        let error = if self.in_doubt { ExecuteError::Unknown } else { error };
        let _ = self.reply.send(Err(error));
    }

    pub fn doubt(&mut self) {
        self.in_doubt = true;
    }

    pub const fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// When it is to be tried again, after its account was found locked; none if that has gone on for too long.
    pub fn again_at(&mut self, now: Instant) -> Option<Instant> {
        let (since, tries) = self.locked.unwrap_or((now, 0));
        self.locked = Some((since, tries + 1));
        (now < since + PATIENCE).then(|| now + PAUSE * (1 << tries.min(DOUBLINGS)))
    }
}
