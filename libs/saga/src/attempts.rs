//! The attempts of one run that its timeline shows.

use std::collections::VecDeque;

use serde::{Serialize, Serializer};
use serde_json::Value;

/// The first attempts that are kept of a run: how its trouble began,
const FIRST_KEPT: usize = 8;
/// and the last ones: how it stands. A participant that is away for an hour makes for more than anybody reads, and each saga that waits
/// for it has all of them in memory.
const LAST_KEPT: usize = 8;

/// The first and the last attempts of a run. As JSON one list, in the order of time.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    first: Vec<Value>,
    last: VecDeque<Value>,
}

impl Attempts {
    pub(crate) fn push(&mut self, attempt: Value) {
        if self.first.len() < FIRST_KEPT {
            self.first.push(attempt);
            return;
        }
        if self.last.len() == LAST_KEPT {
            self.last.pop_front();
        }
        self.last.push_back(attempt);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_empty()
    }
}

impl Serialize for Attempts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.first.iter().chain(&self.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_attempts_are_kept() {
        let mut attempts = Attempts::default();
        assert!(attempts.is_empty());
        for nth in 0..16 {
            attempts.push(nth.into());
        }
        assert_eq!(serde_json::json!(attempts), serde_json::json!((0..16).collect::<Vec<_>>()));
        for nth in 16..1_000 {
            attempts.push(nth.into());
        }
        let kept: Vec<_> = (0..8).chain(992..1_000).collect();
        assert_eq!(serde_json::json!(attempts), serde_json::json!(kept));
    }
}
