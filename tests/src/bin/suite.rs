//! `make test-kind`, `make test-local` and `make test-drivers`: the end-to-end suites by name; and the check of a history that one has kept.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use replicateddb_tests::{drivers, history, kind, local};

/// Runs end-to-end scenarios and prints a summary; logs of those that fail are kept and named.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// On the Kubernetes cluster of `make cluster`.
    Kind {
        /// Names of scenarios; none: all of the suite.
        only: Vec<String>,
    },
    /// On processes of this machine.
    Local {
        /// Names of scenarios; none: all of the suite.
        only: Vec<String>,
    },
    /// The drivers of several languages, and cqlsh, with processes of this machine.
    Drivers {
        /// Names of scenarios; none: all of the suite.
        only: Vec<String>,
    },
    /// Checks what clients were told, as a failed scenario has kept it, against the consistency levels.
    CheckHistory {
        /// A file of JSON lines.
        file: PathBuf,
    },
}

fn main() -> Result<()> {
    match Args::parse().command {
        Command::Kind { only } => kind::run(&only),
        Command::Local { only } => local::run(&only),
        Command::Drivers { only } => drivers::run(&only),
        Command::CheckHistory { file } => {
            println!("{:?}", history::check(&history::load(&file)?)?);
            Ok(())
        }
    }
}
