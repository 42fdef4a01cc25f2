//! Whether a concurrent history has an order: the search of Wing and Gong, with Lowe's memory of what was tried before.
//!
//! In an order every operation happens at one moment between its invocation and its return, one after the other, and
//! the object answers each as it was answered. Finding one takes exponential time in the worst case. Three things keep
//! it short here: a step that changes nothing is taken at once, since it can never be in the way; places that were
//! reached before, by whatever way, are not searched again; and operations bring a hint of where they belong, such as
//! a version that a ledger claims. A hint is only where the search begins: a wrong one costs time, and changes no verdict.

use std::{collections::HashSet, fmt::Debug, hash::Hash};

/// An object that is used by one caller at a time.
pub trait Object: Clone + Eq + Hash + Debug {
    /// What is done to it, with the answer that was given.
    type Operation: Debug;

    /// What it is after the operation; `None` if it would have answered otherwise.
    fn step(&self, operation: &Self::Operation) -> Option<Self>;
}

/// An operation in a history.
#[derive(Debug, Clone)]
pub struct Interval<O> {
    /// What was done.
    pub operation: O,
    /// Not before this moment.
    pub invoked: u64,
    /// Not after this one. `None`: it may happen at any later time, or never.
    pub returned: Option<u64>,
    /// Operations are tried in the order of their hints.
    pub hint: i64,
}

/// Most places that are searched. An object that takes more has no order that its hints know of.
const PLACES: usize = 200_000;

/// Which operations have happened.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Done(Vec<u64>);

impl Done {
    fn has(&self, place: usize) -> bool {
        self.0[place / 64] & (1 << (place % 64)) != 0
    }

    fn add(&mut self, place: usize) {
        self.0[place / 64] |= 1 << (place % 64);
    }
}

/// A place in the search, and where it may go from here.
struct Place<T> {
    object: T,
    done: Done,
    /// No operation before this one is left.
    first: usize,
    count: usize,
    /// What may come next, the most likely last.
    next: Vec<usize>,
}

/// Says why there is no order, or nothing if there is one.
///
/// # Errors
/// Where the search came to an end: the longest order that it found, and what could not follow.
pub fn find<T: Object>(object: T, mut history: Vec<Interval<T::Operation>>) -> Result<(), String> {
    history.sort_by_key(|operation| operation.invoked);
    let done = Done(vec![0; history.len().div_ceil(64)]);
    let mut places = vec![Place { object, done, first: 0, count: 0, next: Vec::new() }];
    if places[0].settle(&history) {
        return Ok(());
    }
    let mut seen = HashSet::new();
    let mut furthest = (0, places[0].describe(&history));
    while let Some(place) = places.last_mut() {
        let Some(next) = place.next.pop() else {
            places.pop();
            continue;
        };
        let Some(object) = place.object.step(&history[next].operation) else { continue };
        let mut there = Place {
            object,
            done: place.done.clone(),
            first: place.first,
            count: place.count,
            next: Vec::new(),
        };
        there.take(next);
        if there.settle(&history) {
            return Ok(());
        }
        if there.count > furthest.0 {
            furthest = (there.count, there.describe(&history));
        }
        if seen.insert((there.done.clone(), there.object.clone())) {
            places.push(there);
        }
        if seen.len() > PLACES {
            return Err(format!("no order within {PLACES} places; {}", furthest.1));
        }
    }
    Err(furthest.1)
}

impl<T: Object> Place<T> {
    fn take(&mut self, place: usize) {
        self.done.add(place);
        self.count += 1;
    }

    /// Takes what changes nothing, and sees what else may come next; true if nothing has to any more.
    fn settle(&mut self, history: &[Interval<T::Operation>]) -> bool {
        loop {
            while self.first < history.len() && self.done.has(self.first) {
                self.first += 1;
            }
            let Some(until) = self.until(history) else { return true };
            let mut next: Vec<usize> = (self.first..history.len())
                .take_while(|place| history[*place].invoked <= until)
                .filter(|place| !self.done.has(*place))
                .collect();
            let changes_nothing =
                |place: &&usize| self.object.step(&history[**place].operation).as_ref() == Some(&self.object);
            let Some(place) = next.iter().find(changes_nothing).copied() else {
                next.sort_by_key(|place| std::cmp::Reverse(history[*place].hint));
                self.next = next;
                return false;
            };
            self.take(place);
        }
    }

    /// The first return of what has not happened yet: nothing that was invoked later may come before it. `None` if
    /// nothing has to happen any more.
    fn until(&self, history: &[Interval<T::Operation>]) -> Option<u64> {
        let mut until: Option<u64> = None;
        for (place, operation) in history.iter().enumerate().skip(self.first) {
            if until.is_some_and(|until| operation.invoked > until) {
                break;
            }
            if let Some(returned) = operation.returned.filter(|_| !self.done.has(place)) {
                until = Some(until.map_or(returned, |until| until.min(returned)));
            }
        }
        until
    }

    fn describe(&self, history: &[Interval<T::Operation>]) -> String {
        let next: Vec<&Interval<T::Operation>> =
            self.next.iter().rev().take(4).map(|place| &history[*place]).collect();
        format!(
            "after {} operations it is {:?}, where none of these can follow: {next:?}",
            self.count, self.object
        )
    }
}
