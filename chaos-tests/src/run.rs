//! One scenario: LOAD + FAULT, HEAL, QUIESCE, CHECK.

use std::{fs, io, path::PathBuf, time::Duration};

use checker::{Counts, Healing, format};
use testkit::Dice;

use crate::{
    business::{BUSINESS, OTHER, canary},
    check::{Before, Left, Played, Settle, check, replay_dead_letters},
    cluster::Cluster,
    dumps::{What, dump},
    evidence::Evidence,
    fault::{Fault, Healed},
    funding::fund,
    links::Way,
    load::Load,
    outage::Outage,
    sale::Sale,
    scene::{Armed, Scene},
    spent::{Spent, Watch},
    table::Scenario,
    till::{Shop, Till},
    witnesses::{Witnesses, connect},
};

const TILLS: usize = 32;
const CUSTOMERS: usize = 20;
/// Of the other business.
const OTHER_CUSTOMERS: usize = 2;
/// How long a till waits for a connection that says nothing.
const PATIENCE: Duration = Duration::from_secs(4);
/// Tills are at work for so long before anything breaks, and after it was healed.
const CALM: Duration = Duration::from_millis(800);

/// Pause between two looks of the operator for what is parked.
const OPERATED_EVERY: Duration = Duration::from_secs(1);

/// What came of a scenario: a line of the table.
#[derive(Debug)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// How often its faults hit something: the one that hit least.
    pub fired: u64,
    /// Sales.
    pub sagas: usize,
    /// Sales of which a till had to ask again.
    pub unknown: usize,
    /// The longest that a till waited for one answer.
    pub slowest: Duration,
    /// Dead letters, all replayed.
    pub dead_letters: i64,
    /// After healing, how long sagas took that were open then.
    pub healing: Healing,
    /// How much the checker looked at.
    pub counts: Counts,
    /// How long it took, with its checks.
    pub spent: Spent,
    /// What must not be.
    pub violations: Vec<String>,
    /// What it left in the ledgers.
    pub left: Left,
    /// The folder of its evidence.
    pub evidence: PathBuf,
}

impl Outcome {
    /// Removes the evidence of what is well; that of what is not remains.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget(&self) -> io::Result<()> {
        if self.violations.is_empty() { fs::remove_dir_all(&self.evidence) } else { Ok(()) }
    }
}

/// Carries a scenario out. `tag` begins every key and customer, so that no two scenarios of a run share any.
///
/// # Panics
/// When the system under test cannot be brought up again.
pub async fn run(
    cluster: &mut Cluster,
    scenario: &Scenario,
    tag: &str,
    seed: u64,
    settle: Settle,
) -> Outcome {
    let (mut watch, mut spent) = (Watch::start(), Spent::default());
    let mut dice = Dice::new(seed);
    let database_forgot =
        scenario.faults.iter().any(|fault| matches!(fault, Fault::Outage(_, Outage::Forgets)));
    cluster.evidence = Evidence::begin(scenario.faults.iter().any(takes_redis_away), database_forgot)
        .expect("room for evidence");
    let before = Before::now(cluster).await;
    let customers =
        fund_all(cluster, BUSINESS, (0..CUSTOMERS).map(|number| format!("{tag}-c{number}"))).await;
    let others =
        fund_all(cluster, OTHER, (0..OTHER_CUSTOMERS).map(|number| other_customer(tag, number))).await;
    let witnesses = Witnesses::start(cluster, tag, &customers).await;
    let shop = Shop { name: tag, tills: TILLS, customers: &customers, patience: PATIENCE };
    let load = Load::start(cluster, &shop);
    let other = Load::start_for(cluster, OTHER, &Shop { tills: 1, customers: &others, ..shop });
    let mut sales = Vec::new();
    let mut fired = vec![0; scenario.faults.len()];
    let mut violations = Vec::new();
    spent.begun = watch.lap();
    for time in 0..scenario.times {
        tokio::time::sleep(CALM).await;
        let mut scene = Scene { cluster, load: &load, name: tag, customers: &customers, dice: &mut dice };
        let armed = break_down(&mut scene, scenario).await;
        spent.load += watch.lap();
        for (nth, healed) in heal(&mut scene, armed).await.into_iter().enumerate() {
            if healed.fired == 0 {
                violations.push(format!("{:?} did not fire", scenario.faults[nth]));
            }
            fired[nth] += healed.fired;
            sales.extend(healed.sales);
            violations.extend(healed.complaints);
        }
        cluster.evidence.mark(format::Moment::Healed);
        cluster.until_all_ready().await;
        cluster.evidence.mark(format::Moment::Ready);
        spent.healed += watch.lap();
        if time == 0 {
            remember(cluster, tag).await;
        }
        tokio::time::sleep(CALM).await;
        spent.load += watch.lap();
    }
    let (own, of_other) = operated(cluster, load, other).await;
    sales.extend(own);
    let till = Till::first(cluster, BUSINESS, &shop);
    spent.quiet = watch.lap();
    let report =
        check(cluster, &Played { tag, before: &before, sales: &sales, till, settle }, witnesses).await;
    spent.quiet += report.quiet_after;
    spent.checked = watch.lap() - report.quiet_after;
    violations.extend(report.violations);
    sales.extend(of_other);
    let complaints = sales.iter().filter_map(|sale| Some((sale, sale.complaint.as_ref()?)));
    violations.extend(complaints.map(|(sale, complaint)| format!("{}: {complaint}", sale.key)));
    Outcome {
        name: scenario.name.clone(),
        fired: fired.into_iter().min().unwrap_or(0),
        sagas: sales.len(),
        unknown: sales.iter().filter(|sale: &&Sale| sale.unknown > 0).count(),
        slowest: sales.iter().map(|sale| sale.slowest).max().unwrap_or_default(),
        dead_letters: report.dead_letters,
        healing: report.healing,
        counts: report.counts,
        spent,
        violations,
        left: report.left,
        evidence: report.evidence,
    }
}

