use proptest::prelude::*;
use replicateddb_cql::wire::Value;

use super::*;

fn sample() -> Entry {
    let values = Values::positional(&[Value::Bytes(Bytes::from_static(&[0, 0, 0, 7])), Value::Null]).unwrap();
    let insert = Record {
        kind: RecordKind::Dml,
        flags: flags::NOT_REPEATABLE,
        sequence: 41,
        clock_us: 1_700_000_000_000_001,
        argument: 0,
        keyspace: Some("ks".into()),
        statements: vec![StatementText { text: "INSERT INTO t (k, v) VALUES (?, ?)".into(), values }],
    };
    let barrier = Record { sequence: 42, clock_us: -1, ..Record::bare(RecordKind::Barrier) };
    Entry { origin: 2, incarnation: 0x1_0000_0003, floor: 40, records: vec![insert, barrier] }
}

/// The layout is a promise to logs written by other versions: this never changes, new versions get a new constant.
const GOLDEN: &str = include_str!("../tests/golden/entry-v1.hex");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn golden_entry_v1() {
    let encoded = sample().encode();
    assert_eq!(hex(&encoded), GOLDEN.split_whitespace().collect::<String>());
    assert_eq!(Entry::decode(encoded).unwrap(), sample());
}

#[test]
fn i8_unknown_things_are_named_and_never_skipped() {
    let recrc = |mut bytes: Vec<u8>| {
        let crc = crc32fast::hash(&bytes[12..]);
        bytes[8..12].copy_from_slice(&crc.to_be_bytes());
        Entry::decode(bytes.into())
    };
    let encoded = sample().encode().to_vec();
    let mut newer = encoded.clone();
    newer[4] = 2;
    assert_eq!(recrc(newer), Err(DecodeError::UnknownFormat { found: 2 }));
    let mut kind = encoded.clone();
    kind[ENTRY_HEADER_BYTES + 4] = 99;
    assert_eq!(recrc(kind), Err(DecodeError::UnknownKind { found: 99 }));
    let mut flagged = encoded.clone();
    flagged[ENTRY_HEADER_BYTES + 5] = 0x80;
    assert!(matches!(recrc(flagged), Err(DecodeError::UnknownFlags { .. })));
    let mut damaged = encoded;
    damaged[40] ^= 1;
    assert_eq!(Entry::decode(damaged.into()), Err(DecodeError::Malformed("checksum")));
}

#[test]
fn every_prefix_is_refused() {
    let encoded = sample().encode();
    for length in 0..encoded.len() {
        assert!(Entry::decode(encoded.slice(..length)).is_err(), "{length}");
    }
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| Value::Bytes(bytes.into())),
        Just(Value::Null),
        Just(Value::Unset),
    ]
}

fn statement() -> impl Strategy<Value = StatementText> {
    (".{0,40}", proptest::collection::vec(value(), 0..4))
        .prop_map(|(text, values)| StatementText { text, values: Values::positional(&values).unwrap() })
}

fn record() -> impl Strategy<Value = Record> {
    let kind = proptest::sample::select(RecordKind::EVERY.to_vec());
    let rest = (any::<bool>(), any::<u64>(), any::<i64>(), any::<u64>(), proptest::option::of(".{0,9}"));
    (kind, rest, proptest::collection::vec(statement(), 0..3)).prop_map(
        |(kind, (flag, sequence, clock_us, argument, keyspace), statements)| Record {
            kind,
            flags: u32::from(flag),
            sequence,
            clock_us,
            argument,
            keyspace,
            statements,
        },
    )
}

proptest! {
    #[test]
    fn round_trip(origin: u32, incarnation: i64, floor: u64, records in proptest::collection::vec(record(), 0..5)) {
        let entry = Entry { origin, incarnation, floor, records };
        let encoded = entry.encode();
        let records: usize = entry.records.iter().map(Record::encoded_len).sum();
        prop_assert_eq!(encoded.len(), ENTRY_HEADER_BYTES + records);
        prop_assert_eq!(Entry::decode(encoded), Ok(entry));
    }

    #[test]
    fn any_bytes_decode_or_are_refused(bytes: Vec<u8>, records in proptest::collection::vec(record(), 1..3), at: usize) {
        let _ = Entry::decode(bytes.into());
        // A damaged record under a right checksum must not panic either.
        let mut encoded = Entry { origin: 0, incarnation: 0, floor: 0, records }.encode().to_vec();
        let at = 12 + at % (encoded.len() - 12);
        encoded[at] = encoded[at].wrapping_add(1);
        let crc = crc32fast::hash(&encoded[12..]);
        encoded[8..12].copy_from_slice(&crc.to_be_bytes());
        let _ = Entry::decode(encoded.into());
    }
}
