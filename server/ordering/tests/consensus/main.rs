//! The log that the replicas keep themselves passes the suite, and keeps its promises when replicas, volumes and wires do not.

mod cluster;

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster::{Cluster, ELECTION, PATIENCE, eventually};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use replicateddb_ordering::conformance::{self, Harness, append, assert_dense, entry, parse, read, read_to_end};
use replicateddb_ordering::consensus::{Config, ConsensusLog, Node, OpenError};
use replicateddb_ordering::{
    AppendError, Appended, Beginning, Committed, Incarnation, LogError, LogHealth, OrderedLog, Position,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// From a leader's end to the next one's first entry, on a busy machine: twice what is waited for it, and as long again.
const FAILOVER: Duration = Duration::from_secs(15);

struct Nodes(Cluster);

impl Harness for Nodes {
    type Log = ConsensusLog;
    const SEGMENT_ENTRIES: u32 = 12;
    const MAX_BODY_BYTES: usize = 300_000;

    async fn open(&self, replica: u32) -> (ConsensusLog, Incarnation) {
        // Spread over the nodes: what one leads, others follow.
        self.0.node(replica % 3).begin(replica).await.expect("a life begins")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    conformance::run_all(async || Nodes(Cluster::start(3).await)).await;
}

/// The suite with the first replica alone: it agrees with itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_alone_is_a_majority() {
    let mut cluster = Cluster::start(1).await;
    let log = cluster.open(0).await;
    for number in 0..20 {
        append(&log, entry(0, number)).await;
    }
    let before = read(&log, Position::START, 20).await;
    cluster.crash(0).await;
    cluster.up(0).await;
    let again = cluster.open(0).await;
    assert_eq!(again.log_id(), log.log_id());
    assert_eq!(read(&again, Position::START, 20).await, before);
}

/// Numbers that were acknowledged must all be there, in the order of their acknowledgements.
fn assert_holds(items: &[Committed], acknowledged: &[u32]) {
    assert_dense(items);
    let there: Vec<u32> = items.iter().map(|item| parse(&item.entry).1).collect();
    let mut from = 0;
    for number in acknowledged {
        // What was appended again may be there before, too.
        let at = there[from..].iter().position(|other| other == number);
        from += at.unwrap_or_else(|| panic!("{number} is missing in {there:?}"));
    }
}

/// I2: a leader that dies is followed by another one within a bounded time; what it acknowledged is there, everywhere, and it
/// catches up when it comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_leader_is_followed() {
    let mut cluster = Cluster::start(3).await;
    let mut acknowledged = Vec::new();
    let first = cluster.leader().await;
    for round in 0..2 {
        let leader = cluster.leader().await;
        let other = cluster.up_ones().into_iter().find(|replica| *replica != leader).unwrap();
        let log = cluster.open(other).await;
        for number in 0..20 {
            append(&log, entry(other, round * 100 + number)).await;
            acknowledged.push(round * 100 + number);
        }
        cluster.crash(leader).await;
        let began = Instant::now();
        append(&log, entry(other, round * 100 + 99)).await;
        acknowledged.push(round * 100 + 99);
        let took = began.elapsed();
        assert!(took < FAILOVER, "it took {took:?}");
        assert_ne!(cluster.leader().await, leader);
        cluster.up(leader).await;
    }
    assert!(cluster.up_ones().contains(&first));
    let mut views = Vec::new();
    for replica in 0..3 {
        let log = cluster.open(replica).await;
        views.push(read(&log, Position::START, acknowledged.len()).await);
    }
    assert_holds(&views[0], &acknowledged);
    assert!(views.iter().all(|view| view == &views[0]));
}

/// I2: whatever is stopped and started again, what was acknowledged is there, at the same positions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_lose_nothing() {
    let mut cluster = Cluster::start(3).await;
    let log = cluster.open(0).await;
    for number in 0..30 {
        append(&log, entry(0, number)).await;
    }
    let before = read(&log, Position::START, 30).await;
    let (id, mut incarnation) = (log.log_id(), log.incarnation());
    let mut total = 30;
    for down in [vec![2], vec![0, 1], vec![0, 1, 2]] {
        for replica in &down {
            cluster.crash(*replica).await;
        }
        for replica in &down {
            cluster.up(*replica).await;
        }
        let log = cluster.open(0).await;
        assert_eq!(log.log_id(), id);
        assert!(log.incarnation() > incarnation, "incarnations go on");
        incarnation = log.incarnation();
        append(&log, entry(0, total)).await;
        total += 1;
        for replica in 0..3 {
            let reader = cluster.open(replica).await;
            let items = read(&reader, Position::START, total as usize).await;
            assert_eq!(items[..30], before, "after {down:?}");
            assert_dense(&items);
        }
    }
}

