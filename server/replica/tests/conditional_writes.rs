//! Conditional writes: what the order makes of them, against Cassandra's own light-weight transactions. The same
//! statements go to two keyspaces of one Cassandra, through a replica and past it (where Paxos decides); every answer
//! must be the same, byte for byte, and so must be the rows afterwards. Needs the jars of `images/artifacts/fetch.sh`.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

mod site;

use bytes::Bytes;
use replicateddb_cql::Consistency;
use replicateddb_cql::frame::{Envelope, Opcode};
use replicateddb_cql::request::{self, Batch, BatchBody, BatchKind, BatchStatement, Values};
use replicateddb_cql::response::{ResultBody, parse_error, parse_result};
use replicateddb_cql::wire::Value;
use replicateddb_ordering::memory::MemoryStorage;
use replicateddb_replica::ReplicaHandle;
use replicateddb_replica::replica::{Request, RequestKind};
use site::{Direct, PATIENCE, Site, agree, ddl, done, int, list, request, text};

/// Names of one length, so that answers differ in nothing else.
const ORDERED: &str = "ks";
const PAXOS: &str = "px";

const SCHEMA: &[&str] = &[
    "CREATE TYPE pair (a int, b text)",
    "CREATE TABLE t (k int, c int, s int static, ss set<int> static, v int, w text, d double, n decimal, x varint, b blob, \
     tu timeuuid, l list<int>, st set<int>, m map<text, int>, fl frozen<list<int>>, fm frozen<map<text, int>>, u pair, \
     fu frozen<pair>, tp tuple<int, text>, ve vector<float, 2>, du duration, dl frozen<list<duration>>, PRIMARY KEY (k, c))",
    "CREATE TABLE r (k int, c int, d int, v int, PRIMARY KEY (k, c, d))",
    "CREATE TABLE n (k int PRIMARY KEY, n counter)",
    "CREATE TABLE o (k int PRIMARY KEY, v int)",
];

