//! Sales: what a till asks for, and what it was told.

use std::time::Duration;

use checker::format::Leg;
use serde_json::{Value, json};

use crate::business::{CONTACT, canary};

/// What a till was told in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Done: everything is taken, or set aside where that was asked for.
    Completed,
    /// Not done, and never will be under this key.
    Declined,
    /// Its key was cancelled, by itself.
    Cancelled,
    /// Nothing: the till was still asking when the scenario ended, or heard what it must never hear.
    Nothing,
}

/// One sale of one till.
#[derive(Debug, Clone)]
pub struct Sale {
    /// Its key.
    pub key: String,
    /// Whose wallet paid.
    pub customer: String,
    /// What was asked of each tender, in this order.
    pub legs: Vec<Leg>,
    /// What was asked, to be asked again.
    pub request: Value,
    /// What the till was told.
    pub told: Told,
    /// The longest that a redeem or a cancel took. A capture and a void have no deadline of the till's.
    pub slowest: Duration,
    /// Calls whose outcome the till had to ask for again.
    pub unknown: u32,
    /// What no till may ever hear.
    pub complaint: Option<String>,
}

/// What is asked for.
pub(crate) struct Wanted<'a> {
    pub(crate) business: &'a str,
    pub(crate) key: String,
    /// The customer, and the reward that pays.
    pub(crate) from: &'a (String, String),
    /// Units of points and of the reward; none of either if it is 0.
    pub(crate) units: i64,
    /// Units of store credit, likewise.
    pub(crate) credit: i64,
    /// By how many places the order of the tenders is turned: not everybody names them in the same order.
    pub(crate) turned: usize,
    /// How long the till lets the wallet work.
    pub(crate) deadline_ms: u64,
}

impl Wanted<'_> {
    pub(crate) fn sale(self) -> Sale {
        let Self { business, key, from: (customer, reward), units, credit, turned, deadline_ms } = self;
        let mut legs = [("points", units), ("store_credit", credit), ("digital_reward", units)]
            .map(|(tender, units)| Leg { tender: tender.to_owned(), units });
        legs.rotate_left(turned % 3);
        let legs: Vec<Leg> = legs.into_iter().filter(|leg| leg.units > 0).collect();
        let tender = |Leg { tender, units }: &Leg| match tender.as_str() {
            "points" => json!({ "type": tender, "points": units }),
            "digital_reward" => json!({ "type": tender, "amount": units, "reward_id": reward }),
            _ => json!({ "type": tender, "amount": units }),
        };
        let request = json!({
            "customer_id": customer, "order_id": format!("{}.{key}", canary(business)), "currency": "USD",
            "amount": 2 * units + credit, "deadline_ms": deadline_ms, "metadata": { "contact": CONTACT },
            "tenders": legs.iter().map(tender).collect::<Vec<_>>(),
        });
        Sale {
            key,
            customer: customer.clone(),
            legs,
            request,
            told: Told::Nothing,
            slowest: Duration::ZERO,
            unknown: 0,
            complaint: None,
        }
    }
}

impl Sale {
    /// The same as the `sequence`th sale of a terminal.
    pub(crate) fn at(mut self, terminal: &str, sequence: usize) -> Self {
        self.request["location_id"] = json!("shop");
        self.request["terminal_id"] = json!(terminal);
        self.request["sequence"] = json!(sequence);
        self
    }

    /// The same, but only to be set aside.
    pub(crate) fn on_hold(mut self) -> Self {
        self.request["capture"] = json!("manual");
        self
    }

    /// The same sale of the same till as another one, whose key brought nothing.
    pub(crate) fn instead_of(mut self, other: &Self) -> Self {
        for name in ["order_id", "location_id", "terminal_id", "sequence"] {
            self.request[name] = other.request[name].clone();
        }
        self
    }

    pub(crate) fn is_hold(&self) -> bool {
        self.request["capture"] == "manual"
    }

    /// What is asked for in all, in minor units.
    pub(crate) fn amount(&self) -> i64 {
        self.request["amount"].as_i64().unwrap_or(0)
    }

    /// Which sale of which till it is; none where the till does not say.
    pub(crate) fn place(&self) -> Option<String> {
        let sequence = self.request["sequence"].as_u64()?;
        let text = |name: &str| self.request[name].as_str().map(str::to_owned);
        Some(format!("{}/{}/{}/{sequence}", text("location_id")?, text("terminal_id")?, text("order_id")?))
    }
}
