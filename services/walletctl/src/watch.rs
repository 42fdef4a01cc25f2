//! `walletctl watch`: how the whole system is, on one screen.
//!
//! What waits comes from the wallets' gauges, which every wallet reads from the database; what moves is counted between
//! two looks.

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    time::{Duration, Instant},
};

use clap::Args;
use futures_util::future::join_all;

use crate::{
    environment::Environment,
    metrics::{Metrics, whole},
    output,
    ready::{URLS, is_ready},
};

/// Pause between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long one service may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);
const REDEEM: &str = "/api/v1/wallet/redeem";

/// What `walletctl watch` takes.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Print one frame and end.
    #[arg(long)]
    once: bool,
}

/// A service, by the variables with its addresses.
struct Service {
    name: String,
    url: String,
    internal_url: Option<String>,
}

/// What one look found.
struct Look {
    at: Instant,
    services: Vec<(String, bool, Metrics)>,
}

/// Shows how the system is until it is interrupted.
///
/// # Errors
/// When no service's address is known.
pub async fn watch(environment: &Environment, arguments: &WatchArgs) -> anyhow::Result<()> {
    let services = services(environment)?;
    let http = reqwest::Client::builder().timeout(TIMEOUT).build()?;
    let is_screen = std::io::stdout().is_terminal() && !arguments.once;
    let mut before = look(&http, &services).await;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let now = look(&http, &services).await;
        let frame = frame(&before, &now);
        if is_screen {
            // Home, each line cleared to its end, and whatever is left below: a screen that is cleared first flickers.
            output::write(&format!("\x1b[H{}\x1b[J", frame.replace('\n', "\x1b[K\n")));
        } else {
            output::line(&frame);
        }
        if arguments.once {
            return Ok(());
        }
        before = now;
    }
}

fn services(environment: &Environment) -> anyhow::Result<Vec<Service>> {
    let mut services = Vec::new();
    for variable in URLS {
        let stem = variable.trim_end_matches("_URL");
        let name = stem.to_lowercase().replace('_', "-");
        let internal = |stem: &str| environment.get(&format!("{stem}_INTERNAL_URL"));
        if let Some(url) = environment.get(variable) {
            services.push(Service { name: name.clone(), url, internal_url: internal(stem) });
        }
        for (number, url) in (2..).zip(environment.numbered(stem, "_URL")) {
            let internal_url = internal(&format!("{stem}_{number}"));
            services.push(Service { name: format!("{name}-{number}"), url, internal_url });
        }
    }
    anyhow::ensure!(!services.is_empty(), "no service to watch: none of {} is set", URLS.join(", "));
    Ok(services)
}

async fn look(http: &reqwest::Client, services: &[Service]) -> Look {
    let looks = services.iter().map(async |service| {
        let (ready, metrics) =
            tokio::join!(is_ready(http, &service.url), scrape(http, service.internal_url.as_deref()));
        (service.name.clone(), ready, metrics)
    });
    Look { at: Instant::now(), services: join_all(looks).await }
}

async fn scrape(http: &reqwest::Client, url: Option<&str>) -> Metrics {
    let Some(url) = url else { return Metrics::default() };
    let answer = http.get(format!("{}/metrics", url.trim_end_matches('/'))).send().await;
    match answer {
        Ok(answer) => Metrics::parse(&answer.text().await.unwrap_or_default()),
        Err(_) => Metrics::default(),
    }
}

impl Look {
    fn metrics(&self) -> impl Iterator<Item = (&str, &Metrics)> {
        self.services.iter().map(|(name, _, metrics)| (name.as_str(), metrics))
    }

    /// A gauge of the whole system by label: of several wallets, the largest, which is the one that looked last or late.
    fn by_label(&self, name: &str, label: &str) -> BTreeMap<String, u64> {
        let mut values = BTreeMap::new();
        for (_, metrics) in self.metrics() {
            for (key, value) in metrics.by_label(name, label) {
                let seen: &mut u64 = values.entry(key.to_owned()).or_default();
                *seen = whole(value).max(*seen);
            }
        }
        values
    }

    fn largest(&self, name: &str) -> Option<f64> {
        self.metrics().filter_map(|(_, metrics)| metrics.largest(name)).reduce(f64::max)
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.metrics().map(|(_, metrics)| metrics.sum(name, labels)).sum()
    }
}

