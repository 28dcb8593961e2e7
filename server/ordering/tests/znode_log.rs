//! The log in a real ZooKeeper passes the suite, and keeps its promises when the server or the connection does not.

mod common;

use std::time::Duration;

use common::{config, hasty, new_root, server};
use futures::StreamExt;
use futures::future::join_all;
use rand::Rng;
use replicateddb_ordering::conformance::{self, Harness, append, assert_dense, entry, parse, read, read_to_end};
use replicateddb_ordering::fixture::{Proxy, ZooKeeper};
use replicateddb_ordering::znode_log::{Config, DigestAuth, OpenError, ZnodeLog};
use replicateddb_ordering::{AppendError, Incarnation, LogHealth, OrderedLog, Position};
use tokio::sync::watch;
use zookeeper_client::{Acls, Client, CreateMode};

/// How long what must happen may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Cuts of the connection in the test of flapping ones.
const FLAPS: usize = 30;

struct Znodes {
    connect: String,
    root: String,
}

impl Harness for Znodes {
    type Log = ZnodeLog;
    const SEGMENT_ENTRIES: u32 = 12;
    const MAX_BODY_BYTES: usize = 100_000;

    async fn open(&self, replica: u32) -> (ZnodeLog, Incarnation) {
        let config = Config {
            segment_entries: Self::SEGMENT_ENTRIES,
            // So that the sizes of the suite take chunks, and several.
            max_entry_bytes: 30_000,
            max_body_bytes: Self::MAX_BODY_BYTES,
            batches_in_flight: 16,
            ..config(&self.connect, &self.root, replica)
        };
        ZnodeLog::open(config).await.expect("the log opens")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let server = server();
    conformance::run_all(async || Znodes { connect: server.connect(), root: new_root() }).await;
}

/// The suite again, with nothing taken from memory: what a handle reads of its own entries is what others read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_entries_read_back_are_the_same() {
    let server = server();
    let root = new_root();
    let with = |replica, recent_entries| Config {
        recent_entries,
        segment_entries: 7,
        ..config(&server.connect(), &root, replica)
    };
    let (forgetful, _) = ZnodeLog::open(with(0, 0)).await.unwrap();
    let (keeping, _) = ZnodeLog::open(with(1, 1000)).await.unwrap();
    for number in 0..40 {
        append(if number % 3 == 0 { &forgetful } else { &keeping }, entry(0, number)).await;
    }
    let items = read(&forgetful, Position::START, 40).await;
    assert_eq!(read(&keeping, Position::START, 40).await, items);
}

/// I2 and order across a server that dies: what was acknowledged is there, once per acknowledgement at least, in the
/// order of its acknowledgements, and tails go on as if nothing had been.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_nothing() {
    let mut server = server();
    let (connect, root) = (server.connect(), new_root());
    let open = async |replica| {
        let settings = Config { segment_entries: 12, batches_in_flight: 8, ..hasty(&connect, &root, replica) };
        ZnodeLog::open(settings).await.unwrap()
    };
    let logs = [open(0).await, open(1).await, open(2).await];
    let tails: Vec<_> = logs.iter().map(|(log, _)| log.tail(Position::START)).collect();
    let appenders: Vec<_> = logs[..2]
        .iter()
        .enumerate()
        .flat_map(|(replica, (log, _))| (0..4).map(move |task| (replica as u32 * 4 + task, log.clone())))
        .map(|(who, log)| {
            tokio::spawn(async move {
                let mut positions = Vec::new();
                for number in 0..60 {
                    positions.push(append(&log, entry(who, number)).await);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                positions
            })
        })
        .collect();
    for _ in 0..3 {
        let pause = rand::rng().random_range(150..500);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        server.kill();
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.resume().unwrap();
    }
    let told = tokio::time::timeout(PATIENCE, join_all(appenders)).await.expect("appends go on");
    let told: Vec<_> = told.into_iter().map(|told| told.unwrap()).collect();
    let items = read_to_end(&logs[2].0, Position::START).await;
    assert_dense(&items);
    for (who, positions) in told.iter().enumerate() {
        for (number, position) in positions.iter().enumerate() {
            let there = items.iter().find(|item| item.position == *position);
            let there = there.unwrap_or_else(|| panic!("{who}:{number} acknowledged at {position} is lost"));
            assert_eq!(parse(&there.entry), (who as u32, number as u32));
        }
        assert!(positions.windows(2).all(|pair| pair[0] < pair[1]), "acknowledgements out of order");
    }
    for tail in tails {
        let seen = tail.take(items.len()).map(|item| item.unwrap()).collect();
        let seen: Vec<_> = tokio::time::timeout(PATIENCE, seen).await.expect("the tail goes on");
        assert_eq!(seen, items, "a tail that lived through it saw another log");
    }
    let copies = items.len() - told.iter().map(Vec::len).sum::<usize>();
    println!("{} entries, {copies} of them second copies after unknown outcomes", items.len());
}

