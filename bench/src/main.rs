//! `bench`: measures the services against rivals and floors, in one run on one machine, as ratios. `script/bench` builds what
//! it needs and starts Postgres, with everything on that a crash could lose, and Redis.

// Measurements are floats, and a till's task ends with the run that it is part of.
#![allow(clippy::float_arithmetic, clippy::disallowed_methods)]

mod cases;
mod cost;
mod database;
mod http;
mod load;
mod machine;
mod plans;
mod report;
mod rivals;
mod system;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use cases::Effort;
use clap::{Parser, Subcommand};
use report::{Machine, Report, Row};

/// Measures how fast the services are, against rivals in the same run. Exit code 1 if a goal was not met.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    serve: Option<Serve>,
    /// Shorter rounds: four minutes at most.
    #[arg(long)]
    quick: bool,
    /// Only cases whose name contains this.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Where results are kept.
    #[arg(long, default_value = "bench/results")]
    results: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Serve {
    /// A rival: one Redis GET behind the services' own listener.
    #[command(hide = true)]
    ServeRedisGet(rivals::redis_get::Serve),
}

const QUICK: Effort = Effort {
    rounds: 3,
    round: Duration::from_secs(3),
    warm: Duration::from_secs(3),
    history: [100_000, 200_000, 500_000],
};
const FULL: Effort = Effort {
    rounds: 5,
    round: Duration::from_secs(6),
    warm: Duration::from_secs(6),
    history: [100_000, 1_000_000, 5_000_000],
};
/// What has a goal of its own.
const CASES: [&str; 6] = ["engine", "redeem", "debit", "hot", "balance", "takeover"];
/// What shows how figures move, or takes long; left out when it has to be quick.
const MORE: [&str; 3] = ["sweep", "overload", "history"];

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    if let Some(Serve::ServeRedisGet(serve)) = cli.serve {
        rivals::redis_get::serve(serve).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let effort = if cli.quick { QUICK } else { FULL };
    let before = machine::look()?;
    let mut rows: Vec<Row> = Vec::new();
    let is_asked_for = |case: &&str| match &cli.only {
        Some(only) => case.contains(only.as_str()),
        None => !cli.quick || CASES.contains(case),
    };
    for case in CASES.into_iter().chain(MORE).filter(is_asked_for) {
        database::checkpoint().await?;
        let begun = Instant::now();
        let measured = run(case, effort, &cli.results).await?;
        for row in &measured {
            writeln!(io::stdout(), "{}", row.line())?;
            write!(io::stdout(), "{}", row.details())?;
        }
        writeln!(io::stdout(), "    ({case}: {} s)", begun.elapsed().as_secs())?;
        rows.extend(measured);
    }
    let after = machine::look()?;
    let machine = Machine { sync_micros: (before.0, after.0), spins: (before.1, after.1) };
    let is_met = !rows.is_empty() && rows.iter().all(Row::is_met);
    writeln!(
        io::stdout(),
        "machine: 8 KiB durable in {:.0} and {:.0} µs, {:.0} and {:.0} million turns a second, before and after",
        before.0,
        after.0,
        before.1,
        after.1
    )?;
    let name = if cli.quick { "quick" } else { "full" };
    if cli.only.is_none() {
        let kept = Report { machine, rows }.write(&cli.results, name)?;
        writeln!(io::stdout(), "kept in {}", kept.display())?;
    }
    Ok(if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run(case: &str, effort: Effort, results: &Path) -> anyhow::Result<Vec<Row>> {
    let row = match case {
        "engine" => cases::engine::run(effort).await,
        "redeem" => cases::redeem::run(effort).await,
        "debit" => cases::debit::run(effort).await,
        "hot" => cases::hot::run(effort).await,
        "balance" => cases::balance::run(effort).await,
        "sweep" => return cases::sweep::run(effort).await,
        "history" => return cases::history::run(effort, results).await,
        "overload" => return cases::overload::run(effort).await,
        _ => cases::takeover::run().await,
    };
    row.map(|row| vec![row])
}
