//! Lines of checkpoints: what a Cassandra says of a row, and what a document does.

use bytes::Bytes;
use replicateddb_cql::response::{Column, ColumnType, Row, cell};
use replicateddb_cql::statement::{Kind, classify};
use replicateddb_replica::checkpoint::line::{AsOf, Line, Role, Shape, Table};

use super::seeds::join;
use crate::source::Source;

/// The second that is read at, and restored to.
const SECOND: i32 = 1_800_000_000;

pub fn run(input: &[u8]) {
    let mut source = Source(input);
    let counts = source.flag();
    let shape = shape(counts);
    match source.flag() {
        true => read(&shape, source.rest()),
        false => told(&shape, counts, &mut source),
    }
}

/// A table with a column of every kind of cell.
fn shape(counts: bool) -> Shape {
    let kinds = [
        ("k", Role::Partition, ColumnType::Text),
        ("c", Role::Clustering, ColumnType::Int),
        ("s", Role::Static, if counts { ColumnType::Counter } else { ColumnType::Int }),
        ("v", Role::Regular, if counts { ColumnType::Counter } else { ColumnType::Text }),
    ];
    let composed = [
        ("l", Role::Regular, ColumnType::List(Box::new(ColumnType::Int))),
        ("m", Role::Regular, ColumnType::Map(Box::new(ColumnType::Text), Box::new(ColumnType::Int))),
        ("u", Role::Regular, udt()),
    ];
    let all = || kinds.iter().chain(composed.iter().filter(|_| !counts));
    let columns = all().map(|(name, role, _)| ((*name).to_owned(), *role, counts)).collect();
    let table = Table { keyspace: "ks".into(), name: "t".into(), columns };
    assert_eq!(classify(&table.select()).kind, Kind::Select);
    let column = |kind: ColumnType| Column { keyspace: "ks".into(), table: "t".into(), name: String::new(), kind };
    let mut answered = Vec::new();
    for (_, role, kind) in all() {
        answered.push(column(kind.clone()));
        if matches!(role, Role::Static | Role::Regular) && !counts {
            let many = !matches!(kind, ColumnType::Int | ColumnType::Text);
            let each = |one| if many { ColumnType::List(Box::new(one)) } else { one };
            answered.push(column(each(ColumnType::Bigint)));
            answered.push(column(each(ColumnType::Int)));
        }
    }
    table.typed(&answered).expect("the columns of the table")
}

fn udt() -> ColumnType {
    let fields = vec![("a".to_owned(), ColumnType::Int), ("b".to_owned(), ColumnType::Text)];
    ColumnType::Udt { keyspace: "ks".into(), name: "u".into(), fields }
}

/// A line of a document.
fn read(shape: &Shape, json: &[u8]) {
    let Ok(line) = serde_json::from_slice::<Line>(json) else { return };
    let again = serde_json::to_vec(&line).expect("a line");
    assert_eq!(serde_json::from_slice::<Line>(&again).ok().as_ref(), Some(&line));
    written(shape, &line);
}

fn written(shape: &Shape, line: &Line) {
    for second in [SECOND, i32::MAX, i32::MIN] {
        let as_of = AsOf { timestamp_us: i64::from(second) * 1_000_000, second };
        let Ok(writes) = shape.writes(line, as_of) else { continue };
        for write in writes {
            let said = classify(&write.text);
            assert!(said.kind.is_dml(), "{}", write.text);
            assert_eq!(said.markers.len(), write.values.len(), "{}", write.text);
        }
    }
}

/// A row of a Cassandra.
fn told(shape: &Shape, counts: bool, source: &mut Source<'_>) {
    let mut row: Row = Vec::new();
    let cells = if counts { 4 } else { 2 + 5 * 3 };
    for _ in 0..cells + source.below(3) {
        row.push(match source.below(8) {
            0 => None,
            1 => Some(cell::bigint(i64::MAX - i64::from(source.byte()))),
            2 => Some(cell::int(i32::MAX)),
            3 => Some(cell::bigint(i64::from(source.int()))),
            4 => Some(cell::int(source.int() as i32)),
            _ => Some(Bytes::copy_from_slice(source.short_bytes())),
        });
    }
    if row.len() > cells && source.flag() {
        row.truncate(cells - 1);
    }
    let mut last = None;
    let Ok(lines) = shape.lines(&row, SECOND, &mut last) else { return };
    for line in &lines {
        written(shape, line);
        let again = serde_json::to_vec(line).expect("a line");
        assert_eq!(serde_json::from_slice::<Line>(&again).ok().as_ref(), Some(line));
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let json = "{\"key\":{\"k\":\"a\",\"c\":1},\"cells\":{\"v\":{\"value\":\"x\",\"time\":5},\"l\":{\"value\":[1,2],\"time\":\
                [5,6],\"expires\":[null,1800000009]},\"m\":{\"value\":{\"a\":1},\"time\":[7]},\"u\":{\"value\":{\"a\":1,\"b\":\
                null},\"time\":[8,null]}}}";
    let statics = "{\"key\":{\"k\":\"a\"},\"static\":{\"s\":{\"value\":1,\"time\":5,\"expires\":1800000005}}}";
    let counter = "{\"key\":{\"k\":\"a\",\"c\":1},\"cells\":{\"v\":{\"value\":7}}}";
    let list = |element: &[u8], count: u8| {
        let one = join(&[&(element.len() as u32).to_be_bytes(), element]);
        join(&[&u32::from(count).to_be_bytes(), &one.repeat(count.into())])
    };
    let cell = |bytes: &[u8]| join(&[&[5, bytes.len() as u8], bytes]);
    let times = cell(&list(&77_u64.to_be_bytes(), 2));
    let ends = cell(&list(&50_u32.to_be_bytes(), 2));
    let row = [
        cell(b"a"),
        cell(&[0, 0, 0, 1]),
        [cell(&[0, 0, 0, 7]), cell(&5_u64.to_be_bytes()), vec![0]].concat(),
        [cell(b"x"), cell(&5_u64.to_be_bytes()), cell(&9_u32.to_be_bytes())].concat(),
        [cell(&list(&[0, 0, 0, 3], 2)), times.clone(), ends.clone()].concat(),
        [cell(&list(&[0, 0, 0, 3], 2)), times.clone(), ends.clone()].concat(),
        [cell(&[0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 1, b'b']), times, ends].concat(),
    ];
    vec![
        join(&[&[0, 1], json.as_bytes()]),
        join(&[&[0, 1], statics.as_bytes()]),
        join(&[&[1, 1], counter.as_bytes()]),
        join(&[&[0, 0], &row.concat()]),
        join(&[&[1, 0], &[cell(b"a"), cell(&[0, 0, 0, 1]), cell(&[0; 8]), cell(&[1; 8])].concat()]),
        join(&[&[0, 0], &[cell(b"a"), vec![2], vec![0; 3], vec![1, 0, 1, 0, 1, 0]].concat()]),
    ]
}
