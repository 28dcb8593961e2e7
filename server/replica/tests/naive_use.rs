//! What befalls who uses a Cassandra naively, shown on a real one that no agent looks after, and that it does not befall a
//! replica (design 4.3, 4.6, 4.10, 4.11). Needs the jars of `images/artifacts/fetch.sh`, and a C compiler.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

mod site;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use replicateddb_cql::frame::Opcode;
use replicateddb_cql::request;
use replicateddb_cql::response::parse_error;
use replicateddb_ordering::memory::{Fault, MemoryStorage};
use replicateddb_replica::ReplicaHandle;
use replicateddb_replica::config::Config;
use replicateddb_replica::frontend::{self, Frontend, Identity, Peers};
use replicateddb_replica::replica::{RequestKind, Serving};
use serde_json::json;
use site::clock::Clock;
use site::direct::auth_response;
use site::jmx::Jmx;
use site::plain::Plain;
use site::{Direct, Site, ddl, done, request as ordered, served, until};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const KEYSPACE: &str = "CREATE KEYSPACE ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}";
/// Two files of it are compacted into one.
const ENDS: &str = "CREATE TABLE ks.ends (k int PRIMARY KEY, v int) \
                    WITH compaction = {'class': 'SizeTieredCompactionStrategy', 'min_threshold': 2}";
const LISTS: &str = "CREATE TABLE ks.lists (k int PRIMARY KEY, l list<int>)";
/// How long its rows live, s.
const TTL: i32 = 3;
/// An hour, s.
const HOUR: i64 = 3600;
/// More faults than a replica meets in a test.
const FAULTS: usize = 10_000;