/// Without a majority nothing is acknowledged, and the others are told so; with one again everything goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_acknowledges_nothing() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let other = (leader + 1) % 3;
    let (here, there) = (cluster.open(leader).await, cluster.open(other).await);
    append(&here, entry(0, 0)).await;
    let (mut health, mut others) = (here.health(), there.health());
    timeout(PATIENCE, health.wait_for(LogHealth::is_connected)).await.unwrap().unwrap();

    cluster.set_cut(leader, true);
    let lost: Vec<_> = (1..4).map(|number| tokio::spawn(here.append(entry(0, number)))).collect();
    append(&there, entry(1, 10)).await;
    let between = append(&there, entry(1, 11)).await;
    timeout(PATIENCE, health.wait_for(|health| !health.is_connected())).await.unwrap().unwrap();
    timeout(PATIENCE, others.wait_for(LogHealth::is_connected)).await.unwrap().unwrap();
    for lost in lost {
        let outcome = timeout(PATIENCE, lost).await.unwrap().unwrap();
        let told = matches!(outcome, Err(AppendError::Unknown { .. } | AppendError::Unavailable { .. }));
        assert!(told, "{outcome:?}");
    }
    assert!(matches!(here.end().await, Err(LogError::Unavailable { .. })), "an end that may be old is none");

    cluster.set_cut(leader, false);
    let mark = append(&here, entry(0, 4)).await;
    assert!(mark > between);
    let views = [read_to_end(&here, Position::START).await, read_to_end(&there, Position::START).await];
    assert_holds(&views[0], &[0, 10, 11, 4]);
    assert_eq!(views[0], views[1][..views[0].len()], "they agree");
}

/// A node that was away while the log was given up beyond what it has gets what the log begins with, and all that follows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_far_behind_catches_up() {
    let mut cluster = Cluster::start(3).await;
    let log = cluster.open(0).await;
    append(&log, entry(0, 0)).await;
    let away = (cluster.leader().await + 1) % 3;
    let log = if away == 0 { cluster.open(1).await } else { log };
    cluster.crash(away).await;
    let mut last = Position::START;
    for number in 1..300 {
        last = append(&log, entry(0, number)).await;
    }
    let kept = read_to_end(&log, Position::START).await;
    let below = kept[kept.len() - 40].position;
    log.truncate(Beginning { position: below, bytes: Some(7) }).await.unwrap();
    let others: Vec<u32> = cluster.up_ones();
    eventually("the others have given it up", || others.iter().all(|other| cluster.node(*other).first_index() > 100))
        .await;
    let files = |replica: u32| {
        let folder = fs::read_dir(cluster.folder(replica)).unwrap();
        folder.filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().ends_with(".log")).count()
    };
    assert!(others.iter().all(|other| files(*other) == 1));

    // The first time, what it is sent can't be written; that leaves it as it was.
    let blocked = cluster.folder(away).join("snapshot.new");
    fs::create_dir(&blocked).unwrap();
    cluster.up(away).await;
    let stopped = |health: &LogHealth| matches!(health, LogHealth::Disconnected { detail, .. } if detail.contains("node has stopped"));
    let mut health = cluster.node(away).health();
    timeout(PATIENCE, health.wait_for(stopped)).await.unwrap().unwrap();
    cluster.crash(away).await;
    fs::remove_dir(&blocked).unwrap();

    cluster.up(away).await;
    let late = cluster.open(away).await;
    assert_eq!(late.beginning().await, Ok(Beginning { position: below, bytes: Some(7) }));
    let items = read(&late, below, 40).await;
    assert_eq!(items, kept[kept.len() - 40..]);
    assert_eq!(items[39].position, last);
    assert!(cluster.node(away).first_index() > 100, "it has nothing of what was given up");
    let refused = late.tail(Position::START);
    let refused = futures::StreamExt::into_future(refused).await.0.unwrap();
    assert_eq!(refused, Err(replicateddb_ordering::TailError::Truncated { first: below }));

    // What it has now outlives a restart, too.
    cluster.crash(away).await;
    cluster.up(away).await;
    let late = cluster.open(away).await;
    assert_eq!(read(&late, below, 40).await, items);
}

