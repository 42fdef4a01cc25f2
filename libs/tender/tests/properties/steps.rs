//! What is asked of a tender. All numbers are small, so that keys, references and lots meet again and again.

use std::fmt;

use api::{
    BusinessId, LegsId,
    derive::{RequestForm, derived_uuid, leg_operation_id, public_operation_id},
    legs::{Forward, LegKey, Mode, Take},
};
use chrono::{DateTime, TimeDelta, Utc};
use ledger::Funding;
use money::{Asset, Currency};
use proptest::prelude::*;
use tender::{
    command::{AccountKey, Action, Command, Credit, ForwardLeg},
    fold::{BALANCE_MAX, working_set::Status},
    testing::{self, plan},
};
use uuid::Uuid;

/// Customers of a world.
pub const CUSTOMERS: u8 = 3;

/// All accounts are in one bucket, so that a leg's key meets another account.
const ONE_BUCKET: &str = "one";

/// A tender's rules, as far as they reach the fold: what it holds, and whether legs name a reward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tender {
    Points,
    StoreCredit,
    DigitalRewards,
}

impl Tender {
    pub const ALL: [Self; 3] = [Self::Points, Self::StoreCredit, Self::DigitalRewards];

    fn asset(self) -> Asset {
        if self == Self::Points { Asset::Points } else { Asset::Money(Currency::USD) }
    }
}

/// Whose command under which key. Some callers are confused: `of` is whose key it is.
#[derive(Clone, Copy)]
pub struct Key {
    pub customer: u8,
    pub of: u8,
    pub number: u8,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { customer, of, number } = self;
        if of == customer {
            write!(f, "customer {customer}, key {number}")
        } else {
            write!(f, "customer {customer}, key {number} of customer {of}")
        }
    }
}

/// One step. Times are ticks since the world began.
#[derive(Debug, Clone)]
pub enum Step {
    Credit {
        key: Key,
        amount: i64,
        kind: bool,
        shared_reference: bool,
        expires: Option<i64>,
        grace: i64,
    },
    Forward {
        key: Key,
        hold: bool,
        amount: i64,
        take: Take,
        step: i64,
        reward: u8,
        late: bool,
    },
    Reverse {
        key: Key,
        number: u8,
        amount: i64,
        take: Take,
    },
    Capture {
        key: Key,
        amount: i64,
    },
    Cancel {
        key: Key,
    },
    Release {
        key: Key,
    },
    Query {
        key: Key,
    },
    Status {
        customer: u8,
        status: Status,
    },
    Wait {
        ticks: i64,
    },
    /// What was asked so many steps before is asked again.
    Again {
        back: usize,
    },
}

/// Steps, each with the instance that is asked.
pub fn sequence(confusion: bool, longest: usize) -> impl Strategy<Value = Vec<(Step, bool)>> {
    prop::collection::vec((step(confusion), any::<bool>()), 1..longest).prop_map(|mut steps| {
        for place in 0..steps.len() {
            if let (Step::Again { back }, _) = steps[place] {
                steps[place].0 = steps[place.saturating_sub(back)].0.clone();
            }
        }
        steps.retain(|(step, _)| !matches!(step, Step::Again { .. }));
        steps
    })
}

/// A step. With `confusion`, some callers name an account that is not their key's.
fn step(confusion: bool) -> impl Strategy<Value = Step> {
    let key = move |numbers: std::ops::Range<u8>| {
        let stranger = if confusion { prop::bool::weighted(0.04).boxed() } else { Just(false).boxed() };
        (0..CUSTOMERS, stranger, numbers).prop_map(|(customer, is_stranger, number)| {
            let of = if is_stranger { (customer + 1) % CUSTOMERS } else { customer };
            Key { customer, of, number }
        })
    };
    let take = || prop_oneof![Just(Take::Exact), Just(Take::AtMost)];
    let amount = prop_oneof![40 => 1_i64..12, 1 => BALANCE_MAX - 12..=BALANCE_MAX, 1 => Just(i64::MAX)];
    let expires = prop::option::of(0_i64..20);
    let status = prop_oneof![4 => Just(Status::Active), 1 => Just(Status::Frozen), 1 => Just(Status::Closed)];
    prop_oneof![
        5 => (key(0..6), amount, any::<bool>(), prop::bool::weighted(0.1), expires, 0_i64..4).prop_map(
            |(key, amount, kind, shared_reference, expires, grace)|
            Step::Credit { key, amount, kind, shared_reference, expires, grace }),
        6 => (key(0..8), any::<bool>(), 0_i64..15, take(), 1_i64..4, 0_u8..6, prop::bool::weighted(0.05)).prop_map(
            |(key, hold, amount, take, step, reward, late)|
            Step::Forward { key, hold, amount, take, step, reward, late }),
        3 => (key(7..12), 0_u8..12, 0_i64..8, take()).prop_map(
            |(key, number, amount, take)| Step::Reverse { key, number, amount, take }),
        3 => (key(0..12), 0_i64..12).prop_map(|(key, amount)| Step::Capture { key, amount }),
        3 => key(0..12).prop_map(|key| Step::Cancel { key }),
        2 => key(0..12).prop_map(|key| Step::Release { key }),
        1 => key(0..12).prop_map(|key| Step::Query { key }),
        1 => (0..CUSTOMERS, status).prop_map(|(customer, status)| Step::Status { customer, status }),
        3 => (1_usize..12).prop_map(|back| Step::Again { back }),
        2 => (0_i64..6).prop_map(|ticks| Step::Wait { ticks }),
    ]
}

