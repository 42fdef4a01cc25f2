//! What was missed is found by comparison, also beside an account that cannot be read.

use api::{
    BusinessId,
    tender::{Owner, VERSIONS_MAX},
    wallet::TenderKind,
};
use money::Asset;
use sqlx::{Connection, PgConnection};

use crate::support::{BUSINESS, System, WITHIN};

/// More than two chunks have, so that no order of them leaves the last one without an unreadable account before it.
const OWNERS: usize = 3 * VERSIONS_MAX;
/// One in so many cannot be read.
const UNREADABLE: usize = 25;

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_cannot_be_read_keeps_nobody_elses_balance() {
    let system = System::start().await;
    let wallet = system.wallet().await;
    let mut points =
        PgConnection::connect_with(&system.points.tender.database.admin()).await.expect("a connection");
    for statement in [
        "ALTER TABLE tender.account DROP CONSTRAINT account_status_known",
        "INSERT INTO tender.account (business_id, owner, asset, status)
         SELECT 'demo', 'c' || n, 'points', CASE WHEN n % 25 = 0 THEN 'of the next version' ELSE 'active' END
         FROM generate_series(0, 299) n",
    ] {
        sqlx::query(statement).execute(&mut points).await.expect("done");
    }
    let hub = &wallet.app.live.hub;
    let business: BusinessId = BUSINESS.to_owned().try_into().expect("an id");
    let owner = |n: usize| Owner {
        business_id: business.clone(),
        customer_id: format!("c{n}").try_into().expect("an id"),
    };
    let mut watchers = Vec::new();
    for n in 0..OWNERS {
        watchers.push(hub.watch(owner(n), false, "test").await.expect("room"));
    }
    let behind = || {
        let is_readable = |n: &usize| !n.is_multiple_of(UNREADABLE);
        (0..OWNERS)
            .filter(is_readable)
            .filter(|n| hub.is_behind(&owner(*n), TenderKind::Points, Asset::Points, 0))
            .count()
    };
    assert_eq!(behind(), OWNERS - OWNERS / UNREADABLE, "nothing is known of anybody yet");
    testkit::until(WITHIN, async || match behind() {
        0 => Ok(()),
        left => Err(format!("{left} balances were not compared")),
    })
    .await;
}