/// One frame: a line for each question.
fn frame(before: &Look, now: &Look) -> String {
    let ready = now.services.iter().map(|(name, is_ready, _)| {
        if *is_ready { format!("{name} ready") } else { format!("{name} NOT READY") }
    });
    let mut lines = vec![("services", ready.collect::<Vec<_>>().join(" · "))];
    let mut sagas: Vec<String> = counts(&now.by_label("sagas_unfinished", "state"));
    sagas.extend(
        now.largest("saga_oldest_unfinished_seconds").map(|age| format!("oldest unfinished {age:.1} s")),
    );
    lines.push(("sagas", told(sagas)));
    lines.push(("dead letters", told(counts(&now.by_label("dead_letters_open", "code")))));
    if let Some(running) = now.largest("bulk_replays_running").filter(|running| *running > 0.0) {
        let left = now.largest("bulk_replay_remaining").unwrap_or_default();
        lines.push(("bulk replays", format!("{running} running, {left} dead letters to go")));
    }
    let elapsed_ms = u64::try_from((now.at - before.at).as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = |status: &[(&str, &str)]| {
        let labels = [&[("route", REDEEM), ("method", "POST")], status].concat();
        let (then, now) =
            (before.sum("http_requests_total", &labels), now.sum("http_requests_total", &labels));
        per_second(now.saturating_sub(then), elapsed_ms)
    };
    let redeemed = rate(&[("status", "201")]);
    lines.push(("redemptions", format!("{redeemed} a second, of {} calls a second", rate(&[]))));
    let lag = now.metrics().filter_map(|(name, metrics)| {
        metrics.largest("outbox_lag_seconds").map(|lag| format!("{name} {lag:.1} s"))
    });
    lines.push(("outbox lag", told(lag.collect())));
    lines.push(("live clients", now.sum("hub_clients", &[]).to_string()));
    let mut paused = now.by_label("wallet_tender_paused_businesses", "tender");
    paused.retain(|_, businesses| *businesses > 0);
    lines.push(("paused", told(counts(&paused))));
    let lines = lines.into_iter().map(|(name, text)| format!("{name:<14}{text}\n"));
    lines.collect()
}

fn counts(counts: &BTreeMap<String, u64>) -> Vec<String> {
    counts.iter().map(|(name, count)| format!("{name} {count}")).collect()
}

fn told(parts: Vec<String>) -> String {
    if parts.is_empty() { "none".to_owned() } else { parts.join(" · ") }
}

/// A rate with one decimal.
fn per_second(count: u64, elapsed_ms: u64) -> String {
    let tenths = count.saturating_mul(10_000) / elapsed_ms;
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(at: Instant, wallet: &str) -> Look {
        let tender = Metrics::parse("outbox_lag_seconds 0.25");
        let services =
            vec![("wallet".into(), true, Metrics::parse(wallet)), ("points".into(), false, tender)];
        Look { at, services }
    }

    #[test]
    fn a_frame_says_what_waits_and_what_moves() {
        let at = Instant::now();
        let before = look(
            at,
            "http_requests_total{method=\"POST\",route=\"/api/v1/wallet/redeem\",status=\"201\"} 10",
        );
        let now = look(
            at + Duration::from_millis(2_000),
            "http_requests_total{method=\"POST\",route=\"/api/v1/wallet/redeem\",status=\"201\"} 93\n\
             http_requests_total{method=\"POST\",route=\"/api/v1/wallet/redeem\",status=\"422\"} 2\n\
             http_requests_total{method=\"GET\",route=\"/metrics\",status=\"200\"} 5\n\
             sagas_unfinished{state=\"running\"} 3\nsaga_oldest_unfinished_seconds 1.25\n\
             dead_letters_open{code=\"participant_unreachable\"} 12\nhub_clients{kind=\"sse\"} 4\nhub_clients{kind=\"ws\"} 2\n\
             wallet_tender_paused_businesses{tender=\"points\"} 0\n",
        );
        let expected = "services      wallet ready · points NOT READY\n\
             sagas         running 3 · oldest unfinished 1.2 s\n\
             dead letters  participant_unreachable 12\n\
             redemptions   41.5 a second, of 42.5 calls a second\n\
             outbox lag    points 0.2 s\n\
             live clients  6\n\
             paused        none\n";
        assert_eq!(frame(&before, &now), expected);
    }
}