async fn connected(health: &mut watch::Receiver<LogHealth>, want: bool) {
    let seen = tokio::time::timeout(PATIENCE, health.wait_for(|health| health.is_connected() == want)).await;
    seen.unwrap_or_else(|_| panic!("the log is not connected: {want}, not so after {PATIENCE:?}"))
        .expect("the state is sent while the log lives");
}

/// A session that expires on the server is replaced inside: the incarnation stays, appends and tails go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_session_is_replaced() {
    let server = server();
    let proxy = Proxy::start(server.address()).await.unwrap();
    let root = new_root();
    let behind = Config {
        session_timeout: Duration::from_millis(800),
        append_timeout: Duration::from_millis(700),
        ..hasty(&proxy.connect(), &root, 0)
    };
    let (log, _) = ZnodeLog::open(behind).await.unwrap();
    let (other, _) = ZnodeLog::open(config(&server.connect(), &root, 1)).await.unwrap();
    let mut tail = log.tail(Position::START);
    append(&log, entry(0, 0)).await;
    let mut next = async || {
        let item = tokio::time::timeout(PATIENCE, tail.next()).await.expect("the tail goes on");
        parse(&item.unwrap().unwrap().entry)
    };
    assert_eq!(next().await, (0, 0));
    let mut health = log.health();
    connected(&mut health, true).await;

    proxy.set_cut(true);
    connected(&mut health, false).await;
    append(&other, entry(1, 0)).await;
    let started = std::time::Instant::now();
    let refused = log.append(entry(0, 1)).await;
    // Unknown: its connection was not known to be cut yet.
    let is_refused = matches!(refused, Err(AppendError::Unavailable { .. } | AppendError::Unknown { .. }));
    assert!(is_refused, "{refused:?}");
    assert!(started.elapsed() < Duration::from_secs(3), "an append must be bounded, took {:?}", started.elapsed());
    // Past the session's time-out on either side.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    proxy.set_cut(false);

    connected(&mut health, true).await;
    append(&log, entry(0, 2)).await;
    assert_eq!([next().await, next().await], [(1, 0), (0, 2)]);
    assert_eq!(read_to_end(&other, Position::START).await.len(), 3, "the refused append never came");
}

/// Connections that break all the time: no acknowledged entry is lost or told a wrong place, no tail skips or repeats.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flapping_connections_change_nothing() {
    let server = server();
    let proxy = Proxy::start(server.address()).await.unwrap();
    let root = new_root();
    let with =
        |connect: &str, replica| Config { segment_entries: 9, batches_in_flight: 4, ..hasty(connect, &root, replica) };
    let (log, _) = ZnodeLog::open(with(&proxy.connect(), 0)).await.unwrap();
    let (calm, _) = ZnodeLog::open(with(&server.connect(), 1)).await.unwrap();
    let tail = log.tail(Position::START);
    let appenders: Vec<_> = (0..4u32)
        .map(|who| {
            let log = if who == 3 { calm.clone() } else { log.clone() };
            tokio::spawn(async move {
                let mut told = Vec::new();
                for number in 0..40 {
                    told.push((append(&log, entry(who, number)).await, (who, number)));
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                told
            })
        })
        .collect();
    // A number of times, not for ever: on a busy machine a session may need longer than the next cut leaves it.
    for _ in 0..FLAPS {
        let pause = rand::rng().random_range(30..200);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        proxy.set_cut(true);
        tokio::time::sleep(Duration::from_millis(10)).await;
        proxy.set_cut(false);
    }
    let told = tokio::time::timeout(PATIENCE, join_all(appenders)).await.expect("appends go on");
    let items = read_to_end(&calm, Position::START).await;
    assert_dense(&items);
    for (position, who) in told.into_iter().flat_map(|told| told.unwrap()) {
        let there = items.iter().find(|item| item.position == position);
        assert_eq!(there.map(|item| parse(&item.entry)), Some(who), "at {position}");
    }
    let seen = tail.take(items.len()).map(|item| item.unwrap()).collect();
    let seen: Vec<_> = tokio::time::timeout(PATIENCE, seen).await.expect("the tail goes on");
    assert_eq!(seen, items);
}