/// In order: what each finds depends on those before it.
const STATEMENTS: &[&str] = &[
    // Rows that are there, or not.
    "INSERT INTO t (k, c, v, w) VALUES (1, 1, 1, 'one') IF NOT EXISTS",
    "INSERT INTO t (k, c, v, w) VALUES (1, 1, 2, 'two') IF NOT EXISTS",
    "UPDATE t SET v = 5 WHERE k = 9 AND c = 9 IF EXISTS",
    "UPDATE t SET v = 5 WHERE k = 1 AND c = 1 IF EXISTS",
    "DELETE FROM t WHERE k = 9 AND c = 9 IF EXISTS",
    "DELETE w FROM t WHERE k = 1 AND c = 1 IF EXISTS",
    "UPDATE t SET w = 'upsert' WHERE k = 1 AND c = 2 IF v = null",
    "UPDATE t SET w = 'upsert' WHERE k = 1 AND c = 2 IF v != null",
    // Every operator, on values and on null.
    "UPDATE t SET w = 'a' WHERE k = 1 AND c = 1 IF v = 5",
    "UPDATE t SET w = 'b' WHERE k = 1 AND c = 1 IF v = 6",
    "UPDATE t SET w = 'c' WHERE k = 1 AND c = 1 IF v != 6",
    "UPDATE t SET w = 'd' WHERE k = 1 AND c = 1 IF v < 5",
    "UPDATE t SET w = 'e' WHERE k = 1 AND c = 1 IF v <= 5",
    "UPDATE t SET w = 'f' WHERE k = 1 AND c = 1 IF v > 4",
    "UPDATE t SET w = 'g' WHERE k = 1 AND c = 1 IF v >= 6",
    "UPDATE t SET w = 'h' WHERE k = 1 AND c = 1 IF v IN (1, 5)",
    "UPDATE t SET w = 'i' WHERE k = 1 AND c = 1 IF v IN ()",
    "UPDATE t SET w = 'j' WHERE k = 1 AND c = 1 IF v IN (null, 5)",
    "UPDATE t SET w = 'k' WHERE k = 1 AND c = 1 IF d < 1.5",
    "UPDATE t SET w = 'l' WHERE k = 1 AND c = 1 IF d != 1.5",
    "UPDATE t SET w = 'm' WHERE k = 1 AND c = 1 IF d = null AND v = 5",
    "UPDATE t SET w = 'n' WHERE k = 1 AND c = 1 IF d = null AND v = 6 AND w = 'm'",
    // Types that compare by value rather than by bytes.
    "UPDATE t SET n = 1.50, x = 300, d = -0.0, b = 0x00ff, tu = 50554d6e-29bb-11e5-b345-feff819cdc9f WHERE k = 1 AND c = 1 IF EXISTS",
    "UPDATE t SET w = 'o' WHERE k = 1 AND c = 1 IF n = 1.5",
    "UPDATE t SET w = 'p' WHERE k = 1 AND c = 1 IF n IN (1.500, 2)",
    "UPDATE t SET w = 'q' WHERE k = 1 AND c = 1 IF x > 299 AND x < 301",
    "UPDATE t SET w = 'r' WHERE k = 1 AND c = 1 IF d = 0.0",
    "UPDATE t SET w = 's' WHERE k = 1 AND c = 1 IF b > 0x00 AND b < 0x01",
    "UPDATE t SET w = 't' WHERE k = 1 AND c = 1 IF tu > 00000000-29bb-11e5-b345-feff819cdc9f",
    "UPDATE t SET w = 'u' WHERE k = 1 AND c = 1 IF w > 'T' AND w < 'u'",
    "UPDATE t SET tp = (1, 'x'), ve = [1, 2], du = 1d, dl = [2d] WHERE k = 1 AND c = 1 IF EXISTS",
    "UPDATE t SET w = 'v' WHERE k = 1 AND c = 1 IF tp = (1, 'x')",
    "UPDATE t SET w = 'w' WHERE k = 1 AND c = 1 IF tp < (1, 'y')",
    "UPDATE t SET w = 'x' WHERE k = 1 AND c = 1 IF ve = [1, 2]",
    "UPDATE t SET w = 'y' WHERE k = 1 AND c = 1 IF du = 1d",
    "UPDATE t SET w = 'z' WHERE k = 1 AND c = 1 IF du < 2d",
    // Collections, whole and by element.
    "UPDATE t SET l = [1, 2, 3], st = {3, 1}, m = {'a': 1, 'b': 2}, fl = [4, 5], fm = {'z': 1} WHERE k = 1 AND c = 1 IF l = null",
    "UPDATE t SET l = [1, 2, 3] WHERE k = 1 AND c = 1 IF l = null",
    "UPDATE t SET l = l + [4] WHERE k = 1 AND c = 1 IF l = [1, 2, 3]",
    "UPDATE t SET l = [0] + l WHERE k = 1 AND c = 1 IF l > [1, 2]",
    "UPDATE t SET l[1] = 7 WHERE k = 1 AND c = 1 IF l[1] = 1",
    "UPDATE t SET l[1] = 8 WHERE k = 1 AND c = 1 IF l[1] = 1",
    "UPDATE t SET l = l - [2] WHERE k = 1 AND c = 1 IF l[9] = null",
    "DELETE l[0] FROM t WHERE k = 1 AND c = 1 IF l[0] IN (0, 1)",
    "UPDATE t SET l[40] = 1 WHERE k = 1 AND c = 1 IF EXISTS",
    "UPDATE t SET w = 'set' WHERE k = 1 AND c = 1 IF st = {1, 3}",
    "UPDATE t SET st = st + {2} WHERE k = 1 AND c = 1 IF st != {1}",
    "UPDATE t SET st = st - {1} WHERE k = 1 AND c = 1 IF st IN ({1, 2, 3}, {})",
    "UPDATE t SET w = 'con' WHERE k = 1 AND c = 1 IF st CONTAINS 2",
    "UPDATE t SET m['a'] = 5 WHERE k = 1 AND c = 1 IF m['a'] = 1",
    "UPDATE t SET m = m - {'b'} WHERE k = 1 AND c = 1 IF m['b'] > 1 AND m['q'] = null",
    "UPDATE t SET m = m + {'c': 3} WHERE k = 1 AND c = 1 IF m = {'a': 5}",
    "UPDATE t SET w = 'ck' WHERE k = 1 AND c = 1 IF m CONTAINS KEY 'a'",
    "UPDATE t SET w = 'mn' WHERE k = 1 AND c = 1 IF m['a'] IN (null, 6)",
    "UPDATE t SET fl = [1] WHERE k = 1 AND c = 1 IF fl = [4, 5]",
    "UPDATE t SET fl = [2] WHERE k = 1 AND c = 1 IF fl[0] = 1",
    "UPDATE t SET fm = {'y': 2} WHERE k = 1 AND c = 1 IF fm['z'] = 1",
    "UPDATE t SET l = [] WHERE k = 1 AND c = 1 IF l != []",
    "UPDATE t SET w = 'empty' WHERE k = 1 AND c = 1 IF l = []",
    "UPDATE t SET w = 'emptynull' WHERE k = 1 AND c = 1 IF l = null",
    // Types of the user's.
    "UPDATE t SET u = {a: 1, b: 'x'}, fu = {a: 2} WHERE k = 1 AND c = 1 IF u = null",
    "UPDATE t SET u.a = 2 WHERE k = 1 AND c = 1 IF u.b = 'x'",
    "UPDATE t SET u.b = null WHERE k = 1 AND c = 1 IF u.a = 1",
    "UPDATE t SET u.b = null WHERE k = 1 AND c = 1 IF u = {a: 2, b: 'x'}",
    "UPDATE t SET w = 'uf' WHERE k = 1 AND c = 1 IF u.b = null AND fu.a = 2",
    "UPDATE t SET w = 'ui' WHERE k = 1 AND c = 1 IF u IN ({a: 2}, {a: 3, b: 'y'})",
    "UPDATE t SET w = 'un' WHERE k = 1 AND c = 1 IF u.nothing = 1",
    // Static columns: rows that are not there have them.
    "UPDATE t SET s = 1 WHERE k = 2 IF s = null",
    "UPDATE t SET s = 2 WHERE k = 2 IF s = null",
    "UPDATE t SET v = 1 WHERE k = 2 AND c = 1 IF s = 1",
    "UPDATE t SET v = 1 WHERE k = 2 AND c = 5 IF s = 2",
    "UPDATE t SET v = 1 WHERE k = 2 AND c = 5 IF s = 2 AND v = 3",
    "INSERT INTO t (k, s) VALUES (2, 9) IF NOT EXISTS",
    "INSERT INTO t (k, s) VALUES (3, 9) IF NOT EXISTS",
    "INSERT INTO t (k, c, s) VALUES (3, 1, 8) IF NOT EXISTS",
    "INSERT INTO t (k, c, s) VALUES (3, 1, 7) IF NOT EXISTS",
    "UPDATE t SET ss = ss + {1, 2} WHERE k = 3 IF EXISTS",
    "UPDATE t SET s = 5 WHERE k = 3 IF ss = {1, 2} AND s IN (8, 9)",
    "DELETE s FROM t WHERE k = 3 IF s = 5",
    "DELETE FROM t WHERE k = 2 AND c = 1 IF s = 1 AND v = 1",
    "DELETE FROM t WHERE k = 2 IF EXISTS",
    "DELETE v FROM t WHERE k = 3 IF s = 1",
    // Batches of one partition.
    "BEGIN BATCH INSERT INTO t (k, c, v) VALUES (4, 1, 1) IF NOT EXISTS; INSERT INTO t (k, c, v) VALUES (4, 2, 2); APPLY BATCH",
    "BEGIN BATCH INSERT INTO t (k, c, v) VALUES (4, 1, 9) IF NOT EXISTS; INSERT INTO t (k, c, v) VALUES (4, 3, 3); APPLY BATCH",
    "BEGIN BATCH UPDATE t SET v = 3 WHERE k = 4 AND c = 1 IF v = 1; UPDATE t SET v = 4 WHERE k = 4 AND c = 2 IF v = 2; APPLY BATCH",
    "BEGIN BATCH UPDATE t SET v = 3 WHERE k = 4 AND c = 1 IF v = 1; UPDATE t SET v = 5 WHERE k = 4 AND c = 2 IF v = 4; APPLY BATCH",
    "BEGIN BATCH UPDATE t SET s = 1 WHERE k = 4 IF s = null; INSERT INTO t (k, c, v) VALUES (4, 7, 7) IF NOT EXISTS; APPLY BATCH",
    "BEGIN UNLOGGED BATCH UPDATE t SET s = 2 WHERE k = 4 IF s = 1; DELETE FROM t WHERE k = 4 AND c = 7; APPLY BATCH",
    "BEGIN BATCH UPDATE t SET v = 3 WHERE k = 4 AND c = 1 IF v = 3; UPDATE t SET v = 3 WHERE k = 5 AND c = 1; APPLY BATCH",
    "BEGIN BATCH UPDATE t SET v = 3 WHERE k = 4 AND c = 1 IF v = 3; UPDATE o SET v = 3 WHERE k = 4; APPLY BATCH",
    "BEGIN BATCH UPDATE t SET v = 1 WHERE k = 4 AND c = 1 IF EXISTS; DELETE FROM t WHERE k = 4 AND c = 1 IF NOT EXISTS; APPLY BATCH",
    "BEGIN BATCH INSERT INTO t (k, c) VALUES (4, 1) IF NOT EXISTS; UPDATE t SET v = 1 WHERE k = 4 AND c = 1 IF EXISTS; APPLY BATCH",
    "BEGIN BATCH DELETE FROM t WHERE k = 4 AND c > 1; UPDATE t SET v = 8 WHERE k = 4 AND c = 1 IF v = 3; APPLY BATCH",
    "BEGIN BATCH USING TIMESTAMP 5 UPDATE t SET v = 3 WHERE k = 4 AND c = 1 IF v = 3; APPLY BATCH",
    // What only looks alike.
    "INSERT INTO t JSON '{\"k\": 6, \"c\": 1, \"v\": 3, \"m\": {\"a\": 1}}' IF NOT EXISTS",
    "INSERT INTO t JSON '{\"k\": 6, \"c\": 1, \"v\": 4}' IF NOT EXISTS",
    "INSERT INTO t JSON '{\"k\": 6, \"c\": 2}' DEFAULT UNSET IF NOT EXISTS",
    "DELETE FROM r WHERE k = 1 AND c = 1 IF EXISTS",
    "DELETE FROM r WHERE k = 1 IF EXISTS",
    "INSERT INTO r (k, c, d, v) VALUES (1, 1, 1, 1) IF NOT EXISTS",
    "UPDATE r SET v = 2 WHERE k = 1 AND c = 1 AND d = 1 IF v = 1 AND v = 1",
    "UPDATE r SET v = 2 WHERE k = 1 AND c = 1 AND d = 1 IF v = 1 AND v = 2",
    // What is wrong.
    "UPDATE t SET v = 1 WHERE k IN (1, 2) AND c = 1 IF v = 1",
    "UPDATE t SET v = 1 WHERE k = 1 AND c IN (1, 2) IF v = 1",
    "DELETE FROM t WHERE k = 1 AND c IN (1, 2) IF EXISTS",
    "UPDATE t SET v = 1 WHERE k = 1 AND c = 1 IF c = 1",
    "UPDATE t SET v = 1 WHERE k = 1 AND c = 1 IF k = 1",
    "UPDATE t SET v = 1 WHERE k = 1 IF v = 1",
    "UPDATE t SET v = 1 WHERE k = 1 AND c = 1 IF nothing = 1",
    "UPDATE t SET v = 1 WHERE k = 1 AND c = 1 IF v = 'text'",
    "UPDATE t SET v = 1 WHERE k = 1 AND c = 1 IF v < null",
    "UPDATE t SET v = 1 WHERE k = 1 AND c = 1 IF l[null] = 1",
    "UPDATE t SET v = 1 WHERE k = 1 AND c = 1 IF v[0] = 1",
    "UPDATE t USING TIMESTAMP 5 SET v = 1 WHERE k = 1 AND c = 1 IF v = 1",
    "INSERT INTO t (k, c) VALUES (1, 1) IF NOT EXISTS USING TIMESTAMP 5",
    "UPDATE n SET n = n + 1 WHERE k = 1 IF n = 1",
    "INSERT INTO t (k, c) VALUES (1, 1) IF EXISTS",
    "UPDATE nowhere SET v = 1 WHERE k = 1 IF v = 1",
    "UPDATE t SET v = 1 WHERE k = 1 AND c = 1 IF v LIKE 'x'",
    "UPDATE t SET v = 1 WHERE k = 1 AND c = 1 IF",
];

