//! Who may act for a saga when its owner and the database lose sight of each other.

use std::time::Duration;

use saga::Config;
use testkit::Mode;

use crate::support::{LEASE_OVER, System, WITHIN, order, quick, redeem, until};

/// How long the database is away each time: longer than a lease, so that the saga is claimed again.
const AWAY: Duration = Duration::from_secs(1);
/// How long it is there in between: long enough for some attempts at the saga's legs.
const BACK: Duration = Duration::from_millis(1_600);
/// Long enough for several attempts at a cancel, if the process made them.
const CANCELS: Duration = Duration::from_millis(1_500);

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_whose_database_went_away_now_and_then_is_no_poison() {
    let system = System::start().await;
    let mut config = Config { poison_limit: 2, ..quick() };
    config.cancel_retry.cap = Duration::from_millis(100);
    let options = service::db::connect_options(&system.database.url(), "wallet").expect("a URL");
    let wallet = system.wallet_on(config, options.host("127.0.0.1").port(system.database_proxy.port)).await;
    let reward = system.fund("c", 620, 5000, 1).await;
    // Rewards decline; store credit is away, so the saga is on its way back for long.
    system.credit.proxy.set(Mode::Cut);
    let _till = redeem(&system, &wallet, "k", order("c", &reward));
    until(&system, "SELECT EXISTS (SELECT 1 FROM saga.saga WHERE state = 1)").await;
    for _ in 0..4 {
        system.database_proxy.set(Mode::HoldRequests);
        tokio::time::sleep(AWAY).await;
        system.database_proxy.set(Mode::Pass);
        tokio::time::sleep(BACK).await;
    }
    let (state, epoch) = (
        system.sql::<i16>("SELECT state FROM saga.saga").await,
        system.sql::<i64>("SELECT epoch FROM saga.saga").await,
    );
    assert!(epoch > 3, "the fault never fired: epoch {epoch}");
    assert_eq!(state, 1, "no owner died, and legs answered in between");
    system.credit.proxy.set(Mode::Pass);
    system.until_status(&wallet, "k", "declined").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_cannot_renew_stops_sending() {
    let system = System::start().await;
    let mut config = quick();
    config.cancel_retry.cap = Duration::from_millis(100);
    let options = service::db::connect_options(&system.database.url(), "wallet").expect("a URL");
    let wallet = system.wallet_on(config, options.host("127.0.0.1").port(system.database_proxy.port)).await;
    let reward = system.fund("c", 620, 5000, 1).await;
    let before = system.lots("c").await;
    system.rewards.proxy.set(Mode::HoldReplies);
    let _till = redeem(&system, &wallet, "k", order("c", &reward));
    testkit::until(WITHIN, async || credit(&system).await == 3500).await;
    system.credit.proxy.set(Mode::Cut);
    system.rewards.proxy.set(Mode::Pass);
    until(&system, "SELECT EXISTS (SELECT 1 FROM saga.saga WHERE state = 1)").await;
    system.database_proxy.set(Mode::HoldRequests);
    tokio::time::sleep(LEASE_OVER).await;
    // Store credit is back, and the next cancel would reach it.
    system.credit.proxy.set(Mode::Pass);
    tokio::time::sleep(CANCELS).await;
    assert_eq!(credit(&system).await, 3500, "its saga may be somebody else's by now");
    system.database_proxy.set(Mode::Pass);
    system.until_status(&wallet, "k", "declined").await;
    assert_eq!(system.lots("c").await, before);
}

async fn credit(system: &System) -> i64 {
    let lots = system.lots("c").await;
    lots.iter()
        .filter(|lot| lot["currency"] == "USD" && lot["original"] == 5000)
        .filter_map(|lot| lot["remaining"].as_i64())
        .sum()
}
