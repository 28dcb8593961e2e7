//! A null among the conditions of a WHERE. Where the condition is a bound of a range, Cassandra takes the statement and
//! then fails to execute it, each time, with an error that does not say so (WriteFailure): it is refused here instead.

use std::collections::BTreeSet;

use replicateddb_cql::lex::{self, Token};
use replicateddb_cql::statement::{Ident, Statement, ident};
use replicateddb_cql::wire::Value;

use crate::record::StatementText;

/// The answer to such a statement.
pub const NULL_IN_WHERE: &str = "Invalid null value in a condition of WHERE: no row is found by null";
/// What ends the conditions of a WHERE.
const ENDS: [&str; 6] = ["IF", "APPLY", "UPDATE", "INSERT", "DELETE", "BEGIN"];
const NULL: &str = "NULL";

/// Whether a text may have a null of its own.
pub fn names_null(text: &str) -> bool {
    text.as_bytes().windows(NULL.len()).any(|part| part.eq_ignore_ascii_case(NULL.as_bytes()))
}

/// Whether a WHERE of this statement, or of a member of this batch's text, compares with null. `said` is its text, read;
/// `literal`: [`names_null`].
pub fn null_in_where(statement: &StatementText, said: &Statement, literal: bool) -> bool {
    let text = statement.text.as_str();
    // By place and by name, to be looked up: there may be as many markers, and tens of thousands of both.
    let (mut placed, mut named) = (BTreeSet::new(), BTreeSet::new());
    for (at, bound) in statement.values.iter().enumerate().filter(|(_, bound)| bound.value == Value::Null) {
        match bound.name {
            None => placed.insert(at),
            Some(name) => named.insert(name),
        };
    }
    if placed.is_empty() && named.is_empty() && !literal {
        return false;
    }
    // A marker without a name has that of the column before it.
    let is_null_marker = |token: &Token, column: &str| {
        let at = said.markers.binary_search_by_key(&token.span().start, |marker| marker.span.start);
        let Ok(ordinal) = at else { return false };
        let name = said.markers[ordinal].name.as_ref().map_or(column, Ident::as_str);
        placed.contains(&ordinal) || named.contains(name)
    };
    let (mut inside, mut column) = (false, String::new());
    for token in lex::tokens(text) {
        if token.is_word(text, "WHERE") {
            inside = true;
        } else if token.is_symbol(b';') || ENDS.iter().any(|word| token.is_word(text, word)) {
            inside = false;
        } else if inside && (token.is_word(text, NULL) || is_null_marker(&token, &column)) {
            return true;
        } else if let Some(name) = ident(text, token) {
            column = name.as_str().to_owned();
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use replicateddb_cql::request::Values;
    use replicateddb_cql::statement::classify;

    use super::*;

    fn found(text: &str, values: Values) -> bool {
        null_in_where(&StatementText { text: text.into(), values }, &classify(text), names_null(text))
    }

    #[test]
    fn nulls_in_a_where_are_found_and_no_others() {
        let some = || Value::Bytes("x".into());
        for (text, values, expected) in [
            ("DELETE FROM t WHERE k = 1 AND c > null", vec![], true),
            ("DELETE FROM t WHERE k = ? AND c > ?", vec![some(), Value::Null], true),
            ("DELETE FROM t WHERE k = :k AND c > :c", vec![some(), Value::Null], true),
            ("DELETE FROM t WHERE k = ? AND c > ?", vec![some(), Value::Unset], false),
            ("DELETE m[?] FROM t WHERE k = ?", vec![Value::Null, some()], false),
            ("UPDATE t SET v = ? WHERE k = ? IF v = ?", vec![Value::Null, some(), Value::Null], false),
            ("UPDATE t SET v = null WHERE k = 'null' IF v = null", vec![], false),
            ("INSERT INTO t (k, v) VALUES (?, null)", vec![Value::Null], false),
            (
                "BEGIN BATCH DELETE FROM t WHERE k = ?; INSERT INTO t (k) VALUES (?); APPLY BATCH",
                vec![some(), Value::Null],
                false,
            ),
            (
                "BEGIN BATCH INSERT INTO t (k) VALUES (?) DELETE FROM t WHERE k = ? APPLY BATCH",
                vec![some(), Value::Null],
                true,
            ),
        ] {
            assert_eq!(found(text, Values::positional(&values).expect("few")), expected, "{text}");
        }
    }

    /// By searching, it would take some seconds of each replica.
    #[test]
    fn many_nulls_and_many_markers_take_no_longer_than_as_many_words() {
        let half = usize::from(u16::MAX / 2);
        let (set, within) = (vec!["v = ?"; half].join(", "), vec!["?"; half].join(", "));
        let text = format!("UPDATE t SET {set} WHERE k IN ({within})");
        let mut values = vec![Value::Null; half];
        values.resize(2 * half, Value::Bytes("x".into()));
        let begun = std::time::Instant::now();
        for _ in 0..10 {
            assert!(!found(&text, Values::positional(&values).expect("few")));
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
        values.extend([Value::Null]);
        assert!(found(&format!("{text} AND c > ?"), Values::positional(&values).expect("few")));
    }

    #[test]
    fn names_tell_which_value_is_whose() {
        let named = |name: &str| {
            let raw =
                [&1u16.to_be_bytes()[..], &(name.len() as u16).to_be_bytes(), name.as_bytes(), &[0xff; 4]].concat();
            Values::from_raw(raw.into(), true).expect("one null")
        };
        let text = "DELETE v FROM t WHERE k = 1 AND c > ? IF v = :old";
        assert!(found(text, named("c")));
        assert!(!found(text, named("old")));
    }
}
