//! `walletctl tenders`: how the tenders are, and taking one out of service.

use clap::{Args, Subcommand};

use super::{Act, Common, print_list};
use crate::{environment::Environment, output};

const COLUMNS: [&str; 8] =
    ["tender", "reachable", "breaker_open", "clock_skew_ms", "paused", "paused_at", "paused_by", "reason"];

/// What `walletctl tenders` takes.
#[derive(Debug, Args)]
pub struct TendersArgs {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: TendersCommand,
}

/// What can be done with tenders.
#[derive(Debug, Subcommand)]
pub enum TendersCommand {
    /// List the tenders, as the wallet sees them.
    List,
    /// Refuse new redemptions of the business that need the tender; what exists goes on.
    #[command(after_help = "Example:
  walletctl tenders pause store_credit --reason \"the provider is being moved\"")]
    Pause {
        /// points, digital_reward or store_credit.
        tender: String,
        #[command(flatten)]
        act: Act,
    },
    /// Take redemptions that need the tender again.
    Resume {
        /// points, digital_reward or store_credit.
        tender: String,
        #[command(flatten)]
        act: Act,
    },
}

/// Runs `walletctl tenders`.
///
/// # Errors
/// When the wallet refuses, with its problem document.
pub async fn run(environment: &Environment, arguments: TendersArgs) -> anyhow::Result<()> {
    let client = arguments.common.client(environment)?;
    let (tender, what, act) = match arguments.command {
        TendersCommand::List => {
            let answer = client.get("/api/v1/ops/tenders", &[]).await?.success()?;
            return print_list(&answer, &COLUMNS, arguments.common.json);
        }
        TendersCommand::Pause { tender, act } => (tender, "pause", act),
        TendersCommand::Resume { tender, act } => (tender, "resume", act),
    };
    let path = format!("/api/v1/ops/tenders/{tender}/{what}");
    output::json(&client.post(&path, None, &act.body()).await?.success()?)
}
