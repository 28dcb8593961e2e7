//! Clients of every protocol version, with every compression: the same requests go to a replica's front end and past it to
//! a Cassandra, in two keyspaces of one Cassandra; every answer must be the same, byte for byte. Needs the jars of
//! `images/artifacts/fetch.sh`.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

mod site;

use bytes::Bytes;
use replicateddb_cql::frame::Opcode;
use replicateddb_cql::request::{self, Batch, BatchBody, BatchKind, BatchStatement, Params, Values};
use replicateddb_cql::response::{ErrorCode, ResultBody, parse_error, parse_result_of};
use replicateddb_cql::wire::Value;
use replicateddb_cql::{Consistency, Version};
use replicateddb_ordering::memory::MemoryStorage;
use site::versions::{KINDS, Pair};
use site::{PATIENCE, Site, in_front_of, int, long, text};

/// Rows of the table that is read in pages, and rows on a page.
const ROWS: i32 = 10_000;
const PAGE: i32 = 999;

#[tokio::test(flavor = "multi_thread")]
async fn every_version_is_answered_as_cassandra_answers_it() {
    let site = Site::new();
    let handle = site.serve(&MemoryStorage::default(), 0).await;
    let address = in_front_of(&handle, None);
    tokio::time::timeout(PATIENCE, async {
        let mut differences = Vec::new();
        for (number, (version, compression)) in KINDS.into_iter().enumerate() {
            let mut pair = Pair::connect(&address, &site.cql, version, compression, number).await;
            schema(&mut pair).await;
            statements(&mut pair).await;
            values(&mut pair).await;
            pages(&mut pair).await;
            metadata(&mut pair).await;
            errors(&mut pair).await;
            if version == Version::V5 {
                own_keyspace(&mut pair).await;
            }
            differences.append(&mut pair.differences);
        }
        assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    })
    .await
    .expect("all is answered");
}

async fn schema(pair: &mut Pair) {
    for statement in [
        "CREATE KEYSPACE KS WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
        "CREATE TYPE KS.pair (a int, b frozen<list<duration>>)",
        "CREATE TABLE KS.t (k int PRIMARY KEY, b bigint, d date, ti time, s smallint, ty tinyint, du duration, ts timestamp, \
         de decimal, i inet, l list<smallint>, m map<text, frozen<set<tinyint>>>, p frozen<pair>, tu tuple<date, time>, \
         ve vector<float, 2>, x text)",
        "CREATE TABLE KS.n (k int PRIMARY KEY, n counter)",
        "CREATE TABLE KS.r (k int, c int, x text, PRIMARY KEY (k, c))",
        "CREATE TABLE KS.t (k int PRIMARY KEY)",
        "CREATE TABLE IF NOT EXISTS KS.t (k int PRIMARY KEY)",
        "CREATE FUNCTION KS.f (a int) CALLED ON NULL INPUT RETURNS int LANGUAGE java AS 'return 1 / a;'",
        "CREATE AGGREGATE KS.g (int) SFUNC f2 STYPE int",
        "CREATE FUNCTION KS.f2 (a int, b int) CALLED ON NULL INPUT RETURNS int LANGUAGE java AS 'return 1;'",
        "CREATE AGGREGATE KS.g (int) SFUNC f2 STYPE int",
        "DROP AGGREGATE KS.g (int)",
        "CREATE INDEX ON KS.t (b)",
        "USE KS",
    ] {
        pair.text(statement).await;
    }
}

async fn statements(pair: &mut Pair) {
    for statement in [
        "INSERT INTO t (k, b, d, ti, s, ty, du, l, m, p, tu, ve) VALUES (1, 2, '2020-01-02', '10:11:12', 3, 4, 5mo6d7ns, \
         [1, 2], {'a': {1, 2}}, {a: 1, b: [1d]}, ('2020-01-02', '10:11:12'), [1, 2])",
        "INSERT INTO KS.t (k, x) VALUES (2, 'two') IF NOT EXISTS",
        "INSERT INTO t (k, x) VALUES (1, 'two') IF NOT EXISTS",
        "UPDATE t SET x = 'z' WHERE k = 1 IF d = '2020-01-02' AND du = 5mo6d7ns",
        "UPDATE t SET x = 'z' WHERE k = 1 IF s = 1",
        "UPDATE t SET x = 'z' WHERE k = 1 IF ty = 1 AND ti = '10:11:12' AND d = '2020-01-02' AND du = 5mo6d7ns",
        "UPDATE t SET x = 'z' WHERE k = 1 IF p = {a: 2} AND tu = ('2020-01-02', '10:11:12') AND m = {}",
        "UPDATE n SET n = n + 1 WHERE k = 1",
        "SELECT * FROM t WHERE k = 1",
        "SELECT k, x AS y, d FROM t",
        "SELECT count(*) FROM t",
        "SELECT JSON * FROM t WHERE k = 1",
        "SELECT f(k) FROM t WHERE k = 1",
        "SELECT * FROM n",
        "BEGIN BATCH INSERT INTO t (k) VALUES (7); DELETE FROM t WHERE k = 2; APPLY BATCH",
        "BEGIN BATCH INSERT INTO t (k) VALUES (8) IF NOT EXISTS APPLY BATCH",
        "DELETE FROM t WHERE k = 7",
        "TRUNCATE n",
        "SELECT * FROM t WHERE x = 'no key'",
        "SELEC",
        "SELECT * FROM nothing",
        "INSERT INTO t (k, x) VALUES ('one', 1)",
    ] {
        pair.text(statement).await;
    }
}

