//! What a phase cost: the server's log, and processor time by process.

use std::fs;

use serde::Serialize;

use crate::{database::Wal, system::System};

/// Clock ticks a second, as Linux counts processor time.
const TICKS: f64 = 100.0;

/// Processor time so far, by name.
#[derive(Debug, Clone)]
pub struct Meter {
    wal: Wal,
    cpu: Vec<(String, f64)>,
}

/// What each answered call cost.
#[derive(Debug, Clone, Serialize)]
pub struct Cost {
    /// Bytes of the server's log.
    pub wal_bytes: f64,
    /// Times that the log was made durable.
    pub wal_syncs: f64,
    /// Images of whole pages.
    pub wal_images: f64,
    /// Microseconds of processor time, by process; `postgres` is all of the server's.
    pub cpu_micros: Vec<(String, f64)>,
}

impl Meter {
    /// Reads all meters. `system`: the services that are looked at, if any run.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn read(system: Option<&System>) -> anyhow::Result<Self> {
        let mut cpu = vec![("postgres".to_owned(), of_server()), ("load".to_owned(), of(std::process::id()))];
        for service in system.iter().flat_map(|system| system.services()) {
            cpu.push((service.name.clone(), of(service.child.id())));
        }
        Ok(Self { wal: Wal::now().await?, cpu })
    }

    /// What each of `calls` cost since.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn cost(&self, system: Option<&System>, calls: u64) -> anyhow::Result<Cost> {
        let now = Self::read(system).await?;
        let calls = calls.max(1) as f64;
        let wal = now.wal.since(self.wal);
        let spent = now.cpu.into_iter().zip(&self.cpu);
        Ok(Cost {
            wal_bytes: wal.bytes / calls,
            wal_syncs: wal.syncs / calls,
            wal_images: wal.images / calls,
            cpu_micros: spent
                .map(|((name, now), (_, before))| (name, (now - before) * 1e6 / calls))
                .collect(),
        })
    }
}

/// Seconds of processor time of a process, and of those of its children that have ended.
fn of(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the name, which may have anything in it.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: f64 = fields.skip(11).take(4).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / TICKS
}

/// Seconds of processor time of the server's processes, with those that have ended.
fn of_server() -> f64 {
    let Some(pid) = std::env::var("BENCH_POSTGRES_PID").ok().and_then(|pid| pid.parse::<u32>().ok()) else {
        return 0.0;
    };
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    of(pid) + children.split_whitespace().filter_map(|pid| pid.parse().ok()).map(of).sum::<f64>()
}
