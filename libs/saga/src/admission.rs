//! How much new work this process takes: bounds on what is under way, of which one business never has the last part.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// This part of each bound is never one business's: when one sends more than there is room for, the others still find some.
const RESERVED: usize = 8;

/// What is under way, by business.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    all: usize,
    of: HashMap<String, usize>,
}

impl Counts {
    pub(crate) fn add(&mut self, business: &str) {
        self.all += 1;
        match self.of.get_mut(business) {
            Some(count) => *count += 1,
            None => drop(self.of.insert(business.to_owned(), 1)),
        }
    }

    pub(crate) fn remove(&mut self, business: &str) {
        self.all = self.all.saturating_sub(1);
        if let Some(count) = self.of.get_mut(business) {
            *count -= 1;
            if *count == 0 {
                self.of.remove(business);
            }
        }
    }

    /// Whether a business finds no room for more where there is room for `most`.
    pub(crate) fn is_full_for(&self, business: &str, most: usize) -> bool {
        let own = self.of.get(business).copied().unwrap_or(0);
        self.all >= most || own >= most - most / RESERVED
    }

    #[cfg(test)]
    pub(crate) fn all(&self) -> usize {
        self.all
    }
}

/// The new work that is under way in this process. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnderWay(Arc<Mutex<Counts>>);

/// Work that was admitted; it counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    under_way: UnderWay,
    business: String,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.under_way.lock().remove(&self.business);
    }
}

impl UnderWay {
    pub(crate) fn admit(&self, business: &str) -> Admitted {
        self.lock().add(business);
        Admitted { under_way: self.clone(), business: business.to_owned() }
    }

    pub(crate) fn is_full_for(&self, business: &str, most: usize) -> bool {
        self.lock().is_full_for(business, most)
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // A panic while the lock was held left counts that are still counts.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_business_leaves_an_eighth_to_the_others() {
        let under_way = UnderWay::default();
        let of_one: Vec<_> = (0..14).map(|_| under_way.admit("one")).collect();
        assert!(under_way.is_full_for("one", 16));
        assert!(!under_way.is_full_for("other", 16));
        let of_others = [under_way.admit("other"), under_way.admit("third")];
        assert!(under_way.is_full_for("other", 16), "nothing is left of the whole");
        drop(of_one);
        assert!(!under_way.is_full_for("one", 16));
        drop(of_others);
        assert_eq!(under_way.lock().all(), 0);
        assert!(under_way.lock().of.is_empty(), "who has nothing under way is forgotten");
    }
}