/// What a crash leaves at the end of a file is cut off; damage in what was acknowledged is not passed over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_end_is_cut_and_damage_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let log = cluster.open(0).await;
    for number in 0..20 {
        append(&log, entry(0, number)).await;
    }
    let before = read(&log, Position::START, 20).await;
    let newest = |folder: std::path::PathBuf| {
        let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|end| end == "log")).max().unwrap()
    };
    cluster.crash(1).await;
    let path = newest(cluster.folder(1));
    let whole = fs::metadata(&path).unwrap().len();
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"\xf1RDr half a rec").unwrap();
    cluster.up(1).await;
    let again = cluster.open(1).await;
    assert_eq!(read(&again, Position::START, 20).await, before);

    cluster.crash(1).await;
    let mut data = fs::read(&path).unwrap();
    data[whole as usize / 2] ^= 1;
    fs::write(&path, data).unwrap();
    let error = Node::start(cluster.config(1)).await.unwrap_err();
    let said = error.to_string();
    assert!(matches!(error, OpenError::Volume(_)), "{said}");
    assert!(said.contains(path.to_str().unwrap()) && said.contains("at byte"), "{said}");
}

/// A replica that is added learns, and votes; one that leaves no longer counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_come_and_go() {
    let mut cluster = Cluster::start(3).await;
    let log = cluster.open(0).await;
    for number in 0..30 {
        append(&log, entry(0, number)).await;
    }
    cluster.up(3).await;
    eventually("it votes", || cluster.node(3).voters() == [0, 1, 2, 3]).await;
    let added = cluster.open(3).await;
    assert_eq!(read(&added, Position::START, 30).await, read(&log, Position::START, 30).await);

    cluster.node(0).remove(1).await.unwrap();
    eventually("it is out", || cluster.node(3).voters() == [0, 2, 3]).await;
    cluster.crash(1).await;
    // Two of three are a majority; of four they were none.
    let away = if cluster.node(0).leader() == Some(2) { 3 } else { 2 };
    cluster.crash(away).await;
    append(&log, entry(0, 30)).await;
    // One that has left comes back with what it had, when it is started again.
    cluster.up(away).await;
    cluster.up(1).await;
    eventually("it votes again", || cluster.node(1).voters() == [0, 1, 2, 3]).await;
    let back = cluster.open(1).await;
    assert_eq!(read(&back, Position::START, 31).await, read(&log, Position::START, 31).await);
}

/// A replica that wanted to leave and could not takes part as before: it asks to be taken in when it is out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_could_not_leave_stays() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let leaver = (leader + 1) % 3;
    eventually("it votes", || cluster.node(leaver).votes()).await;
    cluster.set_cut(leaver, true);
    let left = timeout(ELECTION, cluster.node(leaver).remove(leaver)).await;
    assert!(!matches!(left, Ok(Ok(()))), "nobody could agree");
    cluster.node(leader).remove(leaver).await.unwrap();
    let others: Vec<u32> = (0..3).filter(|replica| *replica != leaver).collect();
    assert_eq!(cluster.node(leader).voters(), others);
    cluster.set_cut(leaver, false);
    eventually("it votes again", || cluster.node(leader).voters() == [0, 1, 2]).await;
}

/// A replica whose volume was emptied is another node, and has no vote until the others have taken it in; it gets everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_volume_votes_only_when_it_was_taken_in() {
    let mut cluster = Cluster::start(3).await;
    let log = cluster.open(0).await;
    for number in 0..30 {
        append(&log, entry(0, number)).await;
    }
    // Of two that have it, one loses its volume, and the other one is away: the entry would be lost if the first two could agree.
    cluster.crash(2).await;
    append(&log, entry(0, 30)).await;
    cluster.crash(0).await;
    cluster.crash(1).await;
    fs::remove_dir_all(cluster.folder(1)).unwrap();
    cluster.up(1).await;
    cluster.up(2).await;
    sleep(ELECTION * 8).await;
    assert_eq!((cluster.node(1).leader(), cluster.node(2).leader()), (None, None), "they are no majority");
    cluster.up(0).await;
    let log = cluster.open(1).await;
    let items = read(&log, Position::START, 31).await;
    assert_eq!(parse(&items[30].entry), (0, 30));
    eventually("it votes", || cluster.node(1).votes() && cluster.node(1).voters() == [0, 1, 2]).await;
    // Now it counts: without one of the others it is half of what is needed.
    cluster.crash(2).await;
    append(&log, entry(1, 31)).await;
}

/// A group is not begun beside one that exists, though all that it would begin with have lost their volumes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_second_group_begins() {
    let mut cluster = Cluster::start(3).await;
    cluster.up(3).await;
    eventually("it votes", || cluster.node(3).votes()).await;
    for replica in 0..3 {
        cluster.crash(replica).await;
        fs::remove_dir_all(cluster.folder(replica)).unwrap();
    }
    for replica in 0..3 {
        cluster.up(replica).await;
    }
    sleep(ELECTION * 8).await;
    assert!((0..3).all(|replica| cluster.node(replica).leader().is_none()), "the log stands still");
}

