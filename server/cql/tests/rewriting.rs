//! Rewriting: literals and markers of the right type, ids and timestamps of DDL in the right place.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

use bytes::Bytes;
use proptest::prelude::*;
use replicateddb_cql::request::Values;
use replicateddb_cql::rewrite::{
    NondeterministicValues, with_drop_timestamp, with_literals, with_markers, with_table_id,
};
use replicateddb_cql::statement::{Kind, classify};
use replicateddb_cql::wire::Value;
use uuid::Uuid;

/// 2026-11-22 13:14:15.123456 UTC.
const NOW: i64 = 1_795_353_255_123_456;
const STATEMENTS: &str = include_str!("data/statements.txt");

fn source(micros: i64) -> NondeterministicValues<impl FnMut() -> u128> {
    let mut state: u128 = 1;
    NondeterministicValues::new(micros, move || {
        state = state.wrapping_mul(0xDA94_2042_E4DD_58B5_9E37_79B9_7F4A_7C15).wrapping_add(1);
        state
    })
}

fn literals(text: &str) -> String {
    with_literals(text, &classify(text), &mut source(NOW))
}

#[test]
fn each_function_becomes_a_literal_of_its_type() {
    let one = |call: &str, start: &str| {
        let rewritten = literals(&format!("INSERT INTO t (a) VALUES ({call})"));
        let value = rewritten.strip_prefix("INSERT INTO t (a) VALUES (").and_then(|rest| rest.strip_suffix(')'));
        value.and_then(|value| value.strip_prefix(start)).unwrap_or_else(|| panic!("{rewritten}")).to_owned()
    };
    assert_eq!(one("currentTimestamp()", "(timestamp)"), "1795353255123");
    assert_eq!(one("CURRENT_TIMESTAMP ( )", "(timestamp)"), "1795353255123");
    assert_eq!(one("currentDate()", "(date)"), "'2026-11-22'");
    assert_eq!(one("current_time()", "(time)"), "'13:14:15.123456000'");
    let random: Uuid = one("uuid()", "(uuid)").parse().unwrap();
    assert_eq!((random.get_version_num(), random.get_variant()), (4, uuid::Variant::RFC4122));
    for call in ["now()", "currentTimeUUID()", "current_timeuuid()", "system.now()", "\"now\"( /* x */ )"] {
        let timeuuid: Uuid = one(call, "(timeuuid)").parse().unwrap();
        assert_eq!((timeuuid.get_version_num(), timeuuid.get_variant()), (1, uuid::Variant::RFC4122));
        let (seconds, nanos) = timeuuid.get_timestamp().unwrap().to_unix();
        assert_eq!((seconds as i64 * 1_000_000 + i64::from(nanos) / 1000), NOW);
        assert_eq!(timeuuid.as_bytes()[10] & 1, 1, "the node is marked as no hardware address");
    }
}

#[test]
fn values_of_one_statement_differ_and_ascend() {
    let rewritten = literals("INSERT INTO t (a) VALUES ([now(), now(), uuid(), uuid(), now()])");
    let uuids: Vec<Uuid> =
        rewritten.split(['(', ')', '[', ']', ',', ' ']).filter_map(|part| part.parse().ok()).collect();
    assert_eq!(uuids.len(), 5);
    let ticks = |uuid: &Uuid| uuid.get_timestamp().unwrap().to_gregorian().0;
    assert!(ticks(&uuids[0]) < ticks(&uuids[1]) && ticks(&uuids[1]) < ticks(&uuids[4]));
    assert_ne!(uuids[2], uuids[3]);
}

#[test]
fn only_calls_change() {
    let text = "BEGIN BATCH INSERT INTO t (now, b) VALUES ('now()', toDate(now())); -- now()\nUPDATE t SET l = \
                [currentDate()]+l, m = {?:current_date(), 1:ks.now()} WHERE a = $$uuid()$$; APPLY BATCH";
    let rewritten = literals(text);
    let timeuuid = rewritten.split("(timeuuid)").nth(1).unwrap()[..36].to_owned();
    let expected = text
        .replacen("toDate(now())", &format!("toDate((timeuuid){timeuuid})"), 1)
        .replacen("currentDate()", "(date)'2026-11-22'", 1)
        .replacen("current_date()", "(date)'2026-11-22'", 1);
    assert_eq!(rewritten, expected);
    let read = "SELECT now() FROM t WHERE a = now()";
    assert_eq!(literals(read), read);
    // A literal must not run together with what follows.
    assert!(literals("UPDATE t SET v = 1 WHERE a = now()IF EXISTS").ends_with(" IF EXISTS"));
    assert!(classify(&literals("UPDATE t SET v = 1 WHERE a = now()IF EXISTS")).conditional.is_some());
}

