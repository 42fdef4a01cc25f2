//! The search for an order says what stateright's tester says of the same small histories.

use checker::order::{Interval, Object, find};
use proptest::prelude::*;
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

/// A number to which something is added, and which says what it is then.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Counter(i64);

#[derive(Debug, Clone, PartialEq)]
enum Call {
    Add(i64),
    Read,
}

impl Object for Counter {
    type Operation = (Call, Option<i64>);

    fn step(&self, (call, answer): &Self::Operation) -> Option<Self> {
        let after = match call {
            Call::Add(units) => self.0 + units,
            Call::Read => self.0,
        };
        answer.is_none_or(|answer| answer == after).then_some(Self(after))
    }
}

impl SequentialSpec for Counter {
    type Op = Call;
    type Ret = i64;

    fn invoke(&mut self, op: &Call) -> i64 {
        if let Call::Add(units) = op {
            self.0 += units;
        }
        self.0
    }
}

/// Steps of a history: a thread begins a call, or its call returns an answer.
fn steps() -> impl Strategy<Value = Vec<(u8, Option<i64>, i64)>> {
    // thread, call if it begins one, answer if it ends one
    prop::collection::vec((0..3_u8, prop::option::of(0..3_i64), 0..5_i64), 0..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn both_say_the_same(steps in steps(), hints in prop::collection::vec(-9..9_i64, 14)) {
        let mut tester = LinearizabilityTester::new(Counter(0));
        let mut history: Vec<Interval<(Call, Option<i64>)>> = Vec::new();
        let mut running: [Option<usize>; 3] = [None; 3];
        for (at, (thread, call, answer)) in steps.into_iter().enumerate() {
            let slot = &mut running[usize::from(thread)];
            match (slot.take(), call) {
                (None, Some(units)) => {
                    let call = if units == 0 { Call::Read } else { Call::Add(units) };
                    tester.on_invoke(thread, call.clone()).unwrap();
                    *slot = Some(history.len());
                    let hint = hints[history.len()];
                    history.push(Interval { operation: (call, None), invoked: at as u64, returned: None, hint });
                }
                (Some(place), None) => {
                    tester.on_return(thread, answer).unwrap();
                    history[place].returned = Some(at as u64);
                    history[place].operation.1 = Some(answer);
                }
                (before, _) => *slot = before,
            }
        }
        prop_assert_eq!(find(Counter(0), history).is_ok(), tester.is_consistent());
    }
}

#[test]
fn a_long_history_with_good_hints_is_ordered_at_once() {
    let begun = std::time::Instant::now();
    let adds = (0..2_000_u64).map(|at| Interval {
        operation: (Call::Add(1), (at % 7 == 0).then_some(i64::try_from(at).unwrap() + 1)),
        invoked: at,
        returned: Some(at + 60),
        hint: i64::try_from(at).unwrap(),
    });
    find(Counter(0), adds.collect()).unwrap();
    assert!(begun.elapsed() < std::time::Duration::from_secs(2), "{:?}", begun.elapsed());
}
