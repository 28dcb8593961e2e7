//! Responses: round trips, hostile bodies.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

use bytes::Bytes;
use proptest::prelude::*;
use replicateddb_cql::response::{
    self, ChangeKind, Column, ColumnType, ErrorCode, ErrorDetail, Event, MAX_TYPE_DEPTH, NodeChange, Prepared,
    ResultBody, ResultKind, Rows, SchemaChange, SchemaTarget, cell,
};
use replicateddb_cql::{Consistency, ProtocolError};
use std::net::SocketAddr;

fn column_type() -> impl Strategy<Value = ColumnType> {
    let simple = proptest::sample::select(vec![
        ColumnType::Ascii,
        ColumnType::Bigint,
        ColumnType::Blob,
        ColumnType::Boolean,
        ColumnType::Counter,
        ColumnType::Decimal,
        ColumnType::Double,
        ColumnType::Float,
        ColumnType::Int,
        ColumnType::Timestamp,
        ColumnType::Uuid,
        ColumnType::Text,
        ColumnType::Varint,
        ColumnType::Timeuuid,
        ColumnType::Inet,
        ColumnType::Date,
        ColumnType::Time,
        ColumnType::Smallint,
        ColumnType::Tinyint,
        ColumnType::Duration,
        ColumnType::Custom("org.apache.cassandra.db.marshal.VectorType(FloatType , 3)".to_owned()),
    ]);
    simple.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|element| ColumnType::List(Box::new(element))),
            inner.clone().prop_map(|element| ColumnType::Set(Box::new(element))),
            (inner.clone(), inner.clone()).prop_map(|(key, value)| ColumnType::Map(Box::new(key), Box::new(value))),
            proptest::collection::vec(inner.clone(), 0..3).prop_map(ColumnType::Tuple),
            ("[a-z]{1,5}", "[a-z]{1,5}", proptest::collection::vec(("[a-z]{1,4}", inner), 0..3))
                .prop_map(|(keyspace, name, fields)| ColumnType::Udt { keyspace, name, fields }),
        ]
    })
}

fn columns(most: usize) -> impl Strategy<Value = Vec<Column>> {
    let column = ("[a-b]", "[a-b]", ".{0,6}", column_type()).prop_map(|(keyspace, table, name, kind)| Column {
        keyspace: keyspace.into(),
        table: table.into(),
        name,
        kind,
    });
    proptest::collection::vec(column, 0..most)
}

fn bytes(most: usize) -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from)
}

fn rows() -> impl Strategy<Value = Rows> {
    (columns(4), proptest::option::of(bytes(8))).prop_flat_map(|(columns, paging_state)| {
        let row = proptest::collection::vec(proptest::option::of(bytes(6)), columns.len());
        // Without columns a row takes no bytes, so there can be none: nothing would bound their number.
        let most = if columns.is_empty() { 1 } else { 4 };
        proptest::collection::vec(row, 0..most).prop_map(move |rows| Rows {
            columns: columns.clone(),
            paging_state: paging_state.clone(),
            rows,
        })
    })
}

prop_compose! {
    fn prepared()(id in bytes(16), pk_indices in proptest::collection::vec(any::<u16>(), 0..3),
                  bind in columns(4), result in columns(4)) -> Prepared {
        Prepared { id, metadata_id: Bytes::new(), pk_indices, bind, result }
    }
}

fn schema_change() -> impl Strategy<Value = SchemaChange> {
    let arguments = || proptest::collection::vec("[a-z<>]{0,5}", 0..3);
    let target = prop_oneof![
        Just(SchemaTarget::Keyspace),
        ".{0,5}".prop_map(SchemaTarget::Table),
        ".{0,5}".prop_map(SchemaTarget::Type),
        (".{0,5}", arguments()).prop_map(|(name, arguments)| SchemaTarget::Function(name, arguments)),
        (".{0,5}", arguments()).prop_map(|(name, arguments)| SchemaTarget::Aggregate(name, arguments)),
    ];
    let change = proptest::sample::select(vec![ChangeKind::Created, ChangeKind::Updated, ChangeKind::Dropped]);
    (change, ".{0,5}", target).prop_map(|(change, keyspace, target)| SchemaChange { change, keyspace, target })
}

fn parse_all(body: &Bytes) {
    let _ = response::parse_result(body);
    let _ = response::result_kind(body);
    let _ = response::parse_error(body).map(|error| (error.kind(), error.unprepared_id()));
    let _ = response::parse_event(body);
    let _ = response::parse_supported(body);
    let _ = response::parse_authenticate(body);
}

proptest! {
    #[test]
    fn rows_round_trip(rows in rows(), skip: bool) {
        let body = response::rows(&rows, skip).unwrap();
        prop_assert_eq!(response::result_kind(&body).unwrap(), ResultKind::Rows);
        let expected = if skip { Rows { columns: Vec::new(), ..rows } } else { rows };
        prop_assert_eq!(response::parse_result(&body).unwrap(), ResultBody::Rows(expected));
    }

    #[test]
    fn prepared_round_trips(prepared in prepared()) {
        let body = response::prepared(&prepared).unwrap();
        prop_assert_eq!(response::parse_result(&body).unwrap(), ResultBody::Prepared(prepared));
    }

    #[test]
    fn schema_changes_round_trip_as_result_and_event(change in schema_change()) {
        let result = response::parse_result(&response::schema_change(&change)).unwrap();
        prop_assert_eq!(result, ResultBody::SchemaChange(change.clone()));
        let event = Event::Schema(change);
        prop_assert_eq!(response::parse_event(&response::event(&event)).unwrap(), event);
    }

    #[test]
    fn node_events_round_trip(address: SocketAddr, index in 0_usize..4) {
        let change = [NodeChange::New, NodeChange::Removed, NodeChange::Up, NodeChange::Down][index];
        let event = Event::Node(change, SocketAddr::new(address.ip(), address.port()));
        prop_assert_eq!(response::parse_event(&response::event(&event)).unwrap(), event);
    }

    #[test]
    fn no_bytes_panic(body in bytes(120), kind in 0_u8..7) {
        parse_all(&body);
        parse_all(&Bytes::from([&[0, 0, 0, kind][..], &body[..]].concat()));
    }

    #[test]
    fn no_damaged_result_panics(rows in rows(), prepared in prepared(), at in any::<prop::sample::Index>(), by: u8, cut: bool) {
        for body in [response::rows(&rows, false).unwrap(), response::prepared(&prepared).unwrap()] {
            let mut damaged = body.to_vec();
            let at = at.index(damaged.len());
            damaged[at] = by;
            if cut {
                damaged.truncate(at);
            }
            parse_all(&damaged.into());
        }
    }
}

