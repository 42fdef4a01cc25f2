//! The digital-rewards service.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context;
use clap::Parser;
use digital_rewards::{CodeIssuer, DigitalRewards, Pepper, routes};
use service::{
    Config, Process,
    config::{Secret, secret},
};

#[derive(Parser)]
#[command(version, about)]
struct Args {
    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    tender: tender::Options,
    /// The secret that codes are derived from and looked up by, at least 16 bytes. It never changes: with another
    /// one, no code that was issued is found any more.
    #[arg(long, env = "REWARD_CODE_PEPPER", hide_env_values = true)]
    reward_code_pepper: Option<Secret>,
    /// A file that holds the secret, in the place of REWARD_CODE_PEPPER.
    #[arg(long, env = "REWARD_CODE_PEPPER_FILE")]
    reward_code_pepper_file: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let given = (args.reward_code_pepper.as_ref(), args.reward_code_pepper_file.as_ref());
    let pepper = secret("REWARD_CODE_PEPPER", given.0, given.1)?
        .context("REWARD_CODE_PEPPER (or REWARD_CODE_PEPPER_FILE) is not set")?;
    let pepper = Pepper::try_new(pepper.expose())?;
    let process = Process::init("digital-rewards", args.config)?;
    let app = tender::App::start(&process, &args.tender, Arc::new(DigitalRewards))?;
    let issuer = CodeIssuer::new(app.pool().clone(), pepper.clone());
    let app = app.with_issuer(Arc::new(issuer));
    let (public, internal) = (app.public(), app.internal().merge(routes(app.pool().clone(), pepper)));
    process.run(public, internal).await
}