#[test]
fn markers_carry_the_values_in_their_places() {
    let text =
        "INSERT INTO t (a, b, c, d, e, f) VALUES (currentTimestamp(), ?, currentDate(), current_time(), ?, now())";
    let given = [Value::Bytes(Bytes::from_static(b"one")), Value::Null];
    let values = Values::positional(&given).unwrap();
    let rewritten = with_markers(text, &classify(text), &values, &mut source(NOW)).unwrap();
    assert_eq!(
        rewritten.text,
        "INSERT INTO t (a, b, c, d, e, f) VALUES ((timestamp)?, ?, (date)?, (time)?, ?, (timeuuid)?)"
    );
    let values: Vec<Value> = rewritten.values.iter().map(|bound| bound.value).collect();
    assert_eq!(values[0], Value::Bytes(Bytes::copy_from_slice(&1_795_353_255_123_i64.to_be_bytes())));
    assert_eq!(values[1], given[0]);
    assert_eq!(values[2], Value::Bytes(Bytes::copy_from_slice(&(0x8000_0000_u32 + 20_779).to_be_bytes())));
    let nanos: i64 = ((13 * 60 + 14) * 60 + 15) * 1_000_000_000 + 123_456_000;
    assert_eq!(values[3], Value::Bytes(Bytes::copy_from_slice(&nanos.to_be_bytes())));
    assert_eq!(values[4], given[1]);
    let Value::Bytes(timeuuid) = &values[5] else { panic!("a value expected") };
    assert_eq!(Uuid::from_slice(timeuuid).unwrap().get_version_num(), 1);
    assert_eq!(classify(&rewritten.text).markers.len(), values.len());
}

#[test]
fn collections_get_literals_and_everything_else_markers() {
    let text = "UPDATE t SET m[currentDate()] = ?, l = [currentDate(), ?] + l, s = {f(currentDate())}, v = (?, currentDate()) \
                WHERE a = currentDate()";
    let given: Vec<Value> = [b"1", b"2", b"3"].map(|value| Value::Bytes(Bytes::from_static(value))).to_vec();
    let values = Values::positional(&given).unwrap();
    let rewritten = with_markers(text, &classify(text), &values, &mut source(NOW)).unwrap();
    assert_eq!(
        rewritten.text,
        "UPDATE t SET m[(date)?] = ?, l = [(date)'2026-11-22', ?] + l, s = {f((date)'2026-11-22')}, v = (?, (date)?) WHERE \
         a = (date)?"
    );
    let date = Value::Bytes(Bytes::copy_from_slice(&(0x8000_0000_u32 + 20_779).to_be_bytes()));
    let expected = [&date, &given[0], &given[1], &given[2], &date, &date];
    assert!(rewritten.values.iter().map(|bound| bound.value).eq(expected.into_iter().cloned()));
}

#[test]
fn named_or_unfit_values_get_literals() {
    let text = "INSERT INTO t (a, b) VALUES (:a, currentDate())";
    let one = Values::positional(&[Value::Null]).unwrap();
    let named = Values::by_name(&[("a", Value::Null)]).unwrap();
    for values in [one.clone(), named] {
        let rewritten = with_markers(text, &classify(text), &values, &mut source(NOW)).unwrap();
        assert_eq!(rewritten.text, "INSERT INTO t (a, b) VALUES (:a, (date)'2026-11-22')");
        assert_eq!(rewritten.values, values);
    }
    let unfit = "INSERT INTO t (a, b) VALUES (1, currentDate())";
    let rewritten = with_markers(unfit, &classify(unfit), &one, &mut source(NOW)).unwrap();
    assert_eq!((rewritten.text.contains('?'), rewritten.values), (false, one));
}

#[test]
fn clocks_out_of_range_are_held_at_the_ends() {
    let date = |micros: i64| {
        let text = "INSERT INTO t (a) VALUES (currentDate(), now())";
        let rewritten = with_literals(text, &classify(text), &mut source(micros));
        rewritten.split('\'').nth(1).unwrap().to_owned()
    };
    assert_eq!(date(i64::MIN), "1970-01-01");
    assert_eq!(date(i64::MAX), "9999-12-31");
}

