//! Text as the front end judges it: what becomes of it, SELECTs that it answers itself, and the one keyspace.

use bytes::Bytes;
use replicateddb_cql::lex::{self, Token, TokenKind};
use replicateddb_cql::request::Values;
use replicateddb_cql::response::{Column, ColumnType, Rows, cell};
use replicateddb_cql::statement::{Kind, classify};
use replicateddb_cql::wire::Value;
use replicateddb_replica::frontend::fuzzing::{self as front, Plan, Select, Table};
use replicateddb_replica::keyspace::confine as confined;

use super::seeds::{join, statements};
use crate::source::Source;

/// The keyspace of a session, and whether values have names; then the values; then the text.
pub fn run(input: &[u8]) {
    let mut source = Source(input);
    let bits = source.byte();
    let keyspace = [None, Some("ks"), Some("system"), Some("own")][usize::from(bits & 3)];
    let raw = Bytes::copy_from_slice(source.short_bytes());
    let text = String::from_utf8_lossy(source.rest());
    check(&text, keyspace);
    if let Ok(values) = Values::from_raw(raw, bits & 4 == 4) {
        answered(&text, &values);
    }
}

/// All that must hold of a text in a session of that keyspace.
pub fn check(text: &str, keyspace: Option<&str>) {
    let said = classify(text);
    match front::plan(text, keyspace) {
        Plan::Write(write) => assert!(said.kind.is_write() && write.statement == said),
        Plan::Refuse(refusal) => assert!(!refusal.message.is_empty()),
        Plan::Read(_) | Plan::Topology(_) => assert_eq!(said.kind, Kind::Select),
        Plan::Local => assert!(said.kind.is_read()),
        Plan::Use => assert_eq!(said.kind, Kind::Use),
        Plan::Unknown => assert_eq!(said.kind, Kind::Other),
    }
    answered(text, &Values::none());
    // What the own keyspace was taken out of says the same without it, and has it no more.
    let _ = confined::judge("own", text, &said);
    if let Ok(short) = confined::stripped("own", text, said.kind) {
        assert!(short.len() <= text.len());
        if is_plain(text) && said.table.is_some() && (said.kind.is_dml() || said.kind == Kind::Truncate) {
            let after = classify(&short);
            assert_eq!((after.kind, &after.table), (said.kind, &said.table), "{text:?} became {short:?}");
            assert_eq!(after.keyspace, None, "{text:?} became {short:?}");
            assert_eq!(after.markers.len(), said.markers.len(), "{text:?} became {short:?}");
        }
    }
}

/// Whether all of it is known, and no name has more than one dot, as in `own.own.t`.
fn is_plain(text: &str) -> bool {
    let tokens: Vec<Token> = lex::tokens(text).collect();
    let dots = |three: &[Token]| three[0].is_symbol(b'.') && three[2].is_symbol(b'.');
    tokens.iter().all(|token| token.kind != TokenKind::Unknown) && !tokens.windows(3).any(dots)
}

/// As a SELECT from the topology tables.
fn answered(text: &str, values: &Values) {
    for table in [Table::Local, Table::Peers, Table::PeersV2] {
        let Ok(select) = Select::parse(text, table) else { continue };
        if let Ok(found) = select.evaluate(rows(), values) {
            assert!(found.rows.iter().all(|row| row.len() == found.columns.len()));
            assert!(found.rows.len() <= 2);
        }
    }
}

fn rows() -> Rows {
    let column =
        |name: &str, kind| Column { keyspace: "system".into(), table: "local".into(), name: name.into(), kind };
    let columns = vec![column("key", ColumnType::Text), column("rpc_port", ColumnType::Int)];
    let row = |key: &str, port| vec![Some(cell::text(key)), Some(cell::int(port))];
    Rows { columns, paging_state: None, rows: vec![row("local", 9042), row("other", 1)] }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let of = |bits: u8, values: &[u8], text: &str| join(&[&[bits, values.len() as u8], values, text.as_bytes()]);
    let one = Values::positional(&[Value::Bytes(cell::text("local"))]).expect("one");
    let named = Values::by_name(&[("k", Value::Bytes(cell::int(1)))]).expect("one");
    let mut seeds = vec![
        of(0, one.raw(), "SELECT key AS k, rpc_port FROM system.local WHERE key = ? LIMIT 1"),
        of(4, named.raw(), "SELECT count(*) FROM system.peers WHERE rpc_port IN (:k, 9042) ALLOW FILTERING;"),
        of(2, &[], "SELECT * FROM peers_v2 WHERE host_id = 5a1c395e-b41f-11e5-9f22-ba0be0483c18"),
        of(1, &[], "CREATE INDEX i ON own.t (v) USING 'sai'"),
        of(1, &[], "ALTER TABLE own.t WITH compaction = {'class': 'LeveledCompactionStrategy'}"),
        of(3, &[], "UPDATE own . \"T\" SET own.f = 1, a = own.b.c WHERE k = 1"),
        of(3, &[], "USE own"),
    ];
    seeds.extend(statements().map(|text| of(1, &[], &text)));
    seeds
}
