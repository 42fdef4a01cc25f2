//! What sagas set out to do, and the commands that their legs become: as `services/wallet/src/sagas/mod.rs` makes them.

use std::rc::Rc;

use api::{
    BusinessId,
    derive::leg_operation_id,
    legs::{Forward, LegAnswer, LegKey, LegState, Mode, Take},
};
use chrono::{DateTime, Utc};
use money::Asset;
use saga::machine::{Direction, Reply};
use tender::{
    command::{AccountKey, Action, Command, ForwardLeg},
    testing,
};
use uuid::Uuid;

use crate::Time;

/// A tender refuses a leg this long after its saga's deadline.
const NOT_AFTER_SLACK: Time = 2_000;
/// A tender keeps a hold this much longer than the wallet.
const HOLD_SLACK: Time = 24 * 3_600_000;

/// The instant `at` milliseconds after 1970.
pub fn instant(at: Time) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(at).unwrap_or(DateTime::UNIX_EPOCH)
}

/// An order of a till, whose number is also its idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OrderNo(pub u32);

/// One leg of a redemption.
#[derive(Debug, Clone)]
pub struct Leg {
    /// Which tender.
    pub tender: usize,
    /// Whose account.
    pub customer: usize,
    /// Units.
    pub units: i64,
    /// All, or whatever is there.
    pub take: Take,
}

/// A redemption as its till asks for it.
#[derive(Debug)]
pub struct Redeem {
    /// The order that it pays; also its idempotency key.
    pub order: OrderNo,
    /// Its legs.
    pub legs: Vec<Leg>,
    /// Set aside for so many milliseconds; taken at once, if absent.
    pub hold: Option<Time>,
}

/// Why a redemption goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its key was cancelled.
    Reversal,
    /// It was voided.
    Void,
    /// Its hold ran out.
    HoldExpired,
}

/// What a saga does.
#[derive(Debug, Clone)]
pub enum Plan {
    /// Take value, all or nothing.
    Redeem(Rc<Redeem>),
    /// Give back everything that a redemption has in force.
    Return(Rc<Redeem>, Why),
    /// Take these units of what a redemption holds; release the rest.
    Capture(Rc<Redeem>, Vec<i64>),
    /// Give back these units of what a redemption took.
    Refund(Rc<Redeem>, Vec<i64>),
    /// Nothing: the row only says that its key was cancelled.
    Nothing,
}

impl Plan {
    /// The redemption that it is, or takes further.
    pub fn redeem(&self) -> Option<&Rc<Redeem>> {
        match self {
            Self::Redeem(redeem)
            | Self::Return(redeem, _)
            | Self::Capture(redeem, _)
            | Self::Refund(redeem, _) => Some(redeem),
            Self::Nothing => None,
        }
    }

    /// How many legs.
    pub fn legs(&self) -> usize {
        self.redeem().map_or(0, |redeem| redeem.legs.len())
    }
}

/// The id under which tenders know the legs of an order's redemption.
pub fn legs_id(order: OrderNo) -> Uuid {
    Uuid::from_u128(0x1000_0000 + u128::from(order.0))
}

/// The operation id of a leg of a customer's.
pub fn operation_id(customer: usize, legs_id: Uuid, leg: usize) -> Uuid {
    let AccountKey { business_id, owner, .. } = account(customer);
    leg_operation_id(&business_id, &owner, api::LegsId(legs_id), number(leg))
}

/// The account of a customer at any tender.
pub fn account(customer: usize) -> AccountKey {
    AccountKey { business_id: business(), owner: format!("c{customer}"), asset: Asset::Points }
}

fn business() -> BusinessId {
    BusinessId::try_from("sim".to_owned()).unwrap_or_else(|_| unreachable!("three visible characters"))
}

fn number(leg: usize) -> u16 {
    u16::try_from(leg).unwrap_or(u16::MAX)
}

/// What the command to a leg needs to know of its saga.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The id under which tenders know its own legs.
    pub legs_id: Uuid,
    /// The owner's epoch.
    pub epoch: i64,
    /// When it was written.
    pub created_at: Time,
    /// When it is compensated.
    pub deadline_at: Time,
}

/// The command that goes to a leg, and to which tender.
pub fn command(sender: Sender<'_>, leg: usize, direction: Direction) -> Option<(usize, Command)> {
    let redeem = sender.plan.redeem()?;
    let of = legs_id(redeem.order);
    let planned = redeem.legs.get(leg)?;
    let (legs_id, action) = match (sender.plan, direction) {
        (Plan::Redeem(_), Direction::Forward) => (of, forward(sender, leg, taking(sender, redeem, planned))),
        (Plan::Capture(_, units), _) if units[leg] > 0 => (of, Action::Capture { amount: units[leg] }),
        (Plan::Refund(_, units), _) => {
            let give = Forward {
                mode: Mode::Reverse,
                amount: units[leg],
                take: Take::Exact,
                of: Some(LegKey { legs_id: api::LegsId(of), leg: number(leg) }),
                not_after: None,
                hold_until: None,
                ..taking(sender, redeem, planned)
            };
            (sender.legs_id, forward(sender, leg, give))
        }
        _ => (of, Action::Cancel(LegKey { legs_id: api::LegsId(of), leg: number(leg) })),
    };
    let key = LegKey { legs_id: api::LegsId(legs_id), leg: number(leg) };
    Some((planned.tender, testing::leg(account(planned.customer), key, action)))
}

fn taking(sender: Sender<'_>, redeem: &Redeem, leg: &Leg) -> Forward {
    let mode = if redeem.hold.is_some() { Mode::Hold } else { Mode::Debit };
    Forward {
        hold_until: redeem.hold.map(|ttl| instant(sender.created_at + ttl + HOLD_SLACK)),
        not_after: Some(instant(sender.deadline_at + NOT_AFTER_SLACK)),
        order_id: Some(format!("o{}", redeem.order.0)),
        ..testing::plan(mode, leg.units, leg.take)
    }
}

fn forward(sender: Sender<'_>, leg: usize, plan: Forward) -> Action {
    let customer = sender.plan.redeem().map_or(0, |redeem| redeem.legs[leg].customer);
    let key = LegKey { legs_id: api::LegsId(sender.legs_id), leg: number(leg) };
    let forward = testing::forward(&account(customer), key, plan);
    Action::Forward(ForwardLeg { epoch: Some(sender.epoch), ..forward })
}

/// What an answer means to the saga: as in `services/wallet/src/sagas/mod.rs`.
pub fn reply(answer: &LegAnswer, is_cancel: bool) -> Reply {
    match answer.state {
        _ if is_cancel => Reply::Done,
        LegState::Applied | LegState::Held if answer.amount > 0 => Reply::Done,
        LegState::Applied | LegState::Held => Reply::Empty,
        LegState::Declined | LegState::Expired | LegState::Reversed | LegState::Tombstoned => Reply::Refused,
    }
}
