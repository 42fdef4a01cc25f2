//! Waiting for the services to be ready.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use clap::Args;

use crate::environment::Environment;

/// The services, by the variable with their address.
pub const URLS: [&str; 4] = ["WALLET_URL", "POINTS_URL", "STORE_CREDIT_URL", "DIGITAL_REWARDS_URL"];

/// Pause between two looks.
const INTERVAL: Duration = Duration::from_millis(100);

/// What `walletctl ready` takes.
#[derive(Debug, Args)]
pub struct ReadyArgs {
    /// Seconds to wait.
    #[arg(long, default_value_t = 60)]
    timeout: u64,
    /// Wait for this address only; may be given several times.
    #[arg(long)]
    url: Vec<String>,
}

/// Waits until every service says that it is ready.
///
/// # Errors
/// When one does not in time, naming it.
pub async fn wait(environment: &Environment, arguments: &ReadyArgs) -> anyhow::Result<()> {
    let urls = if arguments.url.is_empty() { all(environment) } else { arguments.url.clone() };
    ensure!(!urls.is_empty(), "no service to wait for: none of {} is set", URLS.join(", "));
    let http = reqwest::Client::builder().timeout(Duration::from_secs(2)).build()?;
    let end = Instant::now() + Duration::from_secs(arguments.timeout);
    for url in urls {
        while !is_ready(&http, &url).await {
            if Instant::now() >= end {
                bail!("{url} is not ready");
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
    Ok(())
}

/// Whether the service at `url` says that it is ready.
pub async fn is_ready(http: &reqwest::Client, url: &str) -> bool {
    let ready = format!("{}/health/ready", url.trim_end_matches('/'));
    http.get(ready).send().await.is_ok_and(|answer| answer.status().is_success())
}

/// The addresses of all services that are set.
pub fn all(environment: &Environment) -> Vec<String> {
    let firsts = URLS.iter().filter_map(|name| environment.get(name));
    firsts.chain(environment.numbered("WALLET", "_URL")).collect()
}
