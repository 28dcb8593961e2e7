use replicateddb_cql::response::ColumnType;

use super::super::candidate::candidate;
use super::*;

const COLUMNS: &[(&str, &str, &str)] = &[
    ("k", "partition_key", "int"),
    ("c", "clustering", "timeuuid"),
    ("v", "regular", "int"),
    ("W", "regular", "double"),
    ("d", "regular", "decimal"),
    ("i", "regular", "varint"),
    ("m", "regular", "map<text, int>"),
    ("u", "regular", "frozen<pair>"),
];

fn cell_of(text: &str) -> Option<Bytes> {
    Some(cell::text(text))
}

fn table(columns: &[(&str, &str, &str)], lives: i32, flags: &[&str]) -> Table {
    let columns: Vec<Row> =
        columns.iter().map(|(name, kind, of)| vec![cell_of(name), cell_of(kind), cell_of(of)]).collect();
    Table::read(&columns, &[vec![Some(cell::int(lives)), Some(cell::text_collection(flags))]], &[])
}

fn eligible_in(text: &str, table: &Table) -> Option<Eligible> {
    let found = candidate(text, &classify(text)).expect("a candidate");
    let mut bound: Vec<_> = found.bound().cloned().collect();
    bound.sort_by_key(|(_, marker)| *marker);
    let column = |(name, _)| Column { keyspace: "ks".into(), table: "t".into(), name, kind: ColumnType::Blob };
    let bind: Vec<Column> = bound.into_iter().map(column).collect();
    Eligible::new(&found, &bind, table)
}

fn eligible(text: &str) -> Option<Eligible> {
    eligible_in(text, &table(COLUMNS, 0, FLAGS))
}

fn bytes(text: &str) -> Value {
    Value::Bytes(cell::text(text))
}

const UPDATE: &str = "UPDATE t SET v = ?, \"W\" = ? WHERE c = ? AND k = ? IF \"W\" = ? AND v = ?";
const INSERT: &str = "INSERT INTO t (v, k, c) VALUES (?, ?, ?) IF NOT EXISTS";

#[test]
fn one_row_of_simple_cells_is_eligible() {
    let found = eligible(UPDATE).expect("eligible");
    assert_eq!(
        found.select,
        "SELECT \"k\", \"c\", \"W\", WRITETIME(\"W\"), TTL(\"W\"), \"v\", WRITETIME(\"v\"), TTL(\"v\") FROM \"ks\".\"t\" \
         WHERE \"k\" IN ? AND \"c\" = ?"
    );
    assert_eq!(found.timed, "UPDATE t  USING TIMESTAMP ? SET v = ?, \"W\" = ? WHERE c = ? AND k = ?");
    assert_eq!(found.time_marker, 0);
    let values = ["1", "2", "c", "k", "3", "4"].map(bytes);
    let said = found.said(&Values::positional(&values).expect("few")).expect("ordinary");
    assert_eq!((said.partition, said.clustering), (cell::text("k"), cell_of("c")));
    assert_eq!(said.asked, Asked::Equal(vec![("W".into(), cell::text("3")), ("v".into(), cell::text("4"))]));
    assert_eq!(said.effect, Effect::Cells(vec![("v".into(), cell_of("1")), ("W".into(), cell_of("2"))]));
    assert_eq!(said.plain, values[..4]);

    let found = eligible(INSERT).expect("eligible");
    assert_eq!(found.select, "SELECT \"k\", \"c\" FROM \"ks\".\"t\" WHERE \"k\" IN ? AND \"c\" = ?");
    let said = found.said(&Values::positional(&[bytes("1"), bytes("k"), bytes("c")]).expect("few")).expect("ordinary");
    assert_eq!((said.asked, said.effect, said.plain.len()), (Asked::NotExists, Effect::Row, 3));
    let found = eligible("DELETE v FROM t WHERE k = ? AND c = ? IF EXISTS").expect("eligible");
    let said = found.said(&Values::positional(&[bytes("k"), bytes("c")]).expect("few")).expect("ordinary");
    assert_eq!((said.asked, said.effect), (Asked::Exists, Effect::Cells(vec![("v".into(), None)])));
    assert_eq!(found.written_us(100), 99);
    for (text, written_us) in [(UPDATE, 100), (INSERT, 100), ("DELETE FROM t WHERE k = ? AND c = ? IF EXISTS", 99)] {
        assert_eq!(eligible(text).expect("eligible").written_us(100), written_us, "{text}");
    }
}