fn now_s() -> i32 {
    i32::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

async fn list(direct: &mut Direct) -> String {
    let row = direct.rows("SELECT JSON l FROM ks.lists WHERE k = 1").await.pop();
    row.map_or_else(String::new, |mut row| String::from_utf8(row.remove(0).unwrap().to_vec()).unwrap())
}

async fn append(direct: &mut Direct, element: u32) {
    direct.done(&format!("UPDATE ks.lists SET l = l + [{element}] WHERE k = 1")).await;
}

/// Waits until a row that lives for [`TTL`] has ended by Cassandra's own clock.
async fn ended(direct: &mut Direct, key: u32) {
    let look = format!("SELECT v FROM ks.ends WHERE k = {key}");
    until("a row's end", async || direct.rows(&look).await.is_empty().then_some(())).await;
}

/// A condition is decided as of a second in which the row lived, as when the log is replayed. Once a compaction has come
/// by, it is decided otherwise.
async fn compaction_ends_cells_by_the_wall_clock(plain: &Plain) {
    let (mut direct, mut timed) = (plain.session().await, plain.session_of_seconds().await);
    let jmx = Jmx::of(&plain.site);
    direct.done(ENDS).await;
    let then = now_s();
    for key in [1, 2] {
        timed.at(then, &format!("INSERT INTO ks.ends (k, v) VALUES ({key}, 1) USING TTL {TTL}")).await;
    }
    jmx.flush("ks").await;
    ended(&mut direct, 2).await;
    let write = |key| format!("UPDATE ks.ends SET v = 2 WHERE k = {key} IF v = 1");
    let applied = |rows: Vec<Vec<Option<bytes::Bytes>>>| rows[0][0].as_deref() == Some(&[1]);
    assert!(applied(timed.at(then, &write(1)).await), "the row lived then");
    jmx.flush("ks").await;
    let look = "SELECT v FROM ks.ends WHERE k = 2";
    // The row's marker is still there then, its cell is not.
    until("a compaction", async || timed.at(then, look).await[0][0].is_none().then_some(())).await;
    assert!(!applied(timed.at(then, &write(2)).await), "a row that was compacted away has come back");
}

/// What failed is done all the same, later, and a second time if it was repeated meanwhile.
async fn a_logged_batch_comes_back(plain: &Plain) {
    let mut direct = plain.session().await;
    let jmx = Jmx::of(&plain.site);
    let logged = jmx.batches("Logged").await;
    // A partition's tables are written in the order of their ids' hashes: with these, the one whose index refuses first.
    let id = |number| format!("WITH ID = 00000000-0000-1000-8000-00000000000{number}");
    direct.done(&format!("CREATE TABLE ks.vectors (k int PRIMARY KEY, v vector<float, 2>) {}", id(1))).await;
    direct.done(&format!("{LISTS} {}", id(2))).await;
    direct.done("CREATE INDEX zero ON ks.vectors (v) USING 'sai'").await;
    let batch = "BEGIN BATCH INSERT INTO ks.vectors (k, v) VALUES (1, [0, 0]); \
                 UPDATE ks.lists SET l = l + [1] WHERE k = 1; INSERT INTO ks.lists (k) VALUES (2); APPLY BATCH";
    let (_, body) = direct.statement(batch, &[]).await;
    assert_eq!(parse_error(&body).unwrap().code, 0x1500, "{:?}", parse_error(&body));
    assert_eq!(list(&mut direct).await, "", "the partition's first table has failed");
    assert_eq!(direct.rows("SELECT id FROM system.batches").await.len(), 1, "nothing is left of it");
    direct.done("DROP INDEX ks.zero").await;
    direct.done(batch).await;
    let replays = "org.apache.cassandra.db:type=BatchlogManager";
    until("a replay of the batch", async || {
        jmx.exec(replays, "forceBatchlogReplay()", json!([])).await;
        direct.rows("SELECT id FROM system.batches").await.is_empty().then_some(())
    })
    .await;
    assert_eq!(list(&mut direct).await, r#"{"l": [1, 1]}"#);
    assert!(jmx.batches("Logged").await > logged);
    direct.done("TRUNCATE ks.lists").await;
}

/// Who relies on PREPARE to check whether a role may do something finds out when it is done.
async fn prepare_checks_no_rights(plain: &Plain) {
    plain.session().await.done("CREATE ROLE guest WITH LOGIN = true AND PASSWORD = 'guest'").await;
    let mut guest = plain.session_of("guest").await;
    let write = "INSERT INTO ks.ends (k, v) VALUES (3, 3)";
    let (opcode, body) = guest.ask(Opcode::Prepare, request::prepare(write).unwrap()).await;
    assert_eq!(opcode, Opcode::Result.code(), "refused already: {:?}", parse_error(&body));
    let (_, body) = guest.prepared(write, &[]).await;
    assert_eq!(parse_error(&body).unwrap().code, 0x2100, "{:?}", parse_error(&body));
}

/// Elements are named by the time at which they come, of Cassandra's own clock, and sorted by that.
async fn lists_are_in_the_order_of_a_clock(plain: &mut Plain, clock: &Clock) {
    append(&mut plain.session().await, 1).await;
    Jmx::of(&plain.site).flush("ks").await;
    plain.killed(|| clock.set(0)).await;
    let mut direct = plain.session().await;
    append(&mut direct, 2).await;
    assert_eq!(list(&mut direct).await, r#"{"l": [2, 1]}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn naive_use_goes_wrong() {
    let Some(clock) = Clock::new() else { return };
    clock.set(HOUR);
    let settings = [
        ("authenticator", "PasswordAuthenticator"),
        ("authorizer", "CassandraAuthorizer"),
        ("autocompaction_on_startup_enabled", "true"),
        // A batch is replayed when it is twice as old.
        ("write_request_timeout", "500ms"),
    ];
    let mut plain = Plain::start(&settings, clock.variables()).await;
    plain.session().await.done(KEYSPACE).await;
    a_logged_batch_comes_back(&plain).await;
    lists_are_in_the_order_of_a_clock(&mut plain, &clock).await;
    compaction_ends_cells_by_the_wall_clock(&plain).await;
    prepare_checks_no_rights(&plain).await;
}

/// A replica whose barriers do not get into the log replays what is there, and is not current.
fn hold_back(log: &MemoryStorage) {
    for _ in 0..FAULTS {
        log.inject(Fault::Unavailable);
    }
}

async fn write(handle: &ReplicaHandle, text: &str) -> replicateddb_replica::replica::Outcome {
    done(handle, ordered(RequestKind::Dml, vec![(text, Vec::new())])).await
}

/// I1: a condition is decided as of the log's second, whenever that is. Nothing compacts while a replica replays, neither
/// a table that was there before nor one that the replay makes; and when the replica is current, everything does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_expires_under_a_replay() {
    let log = MemoryStorage::default();
    let (site, late) = (Site::new(), Site::new());
    let handle = site.serve(&log, 0).await;
    ddl(&handle, KEYSPACE).await;
    ddl(&handle, ENDS).await;
    // The log stands still, as a replay does in it.
    log.set_clock(Some(i64::from(now_s()) * 1000));
    for key in [1, 2] {
        write(&handle, &format!("INSERT INTO ends (k, v) VALUES ({key}, 1) USING TTL {TTL}")).await;
    }
    hold_back(&log);
    let newcomer = late.start(&log, 1);
    let written = handle.status().applied_index;
    until("a replay", async || (newcomer.status().applied_index >= written).then_some(())).await;
    let (mut direct, jmx) = (Direct::to(&late.cql).await, Jmx::of(&late));
    assert!(jmx.compaction_is_off("ks", "ends").await, "a table that the replay has made");
    jmx.flush("ks").await;
    ended(&mut direct, 2).await;
    direct.done("INSERT INTO ks.ends (k, v) VALUES (3, 3)").await;
    jmx.flush("ks").await;
    assert!(jmx.compaction_is_off("ks", "ends").await);
    assert!(!matches!(*newcomer.serving().borrow(), Serving::Yes { .. }));

    log.clear_faults();
    let outcome = write(&handle, "UPDATE ends SET v = 2 WHERE k = 1 IF v = 1").await;
    served(&newcomer).await;
    newcomer.barrier().await.unwrap();
    let mut first = Direct::to(&site.cql).await;
    for direct in [&mut first, &mut direct] {
        let rows = direct.rows("SELECT JSON v FROM ks.ends WHERE k = 1").await;
        assert_eq!(rows[0][0].as_deref(), Some(&br#"{"v": 2}"#[..]), "{outcome:?}");
    }
    until("compaction", async || (!jmx.compaction_is_off("ks", "ends").await).then_some(())).await;
    log.set_clock(None);

    // And a table that is there when the JVM starts.
    newcomer.restore_point().await.unwrap();
    let before = late.jvm().await;
    hold_back(&log);
    late.kill_jvm().await;
    until("another JVM", async || late.jvm().await.filter(|jvm| Some(*jvm) != before)).await;
    assert!(Jmx::of(&late).compaction_is_off("ks", "ends").await);
}

/// The log makes batches atomic: no batchlog is written, and so nothing of one can come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_batch_is_logged_and_no_role_is_told_from_another() {
    let log = MemoryStorage::default();
    let site = Site::new();
    let handle = site.serve(&log, 0).await;
    ddl(&handle, KEYSPACE).await;
    ddl(&handle, LISTS).await;
    ddl(&handle, "CREATE TABLE ks.plain (k int PRIMARY KEY, v int)").await;
    let (mut direct, jmx) = (Direct::to(&site.cql).await, Jmx::of(&site));
    let members = ["UPDATE ks.lists SET l = l + [1] WHERE k = 1", "INSERT INTO ks.plain (k, v) VALUES (1, 1)"];
    write(&handle, &format!("BEGIN BATCH {}; {}; APPLY BATCH", members[0], members[1])).await;
    let statements = members.map(|text| (text, Vec::new())).to_vec();
    done(&handle, ordered(RequestKind::Batch, statements)).await;
    assert_eq!((jmx.batches("Logged").await, jmx.batches("Unlogged").await), (0, 2));
    assert!(direct.rows("SELECT id FROM system.batches").await.is_empty());
    let mut times = Vec::new();
    for (column, table) in [("l", "lists"), ("v", "plain")] {
        let rows = direct.rows(&format!("SELECT maxwritetime({column}) FROM ks.{table} WHERE k = 1")).await;
        times.push(rows[0][0].clone().unwrap());
    }
    assert_eq!(times[0], times[1], "a batch has one write time");
    jmx.exec("org.apache.cassandra.db:type=BatchlogManager", "forceBatchlogReplay()", json!([])).await;
    site.kill_and_recover(&handle).await;
    assert_eq!(list(&mut Direct::to(&site.cql).await).await, r#"{"l": [1, 1]}"#);
    no_role_is_told_from_another(&handle).await;
}

/// Until there are roles every client is the same one, whoever it says it is, and is told so.
async fn no_role_is_told_from_another(handle: &ReplicaHandle) {
    let [port] = replicateddb_ports::reserve();
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let identity = Identity {
        id: 0,
        host_id: uuid::Uuid::nil(),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        cql_port: listen.port(),
        data_center: "dc".into(),
        rack: "r".into(),
    };
    let (_members, watched) = watch::channel(Vec::new());
    let config = frontend::Config { listen, max_clients: 10, identity, superuser: None, keyspace: None, tls: None };
    let frontend = Frontend::new(handle.clone(), config, Arc::new(Peers::new(0, watched)), Arc::default());
    let stop = CancellationToken::new();
    let running = tokio::spawn(frontend.run(stop.clone()));

    let address = listen.to_string();
    until("the CQL port", async || tokio::net::TcpStream::connect(listen).await.ok()).await;
    assert!(Direct::logged_in(&address, "cassandra", "cassandra").await.is_none(), "asked who it is");
    let mut client = Direct::to(&address).await;
    let (_, body) = client.ask(Opcode::AuthResponse, auth_response("cassandra", "cassandra")).await;
    assert_eq!(parse_error(&body).unwrap().code, 0x000A, "{:?}", parse_error(&body));
    for text in [
        "CREATE ROLE guest WITH LOGIN = true AND PASSWORD = 'guest'",
        "CREATE USER guest WITH PASSWORD 'guest'",
        "ALTER ROLE cassandra WITH PASSWORD = 'x'",
        "GRANT MODIFY ON ks.plain TO guest",
        "REVOKE ALL ON KEYSPACE ks FROM cassandra",
        "DROP ROLE cassandra",
        "INSERT INTO system_auth.roles (role) VALUES ('guest')",
    ] {
        let (_, body) = client.statement(text, &[]).await;
        let error = parse_error(&body).unwrap();
        let why = error.message.contains("roles and permissions") || error.message.contains("belongs to Cassandra");
        assert!(error.code == 0x2200 && why, "{text}: {error:?}");
        // Some of them Cassandra itself does not even prepare.
        let (_, body) = client.prepared(text, &[]).await;
        assert!(matches!(parse_error(&body).unwrap().code, 0x2200 | 0x2100), "{text}");
    }
    client.done("INSERT INTO ks.plain (k, v) VALUES (2, 2)").await;
    stop.cancel();
    running.await.unwrap();
}

/// After a restart nothing is applied before Cassandra's clock has passed what it was at the restore point.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_applied_before_the_clock_has_come_by() {
    let Some(clock) = Clock::new() else { return };
    clock.set(HOUR);
    let log = MemoryStorage::default();
    let site = Site::without_agent();
    let _agent = site.agent_process_with(&clock.variables());
    let handle = site.start_as(&log, Config { clock_wait: Duration::from_secs(1), ..Config::default() });
    served(&handle).await;
    ddl(&handle, KEYSPACE).await;
    ddl(&handle, LISTS).await;
    let append = async |element: u32| {
        write(&handle, &format!("UPDATE lists SET l = l + [{element}] WHERE k = 1")).await;
    };
    append(1).await;
    let index = handle.restore_point().await.unwrap();
    append(2).await;

    clock.set(0);
    site.kill_jvm().await;
    until("a replica that waits for a clock", async || {
        let conditions = handle.status().conditions;
        conditions.iter().any(|condition| format!("{condition:?}").contains("Cassandra's clock is")).then_some(())
    })
    .await;
    assert!(!matches!(*handle.serving().borrow(), Serving::Yes { .. }));
    assert!(list(&mut Direct::to(&site.cql).await).await == r#"{"l": [1]}"#, "applied behind the clock's back");
    clock.set(HOUR);
    served(&handle).await;
    assert_eq!(handle.status().replay.unwrap().restore_point, Some(index));
    append(3).await;
    assert_eq!(list(&mut Direct::to(&site.cql).await).await, r#"{"l": [1, 2, 3]}"#);
}

#[tokio::test]
#[ignore = "run by the other tests as a process of its own"]
async fn agent_as_a_process() {
    site::run_agent().await;
}
