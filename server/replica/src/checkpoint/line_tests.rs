use replicateddb_cql::response::Column;

use super::*;

const AS_OF: AsOf = AsOf { timestamp_us: 1_000_000_000, second: 1000 };

fn table(columns: &[(&str, Role, bool)]) -> Table {
    let columns = columns.iter().map(|(name, role, counter)| ((*name).to_owned(), *role, *counter)).collect();
    Table { keyspace: "ks".into(), name: "t".into(), columns }
}

fn metadata(kinds: &[ColumnType]) -> Vec<Column> {
    let column =
        |kind: &ColumnType| Column { keyspace: "ks".into(), table: "t".into(), name: "x".into(), kind: kind.clone() };
    kinds.iter().map(column).collect()
}

fn list_of(kind: ColumnType) -> ColumnType {
    ColumnType::List(Box::new(kind))
}

fn elements(parts: &[Option<&[u8]>]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i32(parts.len() as i32);
    for part in parts {
        out.put_i32(part.map_or(-1, |part| part.len() as i32));
        out.put_slice(part.unwrap_or_default());
    }
    out.freeze()
}

/// A partition key, a clustering column, a static cell, a cell, and a list.
fn wide() -> Shape {
    use ColumnType as T;
    let table = table(&[
        ("k", Role::Partition, false),
        ("c", Role::Clustering, false),
        ("s", Role::Static, false),
        ("V", Role::Regular, false),
        ("l", Role::Regular, false),
    ]);
    assert_eq!(
        table.select(),
        r#"SELECT "k", "c", "s", WRITETIME("s"), TTL("s"), "V", WRITETIME("V"), TTL("V"), "l", WRITETIME("l"), TTL("l") FROM "ks"."t""#
    );
    let many = [list_of(T::Int), list_of(T::Bigint), list_of(T::Int)];
    let kinds = [T::Int, T::Int, T::Text, T::Bigint, T::Int, T::Text, T::Bigint, T::Int];
    table.typed(&metadata(&[&kinds[..], &many].concat())).expect("a shape")
}

fn row(c: Option<i32>, v: Option<&str>) -> Row {
    let numbers = [1i32, 2, 3].map(i32::to_be_bytes);
    let times = [50i64, 60, 60].map(i64::to_be_bytes);
    let left = 9i32.to_be_bytes();
    let list = v.map(|_| elements(&[Some(&numbers[0]), Some(&numbers[1]), Some(&numbers[2])]));
    vec![
        Some(cell::int(1)),
        c.map(cell::int),
        Some(cell::text("s")),
        Some(cell::bigint(40)),
        None,
        v.map(cell::text),
        v.map(|_| cell::bigint(70)),
        v.map(|_| cell::int(5)),
        list,
        v.map(|_| elements(&[Some(&times[0]), Some(&times[1]), Some(&times[2])])),
        v.map(|_| elements(&[None, Some(&left), Some(&left)])),
    ]
}

#[test]
fn a_row_says_what_cql_shows_of_it() {
    let (shape, mut last) = (wide(), Partition::None);
    let lines = shape.lines(&row(Some(7), Some("x")), 1000, &mut last).expect("lines");
    let texts: Vec<_> = lines.iter().map(|line| serde_json::to_string(line).expect("JSON")).collect();
    assert_eq!(
        texts,
        [
            r#"{"key":{"k":1},"static":{"s":{"value":"s","time":40}}}"#,
            r#"{"key":{"c":7,"k":1},"cells":{"V":{"value":"x","time":70,"expires":1005},"l":{"value":[1,2,3],"time":[50,60,60],"expires":[null,1009,1009]}}}"#,
        ]
    );
    // The static cells once; a partition with nothing else is no row.
    assert_eq!(shape.lines(&row(Some(8), None), 1000, &mut last).expect("lines").len(), 1);
    assert_eq!(shape.lines(&row(None, None), 1000, &mut last).expect("lines"), []);
    for (line, text) in lines.iter().zip(&texts) {
        assert_eq!(&serde_json::from_str::<Line>(text).expect("a line"), line);
    }
}

#[test]
fn what_cassandra_says_is_no_time_is_none() {
    assert_eq!(each(false, Some(&i64::MAX.to_be_bytes()), 1), None, "there is no such time");
    assert_eq!(each(false, Some(&i64::MAX.to_be_bytes()), 0), Some(Each::One(i64::MAX)));
    let times = elements(&[Some(&i64::MAX.to_be_bytes()), Some(&5_i64.to_be_bytes())]);
    assert_eq!(each(true, Some(&times), 1), Some(Each::Many(vec![None, Some(6)])));
}

