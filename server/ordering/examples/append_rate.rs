//! How many entries a second one handle appends, with so many in flight: `append_rate [ENTRIES [BYTES]]`.
//!
//! Against a standalone server of its own on the loopback interface, with the tail following; needs the jars in the cache.

use std::time::{Duration, Instant};

use futures::StreamExt;
use replicateddb_ordering::fixture::ZooKeeper;
use replicateddb_ordering::znode_log::{Config, ZnodeLog};
use replicateddb_ordering::{Committed, OrderedLog, TailError};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let entries: usize = arguments.next().map_or(Ok(2000), |text| text.parse())?;
    let bytes: usize = arguments.next().map_or(Ok(200), |text| text.parse())?;
    let server = ZooKeeper::start()?;
    println!("in flight  sessions  entries/s  p50 ms  p99 ms  own tail p50 ms  other's tail p50 ms");
    for (in_flight, sessions) in [(1, 1), (2, 1), (2, 2), (4, 1), (4, 4), (64, 1), (64, 2), (64, 4)] {
        let root = format!("/rate/{in_flight}-{sessions}");
        let config = |replica| Config {
            batches_in_flight: in_flight,
            append_sessions: sessions,
            ..Config::new(server.connect(), root.clone(), replica)
        };
        let (log, _) = ZnodeLog::open(config(0)).await?;
        let (other, _) = ZnodeLog::open(config(1)).await?;
        run(&log, &other, entries / 4, bytes, in_flight).await?;
        let result = run(&log, &other, entries, bytes, in_flight).await?;
        println!("{in_flight:>9}  {sessions:>8}  {result}");
    }
    Ok(())
}

async fn run(
    log: &ZnodeLog,
    other: &ZnodeLog,
    entries: usize,
    bytes: usize,
    in_flight: usize,
) -> Result<String, Box<dyn std::error::Error>> {
    let from = log.end().await?;
    let tails = [log, other].map(|log| tokio::spawn(arrivals(log.tail(from), entries)));
    let started = Instant::now();
    let appended: Vec<_> = futures::stream::iter(0..entries)
        .map(|_| {
            let log = log.clone();
            let entry = vec![b'x'; bytes];
            async move {
                let proposed = Instant::now();
                let answer = log.append(entry.into()).await;
                answer.map(|appended| (appended.position, proposed, proposed.elapsed()))
            }
        })
        .buffer_unordered(in_flight)
        .collect()
        .await;
    let rate = entries as f64 / started.elapsed().as_secs_f64();
    let mut appended = appended.into_iter().collect::<Result<Vec<_>, _>>()?;
    appended.sort_by_key(|(position, ..)| *position);
    let mut latencies: Vec<_> = appended.iter().map(|(_, _, latency)| *latency).collect();
    let mut text = format!("{rate:>9.0}  {:>6}  {:>6}", percentile(&mut latencies, 50), percentile(&mut latencies, 99));
    for (tail, width) in tails.into_iter().zip([15, 19]) {
        let arrived = tail.await?;
        let mut delays: Vec<_> =
            appended.iter().zip(arrived).map(|((_, proposed, _), arrived)| arrived.duration_since(*proposed)).collect();
        text.push_str(&format!("  {:>width$}", percentile(&mut delays, 50)));
    }
    Ok(text)
}

async fn arrivals(
    mut tail: impl futures::Stream<Item = Result<Committed, TailError>> + Unpin,
    entries: usize,
) -> Vec<Instant> {
    let mut arrived = Vec::with_capacity(entries);
    while arrived.len() < entries {
        match tail.next().await {
            Some(Ok(_)) => arrived.push(Instant::now()),
            Some(Err(error)) => panic!("{error}"),
            None => break,
        }
    }
    arrived
}

/// A percentile in milliseconds.
fn percentile(values: &mut [Duration], percent: usize) -> String {
    values.sort_unstable();
    let value = values.get(values.len() * percent / 100).copied().unwrap_or_default();
    format!("{:.2}", value.as_secs_f64() * 1e3)
}
