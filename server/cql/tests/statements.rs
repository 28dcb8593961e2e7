//! The classifier: a table of statements with what is to be said of each, spans, features, and that nothing panics.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

use proptest::prelude::*;
use replicateddb_cql::lex::{self, Span, TokenKind};
use replicateddb_cql::request::BatchKind;
use replicateddb_cql::statement::{AttributeValue, Ident, Kind, Statement, classify, is_system_keyspace};

const STATEMENTS: &str = include_str!("data/statements.txt");

/// The labels and texts of the table.
fn table() -> impl Iterator<Item = (&'static str, String)> {
    STATEMENTS.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (label, text) = line.split_once(" | ").unwrap();
        (label, text.replace('⏎', "\n").replace('⇥', "\t"))
    })
}

/// What the classifier says, on one line: kind, names, features, markers, calls, members.
fn label(statement: &Statement) -> String {
    let mut words = vec![match statement.kind {
        Kind::Ddl(action, object) => format!("{action:?}{object:?}"),
        Kind::Batch(kind) => format!("{kind:?}Batch"),
        kind => format!("{kind:?}"),
    }];
    let mut named = |what: &str, name: &Option<Ident>| words.extend(name.as_ref().map(|name| format!("{what}={name}")));
    named("keyspace", &statement.keyspace);
    named("table", &statement.table);
    if statement.object != statement.table {
        named("object", &statement.object);
    }
    let mut flag = |set: bool, word: &str| words.extend(set.then(|| word.to_owned()));
    flag(statement.conditional.is_some(), "if");
    flag(statement.using_timestamp.is_some(), "timestamp");
    flag(statement.ttl.is_some(), "ttl");
    flag(statement.json, "json");
    flag(statement.has_in, "in");
    flag(statement.counter_column.is_some(), "counter");
    flag(statement.default_time_to_live.is_some(), "default_ttl");
    flag(statement.has_explicit_identity, "identity");
    flag(statement.has_named_markers(), "named");
    words.extend(statement.operations.iter().map(|operation| format!("{:?}({})", operation.kind, operation.column)));
    words.extend(statement.calls.iter().map(|call| format!("{:?}@{}", call.function, call.markers_before)));
    words.extend(statement.foreign_function.iter().map(|function| format!("calls={function}")));
    words.extend((!statement.markers.is_empty()).then(|| format!("markers={}", statement.markers.len())));
    words.extend(
        statement.members.iter().map(|member| format!("[{} +{}]", label(&member.statement), member.marker_count)),
    );
    words.join(" ")
}

