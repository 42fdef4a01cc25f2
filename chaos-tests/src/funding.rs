//! What customers begin with.

use std::time::{Duration, Instant};

use checker::format::{Call, Leg};
use serde_json::{Value, json};

use crate::{business::OPENING, cluster::Cluster};

/// Paths of the tenders' accounts, and their names in requests; in the order of [`Cluster::tenders`].
pub(crate) const TENDERS: [(&str, &str); 3] =
    [("points", "points"), ("store-credits", "store_credit"), ("digital-rewards", "digital_reward")];

/// Longest wait for a tender that is busy, and the pause before it is asked again.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

/// Gives a customer of a business [`OPENING`] units in each tender; the reward's id.
///
/// # Panics
/// When a tender refuses.
pub async fn fund(cluster: &Cluster, business: &str, customer: &str) -> String {
    let mut reward = String::new();
    let bodies = [
        json!({ "points": OPENING, "kind": "earn" }),
        json!({ "amount": OPENING, "currency": "USD", "kind": "issue" }),
        json!({ "amount": OPENING, "currency": "USD", "kind": "issue" }),
    ];
    for ((tender, (path, name)), mut body) in cluster.tenders.iter().zip(TENDERS).zip(bodies) {
        body["customer_id"] = json!(customer);
        body["funding"] = json!("paid");
        body["reference"] = json!(customer);
        let request = cluster
            .client
            .post(format!("{}/api/v1/{path}/credits", tender.url))
            .bearer_auth(cluster.tokens.staff(business, "admin"));
        let call = Call::Credit {
            business: business.to_owned(),
            customer: customer.to_owned(),
            leg: Leg { tender: name.to_owned(), units: OPENING },
        };
        let asked = cluster.evidence.ask("funding", call);
        let request = request.header("idempotency-key", customer).json(&body);
        let (status, body) = insist(&request).await;
        assert_eq!(status, 201, "{path}");
        asked.ok(status, &body);
        let answer: Value = serde_json::from_slice(&body).expect("JSON");
        reward = answer["reward_id"].as_str().unwrap_or(&reward).to_owned();
    }
    reward
}

/// Asks until the answer is a definite one: what an earlier scenario broke may take a moment to be of use again.
async fn insist(request: &reqwest::RequestBuilder) -> (u16, Vec<u8>) {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = request.try_clone().expect("a body of bytes").send().await.expect("an answer");
        let (status, body) = (answer.status().as_u16(), answer.bytes().await.expect("a body"));
        if status != 503 || Instant::now() > until {
            return (status, body.to_vec());
        }
        tokio::time::sleep(PAUSE).await;
    }
}