#[test]
fn tables_and_columns_of_other_kinds_are_not() {
    for text in [
        "UPDATE t SET m = ? WHERE k = ? AND c = ? IF EXISTS",
        "UPDATE t SET v = ? WHERE k = ? AND c = ? IF u = ?",
        "UPDATE t SET v = ? WHERE k = ? AND c = ? IF c = ?",
        "UPDATE t SET v = ? WHERE k = ? AND c = ? IF d = ?",
        "UPDATE t SET v = ? WHERE k = ? AND c = ? IF v = ? AND i = ?",
        "UPDATE t SET v = ? WHERE k = ? IF EXISTS",
        "UPDATE t SET v = ? WHERE k = ? AND c = ? AND v = ? IF EXISTS",
        "UPDATE t SET nothing = ? WHERE k = ? AND c = ? IF EXISTS",
        "DELETE m FROM t WHERE k = ? AND c = ? IF EXISTS",
        "DELETE FROM t WHERE k = ? IF EXISTS",
        "INSERT INTO t (k, v) VALUES (?, ?) IF NOT EXISTS",
        "INSERT INTO t (k, c, u) VALUES (?, ?, ?) IF NOT EXISTS",
    ] {
        assert_eq!(eligible(text), None, "{text}");
    }
    assert!(eligible("UPDATE t SET d = ?, i = ? WHERE k = ? AND c = ? IF v = ?").is_some(), "written alone");
    let with = |more: &[(&'static str, &'static str, &'static str)]| [COLUMNS, more].concat();
    let other_key = |at: usize, of: &'static str| {
        let mut columns = COLUMNS.to_vec();
        columns[at].2 = of;
        columns
    };
    for table in [
        table(COLUMNS, 5, FLAGS),
        table(COLUMNS, 0, &["compound", "dense"]),
        table(COLUMNS, 0, &[]),
        table(&with(&[("s", "static", "int")]), 0, FLAGS),
        table(&with(&[("k2", "partition_key", "int")]), 0, FLAGS),
        table(&with(&[("c2", "clustering", "int")]), 0, FLAGS),
        // Values of one number, or one truth, may have different bytes.
        table(&other_key(0, "varint"), 0, FLAGS),
        table(&other_key(1, "decimal"), 0, FLAGS),
        table(&other_key(1, "boolean"), 0, FLAGS),
        Table::read(&[], &[], &[]),
    ] {
        assert_eq!(eligible_in(INSERT, &table), None, "{table:?}");
    }
    let ordinary = table(COLUMNS, 0, FLAGS);
    assert!(eligible_in(INSERT, &ordinary).is_some());
    let tables = [vec![Some(cell::int(0)), Some(cell::text_collection(FLAGS))]];
    assert!(Table::read(&[], &tables, &[]).plain && !Table::read(&[], &tables, &[vec![cell_of("a view")]]).plain);
    let found = candidate(INSERT, &classify(INSERT)).expect("a candidate");
    assert_eq!(Eligible::new(&found, &[], &table(COLUMNS, 0, FLAGS)), None, "Cassandra knows of no markers");
}

#[test]
fn a_column_is_read_once_and_few_rows_of_long_ones() {
    let table = table(&[COLUMNS, &[("s", "regular", "text"), ("b", "regular", "blob")]].concat(), 0, FLAGS);
    for (condition, selected, at_once) in [
        ("EXISTS", 0, 64),
        ("v = ? AND v = ?", 1, 64),
        ("v = ? AND s = ? AND v = ? AND s = ?", 2, 4),
        ("s = ? AND b = ?", 2, 2),
    ] {
        let text = format!("UPDATE t SET s = ? WHERE k = ? AND c = ? IF {condition}");
        let found = eligible_in(&text, &table).expect("eligible");
        assert_eq!((found.selected.len(), found.at_once), (selected, at_once), "{text}");
        assert_eq!(found.select.matches("WRITETIME").count(), selected, "{text}");
    }
    let found = eligible("UPDATE t SET v = ? WHERE k = ? AND c = ? IF v = ? AND v = ?").expect("eligible");
    let row = [Some(cell::int(1)), Some(cell::bigint(1)), None];
    let image = found.image(Some(&row), 100).expect("well formed");
    let holds = |first: i32, second: i32| {
        let values = [cell::int(0), cell::int(0), cell::int(0), cell::int(first), cell::int(second)].map(Value::Bytes);
        image.holds(&found.said(&Values::positional(&values).expect("few")).expect("ordinary").asked)
    };
    assert_eq!((holds(1, 1), holds(1, 2)), (Some(true), Some(false)));
}

#[test]
fn unusual_values_are_left_to_cassandra() {
    let found = eligible(UPDATE).expect("eligible");
    let usual = || ["1", "2", "c", "k", "3", "4"].map(bytes).to_vec();
    let said = |values: &[Value]| found.said(&Values::positional(values).expect("few"));
    for (at, value, fits) in [
        (0, Value::Null, false),
        (1, bytes(""), true),
        (0, Value::Unset, false),
        (2, Value::Null, false),
        (2, Value::Unset, false),
        (2, bytes(""), false),
        (3, bytes(""), false),
        (3, bytes(&"x".repeat(KEY_BYTES + 1)), false),
        (4, Value::Null, false),
        (4, Value::Unset, false),
        (5, bytes(""), false),
    ] {
        let mut values = usual();
        values[at] = value.clone();
        assert_eq!(said(&values).is_some(), fits, "{at}: {value:?}");
    }
    assert_eq!(said(&usual()[..5]), None);
    let named: Vec<_> = ["v", "W", "c", "k", "W", "v"].into_iter().map(|name| (name, bytes("1"))).collect();
    assert_eq!(found.said(&Values::by_name(&named).expect("few")), None);
}

#[test]
fn a_row_that_was_read_is_an_image() {
    let found = eligible(UPDATE).expect("eligible");
    let time = |at: i64| Some(cell::bigint(at));
    let row = |written: i64, ttl: Option<i32>| vec![cell_of("w"), time(written), ttl.map(cell::int), None, None, None];
    for (written, ttl, lasting) in [(99, None, true), (99, Some(5), false), (100, None, false), (101, None, false)] {
        let image = found.image(Some(&row(written, ttl)), 100).expect("well formed");
        let w = Some(Cell { value: cell::text("w"), lasting });
        assert_eq!(image.cells, [("W".into(), w), ("v".into(), None)].into(), "{written} {ttl:?}");
        assert_eq!(image.exists, Some(true));
    }
    assert_eq!(found.image(None, 100), Some(Image { exists: Some(false), cells: Default::default() }));
    assert_eq!(found.image(Some(&row(1, None)[..5]), 100), None);
    assert_eq!(found.image(Some(&row(1, None)[..3]), 100), None);
}
