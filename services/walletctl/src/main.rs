//! `walletctl`: what operators and developers do from a shell.
//!
//! Every variable that it needs is taken from the environment, or else from `.run/env` in the current
//! directory, which `script/server` leaves there.
#![expect(clippy::print_stdout, reason = "a command-line tool answers on standard output")]

mod client;
mod databases;
mod demo;
mod environment;
mod keys;
mod ops;
mod ready;
mod seed;
mod table;
mod verify;

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
    /// Wait until every service is ready.
    Ready(ready::ReadyArgs),
    /// Look at sagas.
    Sagas(ops::SagasArgs),
    /// Look at dead letters, replay or resolve them.
    DeadLetters(ops::DeadLettersArgs),
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
        Command::Ready(arguments) => ready::wait(&environment, &arguments).await?,
        Command::Sagas(arguments) => ops::sagas(&environment, arguments).await?,
        Command::DeadLetters(arguments) => ops::dead_letters(&environment, arguments).await?,
    }
    Ok(ExitCode::SUCCESS)
}
