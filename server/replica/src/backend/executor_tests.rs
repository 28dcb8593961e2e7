use replicateddb_cql::response::{Column, ColumnType};

use super::*;

fn prepared(pk_indices: &[u16]) -> Prepared {
    let column =
        |name: &str| Column { keyspace: "ks".into(), table: "t".into(), name: name.to_owned(), kind: ColumnType::Blob };
    Prepared {
        id: Bytes::from_static(b"id"),
        metadata_id: Bytes::new(),
        pk_indices: pk_indices.to_vec(),
        bind: vec![column("v"), column("k")],
        result: Vec::new(),
    }
}

fn lanes(text: &str, keyspace: Option<&str>, pk_indices: &[u16], values: &[Value]) -> Lanes {
    let mut lanes = Lanes::none();
    let values = Values::positional(values).unwrap();
    match values.is_empty() {
        true => add_tables(&mut lanes, &classify(text), keyspace),
        false => add_lanes(&mut lanes, &Known::new(text, prepared(pk_indices)), keyspace, &values),
    }
    lanes
}

fn table(name: &str) -> Lanes {
    let mut lanes = Lanes::none();
    lanes.add_table("ks", name);
    lanes
}

const UPDATE: &str = "UPDATE ks.t SET v = ? WHERE k = ?";

#[test]
fn a_bound_single_key_is_a_lane_and_everything_else_is_wider() {
    let values = [Value::Bytes(Bytes::from_static(b"1")), Value::Bytes(Bytes::from_static(b"2"))];
    let mut key = Lanes::none();
    key.add_key("ks", "t", b"\0\0\0\x012");
    assert_eq!(lanes(UPDATE, None, &[1], &values), key);
    assert_eq!(lanes(UPDATE, None, &[], &values), table("t"), "the key is no marker");
    assert_eq!(lanes("UPDATE ks.t SET v = ? WHERE k IN (?)", None, &[1], &values), table("t"));
    assert_eq!(lanes("UPDATE ks.t SET v = ? WHERE k IN ?", None, &[1], &values), table("t"));
    assert_eq!(lanes(UPDATE, None, &[1], &[values[0].clone(), Value::Null]), table("t"));
    assert_eq!(lanes("INSERT INTO T (k) VALUES (1)", Some("ks"), &[], &[]), table("t"));
    assert_eq!(lanes("INSERT INTO t (k) VALUES (1)", None, &[], &[]), Lanes::all());
    assert_eq!(lanes("whatever", Some("ks"), &[], &[]), Lanes::all());
}

#[test]
fn the_text_of_a_batch_takes_its_tables_and_is_unlogged() {
    let text = "begin batch INSERT INTO a (k) VALUES (1); UPDATE ks.b SET v = 1 WHERE k = 1; apply batch";
    let mut both = table("a");
    both.add_table("ks", "b");
    assert_eq!(lanes(text, Some("ks"), &[], &[]), both);
    assert!(unlogged(text).starts_with("begin UNLOGGED batch INSERT"));
    let already = "BEGIN UNLOGGED BATCH INSERT INTO a (k) VALUES (1); APPLY BATCH";
    assert_eq!(unlogged(already), already);
    assert_eq!(unlogged(UPDATE), UPDATE);
}
