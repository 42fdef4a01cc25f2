//! `walletctl actions`: who did what, when and why.

use clap::{Args, Subcommand};
use uuid::Uuid;

use super::{Common, Paging, print_list};
use crate::environment::Environment;

const COLUMNS: [&str; 9] =
    ["at", "actor", "action", "accepted", "dead_letter_id", "tender", "reason", "before", "after"];

/// What `walletctl actions` takes.
#[derive(Debug, Args)]
pub struct ActionsArgs {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: ActionsCommand,
}

/// What can be done with actions.
#[derive(Debug, Subcommand)]
pub enum ActionsCommand {
    /// List what operators did, or were refused, newest first.
    #[command(after_help = "Examples:
  walletctl actions list --actor maria --action replay
  walletctl actions list --accepted false")]
    List {
        /// By this operator only.
        #[arg(long)]
        actor: Option<String>,
        /// Of this kind only: replay, resolve, bulk_replay, pause, resume.
        #[arg(long)]
        action: Option<String>,
        /// About this dead letter only.
        #[arg(long)]
        dead_letter: Option<Uuid>,
        /// About this saga only.
        #[arg(long)]
        saga: Option<Uuid>,
        /// Under this operation id only.
        #[arg(long)]
        operation_id: Option<String>,
        /// Only what was done (true), or only what was refused (false).
        #[arg(long)]
        accepted: Option<bool>,
        #[command(flatten)]
        paging: Paging,
    },
}

/// Runs `walletctl actions`.
///
/// # Errors
/// When the wallet refuses, with its problem document.
pub async fn run(environment: &Environment, arguments: ActionsArgs) -> anyhow::Result<()> {
    let client = arguments.common.client(environment)?;
    let ActionsCommand::List { actor, action, dead_letter, saga, operation_id, accepted, paging } =
        arguments.command;
    let query = paging.query([
        ("actor", actor),
        ("action", action),
        ("dead_letter_id", dead_letter.map(|id| id.to_string())),
        ("saga_id", saga.map(|id| id.to_string())),
        ("operation_id", operation_id),
        ("accepted", accepted.map(|accepted| accepted.to_string())),
    ]);
    print_list(&client.get("/api/v1/ops/actions", &query).await?.success()?, &COLUMNS, arguments.common.json)
}
