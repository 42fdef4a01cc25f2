//! Replaying many dead letters: asking for it, and watching it.

use std::{io::IsTerminal, time::Duration};

use anyhow::Context;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{Common, operation_id, print_fields};
use crate::{client::Client, environment::Environment, output, table};

/// Pause between two looks.
const INTERVAL: Duration = Duration::from_millis(500);
/// Looks that may fail one after the other: a wallet that is started again is not the end of the replay.
const FAILURES_MAX: u32 = 20;
const FIELDS: [&str; 13] = [
    "operation_id",
    "status",
    "matched",
    "truncated",
    "replayed",
    "already_closed",
    "refused",
    "remaining",
    "rate_per_second",
    "actor",
    "reason",
    "started_at",
    "finished_at",
];

/// What `walletctl bulk` takes.
#[derive(Debug, Args)]
pub struct BulkArgs {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: BulkCommand,
}

/// What can be done with replays of many dead letters.
#[derive(Debug, Subcommand)]
pub enum BulkCommand {
    /// Show how far a replay of many dead letters is.
    Show {
        /// Its operation id.
        operation_id: String,
    },
}

/// Which dead letters.
#[derive(Debug, Args)]
pub struct Filter {
    /// Parked for this reason only.
    #[arg(long)]
    pub code: Option<String>,
    /// Where this tender stands in the way only: points, digital_reward, store_credit.
    #[arg(long)]
    pub tender: Option<String>,
    /// Of this customer only.
    #[arg(long)]
    pub customer: Option<String>,
    /// Parked more than so many seconds ago.
    #[arg(long)]
    pub older_than: Option<u64>,
}

