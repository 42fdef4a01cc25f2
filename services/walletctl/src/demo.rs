//! A story in requests and answers: one order over three tenders, the same call again, a decline that
//! gives everything back, and a till that changes its mind.

use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::{
    client::{Answer, Client},
    environment::Environment,
    keys::{TokenRole, access},
    output,
    seed::{Credit, Issuer},
};

const REDEEM: &str = "/api/v1/wallet/redeem";
const BALANCE: &str = "/api/v1/wallet/balance";

/// What `walletctl demo` takes.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// The business: that of WALLETCTL_TOKEN, and no other, if there is one; `demo` in development.
    #[arg(long)]
    business: Option<String>,
}

/// Tells the story with a customer of its own, so that it is the same every time.
///
/// # Errors
/// When a service does not answer, or answers otherwise than the story says.
pub async fn demo(environment: &Environment, arguments: &DemoArgs) -> anyhow::Result<()> {
    let till = access(environment, arguments.business.as_deref(), TokenRole::Pos)?;
    let till = Client::new(&environment.require("WALLET_URL")?, till.token)?;
    let run = uuid::Uuid::new_v4().simple().to_string();
    let customer = format!("cus_demo_{}", &run[..8]);
    let manager = access(environment, arguments.business.as_deref(), TokenRole::Manager)?;
    let issuer = Issuer::new(environment, &manager.token)?;

    chapter(&format!(
        "A customer, {customer}, with 620 points, 50.00 USD of store credit and a gift card of 22.50 USD"
    ));
    let credits =
        [Credit::Points(620, None), Credit::Money("issue", "refund", 5000, None), Credit::Reward(2250)];
    let issued = issuer.issue_all(&customer, &credits).await?;
    let reward = issued[2]["reward_id"].as_str().context("the gift card has no reward_id")?.to_owned();
    show_balance(&till, &customer).await?;

    let story = Story { till, customer, run };
    story.redeem(&reward).await?;
    story.decline().await?;
    story.cancel().await
}

struct Story {
    till: Client,
    customer: String,
    run: String,
}

impl Story {
    async fn redeem(&self, reward: &str) -> anyhow::Result<()> {
        chapter(
            "One order of 42.50 USD: 500 points, 15.00 USD of store credit, the gift card takes the rest",
        );
        let key = self.key("order");
        let order = json!({
            "customer_id": self.customer, "order_id": "S042-77120", "currency": "USD", "amount": 4250,
            "tenders": [
                { "type": "points", "points": 500 },
                { "type": "digital_reward", "reward_id": reward },
                { "type": "store_credit", "amount": 1500 },
            ],
        });
        let first = self.post(REDEEM, Some(&key), &order).await?;
        ensure!(first.status == 201, "the redemption was not made");

        chapter("The answer was lost; the till sends the same call again and gets the same bytes");
        let again = self.post(REDEEM, Some(&key), &order).await?;
        ensure!(again.is_replayed && again.text == first.text, "the stored answer differs");

        chapter("Another amount under the same key is refused");
        let mut other = order;
        other["amount"] = json!(4300);
        let reused = self.post(REDEEM, Some(&key), &other).await?;
        ensure!(reused.status == 422, "the key was used twice");
        show_balance(&self.till, &self.customer).await
    }

    async fn decline(&self) -> anyhow::Result<()> {
        chapter(
            "More points than there are: one leg declines, the other is given back before the till hears of it",
        );
        let order = self.order(
            "S042-77121",
            6000,
            &json!([{ "type": "points", "points": 5000 }, { "type": "store_credit", "amount": 1000 }]),
        );
        let declined = self.post(REDEEM, Some(&self.key("declined")), &order).await?;
        ensure!(declined.status == 422, "nothing was declined");
        show_balance(&self.till, &self.customer).await
    }

    async fn cancel(&self) -> anyhow::Result<()> {
        chapter("A redemption that the till takes back by its own key");
        let key = self.key("regret");
        let order = self.order("S042-77122", 500, &json!([{ "type": "store_credit", "amount": 500 }]));
        let redeemed = self.post(REDEEM, Some(&key), &order).await?.json()?;
        let cancel = "/api/v1/wallet/redemptions/cancel-by-key";
        let cancelled = self.post(cancel, None, &json!({ "idempotency_key": key })).await?;
        ensure!(cancelled.status == 200, "a cancel cannot be refused");

        chapter("From now on that key never succeeds");
        let late = self.post(REDEEM, Some(&key), &order).await?;
        ensure!(late.status == 409, "a cancelled key succeeded");
        let id = redeemed["id"].as_str().context("the redemption has no id")?;
        self.wait_until_reversed(id).await?;
        show_balance(&self.till, &self.customer).await
    }

    /// The reversal is durable once it is answered; it is carried out a moment later.
    async fn wait_until_reversed(&self, id: &str) -> anyhow::Result<()> {
        for _ in 0..50 {
            let redemption =
                self.till.get(&format!("/api/v1/wallet/redemptions/{id}"), &[]).await?.success()?;
            if redemption["status"] == "reversed" {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("the redemption {id} was not reversed")
    }

    fn key(&self, name: &str) -> String {
        format!("demo-{}-{name}", self.run)
    }

    fn order(&self, order_id: &str, amount: i64, tenders: &Value) -> Value {
        json!({ "customer_id": self.customer, "order_id": order_id, "currency": "USD", "amount": amount,
                "tenders": tenders })
    }

    async fn post(&self, path: &str, key: Option<&str>, body: &Value) -> anyhow::Result<Answer> {
        output::line(format!("\nPOST {path}"));
        if let Some(key) = key {
            output::line(format!("Idempotency-Key: {key}"));
        }
        output::json(body)?;
        let answer = self.till.post(path, key, body).await?;
        output::line(format!("\n{}", answer.show()));
        Ok(answer)
    }
}

async fn show_balance(till: &Client, customer: &str) -> anyhow::Result<()> {
    output::line(format!("\nGET {BALANCE}?customer_id={customer}"));
    let answer = till.get(BALANCE, &[("customer_id", customer.to_owned())]).await?;
    output::line(format!("\n{}", answer.show()));
    ensure!(answer.status.is_success(), "the balance cannot be read");
    Ok(())
}

fn chapter(title: &str) {
    output::line(format!("\n── {title} ──"));
}