#[test]
fn a_line_becomes_writes_with_the_same_times() {
    let (shape, mut last) = (wide(), Partition::None);
    let lines = shape.lines(&row(Some(7), Some("x")), 1000, &mut last).expect("lines");
    let statics = shape.writes(&lines[0], AS_OF).expect("writes");
    let update = r#"UPDATE "ks"."t" USING TIMESTAMP ? AND TTL ? SET"#;
    assert_eq!(
        statics,
        [Write {
            text: format!(r#"{update} "s" = ? WHERE "k" = ?"#),
            values: vec![bigint(40), int(0), Value::Bytes(cell::text("s")), int(1)],
        }]
    );
    let writes = shape.writes(&lines[1], AS_OF).expect("writes");
    let one = elements(&[Some(&1i32.to_be_bytes())]);
    let others = elements(&[Some(&2i32.to_be_bytes()), Some(&3i32.to_be_bytes())]);
    let key = [int(1), int(7)];
    let want = [
        // The marker is as old as the oldest cell, and lasts as long.
        (
            r#"INSERT INTO "ks"."t" ("k", "c") VALUES (?, ?) USING TIMESTAMP ? AND TTL ?"#.to_owned(),
            vec![int(1), int(7), bigint(50), int(0)],
        ),
        (format!(r#"{update} "V" = ? WHERE "k" = ? AND "c" = ?"#), {
            [&[bigint(70), int(5), Value::Bytes(cell::text("x"))], &key[..]].concat()
        }),
        (format!(r#"{update} "l" = "l" + ? WHERE "k" = ? AND "c" = ?"#), {
            [&[bigint(50), int(0), Value::Bytes(one)], &key[..]].concat()
        }),
        (format!(r#"{update} "l" = "l" + ? WHERE "k" = ? AND "c" = ?"#), {
            [&[bigint(60), int(9), Value::Bytes(others)], &key[..]].concat()
        }),
    ];
    assert_eq!(writes, want.map(|(text, values)| Write { text, values }));
}

#[test]
fn what_has_ended_is_not_written() {
    let (shape, mut last) = (wide(), Partition::None);
    let lines = shape.lines(&row(Some(7), Some("x")), 1000, &mut last).expect("lines");
    let at = |second| shape.writes(&lines[1], AsOf { second, ..AS_OF }).expect("writes");
    let (before, after) = (at(1000), at(2_000_000_000));
    assert!(after.len() < before.len(), "{after:?}");
    let lasting = |write: &&Write| write.values.contains(&int(0));
    assert_eq!(after.iter().collect::<Vec<_>>(), before.iter().filter(lasting).collect::<Vec<_>>());
    let ends = r#"{"key":{"k":1,"c":7},"cells":{"V":{"value":"x","time":50,"expires":1060}}}"#;
    let line: Line = serde_json::from_str(ends).expect("a line");
    let writes = |second| shape.writes(&line, AsOf { second, ..AS_OF }).expect("writes").len();
    assert_eq!((writes(1059), writes(1060)), (2, 0), "the row ends with its only cell");
}

#[test]
fn a_row_of_nothing_but_its_key_is_as_old_as_the_checkpoint() {
    let shape = table(&[("k", Role::Partition, false)]).typed(&metadata(&[ColumnType::Int])).expect("a shape");
    let lines = shape.lines(&vec![Some(cell::int(1))], 1000, &mut Partition::None).expect("lines");
    let writes = shape.writes(&lines[0], AS_OF).expect("writes");
    assert_eq!(writes.len(), 1);
    assert_eq!(writes[0].values, [int(1), bigint(AS_OF.timestamp_us), int(0)]);
}

#[test]
fn counters_are_added_up_and_have_no_times() {
    let table = table(&[("k", Role::Partition, false), ("n", Role::Regular, true)]);
    assert_eq!(table.select(), r#"SELECT "k", "n" FROM "ks"."t""#);
    let shape = table.typed(&metadata(&[ColumnType::Int, ColumnType::Counter])).expect("a shape");
    assert!(shape.counts() && !wide().counts());
    let lines =
        shape.lines(&vec![Some(cell::int(1)), Some(cell::bigint(5))], 1000, &mut Partition::None).expect("lines");
    assert_eq!(serde_json::to_string(&lines[0]).expect("JSON"), r#"{"key":{"k":1},"cells":{"n":{"value":5}}}"#);
    let writes = shape.writes(&lines[0], AS_OF).expect("writes");
    let text = r#"UPDATE "ks"."t" SET "n" = "n" + ? WHERE "k" = ?"#.to_owned();
    assert_eq!(writes, [Write { text, values: vec![bigint(5), int(1)] }]);
}

#[test]
fn what_is_no_line_of_a_table_is_refused() {
    let shape = wide();
    let key = r#""key":{"k":1,"c":7}"#;
    for text in [
        r#"{"key":{"k":1},"cells":{}}"#.to_owned(),
        format!(r#"{{{key},"cells":{{"nobody":{{"value":1,"time":1}}}}}}"#),
        format!(r#"{{{key},"cells":{{"V":{{"value":1,"time":1}}}}}}"#),
        format!(r#"{{{key},"cells":{{"V":{{"value":"x"}}}}}}"#),
        format!(r#"{{{key},"cells":{{"l":{{"value":[1,2],"time":[1]}}}}}}"#),
        format!(r#"{{{key},"cells":{{"l":{{"value":[null],"time":[1]}}}}}}"#),
    ] {
        let line: Line = serde_json::from_str(&text).expect("JSON");
        assert!(shape.writes(&line, AS_OF).is_err(), "{text}");
    }
    assert!(shape.lines(&vec![Some(cell::int(1))], 1000, &mut Partition::None).is_err());
}