/// Values as such, by place and by name, and prepared; batches.
async fn values(pair: &mut Pair) {
    let version = pair.version;
    let three = |value: Value| vec![int(3), text("x"), value];
    // Version 3 has no unset values: another negative length is null there.
    for last in [long(9), Value::Null, Value::Unset] {
        let values = Values::positional(&three(last.clone())).unwrap();
        pair.query("INSERT INTO t (k, x, b) VALUES (?, ?, ?)", Params::new(Consistency::Quorum, values.clone())).await;
        pair.text("SELECT k, x, b FROM t WHERE k = 3").await;
        let named = Values::by_name(&[("b", last), ("x", text("named")), ("k", int(3))]).unwrap();
        pair.query("INSERT INTO t (k, x, b) VALUES (:k, :x, :b)", Params::new(Consistency::One, named)).await;
        pair.text("SELECT k, x, b FROM t WHERE k = 3").await;
        pair.prepare("INSERT INTO t (k, x, b) VALUES (?, ?, ?)").await;
        pair.execute(Params::new(Consistency::One, values)).await;
        pair.text("SELECT k, x, b FROM t WHERE k = 3").await;
    }
    pair.prepare("INSERT INTO t (k, du) VALUES (?, ?) IF NOT EXISTS").await;
    for k in [3, 30] {
        let values = Values::positional(&[int(k), Value::Null]).unwrap();
        pair.execute(Params { skip_metadata: true, ..Params::new(Consistency::One, values) }).await;
    }
    pair.prepare("SELECT * FROM t WHERE k = ?").await;
    for skip_metadata in [false, true] {
        let values = Values::positional(&[int(1)]).unwrap();
        pair.execute(Params { skip_metadata, ..Params::new(Consistency::Quorum, values) }).await;
    }
    pair.prepare("INSERT INTO r (k, c, x) VALUES (?, ?, 'batched')").await;
    let member = |body, values: &[Value]| BatchStatement { body, values: Values::positional(values).unwrap() };
    let insert = BatchBody::Text("INSERT INTO r (k, c) VALUES (?, 1)".to_owned());
    for kind in [BatchKind::Logged, BatchKind::Unlogged] {
        let of = async |pair: &mut Pair, statements: Vec<BatchStatement>| {
            let batch = Batch {
                kind,
                statements,
                consistency: Consistency::One,
                serial_consistency: Some(Consistency::LocalSerial),
                timestamp: Some(1_600_000_000_000_000),
            };
            pair.batch(batch, None).await;
        };
        of(pair, vec![member(insert.clone(), &[int(1)]), member(BatchBody::Id(Bytes::new()), &[int(1), int(2)])]).await;
        of(pair, vec![member(BatchBody::Text("SELECT * FROM r".to_owned()), &[])]).await;
        of(pair, vec![]).await;
    }
    pair.text("SELECT * FROM r").await;
    if version < Version::V5 {
        pair.refused(Opcode::Query, Bytes::from_static(&[0, 0, 0, 1, b'S', 0, 1, 0x80])).await;
    }
}

/// Ten thousand rows, some of them long, read page by page.
async fn pages(pair: &mut Pair) {
    let insert = BatchBody::Text("INSERT INTO r (k, c, x) VALUES (?, ?, ?)".to_owned());
    for start in (0..ROWS).step_by(500) {
        let member = |row: i32| {
            let values = [int(row / 2500), int(row), text(&"abc".repeat(row as usize % 100))];
            BatchStatement { body: insert.clone(), values: Values::positional(&values).unwrap() }
        };
        let batch = Batch {
            kind: BatchKind::Unlogged,
            statements: (start..start + 500).map(member).collect(),
            consistency: Consistency::One,
            serial_consistency: None,
            timestamp: None,
        };
        pair.batch(batch, None).await;
    }
    pair.prepare("SELECT k, c, x FROM r").await;
    let mut paging_state = None;
    let mut rows = 0;
    loop {
        let params = Params {
            page_size: Some(PAGE),
            paging_state,
            skip_metadata: true,
            ..Params::new(Consistency::One, Values::none())
        };
        let answer = pair.execute(params).await;
        let ResultBody::Rows(page) = parse_result_of(&answer, pair.version).unwrap() else { panic!("rows") };
        rows += page.rows.len();
        paging_state = page.paging_state;
        if paging_state.is_none() {
            break;
        }
    }
    assert!(rows >= ROWS as usize, "{rows}");
    // In one answer, which takes several segments.
    pair.query("SELECT * FROM r", Params::new(Consistency::All, Values::none())).await;
}

