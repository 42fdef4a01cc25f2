//! The digital-rewards service.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Parser;
use digital_rewards::{CodeIssuer, DigitalRewards, Peppers, RecordError, routes};
use service::{
    Config, Process,
    config::{Secret, secret},
    db,
};

/// How long the start waits for the database to say which peppers codes were made with.
const COMPARE_LIMIT: Duration = Duration::from_secs(3);

#[derive(Parser)]
#[command(version, about)]
struct Args {
    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    tender: tender::Options,
    /// The secrets that codes are derived from and looked up by, a line each: `version:secret`, at least 16 bytes. New
    /// codes use the first line; codes of a version can be used for as long as its secret is here. A single secret
    /// without a version has version 1.
    #[arg(long, env = "REWARD_CODE_PEPPER", hide_env_values = true)]
    reward_code_pepper: Option<Secret>,
    /// A file that holds the secrets, in the place of REWARD_CODE_PEPPER.
    #[arg(long, env = "REWARD_CODE_PEPPER_FILE")]
    reward_code_pepper_file: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let given = (args.reward_code_pepper.as_ref(), args.reward_code_pepper_file.as_ref());
    let pepper = secret("REWARD_CODE_PEPPER", given.0, given.1)?
        .context("REWARD_CODE_PEPPER (or REWARD_CODE_PEPPER_FILE) is not set")?;
    let peppers = Peppers::read(pepper.expose(), args.config.app_env)?;
    let process = Process::init("digital-rewards", args.config)?;
    let app = tender::App::start(&process, &args.tender, Arc::new(DigitalRewards))?;
    // On a connection of its own: requests that keep the pool busy say nothing about the peppers.
    let options = app.pool().connect_options().as_ref().clone();
    let (compared, probe) = (peppers.clone(), Arc::new(db::Probe::new(options)));
    match tokio::time::timeout(COMPARE_LIMIT, compared.compare(&probe)).await {
        Ok(Err(error @ (RecordError::Missing(_) | RecordError::Other(_)))) => return Err(error.into()),
        Ok(Err(error)) => tracing::warn!(%error, "the peppers are compared once the database can be read"),
        Err(_) => tracing::warn!("the peppers are compared once the database answers"),
        Ok(Ok(unused)) if unused.is_empty() => {}
        Ok(Ok(unused)) => {
            tracing::warn!(versions = ?unused, "peppers are on record that are not configured; no code was made with them");
        }
    }
    // Also for a start while the database was away, and for codes that another process makes with a pepper that this one lacks.
    process.health().require("peppers", move || {
        let (peppers, probe) = (compared.clone(), probe.clone());
        async move { peppers.compare(&probe).await.map(drop) }
    });
    let issuer = CodeIssuer::new(app.public_pool().clone(), peppers.clone());
    let app = app.with_issuer(Arc::new(issuer));
    let (public, internal) = (app.public(), app.internal().merge(routes(app.pool().clone(), peppers)));
    process.run(public, internal).await
}
