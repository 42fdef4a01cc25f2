//! Every call under a key that was applied, with the database away in each of the ways in which it can be: never
//! `not_applied`, never 500.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Mode, Proxy};

use crate::support::{Answer, CUT, System, Wallet, order};

/// Pauses before each round of calls: at once, within the instance's lease, and past it.
const PAUSES_MS: [u64; 3] = [0, 300, 900];

/// What a till repeats.
struct Calls {
    body: Value,
    captured: String,
    voided: String,
}

impl Calls {
    /// A redeem, a capture and a void that have been applied, under the keys `k0`, `c` and `v`.
    async fn apply(system: &System, wallet: &Wallet) -> Self {
        let reward = system.fund("c", 2_000, 20_000, 20_000).await;
        let mut body = order("c", &reward);
        body["capture"] = json!("manual");
        body["deadline_ms"] = json!(1_500);
        let mut ids = Vec::new();
        for key in ["k0", "k1", "k2"] {
            let held = system.redeem(wallet, key, &body).await;
            assert_eq!(held.status, 201, "{}", held.text());
            ids.push(held.json()["id"].as_str().expect("an id").to_owned());
        }
        let calls = Self { body, captured: ids[1].clone(), voided: ids[2].clone() };
        for answer in [calls.capture(system, wallet).await, calls.void(system, wallet).await] {
            assert!(answer.status.is_success(), "{}", answer.text());
        }
        calls
    }

    async fn capture(&self, system: &System, wallet: &Wallet) -> Answer {
        let path = format!("/wallet/redemptions/{}/capture", self.captured);
        system.call(wallet, "pos", Method::POST, &path, Some("c"), Some(&json!({}))).await
    }

    async fn void(&self, system: &System, wallet: &Wallet) -> Answer {
        let path = format!("/wallet/redemptions/{}/void", self.voided);
        system.call(wallet, "pos", Method::POST, &path, Some("v"), Some(&json!({}))).await
    }

    async fn cancel(&self, system: &System, wallet: &Wallet) -> Answer {
        let body = json!({ "idempotency_key": "k0" });
        let path = "/wallet/redemptions/cancel-by-key";
        system.call(wallet, "pos", Method::POST, path, None, Some(&body)).await
    }

    /// All of them at once, now and past the instance's lease.
    async fn repeat(&self, system: &System, wallet: &Wallet) {
        for pause in PAUSES_MS {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let path = format!("/wallet/redemptions/{}", self.captured);
            let (redeemed, captured, voided, cancelled, shown, listed) = tokio::join!(
                system.redeem(wallet, "k0", &self.body),
                self.capture(system, wallet),
                self.void(system, wallet),
                self.cancel(system, wallet),
                system.get(wallet, &path),
                system.get(wallet, "/wallet/redemptions?customer_id=c"),
            );
            for told in [shown, listed] {
                assert!([200, 503].contains(&told.status.as_u16()), "after {pause} ms more: {}", told.text());
            }
            for (call, told) in
                [("redeem", redeemed), ("capture", captured), ("void", voided), ("cancel", cancelled)]
            {
                let outcome = told.json()["outcome"].clone();
                let is_right = match told.status.as_u16() {
                    200 | 202 => true,
                    503 => outcome == "unknown",
                    // Its key was cancelled by one of the calls before.
                    409 => call == "redeem" && told.code() == "key_cancelled",
                    _ => false,
                };
                assert!(is_right, "{call}, after {pause} ms more: {} {}", told.status, told.text());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_database_behind_a_black_hole() {
    let system = System::start().await;
    let wallet = system.wallet_behind_proxy().await;
    let calls = Calls::apply(&system, &wallet).await;
    system.database_proxy.set(Mode::HoldAll);
    calls.repeat(&system, &wallet).await;
    system.database_proxy.set(Mode::Pass);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_database_refusing_connections() {
    let mut system = System::start().await;
    let wallet = system.wallet_behind_proxy().await;
    let calls = Calls::apply(&system, &wallet).await;
    // Nothing listens on the port any more, and what was open is cut.
    let admin = system.database.admin();
    let elsewhere = Proxy::start(admin.get_host(), admin.get_port()).await;
    let gone = std::mem::replace(&mut system.database_proxy, elsewhere);
    gone.set(Mode::Cut);
    tokio::time::sleep(CUT).await;
    drop(gone);
    calls.repeat(&system, &wallet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_database_behind_a_proxy_that_accepts_and_closes() {
    let system = System::start().await;
    let wallet = system.wallet_behind_proxy().await;
    let calls = Calls::apply(&system, &wallet).await;
    system.database_proxy.refuse(true);
    system.database_proxy.set(Mode::Cut);
    calls.repeat(&system, &wallet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_database_closing_at_the_first_word() {
    let system = System::start().await;
    let wallet = system.wallet_behind_proxy().await;
    let calls = Calls::apply(&system, &wallet).await;
    system.database_proxy.set(Mode::Cut);
    calls.repeat(&system, &wallet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_database_hanging_at_commit() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let calls = Calls::apply(&system, &wallet).await;
    system
        .execute(
            "CREATE FUNCTION saga.hanging() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 BEGIN PERFORM pg_sleep(12); EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(7); END;
                 RETURN NULL;
             END $$",
        )
        .await;
    system
        .execute(
            "CREATE CONSTRAINT TRIGGER hanging AFTER INSERT OR UPDATE ON saga.saga DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION saga.hanging()",
        )
        .await;
    calls.repeat(&system, &wallet).await;
    system.execute("ALTER TABLE saga.saga DISABLE TRIGGER hanging").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_the_database_refuses_is_a_fault_of_ours_and_not_told_to_be_repeated_for_ever() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let reward = system.fund("c", 2_000, 20_000, 20_000).await;
    let mut body = order("c", &reward);
    body["capture"] = json!("manual");
    let held = system.redeem(&wallet, "k", &body).await.json();
    system
        .execute("ALTER TABLE wallet.redemption ADD CONSTRAINT planted CHECK (status <> 'capturing')")
        .await;
    let path = format!("/wallet/redemptions/{}/capture", held["id"].as_str().expect("an id"));
    let told = system.call(&wallet, "pos", Method::POST, &path, Some("c"), Some(&json!({}))).await;
    assert_eq!((told.status.as_u16(), told.code()), (500, "internal".to_owned()), "{}", told.text());
}