/// With the keyspace's name replaced.
fn of_paxos(body: &Bytes) -> Vec<u8> {
    let mut body = body.to_vec();
    // In metadata a name follows its length; in messages a dot follows it.
    let named = [format!("\0\x02{ORDERED}"), format!("{ORDERED}.")].map(String::into_bytes);
    for at in 0..body.len() {
        for name in &named {
            if body[at..].starts_with(name) {
                let start = at + name.windows(2).position(|pair| pair == ORDERED.as_bytes()).unwrap();
                body[start..start + 2].copy_from_slice(PAXOS.as_bytes());
            }
        }
    }
    body
}

fn shown(answer: &(u8, Bytes)) -> String {
    match answer.0 {
        0 => format!("{:?}", parse_error(&answer.1)),
        _ => format!("{:?}", parse_result(&answer.1)),
    }
}

/// How many were applied, were not, and are errors.
#[derive(Default, Debug)]
struct Seen {
    applied: usize,
    not_applied: usize,
    errors: usize,
}

impl Seen {
    fn count(&mut self, answer: &(u8, Bytes)) {
        match (answer.0, parse_result(&answer.1)) {
            (8, Ok(ResultBody::Rows(rows))) => match rows.rows.first().and_then(|row| row.first()) {
                Some(Some(applied)) if applied.as_ref() == [1] => self.applied += 1,
                _ => self.not_applied += 1,
            },
            (8, _) => self.applied += 1,
            _ => self.errors += 1,
        }
    }
}

