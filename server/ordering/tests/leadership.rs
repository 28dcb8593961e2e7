//! Who leads, and what happens when that changes.

mod common;
#[path = "common/wires.rs"]
mod wires;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{config, hasty, new_root, server};
use futures::future::join_all;
use replicateddb_ordering::conformance::{append, assert_dense, entry, parse, read_to_end};
use replicateddb_ordering::fixture::{Proxy, ZooKeeper};
use replicateddb_ordering::zookeeper_leader::{Backlog, Config, Standing, ZooKeeperLeader};
use replicateddb_ordering::{AppendError, OrderedLog, Position, znode_log};
use tokio::time::{Instant, sleep, timeout};
use wires::{Wires, see};
use zookeeper_client::Client;

/// How long what must happen may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn leads(replica: u32) -> impl FnMut(&Standing) -> bool {
    move |standing| standing.leader.as_ref().is_some_and(|leader| leader.replica == replica)
}

fn epoch(standing: &Standing) -> i32 {
    standing.leader.as_ref().expect("somebody leads").epoch
}

/// Replicas 0, 1 and 2; sessions that last for half a minute, and 0 leads.
async fn three(server: &ZooKeeper, root: &str, wires: &Wires) -> Vec<ZooKeeperLeader> {
    let mut logs = Vec::new();
    for replica in 0..3 {
        let with = znode_log::Config { segment_entries: 20, ..config(&server.connect(), root, replica) };
        logs.push(wires.open(wires.config(with)).await.0);
    }
    for log in &logs {
        see(log, "0 leads", leads(0)).await;
    }
    logs
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lowest_is_elected_and_stays() {
    let server = server();
    let (root, wires) = (new_root(), Wires::default());
    let open = async |replica| wires.open(wires.config(config(&server.connect(), &root, replica))).await.0;
    let two = open(2).await;
    let first = epoch(&see(&two, "it is alone", |standing| standing.leads).await);
    let (one, zero) = (open(1).await, open(0).await);
    for log in [&zero, &one, &two] {
        append(log, entry(0, 0)).await;
        see(log, "who leads stays", leads(2)).await;
    }
    two.hand_over().await;
    assert!(!two.standing().borrow().leads, "it has handed over");
    let second = epoch(&see(&one, "the lowest of the others", leads(0)).await);
    assert!(second > first);
    // The one that is about to stop comes last; so do all if all are.
    zero.hand_over().await;
    see(&two, "1 is not about to stop", leads(1)).await;
    one.hand_over().await;
    see(&two, "there is no better one", leads(1)).await;
    one.resign().await.expect("resigned");
    let last = epoch(&see(&two, "the lowest of those that are about to stop", leads(0)).await);
    assert!(last > second);
    append(&two, entry(2, 2)).await;
    assert_eq!(one.append(entry(1, 1)).await, Err(AppendError::Fenced));
}

/// Writers on all three; each entry is appended until it is known to be in the log.
async fn write(logs: &[ZooKeeperLeader], from: u32, count: u32) {
    let writing = logs.iter().enumerate().map(async |(replica, log)| {
        for number in from..from + count {
            append(log, entry(replica as u32, number)).await;
        }
    });
    timeout(PATIENCE, join_all(writing)).await.expect("all are appended");
}

/// Every entry is there, first copies in the order of their writer; how many second copies there are.
async fn assert_all(log: &ZooKeeperLeader, replicas: impl IntoIterator<Item = u32>, count: u32) -> usize {
    let all = read_to_end(log, Position::START).await;
    assert_dense(&all);
    let mut copies = all.len();
    for replica in replicas {
        let mut seen = BTreeSet::new();
        let of = all.iter().map(|item| parse(&item.entry)).filter(|(who, _)| *who == replica);
        let firsts: Vec<u32> = of.map(|(_, number)| number).filter(|number| seen.insert(*number)).collect();
        assert_eq!(firsts, Vec::from_iter(0..count), "of replica {replica}");
        copies -= firsts.len();
    }
    copies
}

/// Leaders that stop one after the other, under load, cost nobody a session's time-out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_waits_for_no_session() {
    const ENTRIES: u32 = 150;
    let server = server();
    let (root, wires) = (new_root(), Wires::default());
    let logs = three(&server, &root, &wires).await;
    let started = Instant::now();
    let roll = async {
        for replica in [0usize, 1] {
            while logs[2].end().await.expect("known") < Position::new(replica as u32, 10) {
                sleep(Duration::from_millis(2)).await;
            }
            let asked = Instant::now();
            logs[replica].hand_over().await;
            let standing = see(&logs[2], "another one leads", |standing| {
                standing.leader.as_ref().is_some_and(|leader| leader.replica > replica as u32)
            });
            standing.await;
            println!("handed over in {:?}", asked.elapsed());
        }
    };
    futures::join!(roll, write(&logs, 0, ENTRIES));
    assert!(started.elapsed() < Duration::from_secs(25), "a session's time-out is 30 s: {:?}", started.elapsed());
    let copies = assert_all(&logs[2], 0..3, ENTRIES).await;
    println!("{copies} second copies");
    assert_eq!(logs[0].backlog(), Backlog::default());
}

