//! Entries that replicas push to each other: read from memory when they come, and in the log when they don't.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use common::{config, new_root, server};
use futures::future::join_all;
use replicateddb_ordering::conformance::{append, append_requests, entry, parse, read, read_to_end};
use replicateddb_ordering::fixture::ZooKeeper;
use replicateddb_ordering::znode_log::{Config, ZnodeLog};
use replicateddb_ordering::{AppendError, LogError, OrderedLog, Position};
use tokio::task::JoinHandle;

/// How long what must happen may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests of an entry that waits for others.
const MANY_REQUESTS: usize = 20;
/// Bytes under way in a connection.
const PIPE_BYTES: usize = 1 << 20;

/// Has `from` push to `to`.
fn connect(from: &ZnodeLog, to: &ZnodeLog) -> [JoinHandle<()>; 2] {
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let (from, to) = (from.clone(), to.clone());
    [
        tokio::spawn(async move { drop(from.push_to(near).await) }),
        tokio::spawn(async move { drop(to.take_pushes(far).await) }),
    ]
}

/// Completes once what `from` appends comes to `to` without ZooKeeper's help: from then on the connection is there.
async fn connected(from: &ZnodeLog, to: &ZnodeLog) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !to.has_pushed(append(from, entry(0, 0)).await) {
        assert!(tokio::time::Instant::now() < deadline, "nothing is pushed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_pushed_is_read_without_zookeeper() {
    let mut server = server();
    let root = new_root();
    let (writer, _) = ZnodeLog::open(config(&server.connect(), &root, 0)).await.unwrap();
    let (reader, _) = ZnodeLog::open(config(&server.connect(), &root, 1)).await.unwrap();
    connect(&writer, &reader);
    connected(&writer, &reader).await;
    let begin = append(&writer, entry(0, 1)).await;
    let written: Vec<_> = join_all((2..20).map(|number| append(&writer, entry(0, number)))).await;
    let last = written.into_iter().max().expect("some");
    let all_here = async {
        while !reader.has_pushed(last) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all_here).await.expect("all are pushed");
    let in_the_log = read(&writer, begin, 19).await;
    server.kill();
    let pushed = tokio::time::timeout(PATIENCE, read(&reader, begin, 19)).await.expect("from memory");
    assert_eq!(pushed, in_the_log, "with the same positions and times");
}

/// Three replicas push to each other while they append, over many segments, with entries too large to be pushed, and
/// with connections that end in the middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_has_what_is_not_pushed() {
    const ENTRIES: u32 = 60;
    let server = server();
    let root = new_root();
    let with = |replica| Config { segment_entries: 9, ..config(&server.connect(), &root, replica) };
    let logs = join_all((0..3).map(|replica| ZnodeLog::open(with(replica)))).await;
    let logs: Vec<ZnodeLog> = logs.into_iter().map(|opened| opened.unwrap().0).collect();
    let mut connections = Vec::new();
    for (to, log) in logs.iter().enumerate() {
        log.expect_pushes((0..3u32).filter(|other| *other as usize != to).collect::<BTreeSet<u32>>());
        connections
            .extend(logs.iter().enumerate().filter(|(from, _)| *from != to).flat_map(|(_, from)| connect(from, log)));
    }
    let writing = join_all(logs.iter().enumerate().map(async |(replica, log)| {
        for number in 0..ENTRIES {
            if number == 20 {
                let large = vec![u8::try_from(replica).expect("small"); 300 << 10];
                log.append(large.into()).await.expect("appended");
            }
            if number == 40 && replica == 0 {
                connections.iter().step_by(3).for_each(JoinHandle::abort);
            }
            append(log, entry(replica as u32, number)).await;
        }
    }));
    let count = 3 * (ENTRIES as usize + 1);
    let reading = join_all(logs.iter().map(|log| read(log, Position::START, count)));
    let (_, orders) =
        tokio::time::timeout(PATIENCE, futures::future::join(writing, reading)).await.expect("all is read");
    assert!(orders.iter().all(|order| *order == orders[0]), "one order");
}

