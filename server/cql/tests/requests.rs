//! Requests: round trips, patches in place, hostile bodies.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

use bytes::Bytes;
use proptest::prelude::*;
use replicateddb_cql::frame::{Envelope, FLAG_CUSTOM_PAYLOAD, Opcode};
use replicateddb_cql::request::{self, Batch, BatchBody, BatchKind, BatchStatement, Own, Params, Values};
use replicateddb_cql::wire::Value;
use replicateddb_cql::{Consistency, ProtocolError, Version};

fn consistency() -> impl Strategy<Value = Consistency> {
    proptest::sample::select(Consistency::EVERY.to_vec())
}

fn bytes(most: usize) -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from)
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![Just(Value::Null), Just(Value::Unset), bytes(20).prop_map(Value::Bytes)]
}

fn positional() -> impl Strategy<Value = Values> {
    proptest::collection::vec(value(), 0..5).prop_map(|values| Values::positional(&values).unwrap())
}

fn values() -> impl Strategy<Value = Values> {
    let named = proptest::collection::vec((".{0,8}", value()), 0..5).prop_map(|values| {
        let values: Vec<_> = values.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        Values::by_name(&values).unwrap()
    });
    prop_oneof![positional(), named]
}

prop_compose! {
    fn params()(
        consistency in consistency(), values in values(), skip_metadata in any::<bool>(),
        page_size in any::<Option<i32>>(), paging_state in proptest::option::of(bytes(10)),
        serial_consistency in proptest::option::of(consistency()), timestamp in any::<Option<i64>>(),
    ) -> Params {
        Params { consistency, values, skip_metadata, page_size, paging_state, serial_consistency, timestamp }
    }
}

prop_compose! {
    fn batch()(
        kind in proptest::sample::select(vec![BatchKind::Logged, BatchKind::Unlogged, BatchKind::Counter]),
        statements in proptest::collection::vec(
            (prop_oneof![".{0,20}".prop_map(BatchBody::Text), bytes(16).prop_map(BatchBody::Id)], positional())
                .prop_map(|(body, values)| BatchStatement { body, values }),
            0..5,
        ),
        consistency in consistency(),
        serial_consistency in proptest::option::of(consistency()),
        timestamp in any::<Option<i64>>(),
    ) -> Batch {
        Batch { kind, statements, consistency, serial_consistency, timestamp }
    }
}

prop_compose! {
    fn own()(keyspace in proptest::option::of(".{0,9}"), now_in_seconds in any::<Option<i32>>()) -> Own {
        Own { keyspace, now_in_seconds }
    }
}

/// Every parser of requests, on any bytes.
fn parse_all(body: &Bytes) {
    let _ = request::parse_startup(body);
    let _ = request::parse_register(body);
    for version in Version::EVERY {
        let _ = request::parse_prepare(body, version);
        let _ = request::parse_query(body, version);
        let _ = request::parse_execute(body, version);
        let _ = request::parse_batch(body, version);
        for opcode in Opcode::EVERY {
            let _ = request::consistency_offset(opcode, body, version);
            for flags in [0, FLAG_CUSTOM_PAYLOAD] {
                let mut envelope = Envelope::request(0, opcode, body.clone());
                envelope.flags = flags;
                let _ = request::with_consistency(envelope, Consistency::One, version);
            }
        }
    }
    for named in [false, true] {
        let _ = Values::from_raw(body.clone(), named).map(|values| values.iter().count());
    }
}

/// Without unset values, which version 3 does not have.
fn nulls_for_unset(values: &Values) -> Values {
    let set = |value| if value == Value::Unset { Value::Null } else { value };
    let bound: Vec<_> = values.iter().map(|bound| (bound.name.unwrap_or_default(), set(bound.value))).collect();
    let named: Vec<_> = bound.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let positional: Vec<_> = bound.iter().map(|(_, value)| value.clone()).collect();
    if values.is_named() { Values::by_name(&named).unwrap() } else { Values::positional(&positional).unwrap() }
}