#[test]
fn every_statement_of_the_table_is_understood() {
    let wrong: Vec<String> = table()
        .map(|(expected, text)| (expected, label(&classify(&text)), text))
        .filter(|(expected, said, _)| expected != said)
        .map(|(expected, said, text)| format!("{text}\n  expected {expected}\n  but said {said}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(table().count() > 240);
}

#[test]
fn case_and_blanks_change_nothing() {
    for (expected, text) in table() {
        // Strings, quoted names and comments stay as they are: only words and blanks between tokens change.
        let mut shouted = String::new();
        let mut copied = 0;
        for token in lex::tokens(&text) {
            let span = token.span();
            shouted.push_str(&text[copied..span.start]);
            shouted.push_str("\n/* ? IF : */\t");
            let is_word = token.kind == TokenKind::Word;
            shouted.push_str(&if is_word { span.of(&text).to_ascii_uppercase() } else { span.of(&text).to_owned() });
            copied = span.end;
        }
        shouted.push_str(&text[copied..]);
        assert_eq!(label(&classify(&shouted)), expected, "{shouted}");
    }
}

#[test]
fn spans_are_exact() {
    let text = "UPDATE t USING TTL ? AND TIMESTAMP 5 SET l = l + ?, v = toTimestamp( now ( ) ) WHERE a = :a IF v = 1";
    let statement = classify(text);
    let ttl = statement.ttl.unwrap();
    assert_eq!((ttl.span.of(text), ttl.value), ("TTL ?", AttributeValue::Marker(0)));
    let timestamp = statement.using_timestamp.unwrap();
    assert_eq!((timestamp.span.of(text), timestamp.value), ("TIMESTAMP 5", AttributeValue::Integer(5)));
    assert_eq!(statement.operations[0].span.of(text), "l = l + ?");
    assert_eq!(statement.calls[0].span.of(text), "now ( )");
    assert_eq!(statement.calls[0].markers_before, 2);
    let markers: Vec<&str> = statement.markers.iter().map(|marker| marker.span.of(text)).collect();
    assert_eq!(markers, ["?", "?", ":a"]);
    assert_eq!(statement.markers[2].name, Some(Ident::new("a")));
    assert_eq!(statement.conditional.unwrap().of(text), "IF");
    let qualified = "INSERT INTO t (a) VALUES (system . \"now\" ())";
    assert_eq!(classify(qualified).calls[0].span.of(qualified), "system . \"now\" ()");
}

#[test]
fn attributes_out_of_range_or_shape_are_invalid() {
    let value = |text: &str| classify(text).ttl.map(|attribute| attribute.value);
    assert_eq!(value("INSERT INTO t (a) VALUES (1) USING TTL 99999999999999999999"), Some(AttributeValue::Invalid));
    assert_eq!(value("INSERT INTO t (a) VALUES (1) USING TTL 'x'"), Some(AttributeValue::Invalid));
    assert_eq!(value("INSERT INTO t (a) VALUES (1) USING TTL"), Some(AttributeValue::Invalid));
    assert_eq!(value("INSERT INTO t (a) VALUES (?) USING TTL :ttl"), Some(AttributeValue::Marker(1)));
    assert_eq!(value("INSERT INTO t (a) VALUES (1) USING TIMESTAMP 1"), None);
}

#[test]
fn members_of_a_batch_can_be_prepared_alone() {
    let text = "BEGIN BATCH USING TIMESTAMP ?\n INSERT INTO t (a, b) VALUES (?, ';') ; -- ;\nUPDATE u USING TTL :x SET \
                v = {':': now(), ?: :y} WHERE a = ? DELETE FROM w WHERE a = 1;; APPLY BATCH ;";
    let batch = classify(text);
    assert_eq!(batch.kind, Kind::Batch(BatchKind::Logged));
    assert_eq!(batch.using_timestamp.map(|attribute| attribute.value), Some(AttributeValue::Marker(0)));
    let parts: Vec<_> = batch.members.iter().map(|member| member.span.of(text)).collect();
    assert_eq!(
        parts,
        [
            "INSERT INTO t (a, b) VALUES (?, ';')",
            "UPDATE u USING TTL :x SET v = {':': now(), ?: :y} WHERE a = ?",
            "DELETE FROM w WHERE a = 1",
        ]
    );
    let markers: Vec<_> = batch.members.iter().map(|member| (member.first_marker, member.marker_count)).collect();
    assert_eq!(markers, [(1, 1), (2, 4), (6, 0)]);
    assert_eq!(batch.markers.len(), 6);
    let update = &batch.members[1].statement;
    assert_eq!(update.ttl.map(|attribute| attribute.value), Some(AttributeValue::Marker(2)));
    assert_eq!(update.calls[0].markers_before, 3);
    // Alone, each is what it is in the batch.
    for member in &batch.members {
        let alone = classify(member.span.of(text));
        assert_eq!(alone.kind, member.statement.kind);
        assert_eq!(alone.markers.len(), member.marker_count);
        assert_eq!((alone.keyspace, alone.table), (member.statement.keyspace.clone(), member.statement.table.clone()));
    }
}

/// What a statement and its members use besides plain values.
fn features(statement: &Statement) -> Vec<&'static str> {
    let mut found = Vec::new();
    let mut feature = |used: bool, name: &'static str| found.extend(used.then_some(name));
    feature(statement.kind == Kind::Role, "Role");
    feature(statement.kind == Kind::Batch(BatchKind::Counter), "CounterBatch");
    for each in std::iter::once(statement).chain(statement.members.iter().map(|member| &member.statement)) {
        feature(each.conditional.is_some(), "Conditional");
        feature(each.ttl.is_some(), "TimeToLive");
        feature(each.using_timestamp.is_some(), "Timestamp");
        feature(each.counter_column.is_some(), "CounterColumn");
        feature(each.default_time_to_live.is_some(), "DefaultTimeToLive");
        each.operations.iter().for_each(|_| feature(true, "Operation"));
    }
    found
}

#[test]
fn features_are_named() {
    let names = |text: &str| features(&classify(text));
    assert_eq!(names("INSERT INTO t (a) VALUES (1)"), [""; 0]);
    assert_eq!(names("INSERT INTO t (a) VALUES (1) IF NOT EXISTS USING TTL 1"), ["Conditional", "TimeToLive"]);
    assert_eq!(names("DELETE l[0] FROM t USING TIMESTAMP 1 WHERE a = 1"), ["Timestamp", "Operation"]);
    assert_eq!(names("CREATE TABLE IF NOT EXISTS t (a int PRIMARY KEY)"), [""; 0]);
    assert_eq!(names("CREATE TABLE t (a int PRIMARY KEY, n counter)"), ["CounterColumn"]);
    assert_eq!(names("ALTER TABLE t WITH default_time_to_live = 5"), ["DefaultTimeToLive"]);
    assert_eq!(names("CREATE ROLE IF NOT EXISTS r"), ["Role"]);
    assert_eq!(names("BEGIN COUNTER BATCH UPDATE c SET n += 1 WHERE a = 1 APPLY BATCH"), ["CounterBatch", "Operation"]);
    let batch = classify("BEGIN BATCH USING TIMESTAMP 1 DELETE FROM t WHERE a = 1 IF EXISTS; APPLY BATCH");
    assert!(features(&batch).contains(&"Conditional"));
    assert!(features(&batch).contains(&"Timestamp"));
    let option = classify("ALTER TABLE t WITH default_time_to_live = ' 5 '").default_time_to_live.unwrap();
    assert_eq!(option.integer, Some(5));
    assert_eq!(classify("ALTER TABLE t WITH default_time_to_live = x").default_time_to_live.unwrap().integer, None);
}

#[test]
fn system_keyspaces_are_recognized_however_named() {
    let touches = |text: &str, session: Option<&str>| classify(text).touches_system(session);
    assert!(touches("INSERT INTO System.local (a) VALUES (1)", None));
    assert!(touches("DELETE FROM \"system_auth\".roles WHERE role = 'x'", Some("ks")));
    assert!(touches("TRUNCATE events", Some("system_traces")));
    assert!(touches("DROP KEYSPACE system_schema", None));
    assert!(touches("BEGIN BATCH INSERT INTO t (a) VALUES (1); DELETE FROM system.x WHERE a = 1 APPLY BATCH", None));
    assert!(!touches("INSERT INTO ks.local (a) VALUES (1)", Some("system")));
    assert!(!touches("INSERT INTO \"System\".local (a) VALUES (1)", None));
    assert!(!touches("CREATE KEYSPACE system_of_ours WITH replication = {}", None));
    assert!(is_system_keyspace("system_views") && !is_system_keyspace("ks"));
}

#[test]
fn names_are_quoted_for_cql() {
    assert_eq!(Ident::new("we\"ird").to_cql(), "\"we\"\"ird\"");
    assert_eq!(classify("USE \"we\"\"ird\"").keyspace, Some(Ident::new("we\"ird")));
    assert_eq!(classify("USE MixedCase").keyspace, Some(Ident::new("mixedcase")));
}

fn check(text: &str) {
    let mut end = 0;
    for token in lex::tokens(text) {
        let Span { start, end: next } = token.span();
        assert!(start >= end && next > start, "tokens don't overlap and aren't empty");
        assert!(text.is_char_boundary(start) && text.is_char_boundary(next));
        end = next;
    }
    assert!(end <= text.len());
    let statement = classify(text);
    for call in &statement.calls {
        assert!(call.markers_before <= statement.markers.len() && text.get(call.span.start..call.span.end).is_some());
    }
    for member in &statement.members {
        assert!(member.first_marker + member.marker_count <= statement.markers.len());
        assert!(text.get(member.span.start..member.span.end).is_some());
    }
    let _ = (features(&statement), statement.touches_system(Some("ks")));
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,60}") {
        check(&text);
    }

    #[test]
    fn no_soup_of_cql_panics(words in proptest::collection::vec(proptest::sample::select(vec![
        "INSERT", "INTO", "UPDATE", "SET", "DELETE", "FROM", "WHERE", "IF", "EXISTS", "USING", "TTL", "TIMESTAMP", "AND",
        "BEGIN", "BATCH", "APPLY", "CREATE", "ALTER", "DROP", "TABLE", "MATERIALIZED", "VIEW", "WITH", "ID", "INDEX", "ON",
        "t", "\"T\"", "now", "uuid", "system", "(", ")", "[", "]", "{", "}", ",", ";", ":", ".", "=", "+", "-", "+=", "?",
        "1", "-1", "1.5", "5d", "P1Y", "-P", "-NaN", "'x'", "'", "\"", "$$", "$", "--", "/*", "*/", "\n", " ", "ż", "0x",
        "123e4567-e89b-12d3-a456-426655440000", "P0001-02-03T04:05:06", "counter", "COUNTER", "default_time_to_live",
    ]), 0..25), space: bool) {
        check(&words.join(if space { " " } else { "" }));
    }

    #[test]
    fn no_damaged_statement_panics(index in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), by: char, cut: bool) {
        let texts: Vec<String> = table().map(|(_, text)| text).collect();
        let mut text: Vec<char> = texts[index.index(texts.len())].chars().collect();
        let at = at.index(text.len() + 1);
        if cut { text.truncate(at) } else { text.insert(at, by) }
        check(&text.into_iter().collect::<String>());
    }
}