/// A leader that can reach nobody is replaced when its session ends, and what it had of the others' goes to the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_others_go_on_without_a_leader_that_is_gone() {
    const ENTRIES: u32 = 40;
    let server = server();
    let (root, wires) = (new_root(), Wires::default());
    let proxy = Proxy::start(server.address()).await.unwrap();
    let behind = wires.config(hasty(&proxy.connect(), &root, 0));
    let address = behind.address.clone();
    let zero = wires.open(behind).await.0;
    see(&zero, "it is alone", |standing| standing.leads).await;
    let open = async |replica| wires.open(wires.config(hasty(&server.connect(), &root, replica))).await.0;
    let others = [open(1).await, open(2).await];
    let writing = others.iter().zip(1u32..).map(async |(log, replica)| {
        for number in 0..ENTRIES {
            append(log, entry(replica, number)).await;
        }
    });
    let gone = async {
        while others[0].end().await.expect("known") < Position::new(0, 20) {
            sleep(Duration::from_millis(1)).await;
        }
        proxy.set_cut(true);
        wires.set_cut(&address, true);
        let at = Instant::now();
        see(&others[1], "1 leads", leads(1)).await;
        println!("replaced after {:?} (a session of 2 s)", at.elapsed());
        at.elapsed()
    };
    let (took, _) = timeout(PATIENCE, futures::future::join(gone, join_all(writing))).await.expect("they go on");
    assert!(took < Duration::from_secs(30), "{took:?}");
    let lost = zero.append(entry(0, 0)).await;
    assert!(matches!(lost, Err(AppendError::Unavailable { .. } | AppendError::Unknown { .. })), "{lost:?}");
    assert_all(&others[0], 1..3, ENTRIES).await;
    // It is back, and follows.
    proxy.set_cut(false);
    wires.set_cut(&address, false);
    see(&zero, "it follows", leads(1)).await;
    append(&zero, entry(0, 1)).await;
}

/// A leader whose session is fine and that nobody else reaches hands over: no session ends, and an append is not even refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_nobody_reaches_hands_over() {
    let server = server();
    let (root, wires) = (new_root(), Wires::default());
    let zero = wires.config(config(&server.connect(), &root, 0));
    let address = zero.address.clone();
    let zero = wires.open(zero).await.0;
    see(&zero, "it is alone", |standing| standing.leads).await;
    let open = async |replica| wires.open(wires.config(config(&server.connect(), &root, replica))).await.0;
    let (one, two) = (open(1).await, open(2).await);
    append(&two, entry(2, 0)).await;
    wires.set_cut(&address, true);
    timeout(PATIENCE, append(&two, entry(2, 1))).await.expect("another one appends it");
    see(&zero, "1 leads", leads(1)).await;
    append(&zero, entry(0, 0)).await;
    // It is no better for having followed since.
    one.hand_over().await;
    see(&zero, "2 leads", leads(2)).await;
}