/// A group is not begun before all of its replicas are there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_begins_when_all_are_there() {
    let mut cluster = Cluster::new(3).await;
    cluster.up(0).await;
    cluster.up(1).await;
    sleep(ELECTION * 6).await;
    assert_eq!((cluster.node(0).leader(), cluster.node(1).leader()), (None, None));
    cluster.up(2).await;
    cluster.leader().await;
    assert_eq!(cluster.node(1).voters(), [0, 1, 2]);
}

/// A leader that is to stop is followed at once: sooner than the others could miss it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leading_is_handed_over() {
    let mut cluster = Cluster::start(3).await;
    for round in 0..3 {
        let leader = cluster.leader().await;
        let other = (leader + 1) % 3;
        let log = cluster.open(other).await;
        append(&log, entry(other, round)).await;
        let began = Instant::now();
        assert!(cluster.node(leader).hand_over().await);
        assert_ne!(cluster.node(leader).leader(), Some(leader));
        append(&log, entry(other, round)).await;
        let took = began.elapsed();
        // They wait for twice this for a leader that is silent, and then for as long again at least.
        assert!(took < ELECTION * 3, "it took {took:?}");
        let next = cluster.leader().await;
        assert_ne!(next, leader);
        // What a stop does.
        cluster.stop(next).await;
        append(&cluster.open(leader).await, entry(leader, round)).await;
        cluster.up(next).await;
    }
}

/// What is done to nodes while they are written through.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Crash,
    Cut,
    /// As after an election, or a fault of the power: two at once.
    CrashTwo,
    HandOver,
}

/// I1, I2, I4: whatever happens to nodes and wires, all replicas have the same log, and every entry that was acknowledged
/// stands where it was said to, behind all that was acknowledged before it was appended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn troubles_of_all_kinds_lose_nothing() {
    let seed = std::env::var("CONSENSUS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("CONSENSUS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(3).await;
    let mut calls = Vec::new();
    let clock = Arc::new(AtomicU64::new(0));
    for round in 0..ROUNDS {
        let (stop, stopped) = watch::channel(false);
        let mut appending = Vec::new();
        for replica in 0..3 {
            let log = cluster.open(replica).await;
            appending.push(tokio::spawn(append_until(log, replica, round * 100_000, clock.clone(), stopped.clone())));
        }
        let leader = cluster.leader().await;
        let victim = if random.random_bool(0.6) { leader } else { random.random_range(0..3) };
        let kinds = [Trouble::Crash, Trouble::Cut, Trouble::CrashTwo, Trouble::HandOver];
        let trouble = kinds[random.random_range(0..kinds.len())];
        sleep(Duration::from_millis(random.random_range(50..500))).await;
        println!("round {round}: {trouble:?} of {victim}, {leader} leads");
        let lasting = Duration::from_millis(random.random_range(0..3000));
        match trouble {
            Trouble::Crash | Trouble::CrashTwo => {
                let both = [victim, (victim + 1) % 3];
                let down = if matches!(trouble, Trouble::Crash) { &both[..1] } else { &both[..] };
                for replica in down {
                    cluster.crash(*replica).await;
                }
                sleep(lasting).await;
                for replica in down {
                    cluster.up(*replica).await;
                }
            }
            Trouble::Cut => {
                cluster.set_cut(victim, true);
                sleep(lasting).await;
                cluster.set_cut(victim, false);
            }
            Trouble::HandOver => {
                cluster.node(leader).hand_over().await;
            }
        }
        sleep(Duration::from_millis(random.random_range(0..1500))).await;
        stop.send_replace(true);
        for appended in appending {
            calls.extend(appended.await.unwrap());
        }
    }
    assert!(calls.len() > 100, "too little was appended to see anything: {}", calls.len());
    let mut views = Vec::new();
    for replica in 0..3 {
        views.push(read_to_end(&cluster.open(replica).await, Position::START).await);
    }
    assert_dense(&views[2]);
    assert!(views.iter().all(|view| view[..] == views[2][..view.len()]), "they differ");
    calls.sort_by_key(|call| call.position);
    let mut earliest_end = u64::MAX;
    for call in calls.iter().rev() {
        let found = views[0].binary_search_by_key(&call.position, |item| item.position).map(|at| &views[0][at].entry);
        assert_eq!(found, Ok(&call.entry), "at {}", call.position);
        assert!(earliest_end > call.began, "{:?} at {} stands too early", call.entry, call.position);
        earliest_end = earliest_end.min(call.ended);
    }
}

