//! What lies in ZooKeeper: nothing left behind by truncation, and nothing strange taken for an entry.

mod common;

use std::time::{Duration, Instant};

use common::{config, hasty, new_root, server};
use futures::StreamExt;
use replicateddb_ordering::conformance::{append, entry, parse, read, read_to_end};
use replicateddb_ordering::fixture::{Proxy, ZooKeeper};
use replicateddb_ordering::znode_log::{Config, OpenError, ZnodeLog};
use replicateddb_ordering::{AppendError, LogError, OrderedLog, Position, TailError};
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions};

const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());

fn small(connect: &str, root: &str, replica: u32) -> Config {
    Config { segment_entries: 5, max_entry_bytes: 100, max_body_bytes: 1000, ..config(connect, root, replica) }
}

/// Every node below a path.
async fn nodes(client: &Client, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        for name in client.list_children(&path).await.expect("listed") {
            open.push(format!("{path}/{name}"));
            found.push(format!("{path}/{name}"));
        }
    }
    found
}

/// Waits until that many chunks of bodies are left: what was stored for a segment that filled up meanwhile goes in the background.
async fn chunks_become(client: &Client, root: &str, number: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let bodies = nodes(client, &format!("{root}/bodies")).await;
        let chunks = bodies.iter().filter(|path| path.matches('/').count() == root.matches('/').count() + 4);
        if chunks.count() == number {
            return;
        }
        assert!(Instant::now() < deadline, "{number} chunks are to be left: {bodies:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn failure(log: &ZnodeLog, from: Position) -> TailError {
    let mut tail = log.tail(from);
    let wait = async {
        loop {
            if let Err(error) = tail.next().await.expect("a tail ends with an error only") {
                assert!(tail.next().await.is_none(), "an error is the last item");
                return error;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("an error comes")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncation_leaves_nothing() {
    let server = server();
    let root = new_root();
    let client = Client::connect(&server.connect()).await.unwrap();
    let (log, _) = ZnodeLog::open(small(&server.connect(), &root, 0)).await.unwrap();
    let large = vec![7u8; 350];
    for number in 0..23 {
        let body = if number % 4 == 1 { large.clone().into() } else { entry(0, number) };
        append(&log, body).await;
    }
    let all = read_to_end(&log, Position::START).await;
    // A body that no entry names, as a crash leaves it, goes with its segment.
    client.mkdir(&format!("{root}/bodies/0000000000/orphan"), &PERSISTENT).await.unwrap();
    client.create(&format!("{root}/bodies/0000000000/orphan/00000"), b"x", &PERSISTENT).await.unwrap();
    let cut = &all[14];
    assert!(cut.position.segment >= 2 && cut.position.sequence > 0, "the cut is inside a later segment");
    log.truncate(cut.position.into()).await.unwrap();
    log.truncate(cut.position.into()).await.expect("again");

    let left = nodes(&client, &format!("{root}/requests")).await;
    let entries: Vec<_> = left.iter().filter(|path| path.contains("/e-")).collect();
    assert_eq!(entries.len(), all.len() - 14 + 1, "{entries:?} (with the barrier)");
    let segments: Vec<_> = left.iter().filter(|path| !path.contains("/e-")).collect();
    assert!(
        segments.iter().all(|path| path.as_str() >= format!("{root}/requests/{:010}", cut.position.segment).as_str())
    );
    let large_left = all[14..].iter().filter(|item| item.entry.len() == 350).count();
    chunks_become(&client, &root, large_left * 4).await;
    assert_eq!(read(&log, cut.position, all.len() - 14).await, all[14..]);

    // Given up to the end: one open segment without entries is all that stays.
    log.truncate(log.end().await.unwrap().into()).await.unwrap();
    assert_eq!(nodes(&client, &format!("{root}/requests")).await.len(), 1);
    assert!(nodes(&client, &format!("{root}/bodies")).await.len() <= 1);
    append(&log, large.into()).await;
    assert_eq!(read_to_end(&log, log.first().await.unwrap()).await.len(), 1);
}

/// Bodies that were stored for a segment which others filled meanwhile are stored again with the next one, and not left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_no_entry_names_go() {
    const WRITERS: u32 = 8;
    const EACH: u32 = 12;
    let server = server();
    let root = new_root();
    let client = Client::connect(&server.connect()).await.unwrap();
    let (log, _) = ZnodeLog::open(small(&server.connect(), &root, 0)).await.unwrap();
    let writers = (0..WRITERS).map(|_| async {
        for _ in 0..EACH {
            append(&log, vec![7u8; 950].into()).await;
        }
    });
    futures::future::join_all(writers).await;
    chunks_become(&client, &root, (WRITERS * EACH) as usize * 10).await;
    assert_eq!(read_to_end(&log, Position::START).await.len(), (WRITERS * EACH) as usize);
}

/// A truncation that stopped after it had moved the first position is finished by the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_truncation_is_finished() {
    let server = server();
    let root = new_root();
    let client = Client::connect(&server.connect()).await.unwrap();
    let (log, _) = ZnodeLog::open(small(&server.connect(), &root, 0)).await.unwrap();
    for number in 0..17 {
        append(&log, entry(0, number)).await;
    }
    let all = read_to_end(&log, Position::START).await;
    let first = format!(
        r#"{{"format":2,"id":"{}","first":{{"segment":{},"sequence":{}}}}}"#,
        log.log_id(),
        all[8].position.segment,
        all[8].position.sequence
    );
    client.set_data(&format!("{root}/requests"), first.as_bytes(), None).await.unwrap();
    client.delete(&format!("{root}/requests/0000000000/e-0000000000"), None).await.unwrap();
    client.delete(&format!("{root}/requests/0000000000/e-0000000002"), None).await.unwrap();
    assert_eq!(failure(&log, Position::START).await, TailError::Truncated { first: all[8].position });
    assert_eq!(log.first().await, Ok(all[8].position));
    log.truncate(all[3].position.into()).await.expect("below the first position: finishes what was begun");
    assert_eq!(log.first().await, Ok(all[8].position));
    let left = nodes(&client, &format!("{root}/requests")).await;
    assert_eq!(left.iter().filter(|path| path.contains("/e-")).count(), all.len() - 8 + 1);
}

/// I8: what is damaged is said to be, and nothing after it is delivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_never_skipped() {
    let server = server();
    let client = Client::connect(&server.connect()).await.unwrap();
    let sequential = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());
    for damage in 0..6 {
        let root = new_root();
        let with = |replica| Config { recent_entries: 0, ..small(&server.connect(), &root, replica) };
        let (log, _) = ZnodeLog::open(with(0)).await.unwrap();
        for number in 0..3 {
            append(&log, entry(0, number)).await;
        }
        let segment = format!("{root}/requests/0000000000");
        let expected = match damage {
            0 => {
                client.create(&format!("{segment}/e-"), b"garbage", &sequential).await.unwrap();
                Position::new(0, 3)
            }
            1 => {
                client.set_data(&format!("{segment}/e-0000000001"), b"RDBe", None).await.unwrap();
                Position::new(0, 1)
            }
            2 => {
                client.delete(&format!("{segment}/e-0000000001"), None).await.unwrap();
                Position::new(0, 1)
            }
            3 => {
                append(&log, vec![1; 500].into()).await;
                let body = nodes(&client, &format!("{root}/bodies")).await;
                let chunk = body.iter().find(|path| path.ends_with("/00002")).expect("a chunk");
                client.delete(chunk, None).await.unwrap();
                Position::new(0, 3)
            }
            4 => {
                append(&log, vec![1; 500].into()).await;
                let body = nodes(&client, &format!("{root}/bodies")).await;
                let chunk = body.iter().find(|path| path.ends_with("/00002")).expect("a chunk");
                client.set_data(chunk, &[2; 100], None).await.unwrap();
                Position::new(0, 3)
            }
            // The last of a sealed segment.
            _ => {
                for number in 3..8 {
                    append(&log, entry(0, number)).await;
                }
                while log.end().await.unwrap().segment == 0 {
                    append(&log, entry(0, 8)).await;
                }
                let last = nodes(&client, &segment).await.into_iter().max().expect("entries");
                client.delete(&last, None).await.unwrap();
                Position::new(0, last[last.len() - 10..].parse().expect("a number"))
            }
        };
        append(&log, entry(0, 99)).await;
        let (reader, _) = ZnodeLog::open(with(1)).await.unwrap();
        let error = failure(&reader, Position::START).await;
        assert!(matches!(&error, TailError::Corrupt { position, .. } if *position == expected), "{damage}: {error}");
        if expected > Position::START {
            let before = read(&reader, Position::START, expected.sequence as usize).await;
            assert_eq!(before.len(), expected.sequence as usize, "what comes before the damage is delivered");
            assert!(before.iter().all(|item| item.entry.len() == 500 || parse(&item.entry).0 == 0));
        }
    }
}

/// A log that was deleted, or deleted and made again, is not read on as if it were the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_log_is_noticed() {
    let server = server();
    let root = new_root();
    let client = Client::connect(&server.connect()).await.unwrap();
    let (log, _) = ZnodeLog::open(config(&server.connect(), &root, 0)).await.unwrap();
    append(&log, entry(0, 0)).await;
    let mut tail = log.tail(Position::START);
    assert!(tail.next().await.unwrap().is_ok());
    for path in ["requests/0000000000/e-0000000000", "requests/0000000000", "requests"] {
        client.delete(&format!("{root}/{path}"), None).await.unwrap();
    }
    // Its successor in the other log has another name, whatever its number.
    let incarnations = format!("{root}/incarnations/0");
    for name in client.list_children(&incarnations).await.unwrap() {
        client.delete(&format!("{incarnations}/{name}"), None).await.unwrap();
    }
    client.delete(&incarnations, None).await.unwrap();
    let (new, _) = ZnodeLog::open(config(&server.connect(), &root, 0)).await.unwrap();
    assert_ne!(new.log_id(), log.log_id());
    append(&new, entry(1, 0)).await;
    append(&new, entry(1, 1)).await;
    let item = tokio::time::timeout(Duration::from_secs(20), tail.next()).await.unwrap().unwrap();
    assert!(matches!(item, Err(TailError::Lost)), "{item:?}");
    assert!(matches!(failure(&log, Position::START).await, TailError::Lost));
    // Nor is it taken for a newer incarnation, which would end the replica for good.
    assert!(matches!(log.append(entry(0, 1)).await, Err(AppendError::Unavailable { .. })));
    assert_eq!(log.first().await, Err(LogError::Lost));
}