/// I6: one that was deposed and does not know it changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leader_changes_nothing() {
    let server = server();
    let (root, wires) = (new_root(), Wires::default());
    let logs = three(&server, &root, &wires).await;
    append(&logs[0], entry(0, 0)).await;
    let before = epoch(&logs[0].standing().borrow());
    let end = logs[1].end().await.unwrap();
    // Nobody watches the epoch: it believes that it leads.
    let client = Client::connect(&server.connect()).await.unwrap();
    let path = format!("{root}/epoch");
    let (data, _) = client.get_data(&path).await.unwrap();
    let mut attempts = 0..20;
    // It may look just in between, and then leads in the next epoch.
    let refused = loop {
        let attempt = attempts.next().expect("it is never refused");
        client.set_data(&path, &data, None).await.unwrap();
        assert!(logs[0].standing().borrow().leads);
        if let Err(error) = logs[0].znodes().append(entry(9, attempt)).await {
            let said = "another replica leads by now";
            assert!(matches!(&error, AppendError::Unavailable { reason } if reason == said), "{error}");
            break entry(9, attempt);
        }
    };
    // All find together again, in a later epoch.
    write(&logs, 0, 30).await;
    for log in &logs {
        assert!(epoch(&see(log, "0 leads again", leads(0)).await) > before + 1);
    }
    let all = read_to_end(&logs[1], end).await;
    assert_dense(&all);
    assert!(all.iter().all(|item| item.entry != refused), "what was refused is there");
}

/// The next life of the one that leads need not wait for the session of the one before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_life_waits_for_no_session() {
    let server = server();
    let (root, wires) = (new_root(), Wires::default());
    let logs = three(&server, &root, &wires).await;
    let before = epoch(&logs[0].standing().borrow());
    let started = Instant::now();
    let again = wires.open(wires.config(config(&server.connect(), &root, 0))).await.0;
    append(&again, entry(0, 0)).await;
    let standing = see(&logs[2], "the new life leads", |standing| {
        standing.leader.as_ref().is_some_and(|leader| leader.incarnation == again.incarnation())
    });
    assert!(epoch(&standing.await) > before);
    append(&logs[2], entry(2, 0)).await;
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!(logs[0].append(entry(0, 1)).await, Err(AppendError::Fenced));
    // A life that another one ends is out of the election, too.
    logs[1].retire((0, again.incarnation())).await.unwrap();
    append(&logs[2], entry(2, 1)).await;
    assert_eq!(again.append(entry(0, 2)).await, Err(AppendError::Fenced));
    see(&logs[2], "the next one leads", leads(1)).await;
}

/// I7: without a way to the leader appends wait, as many as have room, and no longer than they may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_that_wait_are_bounded() {
    let server = server();
    let (root, wires) = (new_root(), Wires::default());
    let leader = wires.config(config(&server.connect(), &root, 0));
    let address = leader.address.clone();
    let leader = wires.open(leader).await.0;
    see(&leader, "it is alone", |standing| standing.leads).await;
    wires.set_cut(&address, true);
    let short = znode_log::Config { append_timeout: Duration::from_secs(3), ..config(&server.connect(), &root, 1) };
    let follower = wires.open(Config { pending_entries: 2, ..wires.config(short) }).await.0;
    let waiting: Vec<_> = (0..2)
        .map(|number| {
            let log = follower.clone();
            tokio::spawn(async move { log.append(entry(1, number)).await })
        })
        .collect();
    while follower.backlog().pending < 2 {
        sleep(Duration::from_millis(1)).await;
    }
    let started = Instant::now();
    let refused = follower.append(entry(1, 2)).await;
    let is_full =
        matches!(&refused, Err(AppendError::Unavailable { reason }) if reason.contains("wait for the leader"));
    assert!(is_full && started.elapsed() < Duration::from_secs(1), "{refused:?} after {:?}", started.elapsed());
    for waited in join_all(waiting).await {
        let refused = waited.expect("no panic");
        let reason = "replica 0 leads in epoch 1, and there is no connection to it";
        assert_eq!(refused, Err(AppendError::Unavailable { reason: reason.into() }));
    }
    assert_eq!(follower.backlog(), Backlog::default());
    wires.set_cut(&address, false);
    append(&follower, entry(1, 3)).await;
    let all = read_to_end(&leader, Position::START).await;
    assert_eq!(all.len(), 1, "what was refused never came");
}
