//! Writes that something keeps from being written, by what they are about.
//!
//! A locked row, or a conflict that comes again, must cost nobody but those who need that row. So what the writers could not
//! write together is put here, and a lane of its own tries each write alone, later and later, until its patience is over. A
//! subject whose write was refused alone is remembered for a while: what comes about it joins here, and no batch meets it.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::domain::{Key, SagaId};

/// How long a write is tried, unless an earlier attempt may have committed: that is found out, however long it takes.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause after the first refusal of a subject; each further one doubles it,
const PAUSE: Duration = Duration::from_millis(50);
/// up to this.
const PAUSE_MAX: Duration = Duration::from_millis(400);
/// How long a subject is remembered of which nothing waits.
const REMEMBERED: Duration = Duration::from_secs(5);
/// Most subjects that are remembered though nothing of them waits.
const SUBJECTS_MAX: usize = 8_192;

/// What a write is about: the row that may be what others have locked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Subject {
    /// A saga that exists, to be moved or to be taken further.
    Saga(SagaId),
    /// A key that a new saga takes.
    Key(Key),
}

/// A write that can be put aside.
pub(crate) trait About {
    /// What it is about.
    fn subject(&self) -> Subject;

    /// Whether an earlier attempt at it may have committed.
    fn is_in_doubt(&self) -> bool;
}

/// A write that is aside.
#[derive(Debug)]
pub(crate) struct Waiting<T> {
    pub request: T,
    /// Why the last attempt at it alone failed; none if there was none, or if the database was away.
    pub refusal: Option<String>,
    /// When it has no patience left.
    pub until: Instant,
}

/// What to do now.
#[derive(Debug)]
pub(crate) struct Turn<T> {
    /// To be tried alone; its subject is at work until [`Aside::settle`] or [`Aside::put_back`].
    pub next: Option<Waiting<T>>,
    /// Out of patience.
    pub over: Vec<Waiting<T>>,
}

impl<T> Turn<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.next.is_none() && self.over.is_empty()
    }
}

/// All writes that are aside.
#[derive(Debug)]
pub(crate) struct Aside<T> {
    subjects: HashMap<Subject, Entry<T>>,
    /// Subjects that are not at work, in the order in which they are looked at.
    schedule: BTreeSet<(Instant, Subject)>,
    count: usize,
}

#[derive(Debug)]
struct Entry<T> {
    waiting: VecDeque<Waiting<T>>,
    refusals: u32,
    /// When it may be tried again.
    due: Instant,
    is_at_work: bool,
    /// Its place in the schedule.
    scheduled: Option<Instant>,
}

impl<T> Default for Aside<T> {
    fn default() -> Self {
        Self { subjects: HashMap::new(), schedule: BTreeSet::new(), count: 0 }
    }
}

impl<T: About> Aside<T> {
    /// Whether what this request is about is aside. Costs nothing while nothing is.
    pub(crate) fn concerns(&self, request: &T) -> bool {
        !self.subjects.is_empty() && self.subjects.contains_key(&request.subject())
    }

    /// Puts a write aside, to be tried as soon as its subject is due.
    pub(crate) fn put(&mut self, request: T, now: Instant) {
        let subject = request.subject();
        let waiting = Waiting { request, refusal: None, until: now + PATIENCE };
        let entry = self.subjects.entry(subject.clone()).or_insert_with(|| Entry {
            waiting: VecDeque::new(),
            refusals: 0,
            due: now,
            is_at_work: false,
            scheduled: None,
        });
        entry.waiting.push_back(waiting);
        self.count += 1;
        let due = entry.due;
        if !entry.is_at_work {
            self.schedule(subject, due);
        }
    }

    /// What is due first, and what has no patience left.
    pub(crate) fn take(&mut self, now: Instant) -> Turn<T> {
        let mut turn = Turn { next: None, over: Vec::new() };
        while turn.next.is_none() && self.due().is_some_and(|due| due <= now) {
            let Some((_, subject)) = self.schedule.pop_first() else { break };
            let Some(entry) = self.subjects.get_mut(&subject) else { continue };
            let forgotten = entry.due + REMEMBERED;
            let is_known = entry.refusals > 0 && now < forgotten;
            let (over, mut waiting): (VecDeque<_>, VecDeque<_>) =
                entry.waiting.drain(..).partition(|w| w.until <= now && !w.request.is_in_doubt());
            self.count -= over.len();
            turn.over.extend(over);
            turn.next = waiting.pop_front();
            entry.waiting = waiting;
            entry.is_at_work = turn.next.is_some();
            entry.scheduled = None;
            if turn.next.is_some() {
                self.count -= 1;
            } else if is_known && self.subjects.len() <= SUBJECTS_MAX {
                self.schedule(subject, forgotten);
            } else {
                self.subjects.remove(&subject);
            }
        }
        turn
    }

    /// A write was answered: nothing keeps its subject any more.
    pub(crate) fn settle(&mut self, subject: &Subject, now: Instant) {
        let Some(entry) = self.subjects.get_mut(subject) else { return };
        entry.is_at_work = false;
        entry.refusals = 0;
        entry.due = now;
        if entry.waiting.is_empty() {
            self.subjects.remove(subject);
        } else {
            self.schedule(subject.clone(), now);
        }
    }

