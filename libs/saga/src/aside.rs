//! Writes that something keeps from being written, by what they are about.
//!
//! A locked row, or a conflict that comes again, must cost nobody but those who need that row. So what the writers could not
//! write together is put here, and a lane of its own ([`crate::lane`]) finds out what is kept:
//! - What was never refused alone is tried in groups. A group that is refused is tried again in quarters, each behind the groups
//!   that wait: of the 256 writes that a locked row has brought here, 255 are written within some fifteen turns.
//! - What was refused alone is tried later and later, until its patience is over. It has a turn where nothing untried waits, else
//!   one turn in [`TURNS`].
//!
//! A subject is remembered for a while after its last refusal, and also if its writes were given up untried: what comes about it
//! joins here, and no batch meets it.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::domain::{Key, SagaId};

/// How long a write is tried, unless an earlier attempt may have committed: that is found out, however long it takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// By so much later at most is a write given up.
const SWEEP: Duration = Duration::from_millis(50);
/// Pause after the first refusal of a subject; each further one doubles it,
const PAUSE: Duration = Duration::from_millis(50);
/// up to this.
const PAUSE_MAX: Duration = Duration::from_millis(400);
/// Of so many turns one is a refused subject's, while others wait that are untried.
const TURNS: u32 = 4;
/// Into so many parts a group is divided that was refused.
const PARTS: usize = 4;
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
    /// To be tried together, one write a subject, all of them in doubt or none. Their subjects are at work until
    /// [`Aside::settle`] or [`Aside::put_back`].
    pub next: Vec<Waiting<T>>,
    /// Out of patience.
    pub over: Vec<Waiting<T>>,
}

impl<T> Turn<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.next.is_empty() && self.over.is_empty()
    }
}

/// All writes that are aside.
#[derive(Debug)]
pub(crate) struct Aside<T> {
    subjects: HashMap<Subject, Entry<T>>,
    /// Groups of subjects that were not refused alone, in the order of their turns.
    untried: VecDeque<Vec<Subject>>,
    /// Subjects that were, by the time at which they may be tried again.
    refused: BTreeSet<(Instant, Subject)>,
    /// Turns of untried groups since the last one of a refused subject.
    turns: u32,
    count: usize,
    /// When it is looked again for what is over.
    sweep_at: Option<Instant>,
}

/// Where a subject waits for its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nowhere: nothing about it is to be written.
    Nowhere,
    Untried,
    Refused,
    AtWork,
}

#[derive(Debug)]
struct Entry<T> {
    waiting: VecDeque<Waiting<T>>,
    place: Place,
    /// In a row, each of them alone.
    refusals: u32,
    /// When it may be tried again after a refusal.
    due: Instant,
    /// When it is forgotten, if nothing of it waits.
    forgotten: Instant,
}

impl<T> Default for Aside<T> {
    fn default() -> Self {
        Self {
            subjects: HashMap::new(),
            untried: VecDeque::new(),
            refused: BTreeSet::new(),
            turns: 0,
            count: 0,
            sweep_at: None,
        }
    }
}

impl<T: About> Aside<T> {
    /// Whether what this request is about is aside. Costs nothing while nothing is.
    pub(crate) fn concerns(&self, request: &T) -> bool {
        !self.subjects.is_empty() && self.subjects.contains_key(&request.subject())
    }

    /// Puts writes aside which were refused together, or whose subjects are aside.
    pub(crate) fn put(&mut self, requests: impl IntoIterator<Item = T>, now: Instant) {
        let mut subjects = Vec::new();
        for request in requests {
            let subject = request.subject();
            let entry = self.subjects.entry(subject.clone()).or_insert_with(|| Entry {
                waiting: VecDeque::new(),
                place: Place::Nowhere,
                refusals: 0,
                due: now,
                forgotten: now + REMEMBERED,
            });
            entry.waiting.push_back(Waiting { request, refusal: None, until: now + PATIENCE });
            self.count += 1;
            subjects.push(subject);
        }
        self.line_up_in_parts(&subjects);
    }

    /// What is to be tried now, and what has no patience left.
    pub(crate) fn take(&mut self, now: Instant) -> Turn<T> {
        let over = self.sweep(now);
        Turn { next: self.next(now), over }
    }

    /// Writes were answered: nothing keeps their subjects any more.
    pub(crate) fn settle(&mut self, subjects: &[Subject]) {
        for subject in subjects {
            let Some(entry) = self.subjects.get_mut(subject) else { continue };
            entry.place = Place::Nowhere;
            entry.refusals = 0;
            if entry.waiting.is_empty() {
                self.subjects.remove(subject);
            }
        }
        self.line_up(subjects);
    }

