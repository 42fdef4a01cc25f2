//! What the machine can do at this moment: numbers of a run are worth little without it.

use std::{
    fs::{self, File},
    hint::black_box,
    io::Write as _,
    time::{Duration, Instant},
};

/// How often a page is made durable.
const SYNCS: u32 = 100;
/// How long the loop turns.
const SPIN: Duration = Duration::from_millis(300);

/// Microseconds to make 8 KiB durable (the median), and million turns of a loop a second.
///
/// # Errors
/// When no file can be written.
pub fn look() -> anyhow::Result<(f64, f64)> {
    Ok((sync_micros()?, spins()))
}

fn sync_micros() -> anyhow::Result<f64> {
    // On the disk of the checkout, as the server's log is: a temporary folder may be memory.
    let path = std::env::current_dir()?.join(format!(".bench-{}", uuid::Uuid::new_v4()));
    let mut file = File::create(&path)?;
    let mut took = Vec::new();
    for _ in 0..SYNCS {
        let begun = Instant::now();
        file.write_all(&[0; 8_192])?;
        file.sync_data()?;
        took.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    fs::remove_file(path)?;
    Ok(crate::cases::median(&took))
}

fn spins() -> f64 {
    let (begun, mut turns) = (Instant::now(), 0_u64);
    while begun.elapsed() < SPIN {
        for turn in 0..10_000_u64 {
            black_box(turn.wrapping_mul(turns));
        }
        turns += 10_000;
    }
    turns as f64 / begun.elapsed().as_secs_f64() / 1e6
}
