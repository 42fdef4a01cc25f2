//! `chaos`: every fault once, then ordered pairs by seed; or the crash matrix; or as long as you like. `script/chaos` starts
//! what it needs.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use chaos_tests::{
    Cluster,
    check::{Settle, changed_since},
    run::{Outcome, run},
    spent::Spent,
    table::{JOINT, Scenario, matrix, pairs, parts, singles},
};
use checker::{Counts, Healing};
use clap::Parser;
use testkit::Dice;

/// Ordered pairs in a run.
const PAIRS: usize = 20;
/// The product's own checks, over all that is there, run after every so many scenarios and after the last.
const SETTLES_EVERY: usize = 20;
/// Violations of a scenario that are shown; a fault that breaks one sale breaks hundreds.
const SHOWN: usize = 5;
/// How often the crash matrix visits each point.
const MATRIX_TIMES: u32 = 20;
/// Points of the matrix in the short run: where a saga begins, is compensated and ends, and where a tender commits.
const SHORT: [&str; 4] = [
    "P1 batch committed",
    "P6 COMPENSATING committed",
    "P9 terminal state committed",
    "T4 committed, no reply",
];
/// Settings of every process: takeovers within a second, dead letters within seconds.
const SETTINGS: [(&str, &str); 6] = [
    ("SAGA_HEARTBEAT_MS", "200"),
    ("SAGA_TTL_MS", "1000"),
    ("SAGA_CANCEL_TIMEOUT_MS", "1000"),
    ("SAGA_UNREACHABLE_BUDGET_MS", "5000"),
    ("SAGA_CANCEL_BACKOFF_CAP_MS", "1000"),
    ("RECONCILE_EVERY_MS", "5000"),
];