/// ZooKeeper's number of the change that made the log.
async fn made_at(server: &ZooKeeper, root: &str) -> i64 {
    let client = Client::connect(&server.connect()).await.expect("connected");
    client.get_data(&format!("{root}/requests")).await.expect("there is a log").1.czxid
}

/// A ZooKeeper that has lost its data counts from the beginning: what is set up again in the same way has the same numbers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_log_of_the_same_numbers_is_noticed() {
    let mut server = server();
    let root = new_root();
    let proxy = Proxy::start(server.address()).await.unwrap();
    let (log, _) = ZnodeLog::open(hasty(&proxy.connect(), &root, 0)).await.unwrap();
    let number = made_at(&server, &root).await;
    append(&log, entry(0, 0)).await;
    let mut tail = log.tail(Position::START);
    assert!(tail.next().await.unwrap().is_ok());

    proxy.set_cut(true);
    server.wipe().unwrap();
    server.resume().unwrap();
    let (new, _) = ZnodeLog::open(hasty(&server.connect(), &root, 0)).await.unwrap();
    assert_eq!(
        (made_at(&server, &root).await, new.incarnation()),
        (number, log.incarnation()),
        "not the case in point"
    );
    assert_ne!(new.log_id(), log.log_id());
    // As far as the other was, at least: a client refuses a server that is behind what it has seen.
    for number in 0..20 {
        append(&new, entry(1, number)).await;
    }
    proxy.set_cut(false);
    let item = tokio::time::timeout(Duration::from_secs(20), tail.next()).await.unwrap().unwrap();
    assert!(matches!(item, Err(TailError::Lost)), "{item:?}");
    assert!(matches!(failure(&log, Position::START).await, TailError::Lost));
    assert!(matches!(log.append(entry(0, 1)).await, Err(AppendError::Unavailable { .. })));
    assert_eq!(log.first().await, Err(LogError::Lost));
    assert_eq!(log.truncate(Position::new(0, 1).into()).await, Err(LogError::Lost));
    assert_eq!(read_to_end(&new, Position::START).await.len(), 20, "the other log is left alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_that_holds_something_else_is_left_alone() {
    let server = server();
    let root = new_root();
    let client = Client::connect(&server.connect()).await.unwrap();
    client.mkdir(&format!("{root}/requests"), &PERSISTENT).await.unwrap();
    let error = ZnodeLog::open(config(&server.connect(), &root, 0)).await.unwrap_err();
    assert!(matches!(&error, OpenError::Foreign { path, .. } if path.ends_with("/requests")), "{error}");
    client
        .set_data(&format!("{root}/requests"), br#"{"format":9,"first":{"segment":0,"sequence":0}}"#, None)
        .await
        .unwrap();
    let error = ZnodeLog::open(config(&server.connect(), &root, 0)).await.unwrap_err();
    assert!(error.to_string().contains("format 9"), "{error}");
}