/// Who lives is listed as it is, and answers; who was replaced, or has resigned, is not, and can't list anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lives_are_listed_and_asked() {
    let server = server();
    let root = new_root();
    let open = async |replica| ZnodeLog::open(config(&server.connect(), &root, replica)).await.unwrap();
    let ((zero, of_zero), (one, of_one), (two, of_two)) = (open(0).await, open(1).await, open(2).await);
    let all = BTreeSet::from([(0, of_zero), (1, of_one), (2, of_two)]);
    assert_eq!(zero.living().await, Ok(all.clone()));
    assert_eq!(zero.ask(&all).await, None, "nobody is connected");
    for (log, shown) in [(&one, 7), (&two, 5)] {
        log.vouch(Arc::new(AtomicU64::new(shown)));
        connect(log, &zero);
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while zero.ask(&all).await != Some(7) {
        assert!(tokio::time::Instant::now() < deadline, "no answer");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (_again, of_one_again) = open(1).await;
    let now = BTreeSet::from([(0, of_zero), (1, of_one_again), (2, of_two)]);
    assert_eq!(zero.living().await, Ok(now.clone()));
    assert_eq!(zero.ask(&now).await, None, "the new life does not answer yet");
    assert_eq!(one.living().await, Err(LogError::Fenced));
    two.resign().await.unwrap();
    assert_eq!(zero.living().await, Ok(BTreeSet::from([(0, of_zero), (1, of_one_again)])));
    assert_eq!(two.append(entry(2, 0)).await, Err(AppendError::Fenced));
    assert_eq!(two.resign().await, Err(LogError::Fenced));
    let (_, of_two_again) = open(2).await;
    assert!(zero.living().await.unwrap().contains(&(2, of_two_again)), "it may come back");
}

/// The replicas 0, 1 and 2, which push to each other; once entries of the others are handed over to 0.
async fn three(server: &ZooKeeper, root: &str) -> Vec<(ZnodeLog, Vec<JoinHandle<()>>)> {
    // Segments are sealed by whoever appends, too.
    let with = |replica| Config { segment_entries: 60, ..config(&server.connect(), root, replica) };
    let opened = join_all((0..3).map(|replica| ZnodeLog::open(with(replica)))).await;
    let logs: Vec<ZnodeLog> = opened.into_iter().map(|opened| opened.expect("opened").0).collect();
    let pushing = logs.iter().map(|from| {
        let others = logs.iter().filter(|to| to.incarnation() != from.incarnation());
        others.flat_map(|to| connect(from, to)).collect()
    });
    let connections: Vec<Vec<JoinHandle<()>>> = pushing.collect();
    for (own, log) in (0u32..).zip(&logs) {
        log.expect_pushes((0..3).filter(|other| *other != own).collect());
    }
    for log in &logs[1..] {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !log.is_carried() {
            assert!(tokio::time::Instant::now() < deadline, "nobody appends for it");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    logs.into_iter().zip(connections).collect()
}

/// Entries that are handed over stand in the log once, where their writers are told; in fewer transactions than entries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_appends_for_all() {
    const ENTRIES: u32 = 50;
    let server = server();
    let root = new_root();
    let logs = three(&server, &root).await;
    let writing = join_all(logs.iter().enumerate().map(async |(replica, (log, _))| {
        let mut places = Vec::new();
        for number in 0..ENTRIES {
            let entry = entry(replica as u32, number);
            places.push((append_requests(log, entry.clone(), MANY_REQUESTS).await, entry));
        }
        places
    }));
    let places = tokio::time::timeout(PATIENCE, writing).await.expect("all are appended");
    let count = 3 * ENTRIES as usize;
    let orders = join_all(logs.iter().map(|(log, _)| read(log, Position::START, count))).await;
    assert!(orders.iter().all(|order| *order == orders[0]), "one order");
    let mut told: Vec<_> = places.into_iter().flatten().collect();
    told.sort();
    let stands: Vec<_> = orders[0].iter().map(|committed| (committed.position, committed.entry.clone())).collect();
    assert_eq!(told, stands, "each stands once, where its writer was told");
    let transactions: BTreeSet<i64> = log_nodes(&server, &root).await;
    assert!(transactions.len() < count * 2 / 3, "{} transactions for {count} entries", transactions.len());
}

/// The transactions that the entries came with.
async fn log_nodes(server: &ZooKeeper, root: &str) -> BTreeSet<i64> {
    let client = zookeeper_client::Client::connect(&server.connect()).await.expect("connected");
    let requests = format!("{root}/requests");
    let mut transactions = BTreeSet::new();
    for segment in client.list_children(&requests).await.expect("listed") {
        for name in client.list_children(&format!("{requests}/{segment}")).await.expect("listed") {
            let entry = client.check_stat(&format!("{requests}/{segment}/{name}")).await.expect("looked at");
            transactions.insert(entry.expect("it is there").czxid);
        }
    }
    transactions
}

/// Whoever appends for the others goes, with entries of theirs on their way: they append them again, by themselves. Its next
/// life has nothing to do with the last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_others_go_on_without_it() {
    const ENTRIES: u32 = 60;
    let server = server();
    let root = new_root();
    let logs = three(&server, &root).await;
    let writing = join_all(logs.iter().enumerate().skip(1).map(async |(replica, (log, _))| {
        let mut unknown = 0;
        for number in 0..ENTRIES {
            if number == 20 && replica == 1 {
                logs[0].1.iter().for_each(JoinHandle::abort);
            }
            while let Err(error) = log.append(entry(replica as u32, number)).await {
                assert!(matches!(error, AppendError::Unknown { .. }), "{error}");
                unknown += 1;
            }
        }
        unknown
    }));
    let unknown = tokio::time::timeout(PATIENCE, writing).await.expect("all are appended");
    assert!(unknown.iter().all(|unknown| *unknown <= 1), "{unknown:?}: each has one entry on its way at most");
    let all = read_to_end(&logs[1].0, Position::START).await;
    for replica in 1..3 {
        let mut numbers: Vec<u32> = all
            .iter()
            .map(|committed| parse(&committed.entry))
            .filter(|(of, _)| *of == replica)
            .map(|(_, n)| n)
            .collect();
        assert!(numbers.is_sorted(), "in the order of its appends");
        numbers.dedup();
        assert_eq!(numbers, Vec::from_iter(0..ENTRIES), "each is there");
    }
}

/// Whoever appends for the others has a new life, and does not know it yet: it appends nothing more, and they go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_that_is_over_appends_for_nobody() {
    const ENTRIES: u32 = 30;
    let server = server();
    let root = new_root();
    let logs = three(&server, &root).await;
    let (_again, _) = ZnodeLog::open(config(&server.connect(), &root, 0)).await.unwrap();
    let writing = join_all(logs.iter().enumerate().skip(1).map(async |(replica, (log, _))| {
        for number in 0..ENTRIES {
            log.append(entry(replica as u32, number)).await.expect("appended, and known to be");
        }
    }));
    tokio::time::timeout(PATIENCE, writing).await.expect("all are appended");
    assert_eq!(read_to_end(&logs[1].0, Position::START).await.len(), 2 * ENTRIES as usize, "each once");
    assert_eq!(logs[0].0.append(entry(0, 0)).await, Err(AppendError::Fenced));
}

