//! Commands as tests make them: what a test does not say is left out.

use api::{
    derive::{RequestForm, leg_operation_id, requests},
    legs::{Account, Forward, LegKey, Mode, Take},
};
use chrono::{DateTime, Utc};
use ledger::Funding;
use uuid::Uuid;

use crate::{
    command::{AccountKey, Action, Command, Credit, ForwardLeg, RequestRef},
    fold::working_set::{AccountState, WorkingSet},
};

/// The plan of a leg: in steps of one, without a reward, an end or an order.
#[must_use]
pub const fn plan(mode: Mode, amount: i64, take: Take) -> Forward {
    Forward {
        mode,
        amount,
        take,
        step: 1,
        reward_id: None,
        of: None,
        hold_until: None,
        not_after: None,
        order_id: None,
    }
}

/// The forward leg of a plan, without an epoch. It is in the bucket of the account's owner, as is the leg that it reverses.
#[must_use]
pub fn forward(account: &AccountKey, key: LegKey, plan: Forward) -> ForwardLeg {
    let AccountKey { business_id, owner, asset } = account.clone();
    let reverses = plan.of.map(|of| leg_operation_id(&business_id, &owner, of.legs_id, of.leg));
    let form = requests::leg(&Account { business_id, customer_id: owner, asset }, &plan);
    ForwardLeg { key, plan, reverses, form, epoch: None, sent_at: None }
}

/// A command to a leg, in the bucket of the account's owner.
#[must_use]
pub fn leg(account: AccountKey, key: LegKey, action: Action) -> Command {
    let operation_id = leg_operation_id(&account.business_id, &account.owner, key.legs_id, key.leg);
    Command { operation_id, account, action }
}

/// New value, as a promotion that never expires. All credits are the same request unless `form` is set.
#[must_use]
pub fn credit(lot_id: Uuid, reference: &str, amount: i64) -> Credit {
    Credit {
        lot_id,
        amount,
        kind: "earn".to_owned(),
        funding: Funding::Promo,
        reference: reference.to_owned(),
        expires_at: None,
        grace_until: None,
        reward_id: None,
        customer_id: None,
        details: serde_json::Value::Null,
        form: RequestForm::of("credit", |_| {}),
        request: RequestRef::default(),
    }
}

/// What a batch has read of these accounts, numbered from 1 on, where nothing has happened to them yet.
#[must_use]
pub fn working_set(now: DateTime<Utc>, accounts: &[AccountKey]) -> WorkingSet {
    let mut set = WorkingSet::new(now);
    for (number, key) in (1..).zip(accounts) {
        set.accounts.insert(key.clone(), AccountState::empty(number, key));
    }
    set
}