    /// A write was refused, and is tried again later, behind the others about its subject.
    pub(crate) fn put_back(&mut self, tried: Waiting<T>, now: Instant) {
        let subject = tried.request.subject();
        let Some(entry) = self.subjects.get_mut(&subject) else { return };
        entry.is_at_work = false;
        entry.refusals = entry.refusals.saturating_add(1);
        entry.due = now + pause(entry.refusals);
        entry.waiting.push_back(tried);
        self.count += 1;
        let due = entry.due;
        self.schedule(subject, due);
    }

    /// How many writes wait here.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// When something is to be looked at next.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.schedule.first().map(|(due, _)| *due)
    }

    fn schedule(&mut self, subject: Subject, at: Instant) {
        let Some(entry) = self.subjects.get_mut(&subject) else { return };
        let before = entry.scheduled.replace(at);
        if let Some(before) = before {
            self.schedule.remove(&(before, subject.clone()));
        }
        self.schedule.insert((at, subject));
    }
}

/// The pause after so many refusals in a row.
fn pause(refusals: u32) -> Duration {
    PAUSE.saturating_mul(2_u32.saturating_pow(refusals.saturating_sub(1))).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Write {
        about: Subject,
        name: &'static str,
        is_in_doubt: bool,
    }

    impl About for Write {
        fn subject(&self) -> Subject {
            self.about.clone()
        }

        fn is_in_doubt(&self) -> bool {
            self.is_in_doubt
        }
    }

    fn subject() -> Subject {
        Subject::Saga(SagaId(Uuid::now_v7()))
    }

    fn write(about: &Subject, name: &'static str) -> Write {
        Write { about: about.clone(), name, is_in_doubt: false }
    }

    fn name(turn: &Turn<Write>) -> Option<&'static str> {
        turn.next.as_ref().map(|waiting| waiting.request.name)
    }

    #[test]
    fn a_subject_is_with_the_lane_once_and_the_others_go_on() {
        let (mut aside, now) = (Aside::default(), Instant::now());
        let (one, other) = (subject(), subject());
        aside.put(write(&one, "first"), now);
        aside.put(write(&one, "second"), now);
        let first = aside.take(now);
        assert_eq!((name(&first), aside.len()), (Some("first"), 1));
        assert!(aside.take(now).is_empty(), "its subject is at work");
        aside.put(write(&other, "other"), now);
        assert_eq!(name(&aside.take(now)), Some("other"));
        aside.settle(&one, now);
        assert_eq!(name(&aside.take(now)), Some("second"));
        aside.settle(&one, now);
        aside.settle(&other, now);
        assert!(!aside.concerns(&write(&one, "third")), "what was written is forgotten");
        assert_eq!((aside.len(), aside.due()), (0, None));
    }

    #[test]
    fn what_is_refused_is_tried_later_and_later_and_ends() {
        let (mut aside, mut now) = (Aside::default(), Instant::now());
        let (locked, began) = (subject(), now);
        aside.put(write(&locked, "w"), now);
        let mut attempts = 0;
        let over = loop {
            let mut turn = aside.take(now);
            if let Some(mut tried) = turn.next.take() {
                attempts += 1;
                tried.refusal = Some("locked".to_owned());
                aside.put_back(tried, now);
            }
            if let Some(over) = turn.over.pop() {
                break over;
            }
            now = aside.due().expect("it waits");
        };
        assert!(now - began <= PATIENCE + PAUSE_MAX && (5..10).contains(&attempts), "{attempts}");
        assert_eq!(over.refusal.as_deref(), Some("locked"));
        // Remembered: the next one comes here, and is tried when the subject is due.
        assert!(aside.concerns(&write(&locked, "next")));
        aside.put(write(&locked, "next"), now);
        assert!(aside.due().expect("it waits") <= now + PAUSE_MAX);
        assert_eq!(name(&aside.take(now + PAUSE_MAX)), Some("next"));
    }

    #[test]
    fn a_subject_of_which_nothing_comes_is_forgotten() {
        let (mut aside, now) = (Aside::default(), Instant::now());
        let locked = subject();
        aside.put(write(&locked, "w"), now);
        let tried = aside.take(now).next.expect("it is due");
        aside.put_back(tried, now);
        assert_eq!(aside.take(now + PATIENCE).over.len(), 1);
        assert!(aside.take(aside.due().expect("remembered")).is_empty());
        assert!(!aside.concerns(&write(&locked, "w")) && aside.due().is_none());
    }

    #[test]
    fn what_may_have_been_committed_is_never_given_up() {
        let (mut aside, now) = (Aside::default(), Instant::now());
        let doubtful = Write { is_in_doubt: true, ..write(&subject(), "w") };
        aside.put(doubtful, now);
        let turn = aside.take(now + PATIENCE * 100);
        assert!(turn.over.is_empty() && turn.next.is_some());
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses = [1, 2, 3, 4, 5, u32::MAX].map(|refusals| pause(refusals).as_millis());
        assert_eq!(pauses, [50, 100, 200, 400, 400, 400]);
    }
}
