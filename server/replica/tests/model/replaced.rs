//! What a replica that has been replaced shows for a last time, and what the others show afterwards (I4): two schedules, to
//! the ms, that random histories hardly ever come to.
//!
//! Replica 1 is replaced and does not know; replica 2 has a write in the log that nobody but replica 1 has read there yet.
//! Replica 1 shows it, and then replica 0 is asked.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use replicateddb_ordering::OrderedLog;
use replicateddb_replica::record::{Entry, RecordKind, Values};
use replicateddb_replica::replica::{Request, RequestKind, StatementText};
use tokio::time::{Instant, sleep, timeout};

use super::cluster::Cluster;

/// ms after all have come to rest at which replica 1 is replaced: as long as it takes to look up who lives again.
pub const OFFSETS: std::ops::Range<u64> = 0..12;
const STEP: Duration = Duration::from_millis(50);
/// Longer than that, by a little.
const LOOKED_UP: Duration = Duration::from_millis(620);
/// Longer than it takes until a new list is acted upon.
const SETTLED: Duration = Duration::from_millis(3400);
const POLL: Duration = Duration::from_millis(2);
const VALUE: &str = "shown";

fn request(kind: RequestKind, text: String) -> Request {
    let statements = vec![StatementText { text, values: Values::none() }];
    Request { kind, keyspace: None, statements, flags: 0 }
}

/// Three replicas that ask each other, for `at` steps.
async fn asking(at: u64) -> Arc<Cluster> {
    let cluster = Arc::new(Cluster::new(at));
    for n in 0..3 {
        cluster.start(n);
    }
    cluster.settle_on(0..3).await;
    let create = request(RequestKind::Ddl, "CREATE t0".into());
    assert_eq!(cluster.handle(0).unwrap().propose(create).await.unwrap().opcode, 8);
    sleep(SETTLED).await;
    cluster.settle_on(0..3).await;
    assert!(cluster.asked() > 0, "they do not ask each other");
    sleep(STEP * u32::try_from(at).unwrap()).await;
    cluster
}

/// Whether replica 0 has begun a barrier in the log behind its first `known` entries.
fn has_barrier(cluster: &Cluster, known: usize) -> bool {
    cluster.log.entries().into_iter().skip(known).any(|committed| {
        let entry = Entry::decode(committed.entry).unwrap();
        entry.origin == 0 && entry.records.iter().any(|record| record.kind == RecordKind::Barrier)
    })
}

fn holds(cluster: &Cluster, replica: usize) -> bool {
    cluster.stores[replica].data().rows.keys().any(|(_, value)| value == VALUE)
}

/// Replica 2 writes, and only replica 1 comes to know of it.
async fn write_unseen(cluster: &Arc<Cluster>) {
    cluster.log.hold_tails([0, 2].iter().filter_map(|n| cluster.life(*n)).collect());
    cluster.log.cut_off(BTreeSet::new());
    let writer = cluster.handle(2).unwrap();
    tokio::spawn(async move { writer.propose(request(RequestKind::Dml, format!("PUT t0 0 {VALUE}"))).await });
    let _ = timeout(STEP, async {
        while !holds(cluster, 1) {
            sleep(POLL).await;
        }
    })
    .await;
}

/// Replica 0 reads: what was shown must be there, if it answers at all before it can read the log again; then it does.
async fn read_after(cluster: &Cluster, shown: bool) {
    let reader = cluster.handle(0).unwrap();
    if let Ok(Ok(_)) = timeout(Duration::from_secs(1), reader.barrier()).await {
        assert!(holds(cluster, 0) || !shown, "I4: it was shown before the barrier");
    }
    cluster.log.hold_tails(BTreeSet::new());
    reader.barrier().await.unwrap();
    assert!(holds(cluster, 0));
}

fn run(history: impl Future<Output = bool>) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(history)
}

/// A read through replica 1 that begins and ends within the second for which it may believe in itself. Whether it showed
/// the write.
pub fn quick_read(at: u64) -> bool {
    run(async {
        let cluster = asking(at).await;
        let (replaced, known) = (Instant::now(), cluster.log.entries().len());
        cluster.cut_off(1);
        let (newer, _) = cluster.log.open(1);
        let shown = Arc::new(AtomicU64::new(0));
        newer.vouch(shown.clone());
        while !has_barrier(&cluster, known) && replaced.elapsed() < LOOKED_UP {
            sleep(POLL).await;
        }
        write_unseen(&cluster).await;
        let old = cluster.handle(1).unwrap();
        let passed = timeout(STEP, old.barrier()).await.is_ok_and(|passed| passed.is_ok());
        let showed = passed && holds(&cluster, 1) && old.standing().holds();
        cluster.cut_off(1);
        tokio::time::sleep_until(replaced + SETTLED).await;
        read_after(&cluster, showed).await;
        drop(shown);
        showed
    })
}

/// A read through replica 1 whose barrier has passed before it is replaced, and that Cassandra answers only when the others
/// take it for gone. Whether it showed the write.
pub fn slow_read(at: u64) -> bool {
    run(async {
        let cluster = asking(at).await;
        let old = cluster.handle(1).unwrap();
        old.barrier().await.unwrap();
        cluster.cut_off(1);
        let (newer, _) = cluster.log.open(1);
        let shown = Arc::new(AtomicU64::new(0));
        newer.vouch(shown.clone());
        sleep(SETTLED).await;
        write_unseen(&cluster).await;
        let showed = holds(&cluster, 1) && (old.standing().holds() || old.prove().await.is_ok());
        cluster.cut_off(1);
        read_after(&cluster, showed).await;
        drop(shown);
        showed
    })
}
