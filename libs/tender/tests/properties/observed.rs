//! What a command came to, as its caller hears it.

use std::{collections::HashMap, sync::Arc};

use api::{Code, Problem, legs::LegAnswer, tender::CreditAnswer};
use proptest::{prop_assert, test_runner::TestCaseError};
use tender::command::{Action, Answer, Command, Outcome, Rejection, State};
use uuid::Uuid;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    Recorded(Told),
    Replayed(Told),
    Rejected(Rejection),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Leg(LegAnswer),
    Credited { available: i64, version: i64 },
    Refused(Code),
}

impl From<LegAnswer> for Told {
    fn from(answer: LegAnswer) -> Self {
        Self::Leg(answer)
    }
}

/// Reads answers, and remembers their bytes: what is said again is said in the same bytes.
#[derive(Debug, Default)]
pub struct Listener(HashMap<Uuid, Answer>);

impl Listener {
    pub fn hear(&mut self, command: &Command, outcome: &Outcome) -> Result<Observed, TestCaseError> {
        Ok(match outcome {
            Outcome::Recorded(answer) => {
                self.0.insert(command.operation_id, answer.clone());
                Observed::Recorded(told(command, answer))
            }
            Outcome::Replayed(answer) => {
                let first = &self.0[&command.operation_id];
                // A forward that comes after its cancel hears of the cancel, not of what was cancelled.
                let is_late = (first.state, answer.state) == (State::Reversed, State::Tombstoned);
                prop_assert!(is_late || first == answer, "{:?} became {:?}", first, answer);
                Observed::Replayed(told(command, answer))
            }
            Outcome::Rejected(rejection) => Observed::Rejected(rejection.clone()),
        })
    }
}

fn told(command: &Command, answer: &Answer) -> Told {
    let body: &Arc<str> = &answer.body;
    match (&command.action, answer.state) {
        (Action::Credit(credit), State::Applied) => {
            let read: CreditAnswer = serde_json::from_str(body).unwrap();
            let quantity = read.balance_after.quantity;
            assert_eq!((read.lot.lot_id, read.lot.remaining), (credit.lot_id, credit.amount));
            let available = quantity.points.or(quantity.amount).unwrap();
            Told::Credited { available, version: read.balance_after.version }
        }
        (Action::Credit(_), _) => {
            let problem: Problem = serde_json::from_str(body).unwrap();
            Told::Refused(Code::parse(&problem.code).unwrap())
        }
        _ => {
            let read: LegAnswer = serde_json::from_str(body).unwrap();
            assert_eq!(read.state, answer.state);
            Told::Leg(read)
        }
    }
}
