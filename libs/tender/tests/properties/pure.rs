//! The fold alone. A batch ends where time passes: then every row that is noted as new or changed is written, and the tables have
//! to be what the fold has.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use chrono::{DateTime, TimeDelta};
use ledger::Balance;
use proptest::{prelude::*, test_runner::TestCaseError};
use tender::{
    command::State,
    fold::{
        apply,
        working_set::{Dirty, WorkingSet},
    },
    testing,
};
use uuid::Uuid;

use crate::{
    config,
    model::Model,
    observed::Listener,
    steps::{CUSTOMERS, Step, Tender, World, sequence},
};

fn world(tender: Tender) -> World {
    World { tender, name: "demo".to_owned(), start: DateTime::UNIX_EPOCH, tick: TimeDelta::seconds(1) }
}

/// The tables that a batch is written to.
#[derive(Debug, Default)]
struct Tables {
    balances: HashMap<i64, Balance>,
    lots: HashMap<Uuid, (i64, i64)>,
    operations: HashMap<Uuid, (State, i64, Arc<str>)>,
    /// Units given back, by operation and position.
    reversed: HashMap<(Uuid, i16), i64>,
}

impl Tables {
    fn open() -> Self {
        let balances = (1..=CUSTOMERS).map(|customer| (customer.into(), Balance::default())).collect();
        Self { balances, ..Self::default() }
    }

    /// Writes the rows that are new or changed; all others must be there already.
    fn write(&mut self, set: &mut WorkingSet) -> Result<(), TestCaseError> {
        for account in set.accounts.values_mut() {
            write(&mut self.balances, account.reference.account_no, account.balance, &mut account.dirty)?;
            for lot in account.lots.values_mut() {
                write(&mut self.lots, lot.lot_id, (lot.remaining, lot.held), &mut lot.dirty)?;
            }
        }
        for (id, operation) in &mut set.operations {
            let row = (operation.state, operation.amount, operation.response.clone());
            write(&mut self.operations, *id, row, &mut operation.dirty)?;
            for (position, part) in (0..).zip(&mut operation.allocations) {
                prop_assert!((0..=part.amount).contains(&part.reversed));
                write(&mut self.reversed, (*id, position), part.reversed, &mut part.dirty)?;
            }
        }
        let mut returned: HashMap<_, i64> = HashMap::new();
        for back in &set.restorations {
            *returned.entry((back.operation_id, back.position)).or_default() += back.amount;
        }
        returned.retain(|_, units| *units != 0);
        let reversed: HashMap<_, _> = self
            .reversed
            .iter()
            .filter(|(_, units)| **units != 0)
            .map(|(key, units)| (*key, *units))
            .collect();
        prop_assert_eq!(returned, reversed);
        Ok(())
    }
}

fn write<K: Eq + Hash + Copy, V: PartialEq + std::fmt::Debug>(
    table: &mut HashMap<K, V>,
    key: K,
    row: V,
    dirty: &mut Dirty,
) -> Result<(), TestCaseError> {
    prop_assert_eq!(*dirty == Dirty::New, !table.contains_key(&key), "inserted once, then updated");
    match std::mem::replace(dirty, Dirty::Clean) {
        Dirty::Clean => prop_assert_eq!(&table[&key], &row, "a change that is not noted"),
        Dirty::Changed | Dirty::New => drop(table.insert(key, row)),
    }
    Ok(())
}

fn compare(set: &WorkingSet, model: &mut Model) -> Result<(), TestCaseError> {
    for (key, expected) in &mut model.accounts {
        let account = &set.accounts[key];
        let lots: HashMap<_, _> =
            account.lots.values().map(|lot| (lot.lot_id, (lot.remaining, lot.held))).collect();
        let expected_lots: HashMap<_, _> =
            expected.lots.iter().map(|lot| (lot.id, (lot.remaining, lot.held))).collect();
        prop_assert_eq!(lots, expected_lots);
        prop_assert_eq!(account.spendable(None, set.now), expected.available(None, set.now));
        let balance = account.balance;
        prop_assert_eq!(
            (balance.posted(), balance.held(), balance.version()),
            (expected.posted(), expected.held(), expected.version())
        );
    }
    let entries = model.accounts.values().map(|account| account.entries.len()).sum::<usize>();
    prop_assert_eq!(set.postings.len(), entries);
    Ok(())
}

fn agree(tender: Tender, steps: &[Step]) -> Result<(), TestCaseError> {
    let world = world(tender);
    let accounts: Vec<_> = (0..CUSTOMERS).map(|customer| world.account(customer)).collect();
    let mut set = testing::working_set(world.start, &accounts);
    let (mut model, mut listener, mut tables) = (Model::default(), Listener::default(), Tables::open());
    for step in steps {
        match step {
            Step::Wait { ticks } => {
                tables.write(&mut set)?;
                // The next batch reads the clock again.
                set.now += TimeDelta::seconds(*ticks);
            }
            Step::Status { customer, status } => {
                let key = world.account(*customer);
                model.accounts.entry(key.clone()).or_default().status = *status;
                set.accounts.get_mut(&key).unwrap().status = *status;
            }
            _ => {
                let command = world.command(step).unwrap();
                let observed = listener.hear(&command, &apply(&mut set, &command))?;
                prop_assert_eq!(observed, model.apply(&command, set.now), "{:?}", step);
            }
        }
        compare(&set, &mut model)?;
    }
    tables.write(&mut set)
}

proptest! {
    #![proptest_config(config(2_000))]

    #[test]
    fn the_fold_agrees_with_the_model(
        tender in prop::sample::select(&Tender::ALL[..]),
        steps in sequence(true, 80),
    ) {
        let steps: Vec<Step> = steps.into_iter().map(|(step, _)| step).collect();
        agree(tender, &steps)?;
    }
}
