//! The engine with a leader in a real ZooKeeper: it passes the suite, with a leader and with followers, and keeps to its own logs.

mod common;
#[path = "common/wires.rs"]
mod wires;

use common::{config, new_root, server};
use futures::future::join_all;
use replicateddb_ordering::conformance::{self, Harness, append, assert_dense, entry, parse, read, read_to_end};
use replicateddb_ordering::fixture::ZooKeeper;
use replicateddb_ordering::znode_log::{self, OpenError, ZnodeLog};
use replicateddb_ordering::zookeeper_leader::{Config, ZooKeeperLeader};
use replicateddb_ordering::{AppendError, Incarnation, OrderedLog, Position};
use wires::{Wires, see};
use zookeeper_client::Client;

struct Led {
    connect: String,
    root: String,
    wires: Wires,
    /// Leads, so that all others have their entries appended by it.
    _leader: Option<ZooKeeperLeader>,
}

fn settings(connect: &str, root: &str, replica: u32) -> znode_log::Config {
    znode_log::Config {
        segment_entries: Led::SEGMENT_ENTRIES,
        // So that the sizes of the suite take chunks, and several.
        max_entry_bytes: 30_000,
        max_body_bytes: Led::MAX_BODY_BYTES,
        batches_in_flight: 16,
        ..config(connect, root, replica)
    }
}

impl Harness for Led {
    type Log = ZooKeeperLeader;
    const SEGMENT_ENTRIES: u32 = 12;
    const MAX_BODY_BYTES: usize = 100_000;

    async fn open(&self, replica: u32) -> (ZooKeeperLeader, Incarnation) {
        self.wires.open(self.wires.config(settings(&self.connect, &self.root, replica))).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let server = server();
    conformance::run_all(async || Led {
        connect: server.connect(),
        root: new_root(),
        wires: Wires::default(),
        _leader: None,
    })
    .await;
}

/// The suite again: none of its replicas leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_by_forwarding() {
    let server = server();
    conformance::run_all(async || {
        let (root, wires) = (new_root(), Wires::default());
        let (leader, _) = wires.open(wires.config(settings(&server.connect(), &root, 90))).await;
        see(&leader, "it leads", |standing| standing.leads).await;
        Led { connect: server.connect(), root, wires, _leader: Some(leader) }
    })
    .await;
}

/// Entries too large for a frame go to the leader by the name of their body; segments fill up while bodies are stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_entries_are_forwarded_by_name() {
    const EACH: u32 = 12;
    let server = server();
    let (root, wires) = (new_root(), Wires::default());
    let with = |replica| znode_log::Config {
        segment_entries: 5,
        max_entry_bytes: 100,
        max_body_bytes: 1000,
        ..config(&server.connect(), &root, replica)
    };
    let open = async |replica| wires.open(wires.config(with(replica))).await.0;
    let logs = [open(0).await, open(1).await, open(2).await];
    let body = |replica: usize, number: u32| format!("{replica}:{number:0900}").into_bytes();
    join_all(logs.iter().enumerate().flat_map(|(replica, log)| {
        (0..EACH).map(move |number| async move { append(log, body(replica, number).into()).await })
    }))
    .await;
    let all = read_to_end(&logs[1], Position::START).await;
    assert_dense(&all);
    let mut found: Vec<_> = all.iter().map(|item| item.entry.to_vec()).collect();
    found.sort();
    let mut expected: Vec<_> = (0..3).flat_map(|replica| (0..EACH).map(move |number| body(replica, number))).collect();
    expected.sort();
    assert!(found == expected, "{} entries, {} expected", found.len(), expected.len());
}

async fn exists(server: &ZooKeeper, path: &str) -> bool {
    let client = Client::connect(&server.connect()).await.expect("connected");
    client.check_stat(path).await.expect("looked at").is_some()
}

