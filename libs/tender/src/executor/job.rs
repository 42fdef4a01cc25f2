//! A command on its way, and the caller that waits for it.

use std::time::Duration;

use tokio::{sync::oneshot, time::Instant};

use super::{ExecuteError, Reply};
use crate::command::Command;

/// Lanes, in the order in which they are taken.
pub const LANES: usize = 2;
const URGENT: usize = 0;
const NORMAL: usize = 1;
/// How long a command waits for what others have locked before its caller hears 503: less than the 2 s for which the wallet waits
/// for a leg, so that it hears what became of it.
const LOCK_PATIENCE: Duration = Duration::from_millis(1_500);
/// How long a command waits for its account's lapsed lots to be moved out: less than its caller waits.
const SWEEP_PATIENCE: Duration = Duration::from_secs(5);
/// First pause before a locked account is tried again; it doubles up to sixteen times as much.
const PAUSE: Duration = Duration::from_millis(20);
const DOUBLINGS: u32 = 4;

/// What is run next.
#[derive(Debug)]
pub enum Turn {
    /// Commands of any accounts.
    Shared(Vec<Job>),
    /// Commands of accounts that were put aside; about as many as one batch takes.
    Isolated(Vec<Job>),
    /// Commands of one account that was put aside and would keep others waiting.
    Alone(Vec<Job>),
}

/// Why commands are put aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Others have locked the account.
    AccountLocked,
    /// Others have locked another row that the command needs.
    RowLocked,
    /// More of the account's lots have lapsed than one batch moves out.
    Overdue,
}

impl Cause {
    /// How long a command put aside for this waits.
    pub const fn patience(self) -> Duration {
        match self {
            Self::AccountLocked | Self::RowLocked => LOCK_PATIENCE,
            Self::Overdue => SWEEP_PATIENCE,
        }
    }

    /// As metrics name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AccountLocked => "locked",
            Self::RowLocked => "row_locked",
            Self::Overdue => "overdue",
        }
    }

    /// Whether an account put aside for this would keep others waiting that run with it.
    pub const fn runs_alone(self) -> bool {
        matches!(self, Self::RowLocked | Self::Overdue)
    }
}

/// A command and the caller that waits for it.
#[derive(Debug)]
pub struct Job {
    pub command: Command,
    reply: oneshot::Sender<Result<Reply, ExecuteError>>,
    /// A COMMIT with it was sent, and no answer came: whatever becomes of it later, it may have been done.
    in_doubt: bool,
    /// Once it was put aside: until when it waits, and how often it was tried.
    aside: Option<(Instant, u32)>,
}

impl Job {
    pub fn new(command: Command) -> (Self, oneshot::Receiver<Result<Reply, ExecuteError>>) {
        let (reply, answer) = oneshot::channel();
        (Self { command, reply, in_doubt: false, aside: None }, answer)
    }

    /// Answers. The caller may have gone: the command is done all the same.
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

    /// The lane through which it comes.
    pub fn lane(&self) -> usize {
        if self.command.action.is_urgent() { URGENT } else { NORMAL }
    }

    /// Counts a try that failed for this cause; when it is to be tried again, at the latest when it has waited for too long. A sweep
    /// makes progress each time: it needs no pause.
    pub fn put_aside(&mut self, cause: Cause, now: Instant) -> Instant {
        self.wait_from(now, cause);
        let Some((until, tries)) = &mut self.aside else { return now };
        let pause = PAUSE * (1 << (*tries).min(DOUBLINGS));
        *tries += 1;
        match cause {
            Cause::AccountLocked | Cause::RowLocked => (now + pause).min(*until),
            Cause::Overdue => now,
        }
    }

    /// Its wait for what this is the cause of begins, if it waits for nothing yet.
    pub fn wait_from(&mut self, now: Instant, cause: Cause) {
        self.aside.get_or_insert((now + cause.patience(), 0));
    }

    pub fn has_waited_too_long(&self, now: Instant) -> bool {
        self.aside.is_some_and(|(until, _)| until <= now)
    }

    /// Whether its caller has gone, so that it need not be done: it surely was not.
    pub fn is_abandoned(&self) -> bool {
        !self.in_doubt && self.reply.is_closed()
    }
}
