//! Bytes as a real driver (Python, 3.30) and a real Cassandra (5.0.9) send them.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

use bytes::{Bytes, BytesMut};
use replicateddb_cql::frame::{Codec, DEFAULT_MAX_BODY, Envelope, Opcode};
use replicateddb_cql::request::{self, BatchBody, BatchKind, Own, Params, Values};
use replicateddb_cql::response::{
    self, ChangeKind, Column, ColumnType, ErrorCode, ErrorDetail, Prepared, ResultBody, SchemaChange, SchemaTarget,
};
use replicateddb_cql::wire::Value;
use replicateddb_cql::{Consistency, Version};
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
    let parsed = request::parse_query(&query.body, Version::V4).unwrap();
    assert_eq!(parsed.text, "SELECT * FROM system.local WHERE key='local'");
    let mut params = Params::new(Consistency::One, Values::none());
    params.page_size = Some(5000);
    assert_eq!(parsed.params, params);
    assert_eq!(request::query(&parsed.text, &params).unwrap(), query.body);

    let insert = from_driver(
        "0400000407000000340000001f494e5345525420494e544f206b732e74202861292056414c554553202831290006340000138800080006\
         442ab0765240",
    );
    let parsed = request::parse_query(&insert.body, Version::V4).unwrap();
    assert_eq!(parsed.params.serial_consistency, Some(Consistency::Serial));
    assert_eq!(parsed.params.timestamp, Some(1_763_800_000_123_456));
    assert_eq!(request::query(&parsed.text, &parsed.params).unwrap(), insert.body);
    let patched = request::with_consistency(insert.clone(), Consistency::One, Version::V4).unwrap();
    assert_eq!(request::parse_query(&patched.body, Version::V4).unwrap().params.consistency, Consistency::One);
    assert_eq!(patched.body.iter().zip(&insert.body).filter(|(new, old)| new != old).count(), 1);
}

#[test]
fn python_driver_prepares_and_executes() {
    let prepare = from_driver(
        "04000005090000002900000025494e5345525420494e544f206b732e742028612c2062292056414c55455320283f2c203f29",
    );
    let text = request::parse_prepare(&prepare.body, Version::V4).unwrap().text;
    assert_eq!(text, "INSERT INTO ks.t (a, b) VALUES (?, ?)");
    assert_eq!(request::prepare(&text).unwrap(), prepare.body);

    let execute = from_driver(
        "040000060a000000330010000102030405060708090a0b0c0d0e0f000a2500030000000400000007fffffffffffffffe000013880006\
         442ab0765241",
    );
    let parsed = request::parse_execute(&execute.body, Version::V4).unwrap();
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
    let (parsed, own) = request::parse_batch(&batch.body, Version::V4).unwrap();
    assert_eq!(own, Own::default());
    assert_eq!((parsed.kind, parsed.consistency), (BatchKind::Logged, Consistency::Quorum));
    assert_eq!(parsed.timestamp, Some(1_763_800_000_123_458));
    let [text, prepared] = &parsed.statements[..] else { panic!("two statements expected") };
    assert_eq!(text.body, BatchBody::Text("INSERT INTO t (a) VALUES (1)".to_owned()));
    assert!(text.values.is_empty());
    assert_eq!(prepared.body, BatchBody::Id(bytes("000102030405060708090a0b0c0d0e0f")));
    assert_eq!(prepared.values, Values::positional(&[Value::Bytes(bytes("00000007"))]).unwrap());
    assert_eq!(request::batch(&parsed).unwrap(), batch.body);
}

/// Decodes one message that Cassandra sent.
fn from_cassandra(hex: &str) -> Envelope {
    let mut wire = BytesMut::from(&bytes(hex)[..]);
    let envelope = Codec::client(DEFAULT_MAX_BODY).decode(&mut wire).unwrap().unwrap();
    assert!(wire.is_empty());
    envelope
}

fn column(name: &str, kind: ColumnType) -> Column {
    Column { keyspace: "k".into(), table: "g".into(), name: name.to_owned(), kind }
}

fn map_of_lists() -> ColumnType {
    ColumnType::Map(Box::new(ColumnType::Text), Box::new(ColumnType::List(Box::new(ColumnType::Int))))
}

#[test]
fn cassandra_starts_and_changes_the_schema() {
    let ready = from_cassandra("840000010200000000");
    assert_eq!((ready.opcode, ready.body), (Opcode::Ready, response::ready()));
    // CREATE TABLE k.g (..), then an INSERT, then USE k.
    let created = from_cassandra("84000001080000001a0000000500074352454154454400055441424c4500016b000167");
    let change = SchemaChange {
        change: ChangeKind::Created,
        keyspace: "k".to_owned(),
        target: SchemaTarget::Table("g".to_owned()),
    };
    assert_eq!(response::schema_change(&change), created.body);
    assert_eq!(response::parse_result(&created.body).unwrap(), ResultBody::SchemaChange(change));
    assert_eq!(from_cassandra("84000001080000000400000001").body, response::void());
    assert_eq!(from_cassandra("8400000108000000070000000300016b").body, response::set_keyspace("k"));
}

