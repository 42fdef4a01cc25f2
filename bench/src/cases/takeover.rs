//! `kill -9` of an orchestrator with 300 sagas in flight: how long until the other has ended them all.

use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};

use super::redeem::{Mix, Pick, Till};
use crate::{load::Caller as _, report::Row, system::System};

const SAGAS: usize = 300;
const CUSTOMERS: u64 = 10_000;
const SECONDS: f64 = 6.0;
/// Longest that is waited for them.
const LIMIT: Duration = Duration::from_secs(60);

/// Holds a tender until 300 sagas wait for it, kills their orchestrator, and lets the tender go on.
///
/// # Errors
/// When something does not start, or the sagas do not end.
pub async fn run() -> anyhow::Result<Row> {
    let mut system = System::start(2).await?;
    system.fund(CUSTOMERS).await?;
    let mut wallet = PgConnection::connect_with(&system.databases[0].admin()).await?;
    signal(system.tenders[0].child.id(), "STOP")?;
    // Every other till stands at the first orchestrator.
    let tills = Till::many(&system, Mix::of(Pick::Uniform(CUSTOMERS)), 2 * SAGAS).into_iter().step_by(2);
    let calls: Vec<_> = tills.map(|mut till| tokio::spawn(async move { till.call(0).await })).collect();
    let begun = Instant::now();
    while open(&mut wallet).await? < SAGAS as i64 {
        anyhow::ensure!(begun.elapsed() < LIMIT, "the sagas did not begin");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    system.wallets[0].child.kill()?;
    let killed = Instant::now();
    signal(system.tenders[0].child.id(), "CONT")?;
    while open(&mut wallet).await? > 0 {
        anyhow::ensure!(killed.elapsed() < LIMIT, "the sagas did not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let took = killed.elapsed().as_secs_f64();
    for call in calls {
        call.abort();
    }
    let completed: i64 =
        sqlx::query_scalar("SELECT count(*) FROM saga.saga WHERE state = 2").fetch_one(&mut wallet).await?;
    Ok(Row {
        name: "kill -9 with 300 sagas in flight".to_owned(),
        rival: "Restate, elsewhere: 9.8 s".to_owned(),
        goal: format!("all done in < {SECONDS:.0} s"),
        reached: format!("{took:.1} s, {completed} completed"),
        of_goal: SECONDS / took,
        ours: None,
        theirs: None,
        cost: None,
    })
}

async fn open(wallet: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT count(*) FROM saga.saga WHERE state IN (0, 1)").fetch_one(wallet).await
}

fn signal(pid: u32, name: &str) -> anyhow::Result<()> {
    let done = std::process::Command::new("kill").args([format!("-{name}"), pid.to_string()]).status()?;
    anyhow::ensure!(done.success(), "SIG{name} was not delivered");
    Ok(())
}