    /// What was tried together was refused. Several are tried again in parts; one alone later, behind the others about its subject.
    pub(crate) fn put_back(&mut self, tried: Vec<Waiting<T>>, now: Instant) {
        let is_alone = tried.len() == 1;
        let mut subjects = Vec::with_capacity(tried.len());
        for waiting in tried {
            let subject = waiting.request.subject();
            let Some(entry) = self.subjects.get_mut(&subject) else { continue };
            entry.place = Place::Nowhere;
            if is_alone {
                entry.refusals = entry.refusals.saturating_add(1);
                entry.due = now + pause(entry.refusals);
                entry.forgotten = entry.due + REMEMBERED;
                entry.waiting.push_back(waiting);
            } else {
                entry.waiting.push_front(waiting);
            }
            self.count += 1;
            subjects.push(subject);
        }
        self.line_up_in_parts(&subjects);
    }

    /// How many writes wait here.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// After an empty turn: when there may be another.
    pub(crate) fn due(&self) -> Option<Instant> {
        let refused = self.refused.first().map(|(due, _)| *due);
        if self.subjects.is_empty() { None } else { refused.into_iter().chain(self.sweep_at).min() }
    }

    fn next(&mut self, now: Instant) -> Vec<Waiting<T>> {
        let is_due = self.refused.first().is_some_and(|(due, _)| *due <= now);
        if is_due
            && (self.untried.is_empty() || self.turns + 1 >= TURNS)
            && let Some((_, subject)) = self.refused.pop_first()
        {
            self.turns = 0;
            return self.begin(vec![subject], Place::Refused);
        }
        while let Some(group) = self.untried.pop_front() {
            let next = self.begin(group, Place::Untried);
            if !next.is_empty() {
                self.turns = self.turns.saturating_add(1);
                return next;
            }
        }
        Vec::new()
    }

    /// The first write of each of these subjects, as far as it still waits in that place. What is in doubt is not tried with what is
    /// not: an attempt that may be the second recognises what the first has written.
    fn begin(&mut self, subjects: Vec<Subject>, place: Place) -> Vec<Waiting<T>> {
        let (mut next, mut others) = (Vec::<Waiting<T>>::with_capacity(subjects.len()), Vec::new());
        for subject in subjects {
            let Some(entry) = self.subjects.get_mut(&subject).filter(|entry| entry.place == place) else {
                continue;
            };
            let is_like = |first: &Waiting<T>, other: &Waiting<T>| {
                first.request.is_in_doubt() == other.request.is_in_doubt()
            };
            let is_next = |waiting: &Waiting<T>| next.first().is_none_or(|first| is_like(first, waiting));
            if entry.waiting.front().is_some_and(|waiting| !is_next(waiting)) {
                others.push(subject);
            } else if let Some(waiting) = entry.waiting.pop_front() {
                entry.place = Place::AtWork;
                self.count -= 1;
                next.push(waiting);
            }
        }
        if !others.is_empty() {
            self.untried.push_back(others);
        }
        next
    }

    /// What has no patience left. Forgets subjects of which nothing has come for a while.
    fn sweep(&mut self, now: Instant) -> Vec<Waiting<T>> {
        let mut over = Vec::new();
        if self.subjects.is_empty() || self.sweep_at.is_some_and(|at| now < at) {
            return over;
        }
        self.sweep_at = Some(now + SWEEP);
        let is_roomy = self.subjects.len() <= SUBJECTS_MAX;
        self.subjects.retain(|subject, entry| {
            let ends = |waiting: &Waiting<T>| waiting.until <= now && !waiting.request.is_in_doubt();
            let before = over.len();
            if entry.waiting.iter().any(ends) {
                let (ended, waiting): (VecDeque<_>, VecDeque<_>) = entry.waiting.drain(..).partition(ends);
                over.extend(ended);
                entry.waiting = waiting;
            }
            if over.len() > before && entry.waiting.is_empty() && entry.place != Place::AtWork {
                if entry.place == Place::Refused {
                    self.refused.remove(&(entry.due, subject.clone()));
                }
                entry.place = Place::Nowhere;
                entry.forgotten = now + REMEMBERED;
            }
            entry.place != Place::Nowhere || (is_roomy && now < entry.forgotten)
        });
        self.count -= over.len();
        over
    }

    fn line_up_in_parts(&mut self, subjects: &[Subject]) {
        for part in subjects.chunks(subjects.len().div_ceil(PARTS).max(1)) {
            self.line_up(part);
        }
    }

    /// Gives a place to each of these that has none and needs one; those that were not refused are a group.
    fn line_up(&mut self, subjects: &[Subject]) {
        let mut group = Vec::new();
        for subject in subjects {
            let Some(entry) = self.subjects.get_mut(subject) else { continue };
            if entry.place != Place::Nowhere || entry.waiting.is_empty() {
                continue;
            }
            if entry.refusals > 0 {
                entry.place = Place::Refused;
                self.refused.insert((entry.due, subject.clone()));
            } else {
                entry.place = Place::Untried;
                group.push(subject.clone());
            }
        }
        if !group.is_empty() {
            self.untried.push_back(group);
        }
    }
}

/// The pause after so many refusals in a row.
fn pause(refusals: u32) -> Duration {
    PAUSE.saturating_mul(2_u32.saturating_pow(refusals.saturating_sub(1))).min(PAUSE_MAX)
}

#[cfg(test)]
#[path = "aside_tests.rs"]
mod tests;