/// Breaks a running system in every way it knows, and checks that nothing was lost or doubled.
#[derive(Debug, Parser)]
struct Cli {
    /// Every persistence point, each twenty times.
    #[arg(long)]
    matrix: bool,
    /// A few persistence points only.
    #[arg(long, conflicts_with = "matrix")]
    short: bool,
    /// Only scenarios whose name contains this, or the very faults of a soak that are joined by ` + `.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Random scenarios and triples of them, for so many minutes.
    #[arg(long, value_name = "MINUTES", conflicts_with_all = ["matrix", "short", "only"])]
    soak: Option<u64>,
    /// The second orchestrator and store credit are of this earlier commit. What needs fail points of theirs is left out.
    #[arg(long, value_name = "COMMIT")]
    beside: Option<String>,
    /// Decides what chance decides.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep the evidence of every scenario, and say where it is; that of violations is kept anyway.
    #[arg(long)]
    keep: bool,
    /// Names of all scenarios.
    #[arg(long)]
    list: bool,
}

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    let cli = Cli::parse();
    if cli.list {
        for scenario in everything(1) {
            writeln!(io::stdout(), "{}", scenario.name)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let begun = Instant::now();
    let mut cluster = Cluster::start_with(&SETTINGS).await;
    let mut plan = Plan::new(&cli);
    let mut outcomes: Vec<Outcome> = Vec::new();
    for (name, missing) in &plan.left_out {
        writeln!(io::stdout(), "left out, since it needs {missing}: {name}")?;
    }
    head()?;
    while let Some(Planned { scenario, seed, is_last }) = plan.next(begun.elapsed()) {
        let tag = format!("s{}", outcomes.len());
        let is_turn = outcomes.len() % SETTLES_EVERY == SETTLES_EVERY - 1;
        let settle = if is_last || is_turn { Settle::All } else { Settle::Later };
        let outcome = run(&mut cluster, &scenario, &tag, seed, settle).await;
        line(&outcome)?;
        for violation in outcome.violations.iter().take(SHOWN) {
            writeln!(io::stdout(), "    VIOLATION {violation}")?;
        }
        if !outcome.violations.is_empty() {
            let matrix = if scenario.times > 1 { "--matrix " } else { "" };
            let beside = cli.beside.as_ref().map_or_else(String::new, |commit| format!("--beside {commit} "));
            let name = &outcome.name;
            writeln!(io::stdout(), "    again: script/chaos {beside}{matrix}--only '{name}' --seed {seed}")?;
        }
        if cli.keep || !outcome.violations.is_empty() {
            let folder = outcome.evidence.display();
            writeln!(io::stdout(), "    evidence: cargo run -p checker -- {folder}")?;
        } else {
            outcome.forget()?;
        }
        outcomes.push(outcome);
    }
    let lefts: Vec<_> = outcomes.iter().map(|outcome| &outcome.left).collect();
    let changed = changed_since(&cluster, &lefts).await;
    let is_well = sum(&outcomes, &changed, cli.seed, begun.elapsed())?;
    if !is_well {
        writeln!(io::stdout(), "logs: {}", cluster.keep_logs().display())?;
    }
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What comes next.
struct Planned {
    scenario: Scenario,
    /// Its own, so that it does the same when it is run alone.
    seed: u64,
    is_last: bool,
}

/// Which scenarios are to come.
struct Plan {
    listed: std::vec::IntoIter<Scenario>,
    /// What this machine cannot do, and what it lacks.
    left_out: Vec<(String, &'static str)>,
    seed: u64,
    soak: Option<Duration>,
    dice: Dice,
}

impl Plan {
    fn new(cli: &Cli) -> Self {
        let mut dice = Dice::new(cli.seed);
        let listed = match cli {
            Cli { only: Some(name), matrix: is_matrix, .. } => {
                let times = if *is_matrix { MATRIX_TIMES } else { 1 };
                joined(name).map_or_else(|| named(name, times), |scenario| vec![scenario])
            }
            Cli { soak: Some(_), .. } => Vec::new(),
            Cli { matrix: true, .. } => matrix(MATRIX_TIMES),
            Cli { short: true, .. } => {
                matrix(1).into_iter().filter(|scenario| SHORT.contains(&scenario.name.as_str())).collect()
            }
            _ => {
                let some = draw(pairs(), PAIRS, &mut dice);
                singles().into_iter().chain(matrix(1)).chain(some).collect()
            }
        };
        let (able, unable): (Vec<_>, Vec<_>) =
            listed.into_iter().partition(|scenario| scenario.lacks().is_none());
        let missing = |scenario: Scenario| Some((scenario.name.clone(), scenario.lacks()?));
        Self {
            listed: able.into_iter(),
            left_out: unable.into_iter().filter_map(missing).collect(),
            seed: cli.seed,
            soak: cli.soak.map(|minutes| Duration::from_secs(60 * minutes)),
            dice,
        }
    }

    fn next(&mut self, elapsed: Duration) -> Option<Planned> {
        let Some(soak) = self.soak else {
            let scenario = self.listed.next()?;
            return Some(Planned { scenario, seed: self.seed, is_last: self.listed.len() == 0 });
        };
        if elapsed > soak {
            return None;
        }
        // A pair and a single make a triple; now and then a single alone.
        let able = singles().into_iter().filter(|scenario| scenario.lacks().is_none()).collect();
        let mut scenario = draw(able, 1, &mut self.dice).pop()?;
        if self.dice.below(3) > 0 {
            let pair = draw(pairs(), 1, &mut self.dice).pop()?;
            let joins = scenario.is_compatible() && !pair.name.contains(&scenario.name);
            scenario = if joins { scenario.after(pair) } else { pair };
        }
        // Short enough to be typed.
        Some(Planned { scenario, seed: self.dice.below(1_000_000), is_last: true })
    }
}

fn everything(times: u32) -> impl Iterator<Item = Scenario> {
    singles().into_iter().chain(matrix(times)).chain(pairs())
}

/// The scenario of this name, or else all whose names contain it.
fn named(name: &str, times: u32) -> Vec<Scenario> {
    let exact: Vec<Scenario> = everything(times).filter(|scenario| scenario.name == name).collect();
    if exact.is_empty() {
        everything(times).filter(|scenario| scenario.name.contains(name)).collect()
    } else {
        exact
    }
}

/// The scenario of a soak, by its name.
fn joined(name: &str) -> Option<Scenario> {
    let parts = name.split(JOINT).map(|part| parts().find(|scenario| scenario.name == part));
    let mut parts = parts.collect::<Option<Vec<_>>>()?.into_iter();
    let first = parts.next()?;
    Some(parts.fold(first, |before, next| next.after(before)))
}

fn draw(mut from: Vec<Scenario>, count: usize, dice: &mut Dice) -> Vec<Scenario> {
    let mut drawn = Vec::new();
    while drawn.len() < count && !from.is_empty() {
        let at = usize::try_from(dice.below(from.len() as u64)).unwrap_or(0);
        drawn.push(from.swap_remove(at));
    }
    drawn
}

fn head() -> io::Result<()> {
    writeln!(
        io::stdout(),
        "{:<72} {:>7} {:>6} {:>7} {:>6} {:>8} {:>8} {:>8} {:>6} {:>10}",
        "fault",
        "fired",
        "sagas",
        "unknown",
        "dead",
        "heal p50",
        "heal p99",
        "heal max",
        "took",
        "violations"
    )
}

fn line(outcome: &Outcome) -> io::Result<()> {
    writeln!(
        io::stdout(),
        "{:<72} {:>7} {:>6} {:>7} {:>6} {:>5} ms {:>5} ms {:>5} ms {:>4} s {:>10}",
        outcome.name,
        outcome.fired,
        outcome.sagas,
        outcome.unknown,
        outcome.dead_letters,
        outcome.healing.percentile(50) / 1_000,
        outcome.healing.percentile(99) / 1_000,
        outcome.healing.percentile(100) / 1_000,
        outcome.spent.total().as_secs(),
        outcome.violations.len()
    )
}

/// The last lines; whether all is well.
fn sum(outcomes: &[Outcome], changed: &[String], seed: u64, took: Duration) -> io::Result<bool> {
    let sagas: usize = outcomes.iter().map(|outcome| outcome.sagas).sum();
    let (mut healing, mut counts, mut spent) = (Healing::default(), Counts::default(), Spent::default());
    for outcome in outcomes {
        healing.add(&outcome.healing);
        counts += outcome.counts;
        spent += outcome.spent;
    }
    let slow = healing.too_slow().map(|violation| violation.to_string());
    let over_all: Vec<&String> = changed.iter().chain(&slow).collect();
    for violation in &over_all {
        writeln!(io::stdout(), "VIOLATION {violation}")?;
    }
    let violations = outcomes.iter().map(|outcome| outcome.violations.len()).sum::<usize>() + over_all.len();
    writeln!(
        io::stdout(),
        "{} scenarios, {sagas} sagas, {violations} violations; healed within {} ms (p99), {} ms (max); seed {seed}, {} s",
        outcomes.len(),
        healing.percentile(99) / 1_000,
        healing.percentile(100) / 1_000,
        took.as_secs()
    )?;
    writeln!(io::stdout(), "checked: {counts}")?;
    writeln!(io::stdout(), "time: {spent}")?;
    Ok(violations == 0 && !outcomes.is_empty())
}
