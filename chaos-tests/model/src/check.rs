//! What the model checker walks: the worlds at the beginning, the steps from each, and the properties of all.

use saga::machine::State;
use stateright::{Model, Property};

use crate::{LEGS, Protocol, Scenario, Step, World, leg::Stored};

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let legs = match self.scenario {
            Scenario::Redeem => Stored::Nothing,
            Scenario::Return => Stored::Applied,
            Scenario::Capture => Stored::Held,
        };
        vec![World {
            row: None,
            inserting: true,
            pending: None,
            runs: vec![None; self.bounds.executors],
            legs: [legs; LEGS],
            sent: [[false; 2]; LEGS],
            told: None,
            is_cancelled: false,
            is_late: false,
            faults_left: self.bounds.faults,
            is_illegal: false,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        self.steps(world, steps);
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        self.take(&mut next, step);
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("COMPLETED: every leg in force; COMPENSATED: none", |model, world| {
                model.legs_agree(world)
            }),
            Property::always("what was told is what is", |model, world| model.told_agrees(world)),
            Property::always("an acknowledged cancel is never completed", |_, world: &World| {
                !world.is_cancelled || world.row.is_some_and(|row| row.state != State::Completed)
            }),
            Property::always("an epoch has one runner", |_, world: &World| {
                let mut runs = world.runs.iter().flatten().enumerate();
                runs.all(|(n, run)| {
                    world.runs.iter().flatten().skip(n + 1).all(|other| other.epoch != run.epoch)
                })
            }),
            Property::always("a parked saga has one open dead letter, another none", |_, world: &World| {
                world.row.is_none_or(|row| row.letters == u8::from(row.state == State::DeadLetter))
            }),
            Property::always("no event meets a state that it does not fit", |_, world: &World| {
                !world.is_illegal
            }),
            Property::always("healed, everything ends well", |model, world| model.heals(world)),
            Property::sometimes("completed", |_, world: &World| {
                world.row.is_some_and(|row| row.state == State::Completed)
            }),
        ]
    }
}