/// An entry of a life that is over comes to nothing, and those that go with it are none the worse (I6).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_appended_for_a_life_that_is_over() {
    let server = server();
    let root = new_root();
    let logs = three(&server, &root).await;
    let (_again, _) = ZnodeLog::open(config(&server.connect(), &root, 1)).await.unwrap();
    for number in 0..20 {
        let (zero, old, two) = futures::join!(
            logs[0].0.append(entry(0, number)),
            logs[1].0.append(entry(1, number)),
            logs[2].0.append(entry(2, number))
        );
        assert!(zero.is_ok() && two.is_ok(), "{zero:?} {two:?}");
        assert_eq!(old, Err(AppendError::Fenced));
    }
    let all = read_to_end(&logs[2].0, Position::START).await;
    assert_eq!(all.len(), 40, "nothing of the old life");
}

/// A replica that is gone is ended by another one; not its next life.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_is_ended_by_another() {
    let server = server();
    let root = new_root();
    let open = async |replica| ZnodeLog::open(config(&server.connect(), &root, replica)).await.unwrap();
    let ((zero, of_zero), (one, of_one)) = (open(0).await, open(1).await);
    one.append(entry(1, 0)).await.unwrap();
    for _ in 0..2 {
        zero.retire((1, of_one)).await.unwrap();
        assert_eq!(zero.living().await, Ok(BTreeSet::from([(0, of_zero)])));
    }
    assert_eq!(one.append(entry(1, 1)).await, Err(AppendError::Fenced), "I6");
    assert_eq!(one.retire((0, of_zero)).await, Err(LogError::Fenced), "nor does it end others");
    let (again, of_one_again) = open(1).await;
    zero.retire((1, of_one)).await.unwrap();
    zero.retire((9, of_one)).await.unwrap();
    assert!(zero.living().await.unwrap().contains(&(1, of_one_again)), "another life is another one");
    again.append(entry(1, 2)).await.unwrap();
}
