//! I9: whatever had to be parked has one open dead letter, and whoever closed one is on record.

use std::collections::{HashMap, HashSet};

use crate::{
    case::Case,
    invariant::{Invariant, Violation},
    rows::state,
};

pub(super) fn check(case: &Case<'_>) -> Vec<Violation> {
    let wallet = &case.evidence.end.wallet;
    let mut open: HashMap<&str, usize> = HashMap::new();
    for letter in wallet.dead_letters.iter().filter(|letter| letter.closed_at.is_none()) {
        *open.entry(&letter.saga_id).or_default() += 1;
    }
    let mut found = Vec::new();
    let mut say = |text: String| found.push(Violation::new(Invariant::I9, text));
    for saga in &wallet.sagas {
        let letters = open.get(saga.saga_id.as_str()).copied().unwrap_or(0);
        if letters != usize::from(saga.state == state::DEAD_LETTER) {
            say(format!(
                "saga {} is in state {}, with {letters} open dead letters",
                saga.saga_id, saga.state
            ));
        }
    }
    let accepted = wallet.actions.iter().filter(|action| action.accepted);
    let (mut closers, mut asked): (HashMap<&str, usize>, HashSet<_>) = (HashMap::new(), HashSet::new());
    for (action, letter) in accepted.filter_map(|action| Some((action, action.dead_letter_id.as_deref()?))) {
        *closers.entry(letter).or_default() += 1;
        if !asked.insert((&action.business_id, &action.operation_id, letter)) {
            say(format!(
                "action {} repeats {} on dead letter {letter}",
                action.action_id, action.operation_id
            ));
        }
    }
    for letter in wallet.dead_letters.iter().filter(|letter| letter.closed_at.is_some()) {
        let actions = closers.get(letter.dead_letter_id.as_str()).copied().unwrap_or(0);
        if actions != 1 {
            say(format!("dead letter {} was closed by {actions} actions", letter.dead_letter_id));
        }
    }
    found
}
