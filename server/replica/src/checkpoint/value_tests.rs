use proptest::prelude::*;

use super::*;

fn through_text(kind: &ColumnType, bytes: &[u8]) -> (Json, Bytes) {
    let json = encode(kind, bytes);
    let read: Json = serde_json::from_str(&json.to_string()).expect("JSON");
    assert_eq!(read, json, "of {kind}");
    let back = decode(kind, &read).unwrap_or_else(|error| panic!("{error}"));
    (json, back)
}

fn parts(parts: &[Option<&[u8]>]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        out.extend(part.map_or(-1, |part| part.len() as i32).to_be_bytes());
        out.extend(part.unwrap_or_default());
    }
    out
}

fn counted(count: i32, rest: &[Option<&[u8]>]) -> Vec<u8> {
    [count.to_be_bytes().to_vec(), parts(rest)].concat()
}

fn address_type() -> ColumnType {
    let fields = vec![("road".to_owned(), ColumnType::Text), ("n".to_owned(), ColumnType::Int)];
    ColumnType::Udt { keyspace: "ks".into(), name: "address".into(), fields }
}

fn vector() -> ColumnType {
    ColumnType::Custom(format!("{FLOAT_VECTOR}, 2)"))
}

#[test]
fn values_are_readable_where_they_can_be() {
    use ColumnType as T;
    let boxed = |kind| Box::new(kind);
    let one = 1i32.to_be_bytes();
    let cases: Vec<(T, Vec<u8>, &str)> = vec![
        (T::Text, "a\"é".into(), r#""a\"é""#),
        (T::Bigint, i64::MIN.to_be_bytes().into(), "-9223372036854775808"),
        (T::Tinyint, vec![0xff], "-1"),
        (T::Boolean, vec![1], "true"),
        (T::Float, 0.1f32.to_be_bytes().into(), "0.1"),
        (T::Double, (-0.0f64).to_be_bytes().into(), "-0.0"),
        (T::Double, f64::NAN.to_be_bytes().into(), "\"NaN\""),
        (T::Double, f64::NEG_INFINITY.to_be_bytes().into(), "\"-Infinity\""),
        (T::Float, f32::INFINITY.to_be_bytes().into(), "\"Infinity\""),
        (T::Double, 0xfff8_0000_0000_0001u64.to_be_bytes().into(), r#"{"$hex":"fff8000000000001"}"#),
        (T::Blob, vec![1, 0xab], "\"0x01ab\""),
        (T::Blob, vec![], "\"0x\""),
        (T::Int, vec![], r#"{"$hex":""}"#),
        (T::Varint, vec![0x00, 0x80], "\"128\""),
        (T::Varint, vec![0x00, 0x01], r#"{"$hex":"0001"}"#),
        (T::Varint, vec![1; 17], r#"{"$hex":"0101010101010101010101010101010101"}"#),
        (T::Decimal, [2i32.to_be_bytes().to_vec(), vec![0x04, 0x1a]].concat(), "\"1050E-2\""),
        (T::Inet, vec![127, 0, 0, 1], "\"127.0.0.1\""),
        (T::Date, (EPOCH_DAY as u32 - 1).to_be_bytes().into(), "\"1969-12-31\""),
        (T::Date, u32::MAX.to_be_bytes().into(), r#"{"$hex":"ffffffff"}"#),
        (T::Time, 1i64.to_be_bytes().into(), "\"00:00:00.000000001\""),
        (T::Timestamp, 1500i64.to_be_bytes().into(), "\"1970-01-01T00:00:01.5Z\""),
        (T::Timestamp, i64::MAX.to_be_bytes().into(), r#"{"$hex":"7fffffffffffffff"}"#),
        (T::Duration, vec![2, 4, 6], r#"{"days":2,"months":1,"nanoseconds":3}"#),
        (T::List(boxed(T::Int)), counted(2, &[Some(&one), None]), "[1,null]"),
        (T::Map(boxed(T::Text), boxed(T::Int)), counted(1, &[Some(b"a"), Some(&one)]), r#"{"a":1}"#),
        (T::Map(boxed(T::Text), boxed(T::Text)), counted(1, &[Some(b"$hex"), Some(b"0a")]), r#"[["$hex","0a"]]"#),
        (T::Map(boxed(T::Int), boxed(T::Int)), counted(1, &[Some(&one), Some(&one)]), "[[1,1]]"),
        (T::Map(boxed(T::Int), boxed(T::Int)), counted(0, &[]), "[]"),
        (T::Tuple(vec![T::Int, T::Text]), parts(&[Some(&one), None]), "[1,null]"),
        (T::Tuple(vec![T::Int, T::Text]), parts(&[Some(&one)]), "[1]"),
        (address_type(), parts(&[Some(b"r"), None]), r#"{"n":null,"road":"r"}"#),
        (address_type(), parts(&[Some(b"r")]), r#"{"road":"r"}"#),
        (vector(), [1f32.to_be_bytes(), 0.5f32.to_be_bytes()].concat(), "[1.0,0.5]"),
        (T::Custom("x.Y".into()), vec![7], r#"{"$hex":"07"}"#),
    ];
    for (kind, bytes, want) in cases {
        let (json, back) = through_text(&kind, &bytes);
        assert_eq!(json.to_string(), want, "of {kind}");
        assert_eq!(back, bytes, "of {kind}");
    }
}

#[test]
fn what_is_no_value_is_refused() {
    for (kind, json) in [
        (ColumnType::Int, json!("1")),
        (ColumnType::Int, json!(1u64 << 40)),
        (ColumnType::Text, json!(1)),
        (ColumnType::Blob, json!("0x0")),
        (ColumnType::Text, json!({ HEX: "xx" })),
        (ColumnType::List(Box::new(ColumnType::Int)), json!([1, "x"])),
        (address_type(), json!({ "elsewhere": 1 })),
    ] {
        let error = decode(&kind, &json).expect_err("no value");
        assert!(!error.is_empty());
    }
}

fn kinds() -> impl Strategy<Value = ColumnType> {
    use ColumnType as T;
    let simple = [
        T::Ascii,
        T::Bigint,
        T::Blob,
        T::Boolean,
        T::Counter,
        T::Decimal,
        T::Double,
        T::Float,
        T::Int,
        T::Timestamp,
        T::Uuid,
        T::Text,
        T::Varint,
        T::Timeuuid,
        T::Inet,
        T::Date,
        T::Time,
        T::Smallint,
        T::Tinyint,
        T::Duration,
        vector(),
    ];
    proptest::sample::select(simple.to_vec()).prop_recursive(3, 16, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|kind| T::List(Box::new(kind))),
            inner.clone().prop_map(|kind| T::Set(Box::new(kind))),
            (inner.clone(), inner.clone()).prop_map(|(key, value)| T::Map(Box::new(key), Box::new(value))),
            proptest::collection::vec(inner.clone(), 1..3).prop_map(T::Tuple),
            proptest::collection::vec(("[a-z$]{1,4}", inner), 1..3).prop_map(|fields| T::Udt {
                keyspace: "ks".into(),
                name: "t".into(),
                fields
            }),
        ]
    })
}

/// Bytes that are, mostly, a value of the type.
fn likely(kind: ColumnType) -> BoxedStrategy<Vec<u8>> {
    use ColumnType as T;
    let some = |kind: &T| prop_oneof![8 => likely(kind.clone()).prop_map(Some), 1 => Just(None)];
    let row = |values: Vec<Option<Vec<u8>>>| parts(&values.iter().map(Option::as_deref).collect::<Vec<_>>());
    match kind {
        T::List(element) | T::Set(element) => proptest::collection::vec(some(&element), 0..4)
            .prop_map(move |values| [(values.len() as i32).to_be_bytes().to_vec(), row(values)].concat())
            .boxed(),
        T::Map(key, value) => proptest::collection::vec((some(&key), some(&value)), 0..4)
            .prop_map(move |pairs| {
                let flat: Vec<_> = pairs.iter().flat_map(|(key, value)| [key.clone(), value.clone()]).collect();
                [(pairs.len() as i32).to_be_bytes().to_vec(), row(flat)].concat()
            })
            .boxed(),
        T::Tuple(kinds) => kinds.iter().map(some).collect::<Vec<_>>().prop_map(row).boxed(),
        T::Udt { fields, .. } => fields.iter().map(|(_, kind)| some(kind)).collect::<Vec<_>>().prop_map(row).boxed(),
        T::Text | T::Ascii => ".{0,8}".prop_map(String::into_bytes).boxed(),
        _ => prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..20),
            any::<[u8; 1]>().prop_map(Vec::from),
            any::<[u8; 2]>().prop_map(Vec::from),
            any::<[u8; 4]>().prop_map(Vec::from),
            any::<[u8; 8]>().prop_map(Vec::from),
            any::<[u8; 16]>().prop_map(Vec::from),
        ]
        .boxed(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// Whatever the bytes are, and whether or not they are a value of the type.
    #[test]
    fn every_value_comes_back_byte_by_byte((kind, bytes) in kinds().prop_flat_map(|kind| (Just(kind.clone()), likely(kind)))) {
        let (_, back) = through_text(&kind, &bytes);
        prop_assert_eq!(back, bytes);
    }
}
