//! Sagas and dead letters, through the ops API.

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    client::Client,
    environment::Environment,
    keys::{TokenRole, token_for},
    table,
};

/// Columns of a list of sagas.
const SAGA_COLUMNS: [&str; 6] = ["saga_id", "operation", "status", "epoch", "idempotency_key", "created_at"];
/// Columns of a list of dead letters.
const DEAD_LETTER_COLUMNS: [&str; 5] = ["dead_letter_id", "saga_id", "code", "participant", "opened_at"];

/// Whom the commands speak for, and how they answer.
#[derive(Debug, Args)]
pub struct Common {
    /// The business.
    #[arg(long, default_value = "demo", global = true)]
    business: String,
    /// Print the answer as it came.
    #[arg(long, global = true)]
    json: bool,
}

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
    List {
        /// In this state only.
        #[arg(long)]
        status: Option<String>,
        /// With a leg on this tender only.
        #[arg(long)]
        tender: Option<String>,
        /// Of this customer only.
        #[arg(long)]
        customer: Option<String>,
        /// At most this many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Show one saga with its timeline.
    Show {
        /// Its id.
        id: Uuid,
    },
}

/// What `walletctl dead-letters` takes.
#[derive(Debug, Args)]
pub struct DeadLettersArgs {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: DeadLettersCommand,
}

/// What can be done with dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// List open dead letters.
    List {
        /// At most this many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Show one dead letter with its saga's timeline.
    Show {
        /// Its id.
        id: Uuid,
    },
    /// Let the saga go on, in the direction that was written.
    Replay {
        /// Its id.
        id: Uuid,
        #[command(flatten)]
        act: Act,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Close it by hand: what is missing was done outside.
    Resolve {
        /// Its id.
        id: Uuid,
        #[command(flatten)]
        act: Act,
        /// Where the proof is.
        #[arg(long)]
        reference: String,
    },
}

/// What every action needs.
#[derive(Debug, Args)]
pub struct Act {
    /// Why; kept for ever.
    #[arg(long)]
    reason: String,
    /// Makes a repetition harmless; one is made if none is given.
    #[arg(long)]
    operation_id: Option<String>,
}

impl Act {
    fn body(self) -> Value {
        let operation_id = self.operation_id.unwrap_or_else(|| Uuid::now_v7().to_string());
        json!({ "operation_id": operation_id, "reason": self.reason })
    }
}

/// Runs `walletctl sagas`.
///
/// # Errors
/// When the wallet refuses, with its problem document.
pub async fn sagas(environment: &Environment, arguments: SagasArgs) -> anyhow::Result<()> {
    let client = operator(environment, &arguments.common)?;
    let is_json = arguments.common.json;
    match arguments.command {
        SagasCommand::List { status, tender, customer, limit } => {
            let mut query = vec![("limit", limit.to_string())];
            let filters = [("status", status), ("tender", tender), ("customer", customer)];
            query.extend(filters.into_iter().filter_map(|(name, value)| Some((name, value?))));
            let answer = client.get("/api/v1/ops/sagas", &query).await?.success()?;
            print_list(&answer, &SAGA_COLUMNS, is_json)
        }
        SagasCommand::Show { id } => {
            print_one(&client.get(&format!("/api/v1/ops/sagas/{id}"), &[]).await?.success()?)
        }
    }
}

/// Runs `walletctl dead-letters`.
///
/// # Errors
/// When the wallet refuses, with its problem document.
pub async fn dead_letters(environment: &Environment, arguments: DeadLettersArgs) -> anyhow::Result<()> {
    let client = operator(environment, &arguments.common)?;
    let path = "/api/v1/ops/dead-letters";
    match arguments.command {
        DeadLettersCommand::List { limit } => {
            let answer = client.get(path, &[("limit", limit.to_string())]).await?.success()?;
            print_list(&answer, &DEAD_LETTER_COLUMNS, arguments.common.json)
        }
        DeadLettersCommand::Show { id } => {
            print_one(&client.get(&format!("{path}/{id}"), &[]).await?.success()?)
        }
        DeadLettersCommand::Replay { id, act, dry_run } => {
            let mut body = act.body();
            if dry_run {
                body["dry_run"] = json!(true);
            }
            print_one(&client.post(&format!("{path}/{id}/replay"), None, &body).await?.success()?)
        }
        DeadLettersCommand::Resolve { id, act, reference } => {
            let mut body = act.body();
            body["reference"] = json!(reference);
            print_one(&client.post(&format!("{path}/{id}/resolve"), None, &body).await?.success()?)
        }
    }
}

fn operator(environment: &Environment, common: &Common) -> anyhow::Result<Client> {
    Client::new(
        &environment.require("WALLET_URL")?,
        token_for(environment, &common.business, TokenRole::Ops)?,
    )
}

fn print_list(answer: &Value, columns: &[&str], is_json: bool) -> anyhow::Result<()> {
    if is_json {
        return print_one(answer);
    }
    let rows = answer.get("data").and_then(Value::as_array).context("the answer is no list")?;
    println!("{}", table::render(columns, rows));
    Ok(())
}

fn print_one(answer: &Value) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(answer)?);
    Ok(())
}
