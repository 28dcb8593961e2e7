//! `replicateddb-server`: one binary for a replica, its store agent, and tools.

use std::process::ExitCode;

use replicateddb_server::{args::Command, checkpoint, config_file, log, logging, replica, restore, verify};
use replicateddb_store::agent::{faults::Faults, run_with_faults};

/// A request is many small allocations, made by one thread and freed by another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = config_file::command_line(std::env::args_os().collect()).unwrap_or_else(|error| error.exit());
    logging::start(cli.log_format);
    let done = match cli.command {
        Command::Replica(args) => Box::pin(replica::run(*args)).await,
        Command::Agent(args) => {
            let faults = Faults::at(replicateddb_faults::armed());
            Box::pin(run_with_faults(*args, faults)).await.map(|()| ExitCode::SUCCESS)
        }
        Command::Log(args) => Box::pin(log::run(args)).await.map(|()| ExitCode::SUCCESS),
        Command::Verify(args) => Box::pin(verify::run(args)).await,
        Command::Checkpoint(args) => Box::pin(checkpoint::run(args)).await.map(|()| ExitCode::SUCCESS),
        Command::Restore(args) => Box::pin(restore::run(args)).await.map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("replicateddb-server: {error:#}");
        ExitCode::from(2)
    })
}
