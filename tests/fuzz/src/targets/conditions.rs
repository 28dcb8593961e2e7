//! Conditional writes that may be decided in memory, nulls in WHERE, and vectors: by texts and values of clients.

use bytes::Bytes;
use replicateddb_cql::request::Values;
use replicateddb_cql::response::{Column, ColumnType, cell};
use replicateddb_cql::statement::classify;
use replicateddb_cql::wire::Value;
use replicateddb_replica::backend::fuzzing::{self as backend, Eligible};
use replicateddb_replica::record::StatementText;

use super::seeds::join;
use crate::source::Source;

/// The values, then the text.
pub fn run(input: &[u8]) {
    let mut source = Source(input);
    let named = source.flag();
    let raw = source.bytes();
    let text = String::from_utf8_lossy(source.rest());
    let Ok(values) = Values::from_raw(Bytes::copy_from_slice(raw), named) else { return };
    check_values(&text, values);
}

/// As [`run`], with null for every marker but these.
pub fn check(text: &str, given: &[Value]) {
    let markers = classify(text).markers.len();
    let nulls = (given.len()..markers).map(|_| Value::Null);
    let all: Vec<Value> = given.iter().cloned().chain(nulls).take(markers).collect();
    if let Ok(values) = Values::positional(&all) {
        check_values(text, values);
    }
}

fn check_values(text: &str, values: Values) {
    let said = classify(text);
    let statement = StatementText { text: text.to_owned(), values };
    let literal = backend::names_null(text);
    let found = backend::null_in_where(&statement, &said, literal);
    assert!(!found || literal || statement.values.iter().any(|bound| bound.value == Value::Null));
    for suspects in [backend::vectors_in_text(text), backend::vectors_in_values(&statement.values, &bind())] {
        assert!(suspects <= text.len() + statement.values.raw().len());
    }
    let Some(candidate) = backend::candidate(text, &said) else { return };
    let plain = classify(&candidate.plain);
    assert!(said.conditional.is_some() && plain.conditional.is_none(), "{text:?} became {:?}", candidate.plain);
    assert_eq!((plain.kind, &plain.keyspace, &plain.table), (said.kind, &said.keyspace, &said.table));
    assert_eq!((plain.markers.len(), said.markers.len()), (candidate.plain_markers, candidate.markers));
    assert!(candidate.bound().all(|(_, marker)| *marker < candidate.markers));
    let Some(eligible) = backend::eligible(&candidate, &bind_of(&candidate)) else { return };
    timed(&eligible);
    if let Some(said) = eligible.said(&statement.values) {
        assert_eq!(said.plain.len(), candidate.plain_markers);
        assert!(!said.partition.is_empty() && said.row.len() > said.partition.len());
    }
}

/// The plain write says its time with the marker that is given.
fn timed(eligible: &Eligible) {
    use replicateddb_cql::statement::AttributeValue;
    let said = classify(&eligible.timed);
    assert_eq!(said.using_timestamp.map(|at| at.value), Some(AttributeValue::Marker(eligible.time_marker)));
    assert_eq!(classify(&eligible.select).markers.len(), 2);
}

fn column(name: &str, kind: ColumnType) -> Column {
    Column { keyspace: "ks".into(), table: "t".into(), name: name.to_owned(), kind }
}

/// Markers of a vector and of a text, whatever the text of the statement says.
fn bind() -> Vec<Column> {
    let vector = "org.apache.cassandra.db.marshal.VectorType(org.apache.cassandra.db.marshal.FloatType, 2)";
    vec![column("v", ColumnType::Custom(vector.to_owned())), column("j", ColumnType::Text)]
}

/// The markers as Cassandra would say them of a table with a key `k`, a clustering column `c` and cells `v`, `w`.
fn bind_of(candidate: &backend::Candidate) -> Vec<Column> {
    candidate.bound().map(|(name, _)| column(name, ColumnType::Int)).collect()
}

pub fn seeds() -> Vec<Vec<u8>> {
    let of = |values: &[Value], text: &str| {
        let values = Values::positional(values).expect("few");
        join(&[&[0], &(values.raw().len() as u16).to_be_bytes()[..], values.raw(), text.as_bytes()])
    };
    let one = || Value::Bytes(cell::int(1));
    let zeros = || Value::Bytes(Bytes::from_static(&[0; 8]));
    let named = Values::by_name(&[("c", Value::Null)]).expect("one");
    let by_name = "DELETE v FROM t WHERE k = 1 AND c > :c IF v = :old";
    vec![
        of(&[one(), one(), one()], "INSERT INTO ks.t (k, c, v) VALUES (?, ?, ?) IF NOT EXISTS"),
        of(&[one(), one(), one(), one()], "UPDATE t SET v = ? WHERE k = ? AND c = ? IF w = ?"),
        of(&[one(), one(), one()], "DELETE v, w FROM t WHERE k = ? AND c = ? IF v = ?"),
        of(&[one(), one()], "DELETE FROM t WHERE k = ? AND c = ? IF EXISTS;"),
        of(&[one(), Value::Null], "DELETE FROM t WHERE k = ? AND c > ?"),
        of(&[zeros(), Value::Bytes(Bytes::from_static(b"{\"v\": [0, 0]}"))], "INSERT INTO t (v, j) VALUES (?, ?)"),
        of(&[], "INSERT INTO t (v, l) VALUES ([0.0, NaN], [[1, 2], 3]) "),
        join(&[&[1], &(named.raw().len() as u16).to_be_bytes()[..], named.raw(), by_name.as_bytes()]),
    ]
}
