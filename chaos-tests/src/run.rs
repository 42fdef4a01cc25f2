//! One scenario: LOAD + FAULT, HEAL, QUIESCE, CHECK.

use std::time::{Duration, Instant};

use testkit::Dice;

use crate::{
    Cluster, Load, Sale, Shop, check,
    check::{Moment, Settle},
    fault::{Healed, Scene},
    table::Scenario,
};

const TILLS: usize = 32;
const CUSTOMERS: usize = 20;
/// How long a till waits for a connection that says nothing.
const PATIENCE: Duration = Duration::from_secs(4);
/// Tills are at work for so long before anything breaks, and after it was healed.
const CALM: Duration = Duration::from_millis(800);

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
    /// After healing, how long sagas that were open then took: half of them, and the slowest of all.
    pub heal: (Duration, Duration),
    /// How long it took, with its checks.
    pub took: Duration,
    /// What must not be.
    pub violations: Vec<String>,
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
    let begun = Instant::now();
    let mut dice = Dice::new(seed);
    let customers = fund(cluster, tag).await;
    let since = Moment::now(cluster).await;
    let shop = Shop { name: tag, tills: TILLS, customers: &customers, patience: PATIENCE };
    let load = Load::start(cluster, &shop);
    let mut sales = Vec::new();
    let mut fired = vec![0; scenario.faults.len()];
    let mut heals = Vec::new();
    let mut violations = Vec::new();
    for _ in 0..scenario.times {
        tokio::time::sleep(CALM).await;
        let mut scene = Scene { cluster, load: &load, name: tag, customers: &customers, dice: &mut dice };
        for (nth, healed) in break_and_heal(&mut scene, scenario).await.into_iter().enumerate() {
            if healed.fired == 0 {
                violations.push(format!("{:?} did not fire", scenario.faults[nth]));
            }
            fired[nth] += healed.fired;
            sales.extend(healed.sales);
        }
        let healed = Moment::now(cluster).await;
        cluster.until_all_ready().await;
        tokio::time::sleep(CALM).await;
        heals.push(healed);
    }
    sales.extend(load.finish().await);
    let report = check(cluster, &sales, &since, settle).await;
    violations.extend(report.violations);
    Outcome {
        name: scenario.name.clone(),
        fired: fired.into_iter().min().unwrap_or(0),
        sagas: sales.len(),
        unknown: sales.iter().filter(|sale: &&Sale| sale.unknown > 0).count(),
        slowest: sales.iter().map(|sale| sale.slowest).max().unwrap_or_default(),
        dead_letters: report.dead_letters,
        heal: slowest(cluster, &heals).await,
        took: begun.elapsed(),
        violations,
    }
}

/// Begins the faults one after the other, and ends them in the opposite order; in the order of the scenario.
async fn break_and_heal(scene: &mut Scene<'_>, scenario: &Scenario) -> Vec<Healed> {
    let mut armed = Vec::new();
    for fault in &scenario.faults {
        armed.push((fault, fault.arm(scene, scenario.hold).await));
        tokio::time::sleep(Duration::from_millis(scene.dice.below(300))).await;
    }
    tokio::time::sleep(scenario.hold).await;
    let mut healed = Vec::new();
    while let Some((fault, armed)) = armed.pop() {
        healed.push(fault.heal(scene, armed).await);
    }
    healed.reverse();
    healed
}

async fn fund(cluster: &Cluster, tag: &str) -> Vec<(String, String)> {
    let funded = (0..CUSTOMERS).map(|number| {
        let customer = format!("{tag}-c{number}");
        async move {
            let reward = cluster.fund(&customer).await;
            (customer, reward)
        }
    });
    futures_util::future::join_all(funded).await
}

/// The slowest half, and the slowest.
async fn slowest(cluster: &Cluster, heals: &[Moment]) -> (Duration, Duration) {
    let mut most = (Duration::ZERO, Duration::ZERO);
    for healed in heals {
        let (half, all) = healed.healing(cluster).await;
        most = (most.0.max(half), most.1.max(all));
    }
    most
}
