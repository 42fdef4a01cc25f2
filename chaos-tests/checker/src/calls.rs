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
    /// Done.
    Completed,
    /// Refused for ever.
    Declined,
    /// The key was cancelled.
    Cancelled,
}

/// Everything that was asked under one key.
#[derive(Debug, Default)]
pub struct Sale<'a> {
    /// Whose wallet.
    pub customer: &'a str,
    /// What was to be taken.
    pub legs: &'a [Leg],
    /// Redeems, in the order of asking.
    pub redeems: Vec<Made<'a>>,
    /// Cancels, in the order of asking.
    pub cancels: Vec<Made<'a>>,
}

/// Whose key, and which.
pub type Key<'a> = (&'a str, &'a str);

impl Made<'_> {
    /// What a redeem was told, if it was.
    #[must_use]
    pub fn told(&self) -> Option<Told> {
        match self.answer?.status {
            200 | 201 => Some(Told::Completed),
            422 => Some(Told::Declined),
            409 => Some(Told::Cancelled),
            _ => None,
        }
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
            Call::Redeem { business, key, customer, legs } => {
                let sale = sales.entry((business, key)).or_default();
                (sale.customer, sale.legs) = (customer, legs);
                sale.redeems.push(made.clone());
            }
            Call::Cancel { business, key } => {
                sales.entry((business, key)).or_default().cancels.push(made.clone());
            }
            Call::Credit { .. } | Call::Read { .. } | Call::Balance { .. } => {}
        }
    }
    sales
}
