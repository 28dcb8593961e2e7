//! A restart reads in the state log what it has seen before, and in ZooKeeper what it has not, or what is not the same.

mod common;

use std::time::Duration;

use common::{config, new_root, server};
use futures::StreamExt;
use replicateddb_ordering::conformance::{append, entry, read};
use replicateddb_ordering::fixture::{Proxy, ZooKeeper};
use replicateddb_ordering::state_log::StateLogConfig;
use replicateddb_ordering::znode_log::{Config, ZnodeLog};
use replicateddb_ordering::{LogHealth, OrderedLog, Position, TailError};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};
use zookeeper_client::Client;

const PATIENCE: Duration = Duration::from_secs(60);
const ENTRIES: u32 = 40;

struct Volume(TempDir);

impl Volume {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn config(&self, server: &ZooKeeper, root: &str) -> Config {
        let folder = self.0.path().join("state");
        Config {
            segment_entries: 7,
            max_entry_bytes: 1000,
            max_body_bytes: 10_000,
            // So that nothing of it comes from memory.
            recent_entries: 0,
            state_log: Some(StateLogConfig { folder, max_bytes: 1 << 20 }),
            ..config(&server.connect(), root, 0)
        }
    }

    /// Opens the log with its state log, which the one before has to let go of.
    async fn open(&self, server: &ZooKeeper, root: &str) -> ZnodeLog {
        self.open_with(self.config(server, root)).await
    }

    async fn open_with(&self, config: Config) -> ZnodeLog {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let lock = std::fs::OpenOptions::new().write(true).open(self.0.path().join("state/lock"));
            if lock.is_err() || lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
                return ZnodeLog::open(config).await.expect("opened").0;
            }
            assert!(Instant::now() < deadline, "the state log is not let go");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Appends entries, some of them large, and reads all, until all are in the state log.
async fn fill(log: &ZnodeLog, from: u32) -> Vec<replicateddb_ordering::Committed> {
    for number in from..from + ENTRIES {
        let large = vec![u8::try_from(number).expect("small"); 3000];
        append(log, if number % 9 == 4 { large.into() } else { entry(0, number) }).await;
    }
    let all = read(log, Position::START, (from + ENTRIES) as usize).await;
    let deadline = Instant::now() + PATIENCE;
    while !log.is_in_state_log(all[all.len() - 1].position) {
        assert!(Instant::now() < deadline, "it is not written");
        sleep(Duration::from_millis(5)).await;
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_reads_what_it_has_seen() {
    let server = server();
    let (root, volume) = (new_root(), Volume::new());
    let log = volume.open(&server, &root).await;
    let seen = fill(&log, 0).await;
    assert_eq!(log.read_from_state_log(), 0, "there was nothing");
    drop(log);
    let (other, _) = ZnodeLog::open(config(&server.connect(), &root, 1)).await.unwrap();
    let more = append(&other, entry(1, 0)).await;
    let log = volume.open(&server, &root).await;
    let all = read(&log, Position::START, seen.len() + 1).await;
    assert_eq!(all[..seen.len()], seen);
    assert_eq!(all[seen.len()].position, more);
    assert_eq!(log.read_from_state_log(), u64::from(ENTRIES));
    // From the middle, too, and behind it.
    assert_eq!(read(&log, all[20].position, 21).await, all[20..]);
    // The last one was kept meanwhile, or not yet.
    let again = log.read_from_state_log() - u64::from(ENTRIES);
    assert!((20..=21).contains(&again), "{again}");
    // What was given up is not there, whoever has it still.
    log.truncate(all[10].position.into()).await.unwrap();
    drop(log);
    let log = volume.open(&server, &root).await;
    let mut tail = log.tail(all[9].position);
    let told = tail.next().await.expect("an item");
    assert_eq!(told, Err(TailError::Truncated { first: all[10].position }));
    assert_eq!(read(&log, all[10].position, 31).await, all[10..]);
}

/// Another entry of the same length stands there from now on.
async fn replace(client: &Client, root: &str, at: Position) {
    let path = format!("{root}/requests/{:010}/e-{:010}", at.segment, at.sequence);
    let (data, _) = client.get_data(&path).await.expect("it is there");
    let mut other = data.clone();
    *other.last_mut().expect("data") ^= 1;
    let crc = {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&[1, 0]);
        crc.update(&other[16..]);
        crc.finalize()
    };
    other[12..16].copy_from_slice(&crc.to_be_bytes());
    client.set_data(&path, &other, None).await.expect("replaced");
}

/// A ZooKeeper that has lost what came last has another log of the same name from then on: that is what is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_zookeeper_does_not_hold_is_not_read() {
    let server = server();
    let (root, volume) = (new_root(), Volume::new());
    let client = Client::connect(&server.connect()).await.unwrap();
    let log = volume.open(&server, &root).await;
    let seen = fill(&log, 0).await;
    drop(log);
    let last = seen[seen.len() - 1].position;
    replace(&client, &root, last).await;
    let log = volume.open(&server, &root).await;
    let all = read(&log, Position::START, seen.len()).await;
    assert_eq!(log.read_from_state_log(), 0);
    assert_eq!(all[..seen.len() - 1], seen[..seen.len() - 1]);
    assert_ne!(all[seen.len() - 1].entry, seen[seen.len() - 1].entry);
    drop(log);
    // It was kept anew.
    let log = volume.open(&server, &root).await;
    let again = fill(&log, ENTRIES).await;
    assert_eq!(again[..all.len()], all);
}

/// One that loses it under a replica that runs, and goes on before that one is back: what was kept before is not what the log holds, though
/// what comes behind is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_zookeeper_loses_meanwhile_is_not_read_after_a_restart() {
    let server = server();
    let (root, volume) = (new_root(), Volume::new());
    let proxy = Proxy::start(server.address()).await.unwrap();
    let log = volume.open_with(Config { connect: proxy.connect(), ..volume.config(&server, &root) }).await;
    let seen = fill(&log, 0).await;
    let last = seen[seen.len() - 1].position;
    let mut tail = log.tail(last);
    assert_eq!(tail.next().await, Some(Ok(seen[seen.len() - 1].clone())));
    let mut health = log.health();
    proxy.set_cut(true);
    let is_down = |health: &LogHealth| matches!(health, LogHealth::Disconnected { .. });
    timeout(PATIENCE, health.wait_for(is_down)).await.expect("noticed").expect("shown");
    let client = Client::connect(&server.connect()).await.unwrap();
    replace(&client, &root, last).await;
    let (other, _) = ZnodeLog::open(config(&server.connect(), &root, 1)).await.unwrap();
    let more = append(&other, entry(1, 0)).await;
    proxy.set_cut(false);
    let next = timeout(PATIENCE, tail.next()).await.expect("it reads on").expect("an item").expect("an entry");
    assert_eq!(next.position, more);
    let deadline = Instant::now() + PATIENCE;
    while !log.is_in_state_log(more) {
        assert!(Instant::now() < deadline, "it is not written");
        sleep(Duration::from_millis(5)).await;
    }
    drop((tail, log));
    let log = volume.open(&server, &root).await;
    let all = read(&log, Position::START, seen.len() + 1).await;
    assert_ne!(all[seen.len() - 1].entry, seen[seen.len() - 1].entry, "what stands in ZooKeeper");
}