#[test]
fn cassandra_answers_with_rows() {
    let envelope = from_cassandra(
        "8400000108000000b900000002000000010000000400016b0001670001610009000162000d0001630021000d00200009000164000000596f\
         72672e6170616368652e63617373616e6472612e64622e6d61727368616c2e566563746f7254797065286f72672e6170616368652e636173\
         73616e6472612e64622e6d61727368616c2e466c6f617454797065202c20332900000001000000040000000100000001780000001900000001\
         000000016b0000000c000000010000000400000001ffffffff",
    );
    let ResultBody::Rows(rows) = response::parse_result(&envelope.body).unwrap() else { panic!("rows expected") };
    let marshal = "org.apache.cassandra.db.marshal";
    let vector = ColumnType::Custom(format!("{marshal}.VectorType({marshal}.FloatType , 3)"));
    let columns =
        [column("a", ColumnType::Int), column("b", ColumnType::Text), column("c", map_of_lists()), column("d", vector)];
    assert_eq!(rows.columns, columns);
    assert_eq!(rows.rows.len(), 1);
    assert_eq!(rows.rows[0][0].as_deref(), Some(&[0, 0, 0, 1][..]));
    assert_eq!(rows.rows[0][1].as_deref(), Some(&b"x"[..]));
    assert_eq!(rows.rows[0][3], None);
    assert_eq!(response::rows(&rows, false).unwrap(), envelope.body);
}

#[test]
fn cassandra_prepares() {
    // UPDATE k.g SET c = ? WHERE b = ? AND a = ?: the key is (a, b), so markers 2 and 1.
    let update = from_cassandra(
        "840000010800000049000000040010d0b266e7c35e4c7bd93fe0e2ad850bf50000000100000003000000020002000100016b000167000163\
         0021000d00200009000162000d00016100090000000400000000",
    );
    let prepared = Prepared {
        id: bytes("d0b266e7c35e4c7bd93fe0e2ad850bf5"),
        metadata_id: Bytes::new(),
        pk_indices: vec![2, 1],
        bind: vec![column("c", map_of_lists()), column("b", ColumnType::Text), column("a", ColumnType::Int)],
        result: Vec::new(),
    };
    assert_eq!(response::parse_result(&update.body).unwrap(), ResultBody::Prepared(prepared.clone()));
    assert_eq!(response::prepared(&prepared).unwrap(), update.body);
    // SELECT a FROM k.g WHERE a = ? AND b = ?
    let select = from_cassandra(
        "84000001080000004900000004001029b9e68c2117a9875b30e4b6b3e2d56f0000000100000002000000020000000100016b00016700016100\
         09000162000d000000010000000100016b0001670001610009",
    );
    let ResultBody::Prepared(prepared) = response::parse_result(&select.body).unwrap() else { panic!("prepared") };
    assert_eq!((&prepared.pk_indices[..], &prepared.result[..]), (&[0, 1][..], &[column("a", ColumnType::Int)][..]));
    assert_eq!(response::prepared(&prepared).unwrap(), select.body);
}

#[test]
fn cassandra_answers_with_errors() {
    let syntax = from_cassandra(
        "84000001000000003f0000200000396c696e6520313a30206e6f20766961626c6520616c7465726e617469766520617420696e7075742027\
         53454c45432720285b53454c45435d29",
    );
    let error = response::parse_error(&syntax.body).unwrap();
    assert_eq!(error.kind(), Some(ErrorCode::Syntax));
    assert_eq!(error.message, "line 1:0 no viable alternative at input 'SELEC' ([SELEC])");
    assert_eq!(response::error_text(ErrorCode::Syntax, &error.message), syntax.body);

    let exists = from_cassandra(
        "84000001000000004100002400003543616e6e6f742061646420616c7265616479206578697374696e67207461626c652022672220746f20\
         6b6579737061636520226b2200016b000167",
    );
    let error = response::parse_error(&exists.body).unwrap();
    let detail = ErrorDetail::AlreadyExists { keyspace: "k".to_owned(), table: "g".to_owned() };
    assert_eq!(response::error(&error.message, &detail), exists.body);
    assert_eq!(response::error(&error.message, &ErrorDetail::Raw(error.code, error.extra)), exists.body);

    let unprepared = from_cassandra(
        "8400000100000001050000250000ed50726570617265642071756572792077697468204944203131313131313131313131313131313131313131\
         313131313131313131313131206e6f7420666f756e6420286569746865722074686520717565727920776173206e6f7420707265706172656420\
         6f6e207468697320686f737420286d617962652074686520686f737420686173206265656e207265737461727465643f29206f7220796f752068\
         61766520707265706172656420746f6f206d616e79207175657269657320616e6420697420686173206265656e20657669637465642066726f6d\
         2074686520696e7465726e616c20636163686529001011111111111111111111111111111111",
    );
    let error = response::parse_error(&unprepared.body).unwrap();
    assert_eq!(error.unprepared_id(), Some(bytes(&"11".repeat(16))));
    let detail = ErrorDetail::Unprepared(bytes(&"11".repeat(16)));
    assert_eq!(response::error(&error.message, &detail), unprepared.body);
}
