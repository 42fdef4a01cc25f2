//! Demonstration data, through the public APIs. Every credit has a key of its own, so that seeding twice
//! changes nothing.

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use crate::{
    client::Client,
    environment::Environment,
    keys::{TokenRole, access},
    output,
};

/// What `walletctl seed` takes.
#[derive(Debug, Args)]
pub struct SeedArgs {
    /// The business: that of WALLETCTL_TOKEN, and no other, if there is one; `demo` in development.
    #[arg(long)]
    business: Option<String>,
}

/// The services that issue value, called as one manager.
pub struct Issuer {
    points: Client,
    store_credit: Client,
    digital_rewards: Client,
}

/// One credit.
pub enum Credit {
    /// Points, with the day on which they expire.
    Points(i64, Option<&'static str>),
    /// Store credit in US cents: kind, funding, amount, the day on which it expires.
    Money(&'static str, &'static str, i64, Option<&'static str>),
    /// A gift card in US cents.
    Reward(i64),
}

// Dates far away, and fixed: the same key has to come with the same body for ever.
const SOON: Option<&str> = Some("2031-03-31T23:59:59Z");
const LATER: Option<&str> = Some("2032-12-31T23:59:59Z");

/// Who gets what. `cus_8Q` is the customer of the README.
const CUSTOMERS: [(&str, &[Credit]); 4] = [
    (
        "cus_8Q",
        &[
            Credit::Points(300, LATER),
            Credit::Points(200, SOON),
            Credit::Points(120, None),
            Credit::Money("issue", "refund", 3000, None),
            Credit::Money("bonus", "promo", 2000, LATER),
            Credit::Reward(2250),
        ],
    ),
    ("cus_points", &[Credit::Points(5000, None), Credit::Points(2500, SOON)]),
    ("cus_credit", &[Credit::Money("top_up", "paid", 100_000, None)]),
    ("cus_gift", &[Credit::Reward(2500), Credit::Reward(5000)]),
];

/// Runs `walletctl seed`.
///
/// # Errors
/// When a service refuses or does not answer.
pub async fn seed(environment: &Environment, arguments: &SeedArgs) -> anyhow::Result<()> {
    let manager = access(environment, arguments.business.as_deref(), TokenRole::Manager)?;
    let issuer = Issuer::new(environment, &manager.token)?;
    for (customer, credits) in CUSTOMERS {
        issuer.issue_all(customer, credits).await?;
    }
    output::line(format!("business `{}` has its demonstration data", manager.business));
    Ok(())
}

impl Issuer {
    /// The manager who bears `token`.
    ///
    /// # Errors
    /// When the services' addresses are not known.
    pub fn new(environment: &Environment, token: &str) -> anyhow::Result<Self> {
        let client = |variable| Client::new(&environment.require(variable)?, token.to_owned());
        Ok(Self {
            points: client("POINTS_URL")?,
            store_credit: client("STORE_CREDIT_URL")?,
            digital_rewards: client("DIGITAL_REWARDS_URL")?,
        })
    }

    /// Gives `credits` to `customer`, each once, and returns the answers.
    ///
    /// # Errors
    /// When a service refuses or does not answer.
    pub async fn issue_all(&self, customer: &str, credits: &[Credit]) -> anyhow::Result<Vec<Value>> {
        let mut answers = Vec::new();
        for (number, credit) in credits.iter().enumerate() {
            let reference = format!("seed-{customer}-{number}");
            let (client, path, body) = self.request(customer, &reference, credit);
            let answer = client.post(path, Some(&reference), &body).await?.success();
            answers.push(answer.with_context(|| format!("credit {number} of {customer}"))?);
        }
        Ok(answers)
    }

    fn request(&self, customer: &str, reference: &str, credit: &Credit) -> (&Client, &'static str, Value) {
        match *credit {
            Credit::Points(points, expires_at) => (
                &self.points,
                "/api/v1/points/credits",
                json!({ "customer_id": customer, "points": points, "kind": "earn", "funding": "promo",
                        "reference": reference, "expires_at": expires_at }),
            ),
            Credit::Money(kind, funding, amount, expires_at) => (
                &self.store_credit,
                "/api/v1/store-credits/credits",
                json!({ "customer_id": customer, "amount": amount, "currency": "USD", "kind": kind,
                        "funding": funding, "reference": reference, "expires_at": expires_at }),
            ),
            Credit::Reward(amount) => (
                &self.digital_rewards,
                "/api/v1/digital-rewards/credits",
                json!({ "customer_id": customer, "amount": amount, "currency": "USD", "kind": "issue",
                        "funding": "paid", "reference": reference }),
            ),
        }
    }
}
