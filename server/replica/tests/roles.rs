//! Roles and permissions: the same statements by the same roles, through a replica and at a plain Cassandra whose clients log in;
//! every answer must be the same. And what roles are is the same on every replica, whatever happens to it. Needs the jars of
//! `images/artifacts/fetch.sh`.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

mod site;

use std::collections::HashMap;
use std::path::Path;

use bytes::Bytes;
use futures::StreamExt;
use replicateddb_cql::frame::Opcode;
use replicateddb_cql::response::{ErrorCode, parse_error};
use replicateddb_ordering::memory::MemoryStorage;
use replicateddb_ordering::{OrderedLog, Position};
use replicateddb_replica::ReplicaHandle;
use replicateddb_replica::frontend::superuser::{Superuser, keep};
use replicateddb_replica::replica::{Request, RequestKind, Serving, StatementText, Values};
use replicateddb_store::login::{Login, ROLE};
use site::direct::auth_response;
use site::plain::Plain;
use site::{Direct, PATIENCE, Site, agree, in_front_of, until};

/// The superuser, whose password is its name, like everybody's.
const BOSS: &str = "boss";

async fn superuser(address: &str) -> Direct {
    until("the superuser", async || Direct::logged_in(address, BOSS, BOSS).await).await
}

/// The sessions of one side, by role.
struct Side {
    address: String,
    sessions: HashMap<String, Direct>,
}

