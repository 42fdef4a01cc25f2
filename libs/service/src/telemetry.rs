//! Logs and metrics of the process.

use std::{sync::OnceLock, time::Duration};

use anyhow::Context;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, registry, util::SubscriberInitExt};

use crate::{config::LogFormat, http::panic_text, log_writer::LogWriter, otlp};

/// Longest time that the end of a process waits for its last log lines to be written.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Upper bounds of histograms of seconds: from a cached answer to the longest wait a caller may ask for.
const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.4, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Upper bounds of histograms of batch sizes.
const SIZES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Waits, when dropped, until what was logged is written, for at most two seconds.
#[derive(Debug)]
#[must_use = "lines that are not written when the process ends are lost"]
pub struct Logs(LogWriter);

impl Drop for Logs {
    fn drop(&mut self) {
        self.0.flush(FLUSH_LIMIT);
    }
}

/// Begins to log to standard output, one line an event, filtered by `RUST_LOG` (default `info`), and to export spans if
/// there is an `otlp` endpoint. Nothing that logs waits for whoever reads standard output. Panics are logged like
/// everything else. A second call in one process changes nothing.
///
/// # Errors
/// When the endpoint cannot be used, or no thread can be had.
pub fn init_logs(service: &'static str, format: LogFormat, otlp: Option<&str>) -> anyhow::Result<Logs> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let writer = LogWriter::default();
    let lines = tracing_subscriber::fmt::layer().with_writer(writer.clone());
    let lines = match format {
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
        LogFormat::Pretty => lines.boxed(),
    };
    let spans = otlp.map(|endpoint| otlp::layer(service, endpoint)).transpose()?;
    if registry().with(lines).with(spans).with(filter).try_init().is_ok() {
        writer.start(std::io::stdout()).context("a thread for the log")?;
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string);
            tracing::error!(place, panic = panic_text(panic.payload()), "panic");
        }));
    }
    Ok(Logs(writer))
}

/// The process's metrics, recorded from the first call on.
///
/// # Errors
/// When something else in the process records metrics already.
pub fn metrics() -> anyhow::Result<PrometheusHandle> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), &SIZES))
        .context("histogram buckets")?
        .install_recorder()
        .context("metrics recorder")?;
    Ok(HANDLE.get_or_init(|| handle).clone())
}

/// Folds recorded samples into the histograms, until dropped: between scrapes they would pile up.
pub(crate) async fn keep_metrics_small(handle: PrometheusHandle) {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        handle.run_upkeep();
    }
}