#[test]
fn tables_and_views_get_their_id() {
    let id = Uuid::from_u128(0x5a1c_395e_b41f_11e5_9f22_ba0b_e048_3c18);
    let with_id = |text: &str| with_table_id(text, &classify(text), id);
    let option = format!("ID = {id}");
    for (text, expected) in [
        ("CREATE TABLE t (a int PRIMARY KEY)", format!("CREATE TABLE t (a int PRIMARY KEY) WITH {option} ")),
        (
            "CREATE TABLE t (a int PRIMARY KEY); -- end",
            format!("CREATE TABLE t (a int PRIMARY KEY) WITH {option} ; -- end"),
        ),
        (
            "CREATE TABLE IF NOT EXISTS t (a int PRIMARY KEY)with/**/cdc=true",
            format!("CREATE TABLE IF NOT EXISTS t (a int PRIMARY KEY)with {option} AND /**/cdc=true"),
        ),
        (
            "CREATE TABLE t (a int, b text MASKED WITH DEFAULT, PRIMARY KEY (a)) WITH CLUSTERING ORDER BY (c DESC)",
            format!(
                "CREATE TABLE t (a int, b text MASKED WITH DEFAULT, PRIMARY KEY (a)) WITH {option} AND  CLUSTERING ORDER BY \
                 (c DESC)"
            ),
        ),
        (
            "CREATE MATERIALIZED VIEW v AS SELECT a FROM t WHERE a IS NOT NULL PRIMARY KEY (a)",
            format!("CREATE MATERIALIZED VIEW v AS SELECT a FROM t WHERE a IS NOT NULL PRIMARY KEY (a) WITH {option} "),
        ),
    ] {
        assert_eq!(with_id(text), expected);
        assert!(classify(&expected).has_explicit_identity);
        assert_eq!(with_id(&expected), expected, "an id that is there stays");
    }
    for text in
        ["CREATE TYPE t (a int)", "ALTER TABLE t WITH cdc = true", "CREATE KEYSPACE k WITH replication = {}", ""]
    {
        assert_eq!(with_id(text), text);
    }
}

#[test]
fn dropped_columns_get_their_timestamp() {
    let dropped = |text: &str| with_drop_timestamp(text, &classify(text), 77);
    assert_eq!(dropped("ALTER TABLE t DROP c"), "ALTER TABLE t DROP c USING TIMESTAMP 77 ");
    assert_eq!(
        dropped("alter table t drop if exists (c, d);"),
        "alter table t drop if exists (c, d) USING TIMESTAMP 77 ;"
    );
    for text in [
        "ALTER TABLE t DROP c USING TIMESTAMP 5",
        "ALTER TABLE t DROP COMPACT STORAGE",
        "ALTER TABLE t ALTER c DROP MASKED",
        "ALTER TABLE t RENAME a TO b",
        "DROP TABLE t",
    ] {
        assert_eq!(dropped(text), text);
    }
}

#[test]
fn rewriting_leaves_no_call_and_changes_nothing_else_that_matters() {
    for line in STATEMENTS.lines().filter(|line| !line.starts_with('#')) {
        let text = line.split_once(" | ").unwrap().1.replace('⏎', "\n").replace('⇥', "\t");
        let before = classify(&text);
        let after = classify(&literals(&text));
        assert!(after.calls.is_empty(), "{text}");
        assert_eq!((after.kind, after.markers.len()), (before.kind, before.markers.len()), "{text}");
        assert_eq!(after.conditional.is_some(), before.conditional.is_some(), "{text}");
        assert_eq!(after.members.len(), before.members.len(), "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_panics_and_calls_go(text in "(INSERT|UPDATE|BEGIN BATCH|CREATE TABLE|ALTER TABLE t DROP)( |now\\(\\)|[?:a-z(){}\\[\\],;'\"=+żé-]|WITH|IF){0,20}") {
        let statement = classify(&text);
        let rewritten = with_literals(&text, &statement, &mut source(NOW));
        let _ = with_table_id(&text, &statement, Uuid::nil());
        let _ = with_drop_timestamp(&text, &statement, i64::MIN);
        if statement.kind != Kind::Other {
            prop_assert!(classify(&rewritten).calls.is_empty(), "{}", rewritten);
        }
        let values = Values::positional(&vec![Value::Unset; statement.markers.len()]).unwrap();
        let marked = with_markers(&text, &statement, &values, &mut source(NOW)).unwrap();
        let replaceable = statement.calls.iter().filter(|call| !call.in_collection).count();
        let inserted = if statement.has_named_markers() { 0 } else { replaceable };
        prop_assert_eq!(marked.values.len(), values.len() + inserted);
    }
}