/// What `walletctl dead-letters replay-all` takes.
#[derive(Debug, Args)]
pub struct ReplayAll {
    #[command(flatten)]
    pub filter: Filter,
    /// Dead letters a second, at most: 1 to 500.
    #[arg(long, default_value_t = 20)]
    pub rate: u32,
    /// Why; kept for ever. Without it, an operation that was begun before is watched.
    #[arg(long, required_unless_present_any = ["operation_id", "dry_run"])]
    pub reason: Option<String>,
    /// Makes a repetition harmless; one is made if none is given.
    #[arg(long)]
    pub operation_id: Option<String>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs `walletctl bulk`.
///
/// # Errors
/// When the wallet refuses, with its problem document.
pub async fn run(environment: &Environment, arguments: BulkArgs) -> anyhow::Result<()> {
    let client = arguments.common.client(environment)?;
    let BulkCommand::Show { operation_id } = arguments.command;
    let bulk = look(&client, &operation_id).await?;
    if arguments.common.json { output::json(&bulk) } else { print(&bulk) }
}

/// Asks for a replay, unless it was begun before, and watches it; whether every member could be taken up again.
pub(super) async fn replay_all(client: &Client, command: ReplayAll, is_json: bool) -> anyhow::Result<bool> {
    let operation_id = command.operation_id.unwrap_or_else(operation_id);
    // What changes nothing needs no reason.
    let reason = command.reason.or_else(|| command.dry_run.then(|| "dry run".to_owned()));
    if let Some(reason) = reason {
        let body = json!({
            "operation_id": operation_id, "filter": filter(command.filter), "rate_per_second": command.rate,
            "reason": reason, "dry_run": command.dry_run,
        });
        let answer = client.post("/api/v1/ops/dead-letters/replay", None, &body).await;
        // Without an answer it may have begun: the same operation id again tells.
        let answer = answer.with_context(|| format!("--operation-id {operation_id}"))?;
        let is_known = answer.status == StatusCode::OK;
        let answer = answer.success()?;
        if command.dry_run {
            return preview(&answer, is_json).map(|()| true);
        }
        let how = if is_known { "was begun before" } else { "began" };
        eprintln!("the replay {operation_id} {how}: {} dead letters", answer["matched"]);
    }
    let Some(bulk) = watch(client, &operation_id).await? else {
        eprintln!(
            "the replay goes on; to watch it again: walletctl dead-letters replay-all --operation-id {operation_id}"
        );
        return Ok(true);
    };
    if is_json {
        output::json(&bulk)?
    } else {
        print(&bulk)?
    }
    Ok(bulk["refused"] == 0)
}

fn filter(filter: Filter) -> Value {
    let mut conditions = serde_json::Map::new();
    for (name, value) in [("code", filter.code), ("tender", filter.tender), ("customer_id", filter.customer)]
    {
        conditions.extend(value.map(|value| (name.to_owned(), json!(value))));
    }
    conditions.extend(filter.older_than.map(|seconds| ("older_than_s".to_owned(), json!(seconds))));
    Value::Object(conditions)
}

fn preview(answer: &Value, is_json: bool) -> anyhow::Result<()> {
    if is_json {
        return output::json(answer);
    }
    output::line(format!("{} dead letters would be replayed", answer["matched"]));
    for (title, counts) in [("code", &answer["by_code"]), ("tender", &answer["by_tender"])] {
        let counts = counts.as_object().context("the answer has no counts")?;
        let rows: Vec<Value> =
            counts.iter().map(|(name, count)| json!({ title: name, "count": count })).collect();
        if !rows.is_empty() {
            output::line(format!("\n{}", table::render(&[title, "count"], &rows)));
        }
    }
    if answer["truncated"] == true {
        output::line("\none replay takes the oldest 10000 of them");
    }
    Ok(())
}

async fn look(client: &Client, operation_id: &str) -> anyhow::Result<Value> {
    let segment = utf8_percent_encode(operation_id, NON_ALPHANUMERIC);
    client.get(&format!("/api/v1/ops/bulk-replays/{segment}"), &[]).await?.success()
}

/// Watches until it is finished; `None` when the operator has seen enough.
async fn watch(client: &Client, operation_id: &str) -> anyhow::Result<Option<Value>> {
    let mut progress = Progress::new();
    // What does not exist is said at once; later failures may pass.
    let (mut bulk, mut failures) = (look(client, operation_id).await?, 0);
    loop {
        progress.show(&bulk);
        if bulk["status"] == "finished" {
            progress.end();
            return Ok(Some(bulk));
        }
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.context("cannot watch for Ctrl-C")?;
                progress.end();
                return Ok(None);
            }
            () = tokio::time::sleep(INTERVAL) => {}
        }
        match look(client, operation_id).await {
            Ok(seen) => (bulk, failures) = (seen, 0),
            Err(error) if failures >= FAILURES_MAX => return Err(error),
            Err(_) => failures += 1,
        }
    }
}

/// A bar on a terminal, otherwise a line for each change.
struct Progress {
    bar: Option<ProgressBar>,
    said: String,
}

impl Progress {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:40} {pos}/{len}  {per_sec}  {msg}");
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { bar, said: String::new() }
    }

    fn show(&mut self, bulk: &Value) {
        let count = |name: &str| bulk[name].as_u64().unwrap_or_default();
        let (matched, remaining) = (count("matched"), count("remaining"));
        let done = matched.saturating_sub(remaining);
        let rest = format!("{} closed before, {} refused", count("already_closed"), count("refused"));
        match &self.bar {
            Some(bar) => {
                bar.set_length(matched);
                bar.set_message(rest);
                bar.set_position(done);
            }
            None => {
                let line = format!("{done}/{matched} dealt with, {rest}");
                if line != self.said {
                    eprintln!("{line}");
                    self.said = line;
                }
            }
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

fn print(bulk: &Value) -> anyhow::Result<()> {
    print_fields(bulk, &FIELDS);
    let refusals = bulk["refusals"].as_array().context("the answer has no refusals")?;
    if !refusals.is_empty() {
        output::line(format!("\n{}", table::render(&["dead_letter_id", "reason"], refusals)));
    }
    Ok(())
}
