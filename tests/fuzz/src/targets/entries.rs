//! Entries of the log, and what complaints among them say.

use bytes::{BufMut, Bytes, BytesMut};
use replicateddb_cql::request::Values;
use replicateddb_cql::wire::Value;
use replicateddb_replica::record::{
    ENTRY_HEADER_BYTES, Entry, FORMAT_VERSION, MAGIC, Record, RecordKind, StatementText,
};
use replicateddb_replica::verdict::{Complaint, normalised};

use super::seeds::join;
use crate::source::Source;

pub fn run(input: &[u8]) {
    let mut source = Source(input);
    match source.byte() & 3 {
        0 => decode(Bytes::copy_from_slice(source.rest())),
        1 => decode(sealed(source.rest())),
        2 => written(&mut source),
        _ => said(&source.text(), &String::from_utf8_lossy(source.rest())),
    }
}

/// With first bytes and a checksum that are right.
fn sealed(body: &[u8]) -> Bytes {
    let mut entry = BytesMut::with_capacity(body.len() + 12);
    entry.put_slice(MAGIC);
    entry.put_slice(&[FORMAT_VERSION, 0, 0, 0]);
    entry.put_u32(crc32fast::hash(body));
    entry.put_slice(body);
    entry.freeze()
}

/// What is read is written byte by byte as it was.
fn decode(bytes: Bytes) {
    let Ok(entry) = Entry::decode(bytes.clone()) else { return };
    assert_eq!(entry.encoded_len(), bytes.len());
    assert_eq!(entry.encode(), bytes);
    for record in &entry.records {
        assert!(record.fits());
        let _ = Complaint::of(record);
    }
}

fn written(source: &mut Source<'_>) {
    let entry = entry(source);
    let bytes = entry.encode();
    assert_eq!(bytes.len(), entry.encoded_len());
    assert!(bytes.len() >= ENTRY_HEADER_BYTES);
    assert_eq!(Entry::decode(bytes.clone()), Ok(entry));
    if !source.is_empty() {
        let at = usize::from(source.short()) % bytes.len();
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1 << source.below(8);
        assert!(Entry::decode(damaged.into()).is_err(), "byte {at}");
    }
}

/// An entry that may well stand in a log.
pub fn entry(source: &mut Source<'_>) -> Entry {
    let (origin, incarnation) = (source.below(4) as u32, source.below(3) as i64 + 1);
    let floor = source.any_long();
    let records = (0..source.below(6)).map(|_| record(source, floor)).collect();
    Entry { origin, incarnation, floor, records }
}

fn record(source: &mut Source<'_>, floor: u64) -> Record {
    let kind = source.pick(&RecordKind::EVERY);
    let sequence = floor.saturating_add(source.any_long());
    let argument = source.any_long();
    if kind == RecordKind::Complaint && source.flag() {
        return Record { sequence, ..complaint(source).record(argument) };
    }
    let statements = (0..source.below(3)).map(|_| statement(source)).collect();
    let keyspace = source.flag().then(|| source.text());
    let flags = u32::from(source.byte() & 7);
    Record { kind, flags, sequence, clock_us: source.any_long() as i64, argument, keyspace, statements }
}

fn complaint(source: &mut Source<'_>) -> Complaint {
    let failure = source.flag().then(|| source.pick(&["this", "that"]).to_owned());
    let excused = (0..source.below(4)).map(|_| source.below(4) as u32).collect();
    Complaint { failure, excused, heard: Default::default(), round: source.any_long() }
}

fn statement(source: &mut Source<'_>) -> StatementText {
    let text = source.text();
    let values: Vec<Value> = (0..source.below(4))
        .map(|_| match source.below(3) {
            0 => Value::Null,
            1 => Value::Unset,
            _ => Value::Bytes(Bytes::copy_from_slice(source.short_bytes())),
        })
        .collect();
    StatementText { text, values: Values::positional(&values).expect("few") }
}

/// A failure as all say it, and a complaint as it stands in the log.
fn said(failure: &str, json: &str) {
    let once = normalised(failure);
    assert!(once.len() <= 512);
    assert!(!once.contains(|c: char| c.is_ascii_digit()), "{failure:?} became {once:?}");
    let statements = vec![StatementText { text: json.to_owned(), values: Values::none() }];
    let record = Record { statements, ..Record::bare(RecordKind::Complaint) };
    if let Some(complaint) = Complaint::of(&record) {
        assert_eq!(Complaint::of(&complaint.record(7)), Some(complaint));
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let values = Values::positional(&[Value::Null, Value::Bytes(Bytes::from_static(b"one"))]).expect("few");
    let text = |text: &str| StatementText { text: text.into(), values: values.clone() };
    let of = |kind, statements| Record { sequence: 9, keyspace: Some("ks".into()), statements, ..Record::bare(kind) };
    let complaint = Complaint { failure: Some("#".into()), excused: [2].into(), heard: Default::default(), round: 1 };
    let records = vec![
        of(RecordKind::Dml, vec![text("INSERT INTO t (a, b) VALUES (?, ?)")]),
        of(RecordKind::Batch, vec![text("UPDATE t SET a = ?"), text("DELETE FROM t")]),
        Record { sequence: 10, ..complaint.record(3) },
        Record::bare(RecordKind::Barrier),
    ];
    let entry = Entry { origin: 2, incarnation: 0x500, floor: 0, records }.encode();
    vec![
        join(&[&[0], &entry[..]]),
        join(&[&[1], &entry[12..]]),
        vec![2, 1, 1, 5, 3, 0, 1, 0, 1, 4, b't', b'e', b'x', b't', 2, 0, 2, 1, 7, 1, 2, b'k', b's', 0, 5, 8, 2, 3, 1, 1, 0],
        b"\x03\x10/10.0.0.1:7000 x{\"failure\":\"a\",\"excused\":[1],\"heard\":{\"1\":{\"incarnation\":5,\"sequence\":9}},\"round\":3}".to_vec(),
    ]
}
