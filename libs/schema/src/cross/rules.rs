//! What must be true of a saga and its legs. Pure.

use serde_json::{Value, json};
use sqlx::FromRow;
use uuid::Uuid;

/// State of a leg that was given back as a whole.
const REVERSED: &str = "reversed";

/// A saga of the wallet.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub(super) struct Saga {
    pub legs_id: Uuid,
    pub saga_id: Uuid,
    /// How it ended, completed or compensated; `None` while that says nothing of its legs.
    pub is_completed: Option<bool>,
    /// Legs that its plan has; `None` where the plan says nothing of legs.
    pub planned: Option<i32>,
    /// It was given back as a whole, by itself or by a void.
    pub is_given_back: bool,
    /// A later saga takes it further.
    pub is_taken_further: bool,
    /// It is no saga, and stands for one leg whose saga is not known.
    pub is_stub: bool,
    /// The number of that leg.
    pub stands_for: Option<i32>,
    /// It was compensated: what it stands for is given back.
    pub is_over: bool,
}

/// A leg at a tender.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub(super) struct Leg {
    pub legs_id: Uuid,
    #[sqlx(skip)]
    pub tender: &'static str,
    pub leg: i32,
    pub state: String,
    pub in_force: i64,
}

/// A rule between the databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rule {
    Completed,
    Compensated,
    GivenBack,
    NoOrphan,
}

impl Rule {
    pub(super) const ALL: [Self; 4] = [Self::Completed, Self::Compensated, Self::GivenBack, Self::NoOrphan];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed_means_every_leg_applied",
            Self::Compensated => "compensated_means_no_leg_applied",
            Self::GivenBack => "given_back_means_nothing_in_force",
            Self::NoOrphan => "no_leg_without_a_saga",
        }
    }

    pub(super) const fn statement(self) -> &'static str {
        match self {
            Self::Completed => {
                "I8: A completed saga has all its legs, each applied or held, or reversed by a saga that takes it further."
            }
            Self::Compensated => "I8: A compensated saga has nothing in force at any tender.",
            Self::GivenBack => {
                "I8: A redemption that was reversed, voided or expired has nothing in force at any tender."
            }
            Self::NoOrphan => {
                "I20: Every leg with value in force belongs to a saga, or waits at its own stub that has not given it back."
            }
        }
    }
}

/// What all databases know under one id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub legs_id: Uuid,
    pub sagas: Vec<Saga>,
    pub legs: Vec<Leg>,
}

impl Group {
    pub(super) fn rows(&self) -> usize {
        self.sagas.len() + self.legs.len()
    }

    /// The rules that are broken, each with a row that shows it.
    pub(super) fn broken(&self) -> impl Iterator<Item = (Rule, Value)> {
        let of_sagas = self.sagas.iter().flat_map(|saga| {
            let rules = [
                (Rule::Completed, saga.is_completed == Some(true) && !self.is_whole(saga)),
                (Rule::Compensated, saga.is_completed == Some(false) && self.has_value()),
                (Rule::GivenBack, saga.is_given_back && self.has_value()),
            ];
            rules.into_iter().filter(|(_, is_broken)| *is_broken).map(|(rule, _)| {
                (rule, json!({ "saga_id": saga.saga_id, "planned": saga.planned, "legs": self.shown() }))
            })
        });
        let is_orphan = self.legs.iter().any(|leg| leg.in_force > 0 && !self.explains(leg));
        let orphan =
            is_orphan.then(|| (Rule::NoOrphan, json!({ "legs_id": self.legs_id, "legs": self.shown() })));
        of_sagas.chain(orphan)
    }

    /// Every leg that the saga planned is there, and is as it should be.
    fn is_whole(&self, saga: &Saga) -> bool {
        let is_right = |leg: &&Leg| match leg.state.as_str() {
            "applied" | "held" => true,
            REVERSED => saga.is_taken_further,
            _ => false,
        };
        let right = self.legs.iter().filter(is_right).count();
        right == self.legs.len() && saga.planned.is_none_or(|planned| usize::try_from(planned) == Ok(right))
    }

    /// Whether a saga has this leg, or a stub waits for somebody to decide on it.
    fn explains(&self, leg: &Leg) -> bool {
        self.sagas.iter().any(|saga| !saga.is_stub || (saga.stands_for == Some(leg.leg) && !saga.is_over))
    }

