//! The agent as a process of its own, for the tests of this crate: it can be made to crash at a named point.

use clap::Parser;
use replicateddb_store::agent::{AgentArgs, faults::Faults, run_with_faults};

/// The fault point to crash at.
const FAULT: &str = "AGENT_FAULT";

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: AgentArgs,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let faults = Faults::at(std::env::var(FAULT).ok());
    run_with_faults(Cli::parse().args, faults).await
}