impl Side {
    async fn ask(&mut self, role: &str, text: &str) -> Answer {
        if !self.sessions.contains_key(role) {
            let Some(session) = Direct::logged_in(&self.address, role, role).await else { return Answer::NoLogin };
            self.sessions.insert(role.to_owned(), session);
        }
        let session = self.sessions.get_mut(role).unwrap();
        let (opcode, body) = session.statement(text, &[]).await;
        if opcode == Opcode::Result.code() {
            return Answer::Result(body);
        }
        let error = parse_error(&body).unwrap();
        Answer::Error(error.kind(), error.message)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    NoLogin,
    Result(Bytes),
    Error(Option<ErrorCode>, String),
}

/// What everybody is asked for while nothing is granted to whoever asks.
const ATTEMPTS: &[&str] = &[
    "SELECT * FROM ks.t",
    "INSERT INTO ks.t (k, v) VALUES (1, 1)",
    "INSERT INTO ks.t (k, v) VALUES (1, 1) IF NOT EXISTS",
    "UPDATE ks.t SET v = 2 WHERE k = 1 IF v = 1",
    "DELETE FROM ks.t WHERE k = 1",
    "BEGIN BATCH INSERT INTO ks.t (k, v) VALUES (1, 1); INSERT INTO ks.viewed (k, v) VALUES (1, 1); APPLY BATCH",
    "INSERT INTO ks.viewed (k, v) VALUES (1, 1)",
    "TRUNCATE ks.t",
    "CREATE KEYSPACE other WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
    "ALTER KEYSPACE ks WITH durable_writes = false",
    "DROP KEYSPACE ks",
    "CREATE TABLE ks.u (k int PRIMARY KEY)",
    "ALTER TABLE ks.t ADD w int",
    "DROP TABLE ks.t",
    "CREATE INDEX ON ks.t (v)",
    "DROP INDEX ks.i",
    "DROP INDEX ks.nothing",
    "DROP INDEX IF EXISTS ks.nothing",
    "DROP MATERIALIZED VIEW ks.nothing",
    "DROP MATERIALIZED VIEW IF EXISTS ks.nothing",
    "ALTER MATERIALIZED VIEW ks.nothing WITH comment = 'x'",
    "DROP FUNCTION ks.nothing",
    "DROP FUNCTION IF EXISTS ks.nothing",
    "DROP AGGREGATE ks.nothing",
    "INSERT INTO unqualified (k) VALUES (1)",
    "CREATE TYPE ks.pair (a int)",
    "ALTER TYPE ks.kind ADD b int",
    "DROP TYPE ks.kind",
    "CREATE MATERIALIZED VIEW ks.v2 AS SELECT * FROM ks.t WHERE k IS NOT NULL AND v IS NOT NULL PRIMARY KEY (v, k)",
    "ALTER MATERIALIZED VIEW ks.seen WITH comment = 'x'",
    "DROP MATERIALIZED VIEW ks.seen",
    "CREATE FUNCTION ks.g (a int) CALLED ON NULL INPUT RETURNS int LANGUAGE java AS 'return 1;'",
    "SELECT ks.f(v) FROM ks.t",
    "LIST ROLES",
    "LIST ALL PERMISSIONS",
    "LIST ALL PERMISSIONS OF bob",
    "CREATE ROLE x",
    "CREATE USER x WITH PASSWORD 'x'",
    "CREATE ROLE x WITH SUPERUSER = true",
    "ALTER ROLE bob WITH LOGIN = false",
    "ALTER ROLE boss WITH SUPERUSER = false",
    "ALTER ROLE alice WITH SUPERUSER = true",
    "ALTER ROLE alice WITH LOGIN = true",
    "DROP ROLE bob",
    "DROP ROLE boss",
    "DROP ROLE alice",
    "DROP ROLE nobody",
    "GRANT dev TO bob",
    "REVOKE dev FROM bob",
    "GRANT SELECT ON ks.t TO bob",
    "GRANT ALL ON KEYSPACE ks TO bob",
    "REVOKE MODIFY ON ALL KEYSPACES FROM bob",
    "GRANT EXECUTE ON ALL FUNCTIONS IN KEYSPACE ks TO bob",
    "SELECT * FROM system_auth.roles",
    "SELECT key FROM system.local",
    "SELECT * FROM system_schema.keyspaces WHERE keyspace_name = 'nothing'",
    "SELECT * FROM ks.nothing",
    "INSERT INTO ks.nothing (k) VALUES (1)",
    "DROP TABLE ks.nothing",
    "DROP TABLE IF EXISTS ks.nothing",
    "CREATE ROLE alice WITH",
    "GRANT FLY ON ks.t TO bob",
];

/// By whom, and what.
const SCRIPT: &[(&str, &str)] = &[
    (BOSS, "CREATE KEYSPACE ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}"),
    (BOSS, "CREATE TABLE ks.t (k int PRIMARY KEY, v int)"),
    (BOSS, "CREATE TABLE ks.viewed (k int PRIMARY KEY, v int)"),
    (
        BOSS,
        "CREATE MATERIALIZED VIEW ks.seen AS SELECT * FROM ks.viewed WHERE k IS NOT NULL AND v IS NOT NULL PRIMARY KEY (v, k)",
    ),
    (BOSS, "CREATE INDEX i ON ks.viewed (v)"),
    (BOSS, "CREATE TYPE ks.kind (a int)"),
    (BOSS, "CREATE FUNCTION ks.f (a int) CALLED ON NULL INPUT RETURNS int LANGUAGE java AS 'return a;'"),
    (BOSS, "CREATE ROLE alice WITH PASSWORD = 'alice' AND LOGIN = true"),
    (BOSS, "CREATE ROLE alice WITH PASSWORD = 'alice' AND LOGIN = true"),
    (BOSS, "CREATE ROLE IF NOT EXISTS alice WITH PASSWORD = 'other'"),
    (BOSS, "CREATE USER bob WITH PASSWORD 'bob'"),
    (BOSS, "CREATE ROLE dev"),
    (BOSS, "CREATE ROLE 'It''s' WITH LOGIN = true AND PASSWORD = 'It''s'"),
    ("dev", "SELECT key FROM system.local"),
    ("nobody", "SELECT key FROM system.local"),
    ("alice", "*"),
    // What is granted step by step.
    (BOSS, "GRANT SELECT ON ks.t TO alice"),
    ("alice", "SELECT * FROM ks.t"),
    ("alice", "INSERT INTO ks.t (k, v) VALUES (1, 1)"),
    (BOSS, "GRANT dev TO alice"),
    (BOSS, "GRANT MODIFY ON KEYSPACE ks TO dev"),
    ("alice", "INSERT INTO ks.t (k, v) VALUES (1, 1)"),
    ("alice", "UPDATE ks.t SET v = 3 WHERE k = 1 IF v = 1"),
    ("alice", "INSERT INTO ks.viewed (k, v) VALUES (1, 1)"),
    ("alice", "TRUNCATE ks.viewed"),
    ("alice", "DROP TABLE ks.t"),
    (BOSS, "REVOKE dev FROM alice"),
    ("alice", "INSERT INTO ks.t (k, v) VALUES (2, 1)"),
    // Whoever makes something may do everything with it, and give it away.
    (BOSS, "GRANT CREATE ON ALL KEYSPACES TO alice"),
    (BOSS, "GRANT CREATE ON ALL ROLES TO alice"),
    ("alice", "CREATE KEYSPACE hers WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}"),
    (
        "alice",
        "CREATE KEYSPACE IF NOT EXISTS ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
    ),
    ("alice", "DROP KEYSPACE ks"),
    ("alice", "CREATE TABLE hers.t (k int PRIMARY KEY, v int)"),
    ("alice", "INSERT INTO hers.t (k, v) VALUES (1, 1)"),
    ("alice", "CREATE TABLE ks.hers (k int PRIMARY KEY)"),
    ("alice", "INSERT INTO ks.hers (k) VALUES (1)"),
    ("alice", "CREATE TABLE IF NOT EXISTS ks.t (k int PRIMARY KEY)"),
    ("alice", "INSERT INTO ks.t (k, v) VALUES (2, 1)"),
    ("alice", "GRANT SELECT ON hers.t TO bob"),
    ("bob", "SELECT * FROM hers.t"),
    ("bob", "GRANT SELECT ON hers.t TO dev"),
    ("alice", "GRANT ALL ON KEYSPACE hers TO bob"),
    ("bob", "DROP TABLE hers.t"),
    ("alice", "CREATE ROLE intern WITH LOGIN = true AND PASSWORD = 'intern'"),
    ("alice", "CREATE ROLE IF NOT EXISTS bob"),
    ("alice", "ALTER ROLE bob WITH LOGIN = false"),
    ("intern", "SELECT * FROM ks.t"),
    ("alice", "GRANT intern TO dev"),
    ("alice", "ALTER ROLE intern WITH LOGIN = false"),
    ("alice", "DROP ROLE intern"),
    ("alice", "DROP ROLE IF EXISTS intern"),
    (BOSS, "GRANT CREATE ON ALL FUNCTIONS IN KEYSPACE ks TO alice"),
    (
        "alice",
        "CREATE FUNCTION ks.g (a int, b list<text>) CALLED ON NULL INPUT RETURNS int LANGUAGE java AS 'return a;'",
    ),
    ("alice", "CREATE OR REPLACE FUNCTION ks.f (a int) CALLED ON NULL INPUT RETURNS int LANGUAGE java AS 'return 7;'"),
    ("alice", "CREATE AGGREGATE ks.sum2 (int) SFUNC plus STYPE int"),
    ("alice", "GRANT EXECUTE ON FUNCTION ks.g(int, list<text>) TO bob"),
    ("alice", "DROP FUNCTION ks.f"),
    ("alice", "DROP FUNCTION ks.g"),
    // Gone with what they were on.
    (BOSS, "DROP TABLE ks.hers"),
    (BOSS, "CREATE TABLE ks.hers (k int PRIMARY KEY)"),
    ("alice", "INSERT INTO ks.hers (k) VALUES (1)"),
    (BOSS, "DROP KEYSPACE hers"),
    ("It's", "SELECT * FROM ks.t"),
    ("It's", "INSERT INTO ks.t (k, v) VALUES (2, 1)"),
    (BOSS, "GRANT ALL PERMISSIONS ON TABLE ks.t TO 'It''s'"),
    ("It's", "INSERT INTO ks.t (k, v) VALUES (2, 1)"),
    ("It's", "GRANT ALL ON ks.t TO bob"),
    ("bob", "INSERT INTO ks.t (k, v) VALUES (3, 1) IF NOT EXISTS"),
    (BOSS, "DROP ROLE 'It''s'"),
    (BOSS, "DROP ROLE boss"),
    (BOSS, "ALTER ROLE boss WITH SUPERUSER = false"),
    (BOSS, "ALTER ROLE bob WITH SUPERUSER = true"),
    ("bob", "CREATE TABLE ks.of_bob (k int PRIMARY KEY)"),
    ("bob", "DROP ROLE dev"),
    (BOSS, "ALTER ROLE bob WITH SUPERUSER = false AND LOGIN = false"),
    ("bob", "INSERT INTO ks.t (k, v) VALUES (4, 1)"),
    (BOSS, "DROP ROLE nobody"),
    (BOSS, "DROP ROLE IF EXISTS nobody"),
    (BOSS, "ALTER ROLE nobody WITH LOGIN = true"),
    (BOSS, "GRANT SELECT ON ks.t TO nobody"),
    (BOSS, "GRANT SELECT ON ks.nothing TO alice"),
    (BOSS, "GRANT CREATE ON TABLE ks.t TO alice"),
    (BOSS, "GRANT SELECT ON ALL MBEANS TO alice"),
    (BOSS, "ALTER ROLE alice WITH PASSWORD = 'a' AND PASSWORD = 'b'"),
    (BOSS, "GRANT nobody TO alice"),
    (BOSS, "GRANT alice TO alice"),
    (BOSS, "SELECT role, is_superuser, can_login, member_of FROM system_auth.roles WHERE role = 'alice'"),
    (BOSS, "LIST ALL PERMISSIONS OF alice"),
    (BOSS, "SELECT resource, permissions FROM system_auth.role_permissions WHERE role = 'boss'"),
    (BOSS, "LIST ALL PERMISSIONS OF boss"),
    (BOSS, "LIST ROLES OF alice"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_may_what_they_may_at_a_plain_cassandra() {
    let no_memory = ["permissions_validity", "roles_validity", "credentials_validity"].map(|key| (key, "0ms"));
    let logins = [("authenticator", "PasswordAuthenticator"), ("authorizer", "CassandraAuthorizer")];
    let plain = Plain::start(&[&logins[..], &no_memory].concat(), Vec::new()).await;
    plain.session().await.done("CREATE ROLE boss WITH PASSWORD = 'boss' AND LOGIN = true AND SUPERUSER = true").await;
    plain.session_of(BOSS).await.done("DROP ROLE cassandra").await;

    let log = MemoryStorage::default();
    let (site, dir) = (Site::with_logins(), tempfile::tempdir().unwrap());
    let handle = site.serve(&log, 0).await;
    let file = dir.path().join("password");
    std::fs::write(&file, BOSS).unwrap();
    let address = in_front_of(&handle, Some(BOSS));
    tokio::spawn(keep(Superuser::new(BOSS, &file).unwrap(), handle.clone()));
    drop(superuser(&address).await);
    until("Cassandra's own superuser gone", async || {
        let rows =
            as_the_replica(&site).await.rows("SELECT role FROM system_auth.roles WHERE role = 'cassandra'").await;
        rows.is_empty().then_some(())
    })
    .await;

    let side = |address: &str| Side { address: address.to_owned(), sessions: HashMap::new() };
    let (mut replica, mut cassandra) = (side(&address), side(&plain.site.cql));
    let mut differences = Vec::new();
    let every = |role, text| match text {
        "*" => ATTEMPTS.iter().map(|text| (role, *text)).collect(),
        _ => vec![(role, text)],
    };
    for (role, text) in SCRIPT.iter().flat_map(|(role, text)| every(*role, *text)) {
        let answers = (replica.ask(role, text).await, cassandra.ask(role, text).await);
        if answers.0 != answers.1 {
            let shown = |answer: &Answer| format!("{answer:?}").replace("\\0", " ");
            let (here, there) = (shown(&answers.0), shown(&answers.1));
            differences.push(format!("{role}: {text}\n  replica   {here}\n  cassandra {there}"));
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    own_role_is_nobodys(&address).await;
    nobody_holds_everybody_up(&address).await;
    a_cassandra_without_logins_waits(&log).await;
    the_same_after_a_replay(&site, &handle, &log).await;
    no_password_is_logged(&log).await;
    the_superuser_is_kept(&address, &handle).await;
    a_password_is_changed_in_the_file(&address, &file).await;
}

#[tokio::test]
#[ignore = "not a test: an agent, for the one above"]
async fn agent_as_a_process() {
    site::run_agent().await;
}

async fn as_the_replica(site: &Site) -> Direct {
    let Login { user, password } = Login::of_token(site::TOKEN);
    Direct::logged_in(&site.cql, &user, &password).await.expect("the replica's role can log in")
}

/// Nobody logs in as the replica, nor by the password that everybody knows, nor changes what the replica is.
async fn own_role_is_nobodys(address: &str) {
    let own = Login::of_token(site::TOKEN);
    for (user, password) in
        [(own.user.as_str(), own.password.as_str()), ("cassandra", "cassandra"), (BOSS, "wrong"), ("", "")]
    {
        assert!(Direct::logged_in(address, user, password).await.is_none(), "{user}");
    }
    let mut session = superuser(address).await;
    for text in [
        format!("ALTER ROLE {ROLE} WITH PASSWORD = 'x'"),
        format!("DROP ROLE {ROLE}"),
        format!("GRANT {ROLE} TO alice"),
        format!("GRANT SELECT ON ks.t TO {ROLE}"),
        format!("GRANT ALTER ON ROLE {ROLE} TO alice"),
    ] {
        let (_, body) = session.statement(&text, &[]).await;
        let error = parse_error(&body).unwrap();
        assert!(error.message.contains("is the replicas' own"), "{text}: {}", error.message);
    }
    // Before it has logged in a client gets nothing else.
    let mut hasty = Direct::to_one_that_asks(address).await;
    let (_, body) = hasty.statement("SELECT key FROM system.local", &[]).await;
    assert_eq!(parse_error(&body).unwrap().kind(), Some(ErrorCode::Protocol));
    let (opcode, _) = hasty.ask(Opcode::AuthResponse, auth_response(BOSS, "wrong")).await;
    assert_eq!(opcode, Opcode::Error.code());
    let (opcode, _) = hasty.ask(Opcode::AuthResponse, auth_response(BOSS, BOSS)).await;
    assert_eq!(opcode, Opcode::AuthSuccess.code(), "the second attempt is the right one");
}

/// What would hold every replica up is refused where it comes in.
async fn nobody_holds_everybody_up(address: &str) {
    let mut alice = Direct::logged_in(address, "alice", "alice").await.unwrap();
    let slow = format!("ALTER ROLE alice WITH HASHED PASSWORD = '$2a$30${}'", "x".repeat(53));
    let many = "ALTER ROLE alice WITH PASSWORD = 'a'".to_owned() + &" AND PASSWORD = 'a'".repeat(1000);
    for text in [slow, many, format!("DROP ROLE IF EXISTS '{}'", "x".repeat(70_000))] {
        let (_, body) = alice.statement(&text, &[]).await;
        let error = parse_error(&body).unwrap();
        assert!(matches!(error.kind(), Some(ErrorCode::Invalid | ErrorCode::Syntax)), "{}: {error:?}", &text[..60]);
    }
    let (_, body) = alice.prepared("ALTER ROLE alice WITH PASSWORD = 'x'", &[]).await;
    assert!(parse_error(&body).unwrap().message.contains("can't be prepared"));
}

/// A Cassandra whose clients do not log in does not execute what is about roles otherwise than others: it waits.
async fn a_cassandra_without_logins_waits(log: &MemoryStorage) {
    let open = Site::new();
    let waiting = open.start(log, 2);
    let reason = until("a replica that waits", async || {
        let conditions = format!("{:?}", waiting.status().conditions);
        conditions.contains("agent --authentication").then_some(conditions)
    })
    .await;
    assert!(!matches!(*waiting.serving().borrow(), Serving::Yes { .. }), "{reason}");
    assert_eq!(roles_left(&open).await, ["cassandra"], "nothing about roles was executed");
}

async fn roles_left(site: &Site) -> Vec<String> {
    let rows = Direct::to(&site.cql).await.rows("SELECT role FROM system_auth.roles").await;
    rows.iter().map(|row| String::from_utf8(row[0].as_ref().unwrap().to_vec()).unwrap()).collect()
}

/// What is known of roles, but for write times.
async fn roles_of(site: &Site) -> Vec<Vec<Vec<Option<Bytes>>>> {
    let mut direct = as_the_replica(site).await;
    let mut all = Vec::new();
    for text in [
        "SELECT role, is_superuser, can_login, salted_hash, member_of FROM system_auth.roles",
        "SELECT role, member FROM system_auth.role_members",
        "SELECT role, resource, permissions FROM system_auth.role_permissions",
        "SELECT resource, role FROM system_auth.resource_role_permissons_index",
    ] {
        all.push(direct.rows(text).await);
    }
    all
}

/// I1, I10: after a crash, and on a replica that only knows the log, roles are the same.
async fn the_same_after_a_replay(site: &Site, handle: &ReplicaHandle, log: &MemoryStorage) {
    let before = roles_of(site).await;
    handle.restore_point().await.unwrap();
    site.kill_and_recover(handle).await;
    assert_eq!(roles_of(site).await, before, "after a crash");
    let second = Site::with_logins();
    let other = second.serve(log, 1).await;
    other.barrier().await.unwrap();
    assert_eq!(roles_of(&second).await, before, "on another replica");
    let digest = agree(&other, handle).await;
    assert!(digest.tables.contains_key("system_auth.roles"), "roles are compared, too: {:?}", digest.tables.keys());
    other.stop().await;
}

async fn no_password_is_logged(log: &MemoryStorage) {
    let (reader, _) = log.open(9);
    let end = reader.end().await.unwrap();
    let mut tail = std::pin::pin!(reader.tail(Position::START));
    let mut passwords = 0;
    while let Some(committed) = tail.next().await {
        let committed = committed.unwrap();
        let text = String::from_utf8_lossy(&committed.entry).into_owned();
        passwords += text.matches("PASSWORD").count();
        assert_eq!(text.matches("PASSWORD").count(), text.matches("HASHED PASSWORD").count(), "{text}");
        if committed.position.next() >= end {
            break;
        }
    }
    assert!(passwords > 3, "there were some");
}

/// What it is kept with is not changed by clients, and comes back if it is changed some other way.
async fn the_superuser_is_kept(address: &str, handle: &ReplicaHandle) {
    let mut boss = superuser(address).await;
    boss.done("CREATE ROLE second WITH SUPERUSER = true AND LOGIN = true AND PASSWORD = 'second'").await;
    let mut second = Direct::logged_in(address, "second", "second").await.unwrap();
    for text in ["ALTER ROLE boss WITH PASSWORD = 'x'", "ALTER ROLE boss WITH SUPERUSER = false", "DROP ROLE boss"] {
        let (_, body) = second.statement(text, &[]).await;
        let error = parse_error(&body).unwrap();
        assert!(error.message.contains("--superuser-password-file"), "{text}: {error:?}");
    }
    // As a replica would that keeps another one.
    let statements = vec![StatementText { text: "ALTER ROLE boss WITH LOGIN = false".into(), values: Values::none() }];
    let request = Request { kind: RequestKind::Ddl, keyspace: None, statements, flags: 0 };
    handle.propose(request).await.unwrap();
    drop(superuser(address).await);
}

async fn a_password_is_changed_in_the_file(address: &str, file: &Path) {
    std::fs::write(file, "another one\n").unwrap();
    let login = until("the new password", async || Direct::logged_in(address, BOSS, "another one").await);
    tokio::time::timeout(PATIENCE, login).await.unwrap();
    assert!(Direct::logged_in(address, BOSS, BOSS).await.is_none(), "the old password");
}
