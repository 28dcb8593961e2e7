//! Measures what one replica of a local stack does, and what the stack takes: the figures of docs/figures.md.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Parser;
use replicateddb_local::{Member, Recorded, Stack};
use replicateddb_tests::load::{Loaded, Window, closed_loop, session};
use scylla::{
    client::session::Session,
    statement::{Consistency, prepared::PreparedStatement},
};

/// Longest wait for the stack.
const UP_LIMIT: Duration = Duration::from_secs(240);
/// Length of a value, bytes.
const VALUE_BYTES: usize = 100;
/// Longest wait for an answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// Starts a local stack of its own, measures ordered writes and linearizable reads through one replica, and prints tables in
/// Markdown. Nothing else should run meanwhile.
#[derive(Parser)]
#[command(name = "replicateddb-figures", version)]
struct Args {
    /// Replicas, each with a Cassandra of its own.
    #[arg(long, default_value_t = 3)]
    replicas: u8,
    /// ZooKeeper servers.
    #[arg(long, default_value_t = 3)]
    zookeepers: u8,
    /// Length of each measurement, seconds, after half as long a warm-up.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..=600))]
    seconds: u64,
    /// Requests in flight, one measurement for each.
    #[arg(long, value_delimiter = ',', default_values_t = [1usize, 64])]
    in_flight: Vec<usize>,
    /// Where the stack's state goes; by default a temporary folder.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// What one measurement has found.
struct Found {
    loaded: Loaded,
    /// CPU seconds of each member.
    cpu: Vec<(Member, f64)>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    tokio::runtime::Runtime::new()?.block_on(run(&args))
}

async fn run(args: &Args) -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let dir = args.dir.clone().unwrap_or_else(|| temporary.path().join("stack"));
    let builder = Stack::builder().dir(dir).replicas(args.replicas).zookeepers(args.zookeepers);
    let stack = builder.free_loopback().kill_on_drop().create()?;
    let begin = Instant::now();
    stack.up(UP_LIMIT, &mut |time, line| eprintln!("[{:>5.1} s] {line}", time.as_secs_f64())).await?;
    println!("From nothing to all serving: {:.0} s.\n", begin.elapsed().as_secs_f64());
    let members = stack.settings().members();
    memory(&stack, &members, "at rest").await;

    let session = Arc::new(session(&[stack.cql(0)], Consistency::LocalQuorum, REQUEST_LIMIT).await?);
    for text in [
        "CREATE KEYSPACE figures WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
        "CREATE TABLE figures.t (k int PRIMARY KEY, v text)",
    ] {
        session.query_unpaged(text, ()).await?;
    }
    let mut write = session.prepare("INSERT INTO figures.t (k, v) VALUES (?, ?)").await?;
    write.set_consistency(Consistency::One);
    let mut read = session.prepare("SELECT v FROM figures.t WHERE k = ?").await?;
    read.set_consistency(Consistency::Quorum);

    println!(
        "| through one replica | in flight | per second | p50 ms | p99 ms | longest ms | CPU ms per request, all processes |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut last = Vec::new();
    for (what, statement) in [("ordered writes", &write), ("reads at QUORUM", &read)] {
        for in_flight in &args.in_flight {
            let found = measure(&stack, &members, &session, statement, *in_flight, args.seconds).await?;
            let cpu: f64 = found.cpu.iter().map(|(_, seconds)| seconds).sum();
            let each = cpu * 1000.0 / found.loaded.latencies.len().max(1) as f64;
            println!(
                "| {what} | {in_flight} | {:.0} | {:.1} | {:.1} | {:.1} | {each:.2} |",
                found.loaded.per_second(),
                found.loaded.at(0.5),
                found.loaded.at(0.99),
                found.loaded.at(1.0)
            );
            if what == "ordered writes" {
                last = found.cpu;
            }
        }
    }
    let shares: Vec<_> = last.iter().map(|(member, seconds)| format!("{member} {seconds:.1}")).collect();
    println!("\nCPU seconds of the last measurement of writes ({} s): {}.\n", args.seconds, shares.join(", "));
    memory(&stack, &members, "after the load").await;
    stack.down(&mut |_, _| ()).await
}

async fn measure(
    stack: &Stack,
    members: &[Member],
    session: &Arc<Session>,
    statement: &PreparedStatement,
    in_flight: usize,
    seconds: u64,
) -> Result<Found> {
    let next = Arc::new(AtomicI32::new(0));
    let from = Instant::now() + Duration::from_secs(seconds.div_ceil(2));
    let window = Window { from, until: from + Duration::from_secs(seconds) };
    let with_value = statement.get_variable_col_specs().len() == 2;
    let (session, statement) = (session.clone(), statement.clone());
    let request = move |_| {
        let (session, statement, key) = (session.clone(), statement.clone(), next.fetch_add(1, Ordering::Relaxed));
        async move {
            if with_value {
                session.execute_unpaged(&statement, (key, "x".repeat(VALUE_BYTES))).await?;
            } else {
                session.execute_unpaged(&statement, (key,)).await?;
            }
            Ok(())
        }
    };
    let used = async {
        tokio::time::sleep_until(window.from.into()).await;
        let before = cpu(stack, members);
        tokio::time::sleep_until(window.until.into()).await;
        let after = cpu(stack, members);
        before.iter().zip(&after).map(|((member, before), (_, after))| (*member, after - before)).collect()
    };
    let (loaded, cpu) = tokio::join!(closed_loop(in_flight, window, request), used);
    let loaded = loaded?;
    ensure!(loaded.errors.is_empty(), "requests failed: {:?}", loaded.errors);
    ensure!(!loaded.latencies.is_empty(), "no request was answered");
    Ok(Found { loaded, cpu })
}

/// CPU seconds that each member has used.
fn cpu(stack: &Stack, members: &[Member]) -> Vec<(Member, f64)> {
    let used = |member| stack.processes(member).iter().filter_map(Recorded::cpu_seconds).sum();
    members.iter().map(|member| (*member, used(*member))).collect()
}

async fn memory(stack: &Stack, members: &[Member], when: &str) {
    println!("| resident memory {when} | MiB |\n|---|---|");
    let mut all = 0;
    for member in members {
        let bytes = stack.status(*member).await.memory_bytes;
        all += bytes;
        println!("| {member} | {} |", bytes >> 20);
    }
    println!("| all | {} |\n", all >> 20);
}
