//! `walletctl sagas`: what runs, what ran, and what happened to it.

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Common, Paging, print_fields, print_list};
use crate::{environment::Environment, output, table};

const COLUMNS: [&str; 6] = ["saga_id", "operation", "status", "epoch", "idempotency_key", "created_at"];
const FIELDS: [&str; 12] = [
    "saga_id",
    "operation",
    "idempotency_key",
    "status",
    "kind",
    "created_at",
    "ended_at",
    "duration_ms",
    "epoch",
    "owner",
    "parent_id",
    "trace_id",
];
const LEG_COLUMNS: [&str; 6] = ["leg", "tender", "units", "status", "forward", "back"];
const LETTER_COLUMNS: [&str; 5] = ["dead_letter_id", "code", "tender", "opened_at", "closed_as"];

/// What `walletctl sagas` takes.
#[derive(Debug, Args)]
pub struct SagasArgs {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: SagasCommand,
}

/// What can be done with sagas.
#[derive(Debug, Subcommand)]
pub enum SagasCommand {
    /// List sagas, newest first.
    #[command(after_help = "Examples:
  walletctl sagas list --status dead_letter
  walletctl sagas list --customer cus_8Q --code insufficient_balance
  walletctl sagas list --status compensating --older-than 60")]
    List {
        /// In this state only: running, compensating, completed, compensated, dead_letter, resolved.
        #[arg(long)]
        status: Option<String>,
        /// With a leg on this tender only: points, digital_reward, store_credit.
        #[arg(long)]
        tender: Option<String>,
        /// Compensated for this reason only: of a decline, or of a dead letter.
        #[arg(long)]
        code: Option<String>,
        /// Of this customer only.
        #[arg(long)]
        customer: Option<String>,
        /// Under this key only.
        #[arg(long)]
        key: Option<String>,
        /// Written more than so many seconds ago.
        #[arg(long)]
        older_than: Option<u64>,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show one saga: its legs, what happened, its dead letters.
    Show {
        /// Its id.
        id: Uuid,
    },
}

/// Runs `walletctl sagas`.
///
/// # Errors
/// When the wallet refuses, with its problem document.
pub async fn run(environment: &Environment, arguments: SagasArgs) -> anyhow::Result<()> {
    let client = arguments.common.client(environment)?;
    match arguments.command {
        SagasCommand::List { status, tender, code, customer, key, older_than, paging } => {
            let query = paging.query([
                ("status", status),
                ("tender", tender),
                ("code", code),
                ("customer", customer),
                ("key", key),
                ("older_than", older_than.map(|seconds| seconds.to_string())),
            ]);
            let answer = client.get("/api/v1/ops/sagas", &query).await?.success()?;
            print_list(&answer, &COLUMNS, arguments.common.json)
        }
        SagasCommand::Show { id } => {
            let saga = client.get(&format!("/api/v1/ops/sagas/{id}"), &[]).await?.success()?;
            if arguments.common.json { output::json(&saga) } else { print(&saga) }
        }
    }
}

/// Tells a saga's story.
pub(super) fn print(saga: &Value) -> anyhow::Result<()> {
    print_fields(saga, &FIELDS);
    if !saga["answer"].is_null() {
        let body = &saga["answer"]["body"];
        let code = body["code"].as_str().or(body["status"].as_str()).unwrap_or_default();
        output::line(format!("answered         {} {code}", saga["answer"]["status"]));
    }
    let list = |name: &str| saga[name].as_array().with_context(|| format!("the saga has no {name}"));
    let legs: Vec<Value> = list("legs")?.iter().map(leg).collect();
    if !legs.is_empty() {
        output::line(format!("\n{}", table::render(&LEG_COLUMNS, &legs)));
    }
    output::line("");
    for event in list("timeline")? {
        let after = event["after_ms"].as_i64().unwrap_or_default();
        output::line(format!("{:>10}  {}", format!("+{after} ms"), table::cell(&event["text"])));
    }
    let letters = list("dead_letters")?;
    if !letters.is_empty() {
        output::line(format!("\n{}", table::render(&LETTER_COLUMNS, letters)));
    }
    Ok(())
}

/// A leg as a row: of the answers, what became of it.
fn leg(leg: &Value) -> Value {
    let short = |answer: &Value| match (answer["state"].as_str(), answer["amount"].as_i64()) {
        (Some(state), Some(amount)) if amount != 0 => json!(format!("{state} {amount}")),
        (Some(state), _) => match answer["decline"]["code"].as_str() {
            Some(code) => json!(format!("{state}: {code}")),
            None => json!(state),
        },
        (None, _) => Value::Null,
    };
    json!({
        "leg": leg["leg"], "tender": leg["tender"], "units": leg["units"], "status": leg["status"],
        "forward": short(&leg["forward"]), "back": short(&leg["back"]),
    })
}
