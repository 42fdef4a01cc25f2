//! The fold alone. A batch ends where time passes: then what is marked as new or changed is written, and that has to be all
//! there is to write.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use chrono::{DateTime, TimeDelta};
use ledger::{AccountRef, Balance};
use proptest::{prelude::*, test_runner::TestCaseError};
use tender::{
    command::State,
    fold::{
        apply,
        book::{AccountState, Book, Mark},
    },
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

fn open(world: &World, customer: u8, book: &mut Book) {
    let key = world.account(customer);
    let reference = AccountRef {
        account_no: i64::from(customer) + 1,
        business_id: key.business_id.as_str().into(),
        asset: key.asset,
    };
    let account = AccountState::empty(reference);
    book.accounts.insert(key, account);
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

    /// Writes what is marked; all that is left out must be there already.
    fn write(&mut self, book: &mut Book) -> Result<(), TestCaseError> {
        for account in book.accounts.values_mut() {
            write(&mut self.balances, account.reference.account_no, account.balance, &mut account.mark)?;
            for lot in account.lots.values_mut() {
                write(&mut self.lots, lot.lot_id, (lot.remaining, lot.held), &mut lot.mark)?;
            }
        }
        for (id, operation) in &mut book.operations {
            let row = (operation.state, operation.amount, operation.response.clone());
            write(&mut self.operations, *id, row, &mut operation.mark)?;
            for (position, part) in (0..).zip(&mut operation.allocations) {
                prop_assert!((0..=part.amount).contains(&part.reversed));
                write(&mut self.reversed, (*id, position), part.reversed, &mut part.mark)?;
            }
        }
        let mut returned: HashMap<_, i64> = HashMap::new();
        for back in &book.returns {
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
    mark: &mut Mark,
) -> Result<(), TestCaseError> {
    prop_assert_eq!(*mark == Mark::New, !table.contains_key(&key), "inserted once, then updated");
    match std::mem::replace(mark, Mark::Stored) {
        Mark::Stored => prop_assert_eq!(&table[&key], &row, "a change without a mark"),
        Mark::Changed | Mark::New => drop(table.insert(key, row)),
    }
    Ok(())
}

fn compare(book: &Book, model: &mut Model) -> Result<(), TestCaseError> {
    for (key, expected) in &mut model.accounts {
        let account = &book.accounts[key];
        let lots: HashMap<_, _> =
            account.lots.values().map(|lot| (lot.lot_id, (lot.remaining, lot.held))).collect();
        let expected_lots: HashMap<_, _> =
            expected.lots.iter().map(|lot| (lot.id, (lot.remaining, lot.held))).collect();
        prop_assert_eq!(lots, expected_lots);
        prop_assert_eq!(account.spendable(None, book.now), expected.available(None, book.now));
        let balance = account.balance;
        prop_assert_eq!(
            (balance.posted(), balance.held(), balance.version()),
            (expected.posted(), expected.held(), expected.version())
        );
    }
    let entries = model.accounts.values().map(|account| account.entries.len()).sum::<usize>();
    prop_assert_eq!(book.postings.len(), entries);
    Ok(())
}

fn agree(tender: Tender, steps: &[Step]) -> Result<(), TestCaseError> {
    let world = world(tender);
    let (mut book, mut model, mut listener) = (Book::new(world.start), Model::default(), Listener::default());
    let mut tables = Tables::open();
    (0..CUSTOMERS).for_each(|customer| open(&world, customer, &mut book));
    for step in steps {
        match step {
            Step::Wait { ticks } => {
                tables.write(&mut book)?;
                // The next batch reads the clock again.
                book.now += TimeDelta::seconds(*ticks);
            }
            Step::Status { customer, status } => {
                let key = world.account(*customer);
                model.accounts.entry(key.clone()).or_default().status = *status;
                book.accounts.get_mut(&key).unwrap().status = *status;
            }
            _ => {
                let command = world.command(step).unwrap();
                let observed = listener.hear(&command, &apply(&mut book, &command))?;
                prop_assert_eq!(observed, model.apply(&command, book.now), "{:?}", step);
            }
        }
        compare(&book, &mut model)?;
    }
    tables.write(&mut book)
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
