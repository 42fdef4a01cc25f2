//! The fold alone.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta};
use ledger::{AccountRef, Balance};
use proptest::{prelude::*, test_runner::TestCaseError};
use tender::fold::{
    apply,
    book::{AccountState, Book, Mark, Status},
};

use crate::{
    config,
    model::Model,
    observed::Listener,
    steps::{CUSTOMERS, Step, Tender, World, step},
};

fn world(tender: Tender) -> World {
    World { tender, name: "demo".to_owned(), start: DateTime::UNIX_EPOCH, tick: TimeDelta::seconds(1) }
}

fn open(world: &World, customer: u8, book: &mut Book) {
    let key = world.account(customer);
    let reference = AccountRef {
        account_no: i64::from(customer),
        business_id: key.business_id.as_str().into(),
        asset: key.asset,
    };
    let account = AccountState {
        reference,
        balance: Balance::default(),
        status: Status::Active,
        available: 0,
        lots: BTreeMap::new(),
        ranks: HashMap::new(),
        read_to: None,
        mark: Mark::Stored,
    };
    book.accounts.insert(key, account);
}

/// The next batch reads the clock again, and what can be spent then.
fn wait(book: &mut Book, ticks: i64) {
    book.now += TimeDelta::seconds(ticks);
    let now = book.now;
    for account in book.accounts.values_mut() {
        let spendable = account.lots.values().filter(|lot| lot.is_spendable(now));
        account.available = spendable.map(|lot| lot.remaining).sum();
    }
}

fn compare(book: &Book, model: &mut Model) -> Result<(), TestCaseError> {
    for (key, expected) in &mut model.accounts {
        let account = &book.accounts[key];
        let lots: HashMap<_, _> =
            account.lots.values().map(|lot| (lot.lot_id, (lot.remaining, lot.held))).collect();
        let expected_lots: HashMap<_, _> =
            expected.lots.iter().map(|lot| (lot.id, (lot.remaining, lot.held))).collect();
        prop_assert_eq!(lots, expected_lots);
        prop_assert_eq!(account.available, expected.available(None, book.now));
        let balance = account.balance;
        prop_assert_eq!(
            (balance.posted(), balance.held(), balance.version()),
            (expected.posted(), expected.held(), expected.version())
        );
    }
    let entries = model.accounts.values().map(|account| account.entries.len()).sum::<usize>();
    prop_assert_eq!(book.postings.len(), entries);
    let parts = book.operations.values().flat_map(|operation| &operation.allocations);
    prop_assert!(parts.into_iter().all(|part| (0..=part.amount).contains(&part.reversed)));
    Ok(())
}

fn agree(tender: Tender, steps: &[Step]) -> Result<(), TestCaseError> {
    let world = world(tender);
    let (mut book, mut model, mut listener) = (Book::new(world.start), Model::default(), Listener::default());
    (0..CUSTOMERS).for_each(|customer| open(&world, customer, &mut book));
    for step in steps {
        match step {
            Step::Wait { ticks } => wait(&mut book, *ticks),
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
    Ok(())
}

proptest! {
    #![proptest_config(config(3_000))]

    #[test]
    fn the_fold_agrees_with_the_model(
        tender in prop::sample::select(&Tender::ALL[..]),
        steps in prop::collection::vec(step(true), 1..80),
    ) {
        agree(tender, &steps)?;
    }
}