fn equal(what: &str, ordered: &(u8, Bytes), direct: &(u8, Bytes), seen: &mut Seen) {
    let same = ordered.0 == direct.0 && of_paxos(&ordered.1) == direct.1;
    assert!(same, "{what}\n ordered: {}\n Paxos:   {}", shown(ordered), shown(direct));
    seen.count(direct);
}

async fn proposed(handle: &ReplicaHandle, kind: RequestKind, statements: Vec<(&str, Vec<Value>)>) -> (u8, Bytes) {
    let outcome = handle.propose(request(kind, statements)).await.unwrap();
    let opcode = Opcode::from_code(outcome.opcode).unwrap();
    let answer = Envelope { flags: outcome.flags, ..Envelope::response(0, opcode, outcome.body) };
    (outcome.opcode, answer.message().unwrap())
}

fn with_values() -> Vec<(&'static str, Vec<Value>)> {
    let update = "UPDATE t SET w = ? WHERE k = ? AND c = ? IF v = ?";
    let element = "UPDATE t SET l[?] = ? WHERE k = ? AND c = ? IF l[?] = ?";
    vec![
        ("INSERT INTO t (k, c, v, l) VALUES (?, ?, ?, ?) IF NOT EXISTS", vec![int(7), int(1), int(1), list(3)]),
        ("INSERT INTO t (k, c, v, l) VALUES (?, ?, ?, ?) IF NOT EXISTS", vec![int(7), int(1), Value::Null, list(4)]),
        (update, vec![text("bound"), int(7), int(1), int(1)]),
        (update, vec![text("other"), int(7), int(1), int(2)]),
        (update, vec![text("null"), int(7), int(1), Value::Null]),
        (update, vec![text("unset"), int(7), int(1), Value::Unset]),
        (update, vec![Value::Unset, int(7), int(1), int(1)]),
        (update, vec![text("short"), int(7), int(1), text("five!")]),
        (update, vec![text("few"), int(7)]),
        (element, vec![int(0), int(5), int(7), int(1), int(0), int(3)]),
        (element, vec![int(0), int(6), int(7), int(1), int(9), int(3)]),
        (element, vec![int(0), int(6), int(7), int(1), Value::Null, int(3)]),
        ("UPDATE t SET w = ? WHERE k = ? AND c = ? IF v IN ?", vec![text("in"), int(7), int(1), list(1)]),
        ("UPDATE t SET w = ? WHERE k = ? AND c = ? IF v IN (?, ?)", vec![text("ins"), int(7), int(1), int(1), int(8)]),
        ("DELETE FROM t WHERE k = ? AND c = ? IF w = ?", vec![int(7), int(1), text("nobody")]),
        ("DELETE FROM t WHERE k = ? AND c = ? IF w = ?", vec![int(7), int(1), text("ins")]),
    ]
}

