//! A batch of leg commands, from its bytes through the fold of each tender.

use api::{
    derive::derived_uuid,
    legs::{Batch, LegAnswer, LegCommand},
};
use chrono::{DateTime, TimeDelta, Utc};
use tender::{
    admit,
    command::{AccountKey, Action, Command, Credit, Outcome, Rejection, State},
    fold::{
        apply,
        working_set::{AccountState, WorkingSet},
    },
    rules::Rules,
    testing,
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
        let mut set = WorkingSet::new(NOW);
        for leg in &batch.commands {
            obey(rules, &mut set, leg.clone());
        }
    }
}

fn obey(rules: &dyn Rules, set: &mut WorkingSet, leg: LegCommand) {
    let command = match admit::leg(rules, leg) {
        Ok(command) => command,
        Err(refusal) => return assert_eq!(refusal.status, 400),
    };
    assert!(rules.accepts(command.account.asset));
    if let Action::Forward(leg) = &command.action {
        // No database keeps a time before its own first.
        assert!(leg.plan.hold_until.is_none_or(|end| end >= NOW));
    }
    if !set.accounts.contains_key(&command.account) {
        open(set, &command.account);
    }
    let first = apply(set, &command);
    check(set, &command, &first);
    let again = apply(set, &command);
    check(set, &command, &again);
    match (&first, &again) {
        (Outcome::Recorded(first) | Outcome::Replayed(first), Outcome::Replayed(again)) => {
            assert_eq!(first, again);
        }
        (Outcome::Rejected(first), Outcome::Rejected(again)) => assert_eq!(first, again),
        other => panic!("{other:?}"),
    }
}

/// An account with two lots of a hundred units, one of them a reward.
fn open(set: &mut WorkingSet, key: &AccountKey) {
    let number = i64::try_from(set.accounts.len()).expect("a batch is short");
    let account = AccountState::empty(number, key);
    set.accounts.insert(key.clone(), account);
    for (lot, reward_id, expires_at) in [(1, None, None), (2, Some(REWARD), Some(NOW + TimeDelta::days(1)))] {
        let reference = format!("{number}-{lot}");
        let credit = testing::credit(Uuid::from_u128(lot), &reference, 100);
        let credit = Credit { reward_id, expires_at, ..credit };
        let operation_id = derived_uuid(&[&number.to_string(), &lot.to_string()]);
        let command = Command { operation_id, account: key.clone(), action: Action::Credit(credit) };
        assert!(matches!(apply(set, &command), Outcome::Recorded(_)));
    }
}

fn check(set: &WorkingSet, command: &Command, outcome: &Outcome) {
    let account = &set.accounts[&command.account];
    let lots: i64 = account.lots.values().map(|lot| lot.remaining + lot.held).sum();
    let free: i64 = account.lots.values().map(|lot| lot.remaining).sum();
    assert!(account.lots.values().all(|lot| lot.remaining >= 0 && lot.held >= 0), "{:?}", account.lots);
    assert_eq!((account.balance.posted(), account.spendable(None, set.now)), (lots, free));
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
