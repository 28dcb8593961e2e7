//! Values in checkpoints: bytes of a type as JSON, and back.

use bytes::Bytes;
use replicateddb_cql::response::{ColumnType, TypeReader};
use replicateddb_cql::wire::Reader;
use replicateddb_replica::checkpoint::value::{decode, encode};

use super::seeds::join;
use crate::source::Source;

/// A type, as the protocol writes it; then bytes of a value, or its JSON.
pub fn run(input: &[u8]) {
    let mut source = Source(input);
    let is_json = source.flag();
    let mut reader = Reader::new(Bytes::copy_from_slice(source.rest()));
    let Ok(kind) = TypeReader::read(&mut reader) else { return };
    let rest = reader.rest();
    if is_json { from_json(&kind, &rest) } else { exact(&kind, &rest) }
}

fn exact(kind: &ColumnType, bytes: &[u8]) {
    let json = encode(kind, bytes);
    assert_eq!(decode(kind, &json).as_deref(), Ok(bytes), "{kind}: {json}");
    // As it stands in a document.
    let text = serde_json::to_string(&json).expect("JSON");
    let read: serde_json::Value = serde_json::from_str(&text).expect("what was just written");
    assert_eq!(decode(kind, &read).as_deref(), Ok(bytes), "{kind}: {text}");
}

fn from_json(kind: &ColumnType, json: &[u8]) {
    let Ok(json) = serde_json::from_slice(json) else { return };
    if let Ok(bytes) = decode(kind, &json) {
        exact(kind, &bytes);
    }
}

/// Types and values of them.
const EXAMPLES: [(&[u8], &[u8], &str); 18] = [
    (&[0, 0x09], &[0, 0, 0, 7], "7"),
    (&[0, 0x02], &[0xff; 8], "-9223372036854775808"),
    (&[0, 0x0D], "é".as_bytes(), "\"text\""),
    (&[0, 0x08], &[0x7f, 0xc0, 0, 0], "1.5"),
    (&[0, 0x07], &[0x7f, 0xf0, 0, 0, 0, 0, 0, 0], "\"-Infinity\""),
    (&[0, 0x0E], &[0xff, 0x7f], "\"123456789012345678901234567890\""),
    (&[0, 0x06], &[0, 0, 0, 2, 4, 0x1a], "\"1050E-2\""),
    (&[0, 0x0B], &[0, 0, 1, 0x9a, 0, 0, 0, 0], "\"2026-11-29T07:00:00.123Z\""),
    (&[0, 0x11], &[0x80, 0, 0x50, 0], "\"2026-11-29\""),
    (&[0, 0x12], &[0, 0, 0x20, 0, 0, 0, 0, 0], "\"13:14:15.123456789\""),
    (&[0, 0x15], &[0x02, 0x04, 0xff, 1, 2, 3, 4, 5, 6, 7, 8], "{\"months\":1,\"days\":-2,\"nanoseconds\":3}"),
    (&[0, 0x10], &[127, 0, 0, 1], "\"::1\""),
    (&[0, 0x03], &[1, 2, 0xfe], "\"0x0102\""),
    (&[0, 0x20, 0, 0x09], &[0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff], "[1,null,2]"),
    (&[0, 0x21, 0, 0x0D, 0, 0x13], &[0, 0, 0, 1, 0, 0, 0, 1, b'a', 0, 0, 0, 2, 1, 2], "{\"a\":1,\"b\":2}"),
    (&[0, 0x21, 0, 0x09, 0, 0x04], &[0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 1, 1], "[[1,true],[2,false]]"),
    (&[0, 0x31, 0, 2, 0, 0x14, 0, 0x0C], &[0, 0, 0, 1, 5, 0xff, 0xff, 0xff, 0xff], "[5,null]"),
    (
        &[0, 0x30, 0, 1, b'k', 0, 1, b'u', 0, 2, 0, 1, b'a', 0, 0x09, 0, 1, b'b', 0, 0x22, 0, 0x01],
        &[0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 0],
        "{\"a\":1,\"b\":[\"x\"]}",
    ),
];

pub fn seeds() -> Vec<Vec<u8>> {
    let vector =
        b"\x00\x00\x00\x52org.apache.cassandra.db.marshal.VectorType(org.apache.cassandra.db.marshal.FloatType";
    let mut seeds = vec![join(&[&[0], &vector[..], &[0; 8]]), join(&[&[1], &vector[..], b"[1,\"NaN\"]"])];
    for (kind, bytes, json) in EXAMPLES {
        seeds.push(join(&[&[0], kind, bytes]));
        seeds.push(join(&[&[1], kind, json.as_bytes()]));
        seeds.push(join(&[&[1], kind, b"{\"$hex\":\"00ff\"}"]));
    }
    seeds
}