#[test]
fn errors_carry_their_fields() {
    let consistency = Consistency::Quorum;
    let cases = [
        (ErrorDetail::Plain(ErrorCode::Overloaded), 0x1001, vec![]),
        (ErrorDetail::Unavailable { consistency, required: 2, alive: 1 }, 0x1000, vec![0, 4, 0, 0, 0, 2, 0, 0, 0, 1]),
        (
            ErrorDetail::WriteTimeout { consistency, received: 0, required: 1, write_type: "SIMPLE" },
            0x1100,
            [&[0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 6][..], b"SIMPLE"].concat(),
        ),
        (
            ErrorDetail::ReadTimeout { consistency, received: 0, required: 1, data_present: true },
            0x1200,
            vec![0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 1],
        ),
        (ErrorDetail::AlreadyExists { keyspace: "k".into(), table: "t".into() }, 0x2400, vec![0, 1, b'k', 0, 1, b't']),
        (ErrorDetail::Unprepared(Bytes::from_static(b"id")), 0x2500, vec![0, 2, b'i', b'd']),
        (ErrorDetail::Raw(0x1700, Bytes::from_static(&[1, 2])), 0x1700, vec![1, 2]),
    ];
    for (detail, code, extra) in cases {
        let parsed = response::parse_error(&response::error("why", &detail)).unwrap();
        assert_eq!((parsed.code, parsed.message.as_str(), &parsed.extra[..]), (code, "why", &extra[..]));
        assert_eq!(parsed.kind().map(ErrorCode::code), Some(code));
        let is_unprepared = parsed.unprepared_id().is_some();
        assert_eq!(is_unprepared, code == 0x2500);
    }
    let long = response::parse_error(&response::error_text(ErrorCode::Server, &"ż".repeat(40_000))).unwrap();
    assert_eq!(long.message.len(), 65_534, "cut at a character boundary");
}

#[test]
fn types_nested_too_deep_are_refused() {
    let nested = |depth: usize| {
        let list = [0_u8, 0x20].repeat(depth);
        let body = [&[0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; 4], &[0, 0], &list, &[0, 9], &[0; 4]].concat();
        response::parse_result(&body.into())
    };
    assert!(matches!(nested(MAX_TYPE_DEPTH), Ok(ResultBody::Rows(_))));
    assert!(matches!(nested(MAX_TYPE_DEPTH + 1), Err(ProtocolError::TooLarge { .. })));
    assert!(nested(1_000_000).is_err());
}

#[test]
fn counts_beyond_the_body_are_refused_before_allocation() {
    for body in [
        // Rows: 2^31-1 columns; 2^31-1 rows of one column; columns without metadata; rows without columns.
        &[0, 0, 0, 2, 0, 0, 0, 1, 0x7F, 0xFF, 0xFF, 0xFF, 0, 0][..],
        &[0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 1, 0x7F, 0xFF, 0xFF, 0xFF][..],
        &[0, 0, 0, 2, 0, 0, 0, 4, 0x7F, 0xFF, 0xFF, 0xFF, 0, 0, 0, 1][..],
        &[0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 0, 0x7F, 0xFF, 0xFF, 0xFF][..],
        // Prepared: 2^31-1 partition key indices; a negative count of markers.
        &[0, 0, 0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x7F, 0xFF, 0xFF, 0xFF][..],
        &[0, 0, 0, 4, 0, 0, 0, 0, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0][..],
    ] {
        assert!(response::parse_result(&Bytes::copy_from_slice(body)).is_err(), "{body:?}");
    }
}

#[test]
fn supported_and_cells() {
    let body = response::supported(&[("CQL_VERSION", &["3.4.7"]), ("COMPRESSION", &[])]);
    let parsed = response::parse_supported(&body).unwrap();
    assert_eq!(parsed, [("CQL_VERSION".to_owned(), vec!["3.4.7".to_owned()]), ("COMPRESSION".to_owned(), vec![])]);
    assert_eq!(&cell::text_collection(&["-1", "7"])[..], [0, 0, 0, 2, 0, 0, 0, 2, b'-', b'1', 0, 0, 0, 1, b'7']);
    assert_eq!(&cell::inet("127.0.0.1".parse().unwrap())[..], [127, 0, 0, 1]);
    assert_eq!(cell::as_int(&cell::int(-5)), Some(-5));
    assert_eq!(cell::as_bigint(&cell::bigint(7)), Some(7));
    assert_eq!(cell::as_boolean(&cell::boolean(true)), Some(true));
    assert_eq!(cell::as_text(&cell::text("ż")), Some("ż"));
    assert_eq!(cell::as_uuid(&cell::uuid(uuid::Uuid::max())), Some(uuid::Uuid::max()));
    assert_eq!((cell::as_int(&[1]), cell::as_boolean(&[]), cell::as_text(&[0xFF])), (None, None, None));
}
