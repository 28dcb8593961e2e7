//! `replicateddb-operator`.

use std::io::Write;

use clap::{Parser, Subcommand};

/// The Kubernetes operator of ReplicatedDB.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the custom resource definition as YAML.
    Crd,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Crd => std::io::stdout().write_all(replicateddb_operator::crd::yaml()?.as_bytes())?,
    }
    Ok(())
}