#[test]
fn deep_nesting_and_long_texts_are_no_problem() {
    let deep = format!("INSERT INTO t (a) VALUES ({}?{})", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(classify(&deep).markers.len(), 1);
    check(&"{".repeat(100_000));
    let long = format!("BEGIN BATCH {} APPLY BATCH", "INSERT INTO t (a) VALUES (?);".repeat(20_000));
    assert_eq!(classify(&long).members.len(), 20_000);
}

#[test]
fn columns_compared_with_one_value() {
    for (text, columns) in [
        ("SELECT * FROM t WHERE k = 1", vec!["k"]),
        ("SELECT * FROM a.t WHERE k=? AND \"C\" = :c AND d > 3 LIMIT 5", vec!["k", "C"]),
        ("SELECT * FROM t WHERE a >= 1 AND b <= 2 AND c != 3 ALLOW FILTERING", vec![]),
        ("SELECT * FROM t WHERE token(k) = 1 AND (a, b) = (1, 2) AND m['x'] = 2", vec![]),
        ("SELECT * FROM t WHERE k IN (1, 2) AND c = 3", vec!["c"]),
        ("SELECT k = 1 FROM t", vec![]),
        ("SELECT * FROM t", vec![]),
    ] {
        let statement = classify(text);
        let found: Vec<_> = statement.equalities.iter().map(|column| column.as_str()).collect();
        assert_eq!(found, columns, "{text}");
    }
}