/// Batches as drivers send them: members apart, with values, comments and semicolons of their own.
fn batches() -> Vec<Vec<(&'static str, Vec<Value>)>> {
    let insert = "INSERT INTO t (k, c, v) VALUES (?, ?, ?) IF NOT EXISTS; -- first";
    let plain = "INSERT INTO t (k, c, v) VALUES (8, 2, 2) /* in between */ ;";
    let update = "UPDATE t SET v = ? WHERE k = ? AND c = ? IF v = ?";
    vec![
        vec![(insert, vec![int(8), int(1), int(1)]), (plain, vec![])],
        vec![(insert, vec![int(8), int(1), int(5)]), (plain, vec![]), (update, vec![int(3), int(8), int(2), int(2)])],
        vec![(update, vec![int(3), int(8), int(1), int(1)]), (update, vec![int(4), int(8), int(2), int(2)])],
        vec![(update, vec![int(3), int(8), int(1), int(1)]), (update, vec![int(4), int(9), int(2), int(2)])],
        vec![(update, vec![int(3), int(8), int(1), text("long one")])],
        vec![
            ("DELETE FROM t WHERE k = ? AND c = ?", vec![int(8), int(1)]),
            (update, vec![int(3), int(8), int(1), int(3)]),
        ],
    ]
}