/// The columns of a prepared statement change.
async fn metadata(pair: &mut Pair) {
    pair.prepare("SELECT * FROM t WHERE k = ?").await;
    let params =
        || Params { skip_metadata: true, ..Params::new(Consistency::One, Values::positional(&[int(1)]).unwrap()) };
    let before = pair.execute(params()).await;
    pair.text("ALTER TABLE t ADD later text").await;
    assert_eq!(pair.not_executed(params()).await, ErrorCode::Unprepared.code());
    pair.prepare_again("SELECT * FROM t WHERE k = ?").await;
    let after = pair.execute(params()).await;
    if pair.version == Version::V5 {
        let flags = |body: &Bytes| i32::from_be_bytes(*body[4..].first_chunk().unwrap());
        assert_eq!((flags(&before) & 0x0C, flags(&after) & 0x0C), (0x04, 0x08), "the client is told");
    }
}

async fn errors(pair: &mut Pair) {
    pair.text("INSERT INTO t (k) VALUES (0)").await;
    // A function's failure has a code of its own since version 4.
    pair.text("SELECT f(k) FROM t WHERE k = 0").await;
    for (opcode, body) in [
        (Opcode::Query, &[0xFF, 0xFF, 0xFF, 0xFF][..]),
        (Opcode::Execute, &[0, 9, 1]),
        (Opcode::Batch, &[9, 0, 0, 0, 1, 0, 0, 0, 0]),
        (Opcode::Register, &[0, 1, 0, 4, b'M', b'O', b'O', b'N']),
    ] {
        pair.refused(opcode, Bytes::from_static(body)).await;
        pair.reconnect().await;
    }
    let unknown = Bytes::from_static(b"0123456789abcdef");
    let params = Params::new(Consistency::One, Values::none());
    let body = match pair.version {
        Version::V5 => request::v5::execute(&unknown, b"0123456789abcdef", &params, None).unwrap(),
        _ => request::execute(&unknown, &params).unwrap(),
    };
    let [ordered, direct] = pair.both(Opcode::Execute, body).await;
    for answer in [ordered, direct] {
        let error = parse_error(&answer.body).unwrap();
        assert_eq!((error.kind(), error.unprepared_id()), (Some(ErrorCode::Unprepared), Some(unknown.clone())));
    }
}

/// What a request of version 5 says for itself.
async fn own_keyspace(pair: &mut Pair) {
    pair.reconnect().await;
    for select in ["SELECT k, x FROM t", "SELECT * FROM nothing"] {
        pair.query(select, Params::new(Consistency::One, Values::none())).await;
        pair.query_in(select, Params::new(Consistency::One, Values::none()), None).await;
    }
    let params = || Params::new(Consistency::One, Values::none());
    pair.query_in("INSERT INTO t (k, x) VALUES (50, 'own')", params(), Some(1_700_000_000)).await;
    pair.query_in("INSERT INTO t (k, x) VALUES (50, 'own') IF NOT EXISTS", params(), None).await;
    pair.query_in("CREATE TABLE own (k int PRIMARY KEY)", params(), None).await;
    pair.query_in("INSRET", params(), None).await;
    pair.prepare_in("SELECT k, x FROM t WHERE k = ?").await;
    pair.execute(Params {
        skip_metadata: true,
        ..Params::new(Consistency::One, Values::positional(&[int(50)]).unwrap())
    })
    .await;
    pair.prepare_in("INSERT INTO t (k, x) VALUES (?, 'prepared')").await;
    pair.execute(Params::new(Consistency::One, Values::positional(&[int(51)]).unwrap())).await;
    let insert = BatchBody::Text("INSERT INTO t (k, x) VALUES (52, 'batch')".to_owned());
    let batch = Batch {
        kind: BatchKind::Logged,
        statements: vec![BatchStatement { body: insert, values: Values::none() }],
        consistency: Consistency::One,
        serial_consistency: None,
        timestamp: None,
    };
    pair.batch(batch, Some(1_700_000_000)).await;
    pair.query_in("SELECT k, x FROM t", params(), None).await;
    // What is read ends when the request says so.
    pair.query_in("INSERT INTO t (k, x) VALUES (53, 'short') USING TTL 600", params(), None).await;
    for now in [0, i32::MAX - 1] {
        pair.query_in("SELECT k, x FROM t WHERE k = 53", params(), Some(now)).await;
    }
    pair.text("SELECT * FROM system_schema.keyspaces WHERE keyspace_name = 'nothing'").await;
}
