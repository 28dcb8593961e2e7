//! Bytes as real drivers and a real Cassandra send them.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

use bytes::{Bytes, BytesMut};
use replicateddb_cql::Consistency;
use replicateddb_cql::frame::{Codec, DEFAULT_MAX_BODY, Envelope, Opcode};
use replicateddb_cql::request::{self, BatchBody, BatchKind, Params, Values};
use replicateddb_cql::wire::Value;
use tokio_util::codec::{Decoder, Encoder};

fn bytes(hex: &str) -> Bytes {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digit).collect()
}

/// Decodes one message that a driver sent, and checks that encoding gives the same bytes.
fn from_driver(hex: &str) -> Envelope {
    let mut wire = BytesMut::from(&bytes(hex)[..]);
    let envelope = Codec::server(DEFAULT_MAX_BODY).decode(&mut wire).unwrap().unwrap();
    assert!(wire.is_empty());
    let mut again = BytesMut::new();
    Codec::client(DEFAULT_MAX_BODY).encode(envelope.clone(), &mut again).unwrap();
    assert_eq!(again, bytes(hex));
    envelope
}

#[test]
fn python_driver_starts_a_connection() {
    assert_eq!(from_driver("040000000500000000").opcode, Opcode::Options);
    let startup = from_driver(
        "0400000101000000530003000b4452495645525f4e414d450016446174615374617820507974686f6e20447269766572000e44524956\
         45525f56455253494f4e0006332e32392e32000b43514c5f56455253494f4e0005332e342e37",
    );
    let options = request::parse_startup(&startup.message().unwrap()).unwrap();
    assert_eq!(options.option("CQL_VERSION"), Some("3.4.7"));
    assert_eq!(options.option("DRIVER_NAME"), Some("DataStax Python Driver"));
    assert_eq!(options.option("COMPRESSION"), None);
    let register = from_driver(
        "040000020b000000310003000f544f504f4c4f47595f4348414e4745000d5354415455535f4348414e4745000d534348454d415f4348\
         414e4745",
    );
    let events = request::parse_register(&register.body).unwrap().events;
    assert_eq!(events, ["TOPOLOGY_CHANGE", "STATUS_CHANGE", "SCHEMA_CHANGE"]);
    assert_eq!(request::register(&["TOPOLOGY_CHANGE", "STATUS_CHANGE", "SCHEMA_CHANGE"]).unwrap(), register.body);
}

#[test]
fn python_driver_queries() {
    let query = from_driver(
        "0400000307000000370000002c53454c454354202a2046524f4d2073797374656d2e6c6f63616c205748455245206b65793d276c6f63\
         616c2700010400001388",
    );
    let parsed = request::parse_query(&query.body).unwrap();
    assert_eq!(parsed.text, "SELECT * FROM system.local WHERE key='local'");
    let mut params = Params::new(Consistency::One, Values::none());
    params.page_size = Some(5000);
    assert_eq!(parsed.params, params);
    assert_eq!(request::query(&parsed.text, &params).unwrap(), query.body);

    let insert = from_driver(
        "0400000407000000340000001f494e5345525420494e544f206b732e74202861292056414c554553202831290006340000138800080006\
         442ab0765240",
    );
    let parsed = request::parse_query(&insert.body).unwrap();
    assert_eq!(parsed.params.serial_consistency, Some(Consistency::Serial));
    assert_eq!(parsed.params.timestamp, Some(1_763_800_000_123_456));
    assert_eq!(request::query(&parsed.text, &parsed.params).unwrap(), insert.body);
    let patched = request::with_consistency(insert.clone(), Consistency::One).unwrap();
    assert_eq!(request::parse_query(&patched.body).unwrap().params.consistency, Consistency::One);
    assert_eq!(patched.body.iter().zip(&insert.body).filter(|(new, old)| new != old).count(), 1);
}

#[test]
fn python_driver_prepares_and_executes() {
    let prepare = from_driver(
        "04000005090000002900000025494e5345525420494e544f206b732e742028612c2062292056414c55455320283f2c203f29",
    );
    let text = request::parse_prepare(&prepare.body).unwrap().text;
    assert_eq!(text, "INSERT INTO ks.t (a, b) VALUES (?, ?)");
    assert_eq!(request::prepare(&text).unwrap(), prepare.body);

    let execute = from_driver(
        "040000060a000000330010000102030405060708090a0b0c0d0e0f000a2500030000000400000007fffffffffffffffe000013880006\
         442ab0765241",
    );
    let parsed = request::parse_execute(&execute.body).unwrap();
    assert_eq!(parsed.id, bytes("000102030405060708090a0b0c0d0e0f"));
    let values: Vec<Value> = parsed.params.values.iter().map(|bound| bound.value).collect();
    assert_eq!(values, [Value::Bytes(bytes("00000007")), Value::Null, Value::Unset]);
    // The driver also sets the flag to skip the result's metadata only for statements that have any: not here.
    assert_eq!((parsed.params.consistency, parsed.params.page_size), (Consistency::LocalOne, Some(5000)));
    assert_eq!(request::execute(&parsed.id, &parsed.params).unwrap(), execute.body);
}

#[test]
fn python_driver_sends_a_batch() {
    let batch = from_driver(
        "040000070d0000004e000002000000001c494e5345525420494e544f2074202861292056414c5545532028312900000100100001020304\
         05060708090a0b0c0d0e0f000100000004000000070004200006442ab0765242",
    );
    let parsed = request::parse_batch(&batch.body).unwrap();
    assert_eq!((parsed.kind, parsed.consistency), (BatchKind::Logged, Consistency::Quorum));
    assert_eq!(parsed.timestamp, Some(1_763_800_000_123_458));
    let [text, prepared] = &parsed.statements[..] else { panic!("two statements expected") };
    assert_eq!(text.body, BatchBody::Text("INSERT INTO t (a) VALUES (1)".to_owned()));
    assert!(text.values.is_empty());
    assert_eq!(prepared.body, BatchBody::Id(bytes("000102030405060708090a0b0c0d0e0f")));
    assert_eq!(prepared.values, Values::positional(&[Value::Bytes(bytes("00000007"))]).unwrap());
    assert_eq!(request::batch(&parsed).unwrap(), batch.body);
}