fn batch_body(statements: &[(&str, Vec<Value>)]) -> Bytes {
    let statement = |(text, values): &(&str, Vec<Value>)| BatchStatement {
        body: BatchBody::Text((*text).to_owned()),
        values: Values::positional(values).unwrap(),
    };
    let batch = Batch {
        kind: BatchKind::Unlogged,
        statements: statements.iter().map(statement).collect(),
        consistency: Consistency::One,
        serial_consistency: None,
        timestamp: None,
    };
    request::batch(&batch).unwrap()
}

async fn prepare_keyspaces(handle: &ReplicaHandle, site: &Site) -> Direct {
    let mut direct = Direct::to(&site.cql).await;
    let replication = "replication = {'class': 'SimpleStrategy', 'replication_factor': 1}";
    ddl(handle, &format!("CREATE KEYSPACE {ORDERED} WITH {replication}")).await;
    direct.done(&format!("CREATE KEYSPACE {PAXOS} WITH {replication}")).await;
    let mut direct = direct.using(&site.cql, PAXOS).await;
    for text in SCHEMA {
        ddl(handle, text).await;
        direct.done(text).await;
    }
    direct
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_and_rows_are_those_of_light_weight_transactions() {
    let log = MemoryStorage::default();
    let site = Site::new();
    let handle = site.serve(&log, 0).await;
    let mut direct = prepare_keyspaces(&handle, &site).await;
    let mut seen = Seen::default();
    for text in STATEMENTS {
        let ordered = proposed(&handle, RequestKind::Dml, vec![(text, Vec::new())]).await;
        equal(text, &ordered, &direct.statement(text, &[]).await, &mut seen);
    }
    for (text, values) in with_values() {
        let ordered = proposed(&handle, RequestKind::Dml, vec![(text, values.clone())]).await;
        let answer = direct.prepared(text, &values).await;
        equal(&format!("{text} {values:?}"), &ordered, &answer, &mut seen);
    }
    for statements in batches() {
        let answer = direct.ask(Opcode::Batch, batch_body(&statements)).await;
        let ordered = proposed(&handle, RequestKind::Batch, statements.clone()).await;
        equal(&format!("{statements:?}"), &ordered, &answer, &mut seen);
    }
    assert!(seen.applied > 40 && seen.not_applied > 25 && seen.errors > 20, "{seen:?}");
    for table in ["t", "r", "o"] {
        let ordered = direct.rows(&format!("SELECT JSON * FROM {ORDERED}.{table}")).await;
        let paxos = direct.rows(&format!("SELECT JSON * FROM {PAXOS}.{table}")).await;
        assert_eq!(ordered, paxos, "{table}");
        assert!(table == "o" || !ordered.is_empty());
    }
    // The log's time, not a ballot's: the write after a conditional one wins.
    for text in ["UPDATE o SET v = 1 WHERE k = 1 IF v = null", "UPDATE o SET v = 2 WHERE k = 1"] {
        done(&handle, request(RequestKind::Dml, vec![(text, Vec::new())])).await;
    }
    assert_eq!(
        direct.rows(&format!("SELECT v FROM {ORDERED}.o WHERE k = 1")).await[0][0].as_deref(),
        Some(&[0, 0, 0, 2][..])
    );
}

/// I1 with expiry: a replica that replays all at once decides as those did for whom time passed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_see_expiry_by_the_clock_of_the_log() {
    let log = MemoryStorage::default();
    let (site, late) = (Site::new(), Site::new());
    let handle = site.serve(&log, 0).await;
    ddl(&handle, "CREATE KEYSPACE ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}").await;
    ddl(&handle, "CREATE TABLE t (k int PRIMARY KEY, v int)").await;
    ddl(&handle, "CREATE TABLE d (k int PRIMARY KEY, v int) WITH default_time_to_live = 1").await;
    ddl(&handle, "CREATE TABLE long (k int PRIMARY KEY, v int) WITH default_time_to_live = 100000").await;
    let attempt = |text: &'static str, values: Vec<Value>| {
        let handle = handle.clone();
        async move {
            let outcome: replicateddb_replica::replica::Outcome =
                done(&handle, Request { flags: 0, ..request(RequestKind::Dml, vec![(text, values)]) }).await;
            let mut seen = Seen::default();
            seen.count(&(outcome.opcode, outcome.body));
            seen.applied == 1
        }
    };
    for (first, again) in [
        (
            "INSERT INTO t (k, v) VALUES (?, 1) IF NOT EXISTS USING TTL 1",
            "INSERT INTO t (k, v) VALUES (?, 2) IF NOT EXISTS",
        ),
        ("INSERT INTO d (k, v) VALUES (?, 1) IF NOT EXISTS", "UPDATE d SET v = 2 WHERE k = ? IF v = null"),
    ] {
        assert!(attempt(first, vec![int(1)]).await, "{first}");
        assert!(!attempt(again, vec![int(1)]).await, "not yet expired: {again}");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !attempt(again, vec![int(1)]).await {
            assert!(tokio::time::Instant::now() < deadline, "it never expires: {again}");
        }
    }
    for text in ["INSERT INTO long (k, v) VALUES (1, 1)", "UPDATE long USING TTL 5000 SET v = 2 WHERE k = 2"] {
        done(&handle, request(RequestKind::Dml, vec![(text, Vec::new())])).await;
    }
    let late = late.serve(&log, 1).await;
    let digest = agree(&handle, &late).await;
    assert_eq!(digest.tables["ks.long"].rows, 2);
}