/// What gives steps their names and times: worlds share a database, but nothing in it.
#[derive(Debug, Clone)]
pub struct World {
    pub tender: Tender,
    pub name: String,
    pub start: DateTime<Utc>,
    pub tick: TimeDelta,
}

impl World {
    pub fn time(&self, ticks: i64) -> DateTime<Utc> {
        self.start + self.tick * i32::try_from(ticks).unwrap()
    }

    pub fn account(&self, customer: u8) -> AccountKey {
        let business_id = BusinessId::try_from(format!("shop-{}", self.name)).unwrap();
        AccountKey { business_id, owner: format!("c{customer}"), asset: self.tender.asset() }
    }

    /// The step as a command; none for what happens to the world itself.
    pub fn command(&self, step: &Step) -> Option<Command> {
        Some(match *step {
            Step::Credit { key, .. } => self.credit(key, step),
            Step::Forward { key, hold, amount, take, step, reward, late } => {
                let mode = if hold { Mode::Hold } else { Mode::Debit };
                let reward =
                    (self.tender == Tender::DigitalRewards).then(|| self.reward(key.customer, reward));
                let not_after = late.then(|| self.start - TimeDelta::seconds(1));
                self.forward(key, Forward { step, reward_id: reward, not_after, ..plan(mode, amount, take) })
            }
            Step::Reverse { key, number, amount, take } => {
                let of = Some(self.leg_key(Key { number, ..key }));
                self.forward(key, Forward { of, ..plan(Mode::Reverse, amount, take) })
            }
            Step::Capture { key, amount } => self.leg(key, Action::Capture { amount }),
            Step::Cancel { key } => self.leg(key, Action::Cancel(self.leg_key(key))),
            Step::Release { key } => self.leg(key, Action::Release(self.leg_key(key))),
            Step::Query { key } => self.leg(key, Action::Query),
            Step::Status { .. } | Step::Wait { .. } | Step::Again { .. } => return None,
        })
    }

    fn reward(&self, customer: u8, number: u8) -> Uuid {
        derived_uuid(&["reward", &self.name, &customer.to_string(), &number.to_string()])
    }

    fn leg_key(&self, key: Key) -> LegKey {
        let business = self.account(key.of).business_id;
        LegKey { legs_id: LegsId::derive(&business, "test", "", &key.of.to_string()), leg: key.number.into() }
    }

    fn leg(&self, key: Key, action: Action) -> Command {
        let account = self.account(key.customer);
        let LegKey { legs_id, leg } = self.leg_key(key);
        let operation_id = leg_operation_id(&account.business_id, ONE_BUCKET, legs_id, leg);
        Command { operation_id, account, action }
    }

    fn forward(&self, key: Key, plan: Forward) -> Command {
        let account = self.account(key.customer);
        let reverses =
            plan.of.map(|of| leg_operation_id(&account.business_id, ONE_BUCKET, of.legs_id, of.leg));
        let forward = testing::forward(&account, self.leg_key(key), plan);
        self.leg(key, Action::Forward(ForwardLeg { reverses, ..forward }))
    }

    fn credit(&self, key: Key, step: &Step) -> Command {
        let Step::Credit { amount, kind, shared_reference, expires, grace, .. } = *step else {
            unreachable!("the caller matched it")
        };
        let account = self.account(key.customer);
        let number = key.number.to_string();
        let of = format!("c{}", key.of);
        let lot_id = derived_uuid(&["lot", &self.name, &format!("{step:?}")]);
        let reference = if shared_reference { number.clone() } else { format!("{of}-{number}") };
        let credit = Credit {
            kind: if kind { "earn" } else { "bonus" }.to_owned(),
            funding: if kind { Funding::Paid } else { Funding::Promo },
            expires_at: expires.map(|ticks| self.time(ticks)),
            grace_until: expires.filter(|_| grace > 0).map(|ticks| self.time(ticks + grace)),
            reward_id: (self.tender == Tender::DigitalRewards).then(|| self.reward(key.of, key.number)),
            customer_id: Some(account.owner.clone()),
            form: RequestForm::of("step", |fields| fields.text("step", &format!("{step:?}"))),
            ..testing::credit(lot_id, &reference, amount)
        };
        let operation_id = public_operation_id(&account.business_id, &of, "credit", &number);
        Command { operation_id, account, action: Action::Credit(credit) }
    }
}