/// A log is one engine's, and the other leaves it as it is; a reader takes both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engines_keep_to_their_own_logs() {
    let server = server();
    let wires = Wires::default();
    let with = |root: &str| config(&server.connect(), root, 0);

    let leaderless = new_root();
    let (log, _) = ZnodeLog::open(with(&leaderless)).await.unwrap();
    append(&log, entry(0, 0)).await;
    let error = ZooKeeperLeader::open(wires.config(with(&leaderless))).await.unwrap_err();
    assert!(matches!(error, OpenError::OtherEngine { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("holds a log of the engine ZnodeLog") && text.contains("ZooKeeperLeader"), "{text}");
    // Nor beside it.
    let beside = znode_log::Config { log: Some(format!("{leaderless}/other")), ..with(&leaderless) };
    let error = ZooKeeperLeader::open(wires.config(beside)).await.unwrap_err();
    assert!(matches!(error, OpenError::OtherEngine { .. }), "{error}");
    assert!(!exists(&server, &format!("{leaderless}/epoch")).await, "nothing was made");
    append(&log, entry(0, 1)).await;

    let led = new_root();
    let (log, _) = wires.open(wires.config(with(&led))).await;
    append(&log, entry(0, 0)).await;
    let error = ZnodeLog::open(with(&led)).await.unwrap_err();
    assert!(matches!(&error, OpenError::OtherEngine { made_by, .. } if made_by == "ZooKeeperLeader"), "{error}");
    log.truncate(Position::new(0, 1).into()).await.unwrap();
    let error = ZnodeLog::open(with(&led)).await.unwrap_err();
    assert!(matches!(error, OpenError::OtherEngine { .. }), "also when its beginning has moved: {error}");
    append(&log, entry(0, 1)).await;

    for (root, first) in [(&leaderless, 0), (&led, 1)] {
        let reader = znode_log::Config { replica: 7, ..with(root) };
        let (reader, _) = ZnodeLog::open_reader(reader).await.unwrap();
        let items = read(&reader, Position::new(0, first), 1).await;
        assert_eq!(parse(&items[0].entry), (0, first));
        let refused = reader.append(entry(7, 7)).await;
        assert!(matches!(refused, Err(AppendError::Unavailable { .. })), "{refused:?}");
    }
    let nothing = new_root();
    let error = ZnodeLog::open_reader(with(&nothing)).await.unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    assert!(!exists(&server, &nothing).await, "nothing was made");
}

/// Everything is where it is said to be, and all replicas have to say the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_are_agreed_on() {
    let server = server();
    let (root, elsewhere, wires) = (new_root(), new_root(), Wires::default());
    let config = |replica| {
        let log =
            znode_log::Config { log: Some(format!("{elsewhere}/log")), ..config(&server.connect(), &root, replica) };
        let (election, leader) = (Some(format!("{elsewhere}/those")), Some(format!("{elsewhere}/one")));
        Config { election, leader, ..wires.config(log) }
    };
    let (one, _) = wires.open(config(0)).await;
    let (two, _) = wires.open(config(1)).await;
    for number in 0..3 {
        append(&two, entry(1, number)).await;
    }
    assert_eq!(read_to_end(&one, Position::START).await.len(), 3);
    for path in ["log/0000000000/e-0000000002", "one", "those"] {
        assert!(exists(&server, &format!("{elsewhere}/{path}")).await, "{path}");
    }
    for path in ["requests", "leader", "election"] {
        assert!(!exists(&server, &format!("{root}/{path}")).await, "{path}");
    }
    let error = ZooKeeperLeader::open(Config { leader: None, ..config(2) }).await.unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }) && error.to_string().contains("same paths"), "{error}");

    for (wrong, word) in [
        (Config { election: Some("those".into()), ..config(2) }, "those"),
        (Config { election: Some(format!("{root}/members")), ..config(2) }, "members"),
        (Config { leader: Some(format!("{elsewhere}/log/leader")), ..config(2) }, "must not lie in each other"),
        (Config { pending_entries: 0, ..config(2) }, "pending_entries"),
    ] {
        let error = ZooKeeperLeader::open(wrong).await.unwrap_err();
        assert!(matches!(error, OpenError::Config(_)) && error.to_string().contains(word), "{error}");
    }
}

/// Two databases that elect in the same place would end each other's leads for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_is_of_one_database() {
    let server = server();
    let (root, other, wires) = (new_root(), new_root(), Wires::default());
    let with = |root: &str, election: &str, leader: &str| Config {
        election: Some(election.into()),
        leader: Some(leader.into()),
        ..wires.config(znode_log::Config {
            append_timeout: std::time::Duration::from_secs(3),
            ..config(&server.connect(), root, 0)
        })
    };
    let (election, leader) = (format!("{root}-election"), format!("{root}-leader"));
    let (one, _) = wires.open(with(&root, &election, &leader)).await;
    append(&one, entry(0, 0)).await;
    let error = ZooKeeperLeader::open(with(&other, &election, &format!("{other}/leader"))).await.unwrap_err();
    assert!(matches!(&error, OpenError::Foreign { path, .. } if *path == election), "{error}");
    // A node of who leads is gone with a session: nothing can be refused by it, but it is left alone.
    let third = new_root();
    let (two, _) = wires.open(with(&third, &format!("{third}/election"), &leader)).await;
    let refused = two.append(entry(0, 0)).await;
    assert!(matches!(refused, Err(replicateddb_ordering::AppendError::Unavailable { .. })), "{refused:?}");
    append(&one, entry(0, 1)).await;
}