/// Troubles that follow each other.
const ROUNDS: u32 = 6;

/// An append that was acknowledged, between two readings of a clock that all share.
struct Call {
    began: u64,
    ended: u64,
    position: Position,
    entry: bytes::Bytes,
}

/// Appends one entry after the other until it is told to stop; those that were acknowledged.
async fn append_until(
    log: ConsensusLog,
    who: u32,
    from: u32,
    clock: Arc<AtomicU64>,
    mut stopped: watch::Receiver<bool>,
) -> Vec<Call> {
    let mut calls = Vec::new();
    for number in from.. {
        let entry = entry(who, number);
        let began = clock.fetch_add(1, Ordering::SeqCst);
        let appended = tokio::select! {
            appended = log.append(entry.clone()) => appended,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        match appended {
            Ok(Appended { position, .. }) => {
                calls.push(Call { began, ended: clock.fetch_add(1, Ordering::SeqCst), position, entry });
            }
            Err(AppendError::Unknown { .. } | AppendError::Unavailable { .. }) => sleep(Duration::from_millis(5)).await,
            Err(AppendError::Fenced) => break,
            Err(error) => panic!("{error}"),
        }
    }
    calls
}

/// What a life has shown is told to others; a life that has ended is fenced, whoever ended it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lives_answer_each_other_and_end() {
    let cluster = Cluster::start(3).await;
    let logs = [cluster.open(0).await, cluster.open(1).await, cluster.open(2).await];
    let lives: BTreeSet<_> = (0..3).zip(&logs).map(|(replica, log)| (replica, log.incarnation())).collect();
    for log in &logs {
        assert_eq!(log.living().await, Ok(lives.clone()));
    }
    assert_eq!(logs[0].ask(&lives).await, None, "the others have not said anything");
    let shown = [5, 9, 7].map(|shown| Arc::new(AtomicU64::new(shown)));
    for (log, shown) in logs.iter().zip(&shown) {
        log.vouch(shown.clone());
    }
    let ask = async |log: &ConsensusLog, lives: &BTreeSet<_>| {
        // A machine that is busy may need longer than they have.
        let deadline = Instant::now() + PATIENCE;
        loop {
            match log.ask(lives).await {
                Some(highest) => return highest,
                None => assert!(Instant::now() < deadline, "no answer"),
            }
        }
    };
    assert_eq!(ask(&logs[0], &lives).await, 9);
    assert_eq!(ask(&logs[1], &lives).await, 7, "not its own");
    shown[2].store(20, Ordering::SeqCst);
    assert_eq!(ask(&logs[1], &lives).await, 20);

    logs[2].resign().await.unwrap();
    assert_eq!(logs[2].append(entry(2, 0)).await, Err(AppendError::Fenced));
    logs[0].retire((1, logs[1].incarnation())).await.unwrap();
    logs[0].retire((1, logs[1].incarnation())).await.unwrap();
    assert_eq!(logs[1].append(entry(1, 0)).await, Err(AppendError::Fenced));
    assert_eq!(logs[1].living().await, Err(LogError::Fenced));
    assert_eq!(logs[0].living().await, Ok(BTreeSet::from([(0, logs[0].incarnation())])));
    assert_eq!(ask(&logs[0], &BTreeSet::from([(0, logs[0].incarnation())])).await, 0);
}

/// An entry that takes longer on its way than Raft waits for an answer arrives all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_entries_arrive() {
    let mut cluster = Cluster::new(3).await;
    cluster.max_body_bytes = 17 << 20;
    for replica in 0..3 {
        cluster.up(replica).await;
    }
    let other = (cluster.leader().await + 1) % 3;
    let log = cluster.open(other).await;
    let body = bytes::Bytes::from(vec![7; 17 << 20]);
    append(&log, body.clone()).await;
    assert_eq!(read(&log, Position::START, 1).await[0].entry, body);
}

#[tokio::test]
async fn wrong_settings_are_named() {
    let cluster = Cluster::new(1).await;
    type Change = fn(&mut Config);
    let cases: [(&str, Change); 4] = [
        ("segment_entries is 0", |config| config.segment_entries = 0),
        ("max_body_bytes is", |config| config.max_body_bytes = usize::MAX),
        ("replica is 65536", |config| config.replica = 65536),
        ("election in milliseconds is 200", |config| config.election = Duration::from_millis(200)),
    ];
    for (said, change) in cases {
        let mut config = cluster.config(0);
        change(&mut config);
        let error = Node::start(config).await.unwrap_err();
        assert!(matches!(&error, OpenError::Config(detail) if detail.contains(said)), "{error}");
    }
}
