//! `walletctl`: what operators and developers do from a shell.
//!
//! Every variable that it needs is taken from the environment, or else from `.run/env` in the current
//! directory, which `script/server` leaves there.

mod client;
mod collection;
mod databases;
mod demo;
mod doctor;
mod environment;
mod keys;
mod metrics;
mod ops;
mod output;
mod ready;
mod seed;
mod table;
mod verify;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use environment::Environment;

/// Operate a Unified Wallet.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a token (development only).
    Token(keys::TokenArgs),
    /// Make the development keys that are missing.
    Keys(keys::KeysArgs),
    /// Make the databases and login roles that are missing, and bring all schemas up to date.
    Migrate(databases::MigrateArgs),
    /// Put the demonstration data into a business, once.
    Seed(seed::SeedArgs),
    /// Tell what the wallet does, with real requests and answers.
    Demo(demo::DemoArgs),
    /// Check every invariant in all databases; exit code 1 if one is broken.
    Verify(verify::VerifyArgs),
    /// Print a Postman collection of the services that run.
    Collection,
    /// Wait until every service is ready.
    Ready(ready::ReadyArgs),
    /// Look at sagas.
    Sagas(ops::sagas::SagasArgs),
    /// Look at dead letters, replay or resolve them.
    DeadLetters(ops::dead_letters::DeadLettersArgs),
    /// Look at replays of many dead letters.
    Bulk(ops::bulk::BulkArgs),
    /// Look at what operators did.
    Actions(ops::actions::ActionsArgs),
    /// Look at tenders, take one out of service, put it back.
    Tenders(ops::tenders::TendersArgs),
    /// Show how the system is, again every second.
    Watch(watch::WatchArgs),
    /// Check what the system stands on, and say how to mend it; exit code 1 if something is wrong.
    Doctor(doctor::DoctorArgs),
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    match run(command).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("walletctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let environment = Environment::load()?;
    match command {
        Command::Token(arguments) => keys::print_token(&environment, &arguments)?,
        Command::Keys(arguments) => keys::make_keys(&environment, &arguments)?,
        Command::Migrate(arguments) => databases::migrate(&environment, &arguments).await?,
        Command::Seed(arguments) => seed::seed(&environment, &arguments).await?,
        Command::Demo(arguments) => demo::demo(&environment, &arguments).await?,
        Command::Verify(arguments) => return verify::verify(&environment, &arguments).await,
        Command::Collection => collection::print(&environment).await?,
        Command::Ready(arguments) => ready::wait(&environment, &arguments).await?,
        Command::Sagas(arguments) => ops::sagas::run(&environment, arguments).await?,
        Command::DeadLetters(arguments) => {
            let is_done = ops::dead_letters::run(&environment, arguments).await?;
            return Ok(if is_done { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Bulk(arguments) => ops::bulk::run(&environment, arguments).await?,
        Command::Actions(arguments) => ops::actions::run(&environment, arguments).await?,
        Command::Tenders(arguments) => ops::tenders::run(&environment, arguments).await?,
        Command::Watch(arguments) => watch::watch(&environment, &arguments).await?,
        Command::Doctor(arguments) => return doctor::doctor(&environment, &arguments).await,
    }
    Ok(ExitCode::SUCCESS)
}
