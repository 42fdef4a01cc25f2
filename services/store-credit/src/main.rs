//! The store-credit service.

use std::sync::Arc;

use clap::Parser;
use service::{Config, Process};
use store_credit::StoreCredit;

#[derive(Parser)]
#[command(version, about)]
struct Args {
    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    tender: tender::Options,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let process = Process::init("store-credit", args.config)?;
    let app = tender::App::start(&process, &args.tender, Arc::new(StoreCredit))?;
    let (public, internal) = (app.public(), app.internal());
    process.run(public, internal).await
}
