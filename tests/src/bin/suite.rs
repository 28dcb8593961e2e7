//! `make test-kind` and `make test-local`: the end-to-end suites by name.

use anyhow::Result;
use clap::{Parser, ValueEnum};
use replicateddb_tests::{kind, local};

/// Runs end-to-end scenarios and prints a summary; logs of those that fail are kept and named.
#[derive(Parser)]
struct Args {
    /// Which suite.
    suite: Suite,
    /// Names of scenarios; none: all of the suite.
    only: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Suite {
    /// On the Kubernetes cluster of `make cluster`.
    Kind,
    /// On processes of this machine.
    Local,
}

fn main() -> Result<()> {
    let args = Args::parse();
    match args.suite {
        Suite::Kind => kind::run(&args.only),
        Suite::Local => local::run(&args.only),
    }
}