/// A server that is not there is an error that names it, within the bound; settings that can't work name their field.
#[tokio::test]
async fn opening_fails_in_words() {
    let nobody = Config { open_timeout: Duration::from_millis(600), ..config("127.0.0.1:1", "/r", 0) };
    let started = std::time::Instant::now();
    let error = ZnodeLog::open(nobody.clone()).await.unwrap_err();
    assert!(matches!(error, OpenError::Unavailable { .. }) && error.to_string().contains("127.0.0.1:1"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(3));
    for (wrong, word) in [
        (Config { max_entry_bytes: 1 << 20, ..nobody.clone() }, "max_entry_bytes"),
        (Config { segment_entries: 0, ..nobody.clone() }, "segment_entries"),
        (Config { root: "r/".into(), ..nobody.clone() }, "root"),
        (Config { connect: " ".into(), ..nobody.clone() }, "connect"),
        (Config { batches_in_flight: 0, ..nobody }, "batches_in_flight"),
    ] {
        let error = ZnodeLog::open(wrong).await.unwrap_err();
        assert!(matches!(error, OpenError::Config(_)) && error.to_string().contains(word), "{error}");
    }
}

/// With credentials, others may not read, write or take over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_keep_others_out() {
    let server = server();
    let root = new_root();
    let auth = |password: &str| Some(DigestAuth { user: "rdb".into(), password: password.into() });
    let ours = Config {
        auth: auth("secret"),
        segment_entries: 3,
        max_entry_bytes: 100,
        max_body_bytes: 10_000,
        ..config(&server.connect(), &root, 0)
    };
    let (log, _) = ZnodeLog::open(ours.clone()).await.unwrap();
    for number in 0..8 {
        append(&log, entry(0, number)).await;
    }
    append(&log, vec![b'x'; 1000].into()).await;
    assert_eq!(read(&log, Position::START, 9).await.len(), 9);
    for theirs in [Config { auth: None, ..ours.clone() }, Config { auth: auth("guess"), ..ours.clone() }] {
        let error = ZnodeLog::open(theirs).await.unwrap_err();
        assert!(matches!(error, OpenError::Refused { .. }), "{error}");
    }
    append(&log, entry(0, 9)).await;
    let (again, _) = ZnodeLog::open(ours).await.unwrap();
    assert_eq!(read(&again, Position::START, 10).await.len(), 10);
}

/// All nodes below a root, and whether anybody may touch them.
async fn nodes(client: &Client, root: &str) -> Vec<(String, bool)> {
    let (mut found, mut paths) = (Vec::new(), vec![root.to_owned()]);
    while let Some(path) = paths.pop() {
        let Ok((acl, _)) = client.get_acl(&path).await else { continue };
        let children = client.list_children(&path).await.unwrap_or_default();
        paths.extend(children.into_iter().map(|name| format!("{path}/{name}")));
        found.push((path, acl.iter().any(|acl| acl.scheme() == "world")));
    }
    found
}

