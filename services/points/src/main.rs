//! The points service.

use std::sync::Arc;

use clap::Parser;
use points::Points;
use service::{Config, Process};

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
    let process = Process::init("points", args.config)?;
    let app = tender::App::start(&process, &args.tender, Arc::new(Points))?;
    let (public, internal) = (app.public(), app.internal());
    process.run(public, internal).await
}
