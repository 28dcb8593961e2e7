//! `make figures`: rates and latencies of ordered writes through one replica of a local stack, and what its processes take.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use replicateddb_local::{Member, Stack};
use replicateddb_tests::local::connect;
use scylla::{
    client::session::Session,
    statement::{Consistency, prepared::PreparedStatement},
};

/// From nothing to every replica ready.
const UP_LIMIT: Duration = Duration::from_secs(300);
/// Before each measurement, not counted.
const WARM_UP: Duration = Duration::from_secs(5);
/// Length of each measurement.
const MEASURED: Duration = Duration::from_secs(20);
/// Writes at which each writer ends all the same.
const MOST_WRITES: usize = 200_000;
/// Requests in flight, one row of the table for each.
const IN_FLIGHT: [usize; 2] = [1, 64];
/// What `/proc` counts CPU time in; the same on every Linux that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

#[tokio::main]
async fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let stack = Stack::builder().dir(dir.path().join("stack")).replicas(3).zookeepers(3).cassandra_profile("default");
    let stack = stack.free_loopback().kill_on_drop().create()?;
    stack.up(UP_LIMIT, &mut |time, line| eprintln!("[{:>5.1} s] {line}", time.as_secs_f64())).await?;
    let session = Arc::new(connect(stack.cql(0), Consistency::One).await?);
    let keyspace = "CREATE KEYSPACE f WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}";
    session.query_unpaged(keyspace, ()).await?;
    session.query_unpaged("CREATE TABLE f.t (writer int, seq bigint, v text, PRIMARY KEY (writer, seq))", ()).await?;
    let insert = session.prepare("INSERT INTO f.t (writer, seq, v) VALUES (?, ?, ?)").await?;
    println!("| in flight | writes/s | p50 | p99 | longest |\n|---|---|---|---|---|");
    for in_flight in IN_FLIGHT {
        write(&session, &insert, in_flight, WARM_UP).await?;
        let begin = Instant::now();
        let mut latencies = write(&session, &insert, in_flight, MEASURED).await?;
        println!("{}", row(in_flight, &mut latencies, begin.elapsed())?);
    }
    println!("\n| process | resident, MiB | CPU, s |\n|---|---|---|");
    for (name, pid) in processes(&stack) {
        let (resident, cpu) = usage(pid)?;
        println!("| {name} | {resident:.0} | {cpu:.1} |");
    }
    stack.down(&mut |_, _| ()).await
}

/// Keeps `in_flight` writes under way for `time`; gives the latency of each.
async fn write(
    session: &Arc<Session>,
    insert: &PreparedStatement,
    in_flight: usize,
    time: Duration,
) -> Result<Vec<Duration>> {
    let end = Instant::now() + time;
    let writers = (0..in_flight).map(|writer| {
        let (session, insert) = (session.clone(), insert.clone());
        async move {
            let value = "x".repeat(100);
            let mut latencies = Vec::new();
            while Instant::now() < end && latencies.len() < MOST_WRITES {
                let begin = Instant::now();
                session.execute_unpaged(&insert, (writer as i32, latencies.len() as i64, &value)).await?;
                latencies.push(begin.elapsed());
            }
            anyhow::Ok(latencies)
        }
    });
    Ok(try_join_all(writers).await?.concat())
}

fn row(in_flight: usize, latencies: &mut [Duration], took: Duration) -> Result<String> {
    ensure!(!latencies.is_empty(), "nothing was written");
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    let rate = latencies.len() as f64 / took.as_secs_f64();
    Ok(format!("| {in_flight} | {rate:.0} | {:.1} ms | {:.1} ms | {:.0} ms |", at(0.5), at(0.99), at(1.0)))
}

/// Every process of the stack, and this one, which is its client.
fn processes(stack: &Stack) -> Vec<(String, i32)> {
    let settings = stack.settings();
    let mut all = vec![("this client".to_owned(), std::process::id() as i32)];
    for member in Member::all(settings.replicas, settings.zookeepers) {
        all.extend(stack.pid(member).map(|pid| (member.to_string(), pid)));
        if let Member::Cassandra(i) = member {
            all.extend(stack.jvm_pids(i).into_iter().map(|pid| (format!("{member}, JVM"), pid)));
        }
    }
    all
}

/// Resident memory in MiB and CPU seconds since its start.
fn usage(pid: i32) -> Result<(f64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name stands in parentheses and may hold anything; user and system time are the 12th and 13th field after it.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11).take(2);
    let ticks: f64 = fields.filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok((kib.unwrap_or(0.0) / 1024.0, ticks / TICKS_PER_SECOND))
}