    /// A leg that took nothing stays applied with nothing: no cancel was needed to undo it.
    fn has_value(&self) -> bool {
        self.legs.iter().any(|leg| leg.in_force > 0)
    }

    fn shown(&self) -> Vec<Value> {
        let show = |leg: &Leg| json!({ "tender": leg.tender, "leg": leg.leg, "state": leg.state, "in_force": leg.in_force });
        self.legs.iter().map(show).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saga(is_completed: Option<bool>) -> Saga {
        Saga {
            legs_id: Uuid::nil(),
            saga_id: Uuid::nil(),
            is_completed,
            planned: Some(2),
            is_given_back: false,
            is_taken_further: false,
            is_stub: false,
            stands_for: None,
            is_over: false,
        }
    }

    fn group(sagas: &[Saga], states: &[(&str, i64)]) -> Group {
        let leg = |(number, (state, in_force)): (usize, &(&str, i64))| Leg {
            legs_id: Uuid::nil(),
            tender: "points",
            leg: i32::try_from(number).unwrap(),
            state: (*state).to_owned(),
            in_force: *in_force,
        };
        Group {
            legs_id: Uuid::nil(),
            sagas: sagas.to_vec(),
            legs: states.iter().enumerate().map(leg).collect(),
        }
    }

    fn broken(sagas: &[Saga], states: &[(&str, i64)]) -> Vec<Rule> {
        group(sagas, states).broken().map(|(rule, _)| rule).collect()
    }

    #[test]
    fn a_completed_saga_has_all_its_legs() {
        let completed = saga(Some(true));
        assert!(broken(std::slice::from_ref(&completed), &[("applied", 5), ("held", 3)]).is_empty());
        let back: &[(&str, i64)] = &[("applied", 0), ("reversed", 0)];
        for states in [
            &[("applied", 5)][..],
            &[("applied", 5), ("declined", 0)],
            &[("applied", 5), ("tombstoned", 0)],
            back,
            &[],
        ] {
            assert_eq!(broken(std::slice::from_ref(&completed), states), [Rule::Completed], "{states:?}");
        }
        assert!(broken(&[Saga { is_taken_further: true, ..completed }], back).is_empty());
    }

    #[test]
    fn a_compensated_saga_has_nothing_in_force() {
        let compensated = [saga(Some(false))];
        for states in [&[("reversed", 0), ("tombstoned", 0)][..], &[("declined", 0)], &[], &[("applied", 0)]]
        {
            assert!(broken(&compensated, states).is_empty(), "{states:?}");
        }
        for states in [&[("reversed", 0), ("applied", 4)][..], &[("held", 1)]] {
            assert_eq!(broken(&compensated, states), [Rule::Compensated], "{states:?}");
        }
    }

    #[test]
    fn what_was_given_back_has_nothing_in_force() {
        let returned = [Saga { is_given_back: true, ..saga(None) }];
        assert!(broken(&returned, &[("reversed", 0), ("applied", 0)]).is_empty());
        assert_eq!(broken(&returned, &[("reversed", 0), ("applied", 4)]), [Rule::GivenBack]);
        assert!(broken(&[saga(None)], &[("applied", 4)]).is_empty(), "nobody gave it back");
    }

    #[test]
    fn a_leg_in_force_has_a_saga() {
        assert_eq!(broken(&[], &[("applied", 4)]), [Rule::NoOrphan]);
        assert!(broken(&[], &[("tombstoned", 0)]).is_empty());
        let stub = |leg, is_over| Saga { is_stub: true, stands_for: Some(leg), is_over, ..saga(None) };
        assert!(broken(&[stub(0, false)], &[("applied", 4)]).is_empty(), "it is parked");
        assert_eq!(broken(&[stub(0, true)], &[("applied", 4)]), [Rule::NoOrphan], "it was given back");
        let two: &[(&str, i64)] = &[("reversed", 0), ("applied", 4)];
        assert_eq!(broken(&[stub(0, true)], two), [Rule::NoOrphan], "the other leg is not its own");
        assert!(broken(&[stub(0, true), saga(None)], two).is_empty(), "its saga has come back");
    }
}
