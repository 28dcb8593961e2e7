//! Appends go straight to the leader of ZooKeeper's servers, whichever that is.

mod common;

use std::time::Duration;

use common::{config, new_root};
use replicateddb_ordering::conformance::{append, entry};
use replicateddb_ordering::fixture::ZooKeeper;
use replicateddb_ordering::znode_log::{Config, ZnodeLog};
use tokio::time::{Instant, sleep};

/// How long what must happen may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Appends in a row of which the leader must have had all.
const APPENDS: u32 = 100;

/// Which of the servers leads, and what it has received since it was started.
fn leader(servers: &[ZooKeeper]) -> Option<(usize, u32)> {
    servers.iter().enumerate().find_map(|(index, server)| {
        let status = server.status()?;
        let received = status.lines().find_map(|line| line.strip_prefix("Received: "))?;
        status.contains("Mode: leader").then_some((index, received.trim().parse().ok()?))
    })
}

/// Appends until the leader has received as many requests as entries were appended.
async fn appends_go_to_the_leader(
    log: &ZnodeLog,
    servers: &[ZooKeeper],
    numbers: &mut impl Iterator<Item = u32>,
) -> usize {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let before = leader(servers);
        for number in numbers.take(APPENDS as usize) {
            append(log, entry(0, number)).await;
        }
        match (before, leader(servers)) {
            (Some((before, had)), Some((after, has))) if before == after && has - had >= APPENDS => return after,
            (before, after) => {
                assert!(Instant::now() < deadline, "the leader and its requests: {before:?}, then {after:?}")
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_go_to_whichever_server_leads() {
    let mut servers = ZooKeeper::start_three().unwrap_or_else(|error| panic!("{error}"));
    let connect = servers.iter().map(ZooKeeper::connect).collect::<Vec<_>>().join(",");
    let with = Config { session_timeout: Duration::from_secs(4), ..config(&connect, &new_root(), 0) };
    let (log, _) = ZnodeLog::open(with).await.unwrap();
    let mut numbers = 0..;
    let first = appends_go_to_the_leader(&log, &servers, &mut numbers).await;
    servers[first].kill();
    let second = appends_go_to_the_leader(&log, &servers, &mut numbers).await;
    assert_ne!(first, second);
    servers[first].resume().unwrap();
    appends_go_to_the_leader(&log, &servers, &mut numbers).await;
}
