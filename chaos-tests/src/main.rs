//! `chaos`: every fault once, then ordered pairs by seed; or the crash matrix; or as long as you like. `script/chaos` starts
//! what it needs.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use chaos_tests::{
    Cluster,
    check::Settle,
    run::{Outcome, run},
    table::{Scenario, matrix, pairs, singles},
};
use clap::Parser;
use testkit::Dice;

/// Ordered pairs in a run.
const PAIRS: usize = 20;
/// How often the crash matrix visits each point.
const MATRIX_TIMES: u32 = 20;
/// Points of the matrix in the short run: where a saga begins, turns back and ends, and where a tender commits.
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
    /// Only scenarios whose name contains this, of singles, matrix and pairs.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Random scenarios and triples of them, for so many minutes.
    #[arg(long, value_name = "MINUTES", conflicts_with_all = ["matrix", "short", "only"])]
    soak: Option<u64>,
    /// Decides what chance decides.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Names of all scenarios.
    #[arg(long)]
    list: bool,
}

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    let cli = Cli::parse();
    if cli.list {
        for scenario in everything() {
            writeln!(io::stdout(), "{}", scenario.name)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let begun = Instant::now();
    let mut cluster = Cluster::start_with(&SETTINGS).await;
    let mut plan = Plan::new(&cli);
    let mut outcomes: Vec<Outcome> = Vec::new();
    head()?;
    while let Some((scenario, is_last)) = plan.next(begun.elapsed()) {
        let tag = format!("s{}", outcomes.len());
        // A scenario has its own seed, so that it does the same when it is run alone.
        let settle = if is_last { Settle::All } else { Settle::Later };
        let outcome = run(&mut cluster, &scenario, &tag, cli.seed, settle).await;
        line(&outcome)?;
        for violation in &outcome.violations {
            writeln!(io::stdout(), "    VIOLATION {violation}")?;
        }
        if !outcome.violations.is_empty() {
            let (name, seed) = (&outcome.name, cli.seed);
            writeln!(io::stdout(), "    again: script/chaos --only '{name}' --seed {seed}")?;
        }
        outcomes.push(outcome);
    }
    let is_well = sum(&outcomes, cli.seed, begun.elapsed())?;
    if !is_well {
        writeln!(io::stdout(), "logs: {}", cluster.keep_logs().display())?;
    }
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Which scenarios are to come.
struct Plan {
    listed: std::vec::IntoIter<Scenario>,
    soak: Option<Duration>,
    dice: Dice,
}

impl Plan {
    fn new(cli: &Cli) -> Self {
        let mut dice = Dice::new(cli.seed);
        let listed = match cli {
            Cli { only: Some(name), matrix: is_matrix, .. } => {
                let times = if *is_matrix { MATRIX_TIMES } else { 1 };
                let all = singles().into_iter().chain(matrix(times)).chain(pairs());
                all.filter(|scenario| scenario.name.contains(name)).collect()
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
        Self {
            listed: listed.into_iter(),
            soak: cli.soak.map(|minutes| Duration::from_secs(60 * minutes)),
            dice,
        }
    }

    /// The next scenario, and whether it is the last.
    fn next(&mut self, elapsed: Duration) -> Option<(Scenario, bool)> {
        let Some(soak) = self.soak else {
            let scenario = self.listed.next()?;
            return Some((scenario, self.listed.len() == 0));
        };
        if elapsed > soak {
            return None;
        }
        // A pair and a single make a triple; now and then a single alone.
        let mut scenario = draw(singles(), 1, &mut self.dice).pop()?;
        if self.dice.below(3) > 0 {
            let pair = draw(pairs(), 1, &mut self.dice).pop()?;
            if scenario.is_compatible() && !pair.name.contains(&scenario.name) {
                scenario = scenario.after(pair);
            }
        }
        Some((scenario, true))
    }
}

fn everything() -> impl Iterator<Item = Scenario> {
    singles().into_iter().chain(matrix(1)).chain(pairs())
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
        "{:<72} {:>7} {:>6} {:>7} {:>6} {:>8} {:>8} {:>6} {:>10}",
        "fault",
        "fired",
        "sagas",
        "unknown",
        "dead",
        "heal p50",
        "heal max",
        "took",
        "violations"
    )
}

fn line(outcome: &Outcome) -> io::Result<()> {
    writeln!(
        io::stdout(),
        "{:<72} {:>7} {:>6} {:>7} {:>6} {:>6} ms {:>5} ms {:>4} s {:>10}",
        outcome.name,
        outcome.fired,
        outcome.sagas,
        outcome.unknown,
        outcome.dead_letters,
        outcome.heal.0.as_millis(),
        outcome.heal.1.as_millis(),
        outcome.took.as_secs(),
        outcome.violations.len()
    )
}

/// The last line; whether all is well.
fn sum(outcomes: &[Outcome], seed: u64, took: Duration) -> io::Result<bool> {
    let sagas: usize = outcomes.iter().map(|outcome| outcome.sagas).sum();
    let violations: usize = outcomes.iter().map(|outcome| outcome.violations.len()).sum();
    let slowest = outcomes.iter().map(|outcome| outcome.heal.1).max().unwrap_or_default();
    writeln!(
        io::stdout(),
        "{} scenarios, {sagas} sagas, {violations} violations; healed within {} ms; seed {seed}, {} s",
        outcomes.len(),
        slowest.as_millis(),
        took.as_secs()
    )?;
    Ok(violations == 0 && !outcomes.is_empty())
}
