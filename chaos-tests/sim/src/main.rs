//! `script/sim`: simulates worlds from a seed on, and says what happened in them.
#![expect(clippy::print_stdout, reason = "a command-line tool")]

use std::{process::ExitCode, time::Instant};

use clap::Parser;
use sim::{Coverage, Fired, simulate};

/// Simulate the whole system under faults. The same seed does the same, always.
#[derive(Debug, Parser)]
struct Options {
    /// Replay the world of this seed, and no other.
    #[arg(long, conflicts_with = "sagas")]
    seed: Option<u64>,
    /// Print everything that happens.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Simulate world after world until there were so many sagas.
    #[arg(long, default_value_t = 20_000)]
    sagas: u64,
    /// The first world's seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match options.seed {
        Some(seed) => replay(seed, options.trace),
        None => many(options.from, options.sagas),
    }
}

fn replay(seed: u64, trace: bool) -> ExitCode {
    let outcome = simulate(seed, trace);
    println!("seed {seed}: {} sagas, trace {:016x}", outcome.sagas, outcome.hash);
    match outcome.violation {
        Some(violation) => {
            println!("VIOLATED {violation}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

fn many(from: u64, sagas: u64) -> ExitCode {
    let begun = Instant::now();
    let mut coverage = Coverage::default();
    let (mut done, mut seed, mut slowest) = (0, from, 0);
    while done < sagas {
        let outcome = simulate(seed, false);
        if let Some(violation) = outcome.violation {
            println!("VIOLATED in the world of seed {seed} {violation}");
            println!("replay it: script/sim --seed {seed} --trace");
            return ExitCode::FAILURE;
        }
        done += outcome.sagas;
        slowest = slowest.max(outcome.healed_in);
        coverage.add(&outcome.coverage);
        seed += 1;
    }
    for fired in Fired::ALL {
        println!("{:>9}  {}", coverage.of(*fired), fired.what());
    }
    let took = begun.elapsed();
    println!(
        "{done} sagas in {} worlds (seeds {from}..{seed}), no violation; {} ms; the slowest world was terminal {slowest} ms after healing",
        seed - from,
        took.as_millis()
    );
    let missing = coverage.missing();
    if missing.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("NEVER HAPPENED, so nothing was shown of it: {missing:?}");
    ExitCode::FAILURE
}