/// Every till ends the sale it is at, while an operator takes up again what is parked: a capture that is parked has no answer
/// before. What the tills of each business sold.
async fn operated(cluster: &Cluster, load: Load, other: Load) -> (Vec<Sale>, Vec<Sale>) {
    let finishing = futures_util::future::join(load.finish(), other.finish());
    tokio::pin!(finishing);
    loop {
        tokio::select! {
            sales = &mut finishing => return sales,
            () = tokio::time::sleep(OPERATED_EVERY) => {
                replay_dead_letters(cluster, 0).await;
            }
        }
    }
}

/// Writes down what must not change from here on.
async fn remember(cluster: &Cluster, tag: &str) {
    let Some(folder) = cluster.evidence.folder() else { return };
    for (database, connection) in &mut connect(cluster).await {
        dump(connection, *database, folder, (1, What::Lasting), tag).await.expect("a dump");
    }
}

/// Balances may be old, and changes late, while it lasts.
const fn takes_redis_away(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::Redis(_)
            | Fault::Mode(Way::Caches, _)
            | Fault::Weather(Way::Caches, _)
            | Fault::Strike(Way::Caches, ..)
            | Fault::Flap(Way::Caches, ..)
            | Fault::Refuse(Way::Caches)
    )
}

/// What is in Redis is lost while it lasts.
fn empties_redis(fault: &Fault) -> bool {
    matches!(fault, Fault::Redis(redis) if redis.empties())
}

/// Begins the faults one after the other, and lets the last one last.
async fn break_down<'a>(scene: &mut Scene<'_>, scenario: &'a Scenario) -> Vec<(&'a Fault, Armed)> {
    let mut armed = Vec::new();
    for fault in &scenario.faults {
        if empties_redis(fault) {
            scene.cluster.evidence.mark(format::Moment::RedisLoses);
        }
        armed.push((fault, fault.arm(scene, scenario.hold).await));
        tokio::time::sleep(Duration::from_millis(scene.dice.below(300))).await;
    }
    if !scenario.faults.last().is_some_and(Fault::takes_its_time) {
        tokio::time::sleep(scenario.hold).await;
    }
    armed
}

/// Ends the faults, the last one first; what came of them, in the order in which they began.
async fn heal(scene: &mut Scene<'_>, mut armed: Vec<(&Fault, Armed)>) -> Vec<Healed> {
    let mut healed = Vec::new();
    while let Some((fault, armed)) = armed.pop() {
        healed.push(fault.heal(scene, armed).await);
        if empties_redis(fault) {
            scene.cluster.evidence.mark(format::Moment::RedisKeeps);
        }
    }
    healed.reverse();
    healed
}

/// The first has the name of a customer of the first business.
fn other_customer(tag: &str, number: usize) -> String {
    match number {
        0 => format!("{tag}-c0"),
        _ => format!("{tag}-{}-{number}", canary(OTHER)),
    }
}

async fn fund_all(
    cluster: &Cluster,
    business: &str,
    customers: impl Iterator<Item = String>,
) -> Vec<(String, String)> {
    let funded = customers.map(|customer| async move {
        let reward = fund(cluster, business, &customer).await;
        (customer, reward)
    });
    futures_util::future::join_all(funded).await
}
