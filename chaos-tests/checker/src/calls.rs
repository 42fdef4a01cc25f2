//! Calls, put together from their lines; and sales, which are all calls under one key.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use crate::format::{Answer, Call, Leg, Line, Step};

/// A call and what came of it.
#[derive(Debug, Clone)]
pub struct Made<'a> {
    /// What was asked.
    pub call: &'a Call,
    /// When.
    pub invoked: u64,
    /// When it was answered; absent where nobody knows what came of it.
    pub returned: Option<u64>,
    /// The definite answer.
    pub answer: Option<&'a Answer>,
    /// Its body, read.
    pub said: Value,
}

/// What a redeem was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Told {
    /// Done: everything is taken, or set aside where that was asked for.
    Completed,
    /// Refused for ever.
    Declined,
    /// The key was cancelled.
    Cancelled,
}

/// What a redeem is refused with whose key was cancelled.
const KEY_CANCELLED: &str = "key_cancelled";

/// Everything that was asked under one key, and for what came of it.
#[derive(Debug, Default)]
pub struct Sale<'a> {
    /// Whose wallet.
    pub customer: &'a str,
    /// What was to be taken.
    pub legs: &'a [Leg],
    /// It was to be set aside only.
    pub is_hold: bool,
    /// Which sale of which till.
    pub place: Option<&'a str>,
    /// Redeems, in the order of asking.
    pub redeems: Vec<Made<'a>>,
    /// Cancels, in the order of asking.
    pub cancels: Vec<Made<'a>>,
    /// Captures, in the order of asking.
    pub captures: Vec<Made<'a>>,
    /// Voids, in the order of asking.
    pub voids: Vec<Made<'a>>,
}

/// Whose key, and which.
pub type Key<'a> = (&'a str, &'a str);

impl Made<'_> {
    /// What a redeem was told, if it was.
    #[must_use]
    pub fn told(&self) -> Option<Told> {
        match self.answer?.status {
            200 | 201 => Some(Told::Completed),
            409 if self.said["code"] == KEY_CANCELLED => Some(Told::Cancelled),
            409 | 422 => Some(Told::Declined),
            _ => None,
        }
    }

    /// It was told that it is done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.answer.is_some_and(|answer| matches!(answer.status, 200 | 201))
    }

    /// It was told that it never will be.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.answer.is_some_and(|answer| matches!(answer.status, 409 | 422))
    }
}

impl<'a> Sale<'a> {
    /// The first redeem that was told this.
    #[must_use]
    pub fn first(&self, told: Told) -> Option<&Made<'a>> {
        self.redeems.iter().filter(|made| made.told() == Some(told)).min_by_key(|made| made.returned)
    }

    /// When it was asked for first.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.redeems.iter().map(|made| made.invoked).min().unwrap_or(0)
    }

    /// The first cancel that was acknowledged.
    #[must_use]
    pub fn cancelled(&self) -> Option<&Made<'a>> {
        self.cancels.iter().filter(|made| made.answer.is_some()).min_by_key(|made| made.returned)
    }

    /// The first capture that was told that it is done.
    #[must_use]
    pub fn captured(&self) -> Option<&Made<'a>> {
        self.captures.iter().find(|made| made.is_done())
    }

    /// The first void that was told that it is done.
    #[must_use]
    pub fn voided(&self) -> Option<&Made<'a>> {
        self.voids.iter().find(|made| made.is_done())
    }
}

/// Every call that may have done something, or has an answer; in the order of asking.
#[must_use]
pub fn calls(history: &[Line]) -> Vec<Made<'_>> {
    let mut open: HashMap<u64, usize> = HashMap::new();
    let mut made = Vec::new();
    let mut failed = Vec::new();
    for line in history {
        match &line.step {
            Step::Invoke(call) => {
                open.insert(line.call, made.len());
                made.push(Made { call, invoked: line.at, returned: None, answer: None, said: Value::Null });
            }
            Step::Ok(answer) => {
                if let Some(call) = open.remove(&line.call).and_then(|place| made.get_mut(place)) {
                    call.returned = Some(line.at);
                    call.said = serde_json::from_str(&answer.body).unwrap_or(Value::Null);
                    call.answer = Some(answer);
                }
            }
            Step::Fail => failed.extend(open.remove(&line.call)),
            Step::Info => {}
        }
    }
    let mut place = 0;
    made.retain(|_| {
        place += 1;
        !failed.contains(&(place - 1))
    });
    made
}

/// All sales, by key.
#[must_use]
pub fn sales<'a>(calls: &[Made<'a>]) -> BTreeMap<Key<'a>, Sale<'a>> {
    let mut sales: BTreeMap<Key<'a>, Sale<'a>> = BTreeMap::new();
    for made in calls {
        match made.call {
            Call::Redeem { business, key, customer, legs, hold, place } => {
                let sale = sales.entry((business, key)).or_default();
                (sale.customer, sale.legs) = (customer, legs);
                (sale.is_hold, sale.place) = (*hold, place.as_deref());
                sale.redeems.push(made.clone());
            }
            Call::Capture { business, of, .. } => {
                sales.entry((business, of)).or_default().captures.push(made.clone());
            }
            Call::Void { business, of, .. } => {
                sales.entry((business, of)).or_default().voids.push(made.clone());
            }
            Call::Cancel { business, key } => {
                sales.entry((business, key)).or_default().cancels.push(made.clone());
            }
            Call::Credit { .. } | Call::Read { .. } | Call::Balance { .. } => {}
        }
    }
    sales
}