/// A log that anybody may touch becomes its replicas' own, one by one, and everybody's again; they work all the while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_come_and_go_on_a_log_in_use() {
    let server = server();
    let root = new_root();
    let auth = Some(DigestAuth { user: "rdb".into(), password: "secret".into() });
    let small = |replica| Config {
        segment_entries: 3,
        max_entry_bytes: 100,
        max_body_bytes: 10_000,
        ..config(&server.connect(), &root, replica)
    };
    let meanwhile = |replica| Config { auth: auth.clone(), open_to_all: true, ..small(replica) };
    let closed = |replica| Config { auth: auth.clone(), ..small(replica) };
    let ours = Client::connector().with_auth("digest", b"rdb:secret").connect(&server.connect()).await.unwrap();
    let all_are = async |open: bool| {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let found = nodes(&ours, &root).await;
            if found.len() > 20 && found.iter().all(|(_, is_open)| *is_open == open) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "not all are {open}: {found:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (before, _) = ZnodeLog::open(small(0)).await.unwrap();
    let mut number = 0;
    let mut write = async |log: &ZnodeLog, replica: u32| {
        for _ in 0..4 {
            append(log, entry(replica, number)).await;
            number += 1;
        }
        append(log, vec![b'x'; 1000].into()).await;
    };
    write(&before, 0).await;
    // one without credentials and one with, and then with and closed
    let (first, _) = ZnodeLog::open(meanwhile(1)).await.unwrap();
    write(&first, 1).await;
    write(&before, 0).await;
    drop(before);
    let (second, _) = ZnodeLog::open(meanwhile(0)).await.unwrap();
    all_are(true).await;
    let (third, _) = ZnodeLog::open(closed(0)).await.unwrap();
    write(&third, 0).await;
    write(&first, 1).await;
    drop((first, second));
    let (fourth, _) = ZnodeLog::open(closed(1)).await.unwrap();
    all_are(false).await;
    assert!(matches!(ZnodeLog::open(small(2)).await, Err(OpenError::Refused { .. })));
    write(&fourth, 1).await;
    all_are(false).await;
    // and back
    drop((third, fourth));
    let (fifth, _) = ZnodeLog::open(meanwhile(0)).await.unwrap();
    all_are(true).await;
    write(&fifth, 0).await;
    let (after, _) = ZnodeLog::open(small(1)).await.unwrap();
    write(&after, 1).await;
    assert_eq!(read(&after, Position::START, 40).await.len(), 40);
}

/// Who only looks changes nobody's nodes; and one of somebody else's keeps a replica from none of the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_alone_change_owners_and_of_all_nodes_that_they_may() {
    let server = server();
    let root = new_root();
    let auth = Some(DigestAuth { user: "rdb".into(), password: "secret".into() });
    let (before, _) = ZnodeLog::open(config(&server.connect(), &root, 0)).await.unwrap();
    for number in 0..4 {
        append(&before, entry(0, number)).await;
    }
    let stranger = Client::connector().with_auth("digest", b"other:word").connect(&server.connect()).await.unwrap();
    let theirs = format!("{root}/theirs");
    stranger.create(&theirs, &[], &CreateMode::Persistent.with_acls(Acls::creator_all())).await.unwrap();
    let ours = Client::connector().with_auth("digest", b"rdb:secret").connect(&server.connect()).await.unwrap();
    let there: Vec<_> = nodes(&ours, &root).await;
    assert!(there.len() > 8 && there.iter().all(|(path, open)| *open || *path == theirs), "{there:?}");
    let looks = Config { auth: auth.clone(), grant: false, ..config(&server.connect(), &root, 7) };
    let (reader, _) = ZnodeLog::open(looks).await.unwrap();
    for number in 4..20 {
        append(&before, entry(0, number)).await;
    }
    assert_eq!(read(&reader, Position::START, 20).await.len(), 20);
    let found = nodes(&ours, &root).await;
    assert!(there.iter().all(|node| found.contains(node)), "{there:?} became {found:?}");
    drop(before);
    let (_closed, _) = ZnodeLog::open(Config { auth, ..config(&server.connect(), &root, 0) }).await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = nodes(&ours, &root).await;
        if found.iter().all(|(_, open)| !open) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "not all are closed: {found:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the roots are below is nobody's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_of_others_have_their_roots_beside() {
    let server = server();
    let above = new_root();
    for (name, password) in [("a", "one"), ("b", "two")] {
        let auth = Some(DigestAuth { user: "rdb".into(), password: password.into() });
        let root = format!("{above}/prod/{name}");
        let (log, _) = ZnodeLog::open(Config { auth, ..config(&server.connect(), &root, 0) }).await.unwrap();
        append(&log, entry(0, 0)).await;
    }
}

/// Many that open the same replica at once: every one gets an incarnation of its own, one of them can append.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_incarnation_lives() {
    let server: ZooKeeper = server();
    let root = new_root();
    let opened = join_all((0..6).map(|_| ZnodeLog::open(config(&server.connect(), &root, 5)))).await;
    let opened: Vec<_> = opened.into_iter().map(|opened| opened.unwrap()).collect();
    let newest = opened.iter().map(|(_, incarnation)| *incarnation).max().unwrap();
    assert_eq!(opened.iter().filter(|(_, incarnation)| *incarnation == newest).count(), 1);
    for (log, incarnation) in &opened {
        let answer = log.append(entry(0, 0)).await;
        assert_eq!(answer.is_ok(), *incarnation == newest, "{incarnation}: {answer:?}");
    }
}
