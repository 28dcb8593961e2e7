//! Measures what one replica of a local stack does, and what the stack takes: the figures of docs/figures.md.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use replicateddb_local::{Member, Stack};
use scylla::{
    client::{execution_profile::ExecutionProfile, session::Session, session_builder::SessionBuilder},
    policies::host_filter::AllowListHostFilter,
    statement::{Consistency, prepared::PreparedStatement},
};

/// Longest wait for the stack.
const UP_LIMIT: Duration = Duration::from_secs(240);
/// Length of a value, bytes.
const VALUE_BYTES: usize = 100;
/// Clock ticks of `/proc/PID/stat` in a second, on every Linux.
const TICKS: f64 = 100.0;

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
    per_second: f64,
    /// Sorted, µs.
    latencies: Vec<u64>,
    /// CPU seconds of each member.
    cpu: Vec<(Member, f64)>,
}

impl Found {
    /// The latency that this share of the requests did not exceed, ms.
    fn at(&self, share: f64) -> f64 {
        let index = (self.latencies.len().saturating_sub(1)) as f64 * share;
        self.latencies.get(index as usize).map_or(0.0, |micros| *micros as f64 / 1000.0)
    }
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

    let session = Arc::new(session(&stack).await?);
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
            let each = cpu * 1000.0 / found.latencies.len().max(1) as f64;
            println!(
                "| {what} | {in_flight} | {:.0} | {:.1} | {:.1} | {:.1} | {each:.2} |",
                found.per_second,
                found.at(0.5),
                found.at(0.99),
                found.at(1.0)
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

/// A session that talks to replica 0 alone.
async fn session(stack: &Stack) -> Result<Session> {
    let address = stack.cql(0);
    let profile = ExecutionProfile::builder().request_timeout(Some(Duration::from_secs(30))).build();
    SessionBuilder::new()
        .known_node_addr(address)
        .host_filter(Arc::new(AllowListHostFilter::new([address])?))
        .default_execution_profile_handle(profile.into_handle())
        .build()
        .await
        .with_context(|| format!("a session with {address}"))
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
    let warm = Instant::now() + Duration::from_secs(seconds.div_ceil(2));
    let end = warm + Duration::from_secs(seconds);
    let with_value = statement.get_variable_col_specs().len() == 2;
    let tasks: Vec<_> = (0..in_flight)
        .map(|_| {
            let (session, statement, next) = (session.clone(), statement.clone(), next.clone());
            tokio::spawn(async move {
                let value = "x".repeat(VALUE_BYTES);
                let mut latencies = Vec::new();
                while Instant::now() < end {
                    let key = next.fetch_add(1, Ordering::Relaxed);
                    let begin = Instant::now();
                    if with_value {
                        session.execute_unpaged(&statement, (key, &value)).await?;
                    } else {
                        session.execute_unpaged(&statement, (key,)).await?;
                    }
                    if begin >= warm {
                        latencies.push(begin.elapsed().as_micros() as u64);
                    }
                }
                anyhow::Ok(latencies)
            })
        })
        .collect();
    tokio::time::sleep_until(warm.into()).await;
    let before = cpu(stack, members);
    tokio::time::sleep_until(end.into()).await;
    let after = cpu(stack, members);
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    ensure!(!latencies.is_empty(), "no request was answered");
    latencies.sort_unstable();
    let used = before.iter().zip(&after).map(|((member, before), (_, after))| (*member, after - before));
    Ok(Found { per_second: latencies.len() as f64 / seconds as f64, cpu: used.collect(), latencies })
}

/// CPU seconds that each member has used.
fn cpu(stack: &Stack, members: &[Member]) -> Vec<(Member, f64)> {
    members
        .iter()
        .map(|member| {
            let mut pids: Vec<i32> = stack.pid(*member).into_iter().collect();
            if let Member::Cassandra(i) = member {
                pids.extend(stack.jvm_pids(*i));
            }
            (*member, pids.into_iter().map(cpu_of).sum())
        })
        .collect()
}

fn cpu_of(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything but a closing bracket at the end: user and system time are 12th and 13th.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace()).into_iter().flatten();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS
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
