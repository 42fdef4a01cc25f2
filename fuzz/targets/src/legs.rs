//! A batch of leg commands, from its bytes through the fold of each tender.

use api::{
    derive::{RequestForm, derived_uuid},
    legs::{Batch, LegAnswer, LegCommand},
};
use chrono::{DateTime, TimeDelta, Utc};
use ledger::{AccountRef, Funding};
use tender::{
    admit,
    command::{AccountKey, Action, Command, Credit, Outcome, Rejection, RequestRef, State},
    fold::{
        apply,
        book::{AccountState, Book},
    },
    rules::Rules,
};
use uuid::Uuid;

/// The reward that every account has; its id is one that a fuzzer finds.
const REWARD: Uuid = Uuid::nil();
const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

/// Reads the bytes as a batch, and does what it says.
pub fn run(data: &[u8]) {
    let Ok(batch) = service::json::from_slice::<Batch>(data) else { return };
    let written = serde_json::to_vec(&batch).expect("a batch is plain data");
    assert_eq!(service::json::from_slice::<Batch>(&written).ok().as_ref(), Some(&batch));
    let tenders: [&dyn Rules; 3] =
        [&points::Points, &store_credit::StoreCredit, &digital_rewards::DigitalRewards];
    for rules in tenders {
        let mut book = Book::new(NOW);
        for leg in &batch.commands {
            obey(rules, &mut book, leg.clone());
        }
    }
}

fn obey(rules: &dyn Rules, book: &mut Book, leg: LegCommand) {
    let command = match admit::leg(rules, leg) {
        Ok(command) => command,
        Err(refusal) => return assert_eq!(refusal.status, 400),
    };
    assert!(rules.accepts(command.account.asset));
    if let Action::Forward(leg) = &command.action {
        // No database keeps a time before its own first.
        assert!(leg.plan.hold_until.is_none_or(|end| end >= NOW));
    }
    if !book.accounts.contains_key(&command.account) {
        open(book, &command.account);
    }
    let first = apply(book, &command);
    check(book, &command, &first);
    let again = apply(book, &command);
    check(book, &command, &again);
    match (&first, &again) {
        (Outcome::Recorded(first) | Outcome::Replayed(first), Outcome::Replayed(again)) => {
            assert_eq!(first, again);
        }
        (Outcome::Rejected(first), Outcome::Rejected(again)) => assert_eq!(first, again),
        other => panic!("{other:?}"),
    }
}

/// An account with two lots of a hundred units, one of them a reward.
fn open(book: &mut Book, key: &AccountKey) {
    let number = i64::try_from(book.accounts.len()).expect("a batch is short");
    let account = AccountState::empty(AccountRef {
        account_no: number,
        business_id: key.business_id.as_str().into(),
        asset: key.asset,
    });
    book.accounts.insert(key.clone(), account);
    for (lot, reward_id, expires_at) in [(1, None, None), (2, Some(REWARD), Some(NOW + TimeDelta::days(1)))] {
        let credit = Credit {
            lot_id: Uuid::from_u128(lot),
            amount: 100,
            kind: "issue".to_owned(),
            funding: Funding::Promo,
            reference: format!("{number}-{lot}"),
            expires_at,
            grace_until: None,
            reward_id,
            customer_id: None,
            details: serde_json::Value::Null,
            form: RequestForm::of("credit", |_| {}),
            request: RequestRef::default(),
        };
        let operation_id = derived_uuid(&[&number.to_string(), &lot.to_string()]);
        let command = Command { operation_id, account: key.clone(), action: Action::Credit(credit) };
        assert!(matches!(apply(book, &command), Outcome::Recorded(_)));
    }
}

fn check(book: &Book, command: &Command, outcome: &Outcome) {
    let account = &book.accounts[&command.account];
    let lots: i64 = account.lots.values().map(|lot| lot.remaining + lot.held).sum();
    let free: i64 = account.lots.values().map(|lot| lot.remaining).sum();
    assert!(account.lots.values().all(|lot| lot.remaining >= 0 && lot.held >= 0), "{:?}", account.lots);
    assert_eq!((account.balance.posted(), account.spendable(None, book.now)), (lots, free));
    assert!((0..=200).contains(&lots));
    let answer = match outcome {
        Outcome::Recorded(answer) | Outcome::Replayed(answer) => answer,
        Outcome::Rejected(reason) => return assert!(!matches!(reason, Rejection::Corrupt(_)), "{command:?}"),
    };
    let read: LegAnswer = serde_json::from_str(&answer.body).expect("an answer is one");
    assert_eq!(read.lots.iter().map(|part| part.amount).sum::<i64>(), read.amount);
    assert!(answer.body.len() < 1_000, "{}", answer.body);
    let moves = matches!(read.state, State::Applied | State::Held | State::Reversed);
    assert!(moves || read.amount == 0);
    if let (Action::Forward(leg), Outcome::Recorded(_)) = (&command.action, outcome) {
        assert!(read.amount == leg.plan.amount || read.amount % leg.plan.step == 0 || leg.plan.of.is_some());
        assert!(read.amount <= leg.plan.amount);
    }
}