proptest! {
    #[test]
    fn query_round_trips(text in ".{0,40}", params in params(), own in own()) {
        let body = request::query(&text, &params).unwrap();
        let query = request::parse_query(&body, Version::V4).unwrap();
        prop_assert_eq!((query.text, query.params, query.own), (text.clone(), params.clone(), Own::default()));
        let query = request::parse_query(&body, Version::V3).unwrap();
        let values = nulls_for_unset(&params.values);
        prop_assert_eq!(query.params, Params { values, ..params.clone() });
        let body = match &own.keyspace {
            Some(keyspace) => request::v5::query_in(&text, keyspace, &params, own.now_in_seconds).unwrap(),
            None => request::v5::query(&text, &params, own.now_in_seconds).unwrap(),
        };
        let query = request::parse_query(&body, Version::V5).unwrap();
        prop_assert_eq!((query.text, query.params, query.own), (text, params, own));
    }

    #[test]
    fn execute_round_trips(id in bytes(20), metadata_id in bytes(20), params in params(), now in any::<Option<i32>>()) {
        let body = request::execute(&id, &params).unwrap();
        let execute = request::parse_execute(&body, Version::V4).unwrap();
        prop_assert_eq!((&execute.id, &execute.metadata_id, &execute.params), (&id, &Bytes::new(), &params));
        let body = request::v5::execute(&id, &metadata_id, &params, now).unwrap();
        let execute = request::parse_execute(&body, Version::V5).unwrap();
        prop_assert_eq!((execute.id, execute.metadata_id, execute.params), (id, metadata_id, params));
        prop_assert_eq!(execute.own, Own { keyspace: None, now_in_seconds: now });
    }

    #[test]
    fn batch_round_trips(batch in batch(), own in own()) {
        let body = request::batch(&batch).unwrap();
        prop_assert_eq!(request::parse_batch(&body, Version::V4).unwrap(), (batch.clone(), Own::default()));
        let mut of_v3 = batch.clone();
        for statement in &mut of_v3.statements {
            statement.values = nulls_for_unset(&statement.values);
        }
        prop_assert_eq!(request::parse_batch(&body, Version::V3).unwrap(), (of_v3, Own::default()));
        let body = match &own.keyspace {
            Some(keyspace) => request::v5::batch_in(&batch, keyspace, own.now_in_seconds).unwrap(),
            None => request::v5::batch(&batch, own.now_in_seconds).unwrap(),
        };
        prop_assert_eq!(request::parse_batch(&body, Version::V5).unwrap(), (batch, own));
    }

    /// Cassandra reads them, and takes no notice of them.
    #[test]
    fn a_batch_may_say_what_means_nothing_to_it(batch in batch(), flags in 0u8..0x10, more in values()) {
        let flags = if more.is_named() { flags | 0x40 } else { flags };
        let plain = Batch { serial_consistency: None, timestamp: None, ..batch };
        for version in [Version::V4, Version::V5] {
            let body = if version == Version::V5 { request::v5::batch(&plain, None) } else { request::batch(&plain) };
            let mut body = body.unwrap().to_vec();
            *body.last_mut().unwrap() = flags;
            if flags & 0x01 != 0 {
                body.extend_from_slice(if more.is_empty() { &[0, 0] } else { more.raw() });
            }
            if flags & 0x04 != 0 {
                body.extend_from_slice(&100i32.to_be_bytes());
            }
            if flags & 0x08 != 0 {
                body.extend_from_slice(&[0, 0, 0, 3, 1, 2, 3]);
            }
            let read = request::parse_batch(&body.into(), version);
            prop_assert_eq!(read.unwrap(), (plain.clone(), Own::default()));
        }
    }

    #[test]
    fn prepare_startup_and_register_round_trip(text in ".{0,40}", list in proptest::collection::vec(".{0,9}", 0..4)) {
        for version in [Version::V3, Version::V4] {
            let prepare = request::parse_prepare(&request::prepare(&text).unwrap(), version).unwrap();
            prop_assert_eq!((&prepare.text, prepare.keyspace), (&text, None));
        }
        let prepare = request::parse_prepare(&request::v5::prepare(&text).unwrap(), Version::V5).unwrap();
        prop_assert_eq!((&prepare.text, prepare.keyspace), (&text, None));
        let prepare = request::parse_prepare(&request::v5::prepare_in(&text, "k").unwrap(), Version::V5).unwrap();
        prop_assert_eq!((&prepare.text, prepare.keyspace.as_deref()), (&text, Some("k")));
        let names: Vec<&str> = list.iter().map(String::as_str).collect();
        prop_assert_eq!(&request::parse_register(&request::register(&names).unwrap()).unwrap().events, &list);
        let options: Vec<(&str, &str)> = names.iter().map(|name| (*name, "value")).collect();
        let parsed = request::parse_startup(&request::startup(&options).unwrap()).unwrap();
        prop_assert_eq!(parsed.options.len(), list.len());
        prop_assert!(list.iter().all(|name| parsed.option(name) == Some("value")));
    }

    #[test]
    fn values_survive_being_kept_raw(values in values()) {
        let again = Values::from_raw(values.raw().clone(), values.is_named()).unwrap();
        prop_assert_eq!(again.iter().count(), values.len());
        prop_assert_eq!(again, values);
    }

    #[test]
    fn only_the_consistency_changes(query in (".{0,30}", params()), batch in batch(), level in consistency(), payload: bool) {
        let (text, params) = query;
        let id = b"0123456789abcdef";
        let bodies = [
            (Version::V4, Opcode::Query, request::query(&text, &params).unwrap()),
            (Version::V3, Opcode::Execute, request::execute(id, &params).unwrap()),
            (Version::V4, Opcode::Batch, request::batch(&batch).unwrap()),
            (Version::V5, Opcode::Query, request::v5::query_in(&text, "k", &params, Some(1)).unwrap()),
            (Version::V5, Opcode::Execute, request::v5::execute(id, b"metadata", &params, None).unwrap()),
            (Version::V5, Opcode::Batch, request::v5::batch(&batch, None).unwrap()),
        ];
        let prefix: &[u8] = if payload { &[0, 1, 0, 1, b'k', 0, 0, 0, 2, 1, 2] } else { &[] };
        for (version, opcode, message) in bodies {
            let body = Bytes::from([prefix, &message[..]].concat());
            let mut envelope = Envelope::request(5, opcode, body.clone());
            envelope.flags = if payload { FLAG_CUSTOM_PAYLOAD } else { 0 };
            let patched = request::with_consistency(envelope.clone(), level, version).unwrap();
            let offset = prefix.len() + request::consistency_offset(opcode, &message, version).unwrap().unwrap();
            let mut expected = body.to_vec();
            expected[offset..offset + 2].copy_from_slice(&level.code().to_be_bytes());
            prop_assert_eq!(&patched.body[..], &expected[..]);
            prop_assert_eq!(&body, &envelope.body);
        }
    }

    #[test]
    fn no_bytes_panic(body in bytes(120)) {
        parse_all(&body);
    }

    #[test]
    fn no_damaged_request_panics(batch in batch(), params in params(), at in any::<prop::sample::Index>(), by: u8, cut: bool) {
        for body in [
            request::batch(&batch).unwrap(),
            request::query("SELECT 1", &params).unwrap(),
            request::v5::batch_in(&batch, "k", Some(1)).unwrap(),
            request::v5::query_in("SELECT 1", "k", &params, Some(1)).unwrap(),
        ] {
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
fn impossible_lengths_are_errors() {
    let query = |bytes: &[u8]| request::parse_query(&Bytes::copy_from_slice(bytes), Version::V4).unwrap_err();
    assert!(matches!(query(&[0xFF, 0xFF, 0xFF, 0xFF]), ProtocolError::BadLength { length: -1, .. }));
    assert!(matches!(query(&[0x7F, 0xFF, 0xFF, 0xFF]), ProtocolError::Truncated { .. }));
    assert!(matches!(query(&[0, 0, 0, 1, 0xC3, 0, 1, 0]), ProtocolError::NotUtf8 { .. }));
    assert!(matches!(query(&[0, 0, 0, 0, 0, 11, 0]), ProtocolError::UnknownCode { code: 11, .. }));
    // Value of length -3; a count of values that are not there; protocol 5's flag.
    assert!(matches!(
        query(&[0, 0, 0, 0, 0, 1, 1, 0, 1, 0xFF, 0xFF, 0xFF, 0xFD]),
        ProtocolError::BadLength { length: -3, .. }
    ));
    assert!(matches!(query(&[0, 0, 0, 0, 0, 1, 1, 0xFF, 0xFF]), ProtocolError::Truncated { .. }));
    assert!(matches!(query(&[0, 0, 0, 0, 0, 1, 0x80]), ProtocolError::Unsupported { .. }));
    let batch = request::parse_batch(&Bytes::from_static(&[3, 0, 0]), Version::V4).unwrap_err();
    assert!(matches!(batch, ProtocolError::UnknownCode { what: "batch type", .. }));
}

#[test]
fn forty_thousand_values_and_statements_are_legal() {
    let values = Values::positional(&vec![Value::Null; 40_000]).unwrap();
    let params = Params::new(Consistency::One, values);
    let parsed = request::parse_query(&request::query("x", &params).unwrap(), Version::V4).unwrap();
    assert_eq!(parsed.params.values.len(), 40_000);
    let statement = BatchStatement { body: BatchBody::Id(Bytes::from_static(b"id")), values: Values::none() };
    let batch = Batch {
        kind: BatchKind::Logged,
        statements: vec![statement; 40_000],
        consistency: Consistency::Any,
        serial_consistency: None,
        timestamp: None,
    };
    assert_eq!(request::parse_batch(&request::batch(&batch).unwrap(), Version::V4).unwrap().0, batch);
    let too_many = vec![Value::Null; 65_536];
    assert!(matches!(Values::positional(&too_many), Err(ProtocolError::TooLarge { length: 65_536, .. })));
}
