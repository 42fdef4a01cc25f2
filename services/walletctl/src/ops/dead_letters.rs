//! `walletctl dead-letters`: what waits for an operator, and what to do about it.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Act, Common, Paging,
    bulk::{self, Filter, ReplayAll},
    print_fields, print_list, sagas,
};
use crate::{environment::Environment, output};

const PATH: &str = "/api/v1/ops/dead-letters";
const COLUMNS: [&str; 6] = ["dead_letter_id", "saga_id", "code", "tender", "opened_at", "closed_as"];
const FIELDS: [&str; 6] = ["dead_letter_id", "code", "tender", "opened_at", "closed_at", "closed_as"];

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
    /// List dead letters, oldest first.
    #[command(after_help = "Examples:
  walletctl dead-letters list --tender store_credit
  walletctl dead-letters list --code participant_unreachable --older-than 600
  walletctl dead-letters list --all --customer cus_8Q")]
    List {
        /// Also those that were dealt with.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        paging: Paging,
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
    /// Let every saga go on whose open dead letter matches, at a pace, and watch it.
    ///
    /// The wallet carries it out, whatever becomes of this command: Ctrl-C only stops watching. Exit code 1 if some could
    /// not be taken up again.
    #[command(after_help = "Examples:
  walletctl dead-letters replay-all --tender store_credit --dry-run
  walletctl dead-letters replay-all --tender store_credit --reason \"store credit is back\" --rate 50
  walletctl dead-letters replay-all --operation-id 01a1fd26-2f7f-751d-94b6-5bbf8dc3f53f    # watch one that runs")]
    ReplayAll(ReplayAll),
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

/// Runs `walletctl dead-letters`; whether everything that was asked for was done.
///
/// # Errors
/// When the wallet refuses, with its problem document.
pub async fn run(environment: &Environment, arguments: DeadLettersArgs) -> anyhow::Result<bool> {
    let client = arguments.common.client(environment)?;
    let is_json = arguments.common.json;
    match arguments.command {
        DeadLettersCommand::List { all, filter, paging } => {
            let Filter { code, tender, customer, older_than } = filter;
            let query = paging.query([
                ("status", all.then(|| "all".to_owned())),
                ("code", code),
                ("tender", tender),
                ("customer", customer),
                ("older_than", older_than.map(|seconds| seconds.to_string())),
            ]);
            print_list(&client.get(PATH, &query).await?.success()?, &COLUMNS, is_json)?;
        }
        DeadLettersCommand::Show { id } => {
            let letter = client.get(&format!("{PATH}/{id}"), &[]).await?.success()?;
            if is_json { output::json(&letter)? } else { print(&letter)? }
        }
        DeadLettersCommand::Replay { id, act, dry_run } => {
            let mut body = act.body();
            if dry_run {
                body["dry_run"] = json!(true);
            }
            output::json(&client.post(&format!("{PATH}/{id}/replay"), None, &body).await?.success()?)?;
        }
        DeadLettersCommand::ReplayAll(command) => return bulk::replay_all(&client, command, is_json).await,
        DeadLettersCommand::Resolve { id, act, reference } => {
            let mut body = act.body();
            body["reference"] = json!(reference);
            output::json(&client.post(&format!("{PATH}/{id}/resolve"), None, &body).await?.success()?)?;
        }
    }
    Ok(true)
}

fn print(letter: &Value) -> anyhow::Result<()> {
    print_fields(letter, &FIELDS);
    if let Some(legs) = letter["detail"]["pending_legs"].as_array() {
        let legs: Vec<String> = legs.iter().map(Value::to_string).collect();
        output::line(format!("pending legs    {}", legs.join(", ")));
    }
    output::line("");
    sagas::print(&letter["saga"])
}
