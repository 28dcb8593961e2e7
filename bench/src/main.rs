//! Compares three replicas with a cluster of three plain Cassandra nodes, on one machine, and measures what restore points
//! cost: the tables of docs/benchmarks.md.

mod cluster;
mod conditions;
mod meter;
mod points;
mod report;
mod run;
mod side;
mod template;
mod verify;
mod work;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use replicateddb_local::{Stack, cache_root};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    cluster::Cluster,
    points::PointsArgs,
    run::{Notes, Outcome},
    work::Work,
};

/// A run that takes so much longer than planned is ended, seconds.
const SLACK_SECONDS: u64 = 300;

/// Starts three replicas and a cluster of three plain Cassandra nodes, loads them in turn, and prints tables in Markdown:
/// rates, latencies, CPU for each request, and the ratios of the two. Nothing else should run meanwhile.
#[derive(Parser)]
#[command(name = "replicateddb-bench", version, args_conflicts_with_subcommands = true)]
struct Args {
    /// Something else than the comparison.
    #[command(subcommand)]
    command: Option<Command>,
    /// Length of each slice of load, seconds.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// How often each pair of slices is repeated.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// These work loads alone.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME")]
    only: Vec<Work>,
    /// Requests in flight, a line of the table for each.
    #[arg(long, value_delimiter = ',', default_values_t = [1_usize, 64, 256], value_parser = in_flight)]
    in_flight: Vec<usize>,
    /// ZooKeeper servers of the replicas: with three, both sides survive the loss of one of each.
    #[arg(long, default_value_t = 3)]
    zookeepers: u8,
    /// Heap of each Cassandra of both sides.
    #[arg(long, default_value = "512m", value_name = "SIZE")]
    heap: String,
    /// Tuning of the JVM of each Cassandra of both sides: small or default.
    #[arg(long, default_value = "small")]
    profile: String,
    /// A further setting of plain Cassandra, as a line of cassandra.yaml: 'paxos_variant: v2'; may be repeated.
    #[arg(long = "plain-setting", value_name = "LINE")]
    plain_settings: Vec<String>,
    /// File that gets the tables [default: bench.md in the cache folder]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What is measured in place of the comparison.
#[derive(Subcommand)]
enum Command {
    RestorePoints(PointsArgs),
}

fn in_flight(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=work::MAX_IN_FLIGHT).contains(number));
    number.ok_or_else(|| format!("expected 1 to {}", work::MAX_IN_FLIGHT))
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Runtime::new().context("starting threads");
    let measured = runtime.and_then(|runtime| match &args.command {
        None => runtime.block_on(bench(&args)),
        Some(Command::RestorePoints(args)) => runtime.block_on(restore_points(args)),
    });
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("replicateddb-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs between signals: after the first, both sides are stopped; after a second, they are killed.
async fn bench(args: &Args) -> Result<()> {
    let notes = Notes::begin();
    let planned = run::planned(args);
    notes.say(&format!("about {} min", planned.as_secs().div_ceil(60)));
    let mut stops = Stops::listen()?;
    // Gone after what lies in it: declared first.
    let folder = tempfile::tempdir().context("making a folder for the data")?;
    let builder = Stack::builder().dir(folder.path().join("replicas")).replicas(cluster::NODES);
    let builder = builder.zookeepers(args.zookeepers).cassandra_heap(&args.heap).cassandra_profile(&args.profile);
    let stack = builder.free_loopback().kill_on_drop().create()?;
    let mut cluster = Cluster::new(&folder.path().join("plain"), stack.settings().range);
    let measured = tokio::select! {
        measured = run::run(args, &stack, &mut cluster, &notes) => measured,
        () = stops.next() => Err(anyhow::anyhow!("interrupted")),
        () = tokio::time::sleep(planned + Duration::from_secs(SLACK_SECONDS)) => Err(anyhow::anyhow!("it takes too long")),
    };
    if let Err(error) = &measured {
        notes.say(&format!("failed: {error:#}"));
    }
    notes.say("stopping both sides");
    let stopped = tokio::select! {
        stopped = stop(&stack, &mut cluster) => stopped,
        () = stops.next() => Err(anyhow::anyhow!("interrupted while stopping: both sides are killed")),
    };
    if let Err(error) = &stopped {
        notes.say(&format!("stopping failed: {error:#}"));
    }
    let outcome = measured?;
    publish(args, &outcome, &notes)?;
    stopped
}

/// As [`bench`], of a set of replicas alone.
async fn restore_points(args: &PointsArgs) -> Result<()> {
    let notes = Notes::begin();
    let planned = args.planned();
    notes.say(&format!("about {} min", planned.as_secs().div_ceil(60)));
    let mut stops = Stops::listen()?;
    let folder = tempfile::tempdir().context("making a folder for the data")?;
    let builder = Stack::builder().dir(folder.path().join("replicas")).replicas(args.replicas);
    let builder = builder.zookeepers(args.zookeepers).cassandra_heap(&args.heap).cassandra_profile(&args.profile);
    let stack = builder.replica_args(args.replica_args()).free_loopback().kill_on_drop().create()?;
    let measured = tokio::select! {
        measured = points::run(args, &stack, &notes) => measured,
        () = stops.next() => Err(anyhow::anyhow!("interrupted")),
        () = tokio::time::sleep(planned + Duration::from_secs(SLACK_SECONDS)) => Err(anyhow::anyhow!("it takes too long")),
    };
    notes.say("stopping");
    let stopped = tokio::select! {
        stopped = down(&stack) => stopped,
        () = stops.next() => Err(anyhow::anyhow!("interrupted while stopping: everything is killed")),
    };
    println!("{}", measured?);
    stopped
}

async fn stop(stack: &Stack, cluster: &mut Cluster) -> Result<()> {
    let stopped = cluster.down().await;
    down(stack).await.and(stopped)
}

async fn down(stack: &Stack) -> Result<()> {
    stack.down(&mut |_, _| ()).await
}

fn publish(args: &Args, outcome: &Outcome, notes: &Notes) -> Result<()> {
    println!("{}", outcome.text);
    let file = args.output.clone().unwrap_or_else(|| cache_root().join("bench.md"));
    std::fs::write(&file, &outcome.text).with_context(|| format!("writing {}", file.display()))?;
    notes.say(&format!("the same is in {}", file.display()));
    if outcome.verified { Ok(()) } else { bail!("what was acknowledged was not found: see FAILED in the report") }
}

/// The signals by which a run is ended.
struct Stops([Signal; 3]);

impl Stops {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("listening to signals");
        Ok(Self([listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
            _ = hangup.recv() => (),
        }
    }
}
