//! Lets a single write say its own write time, so that several of them can be sent as one batch.

use crate::lex;
use crate::statement::{Kind, Statement};

/// A single `INSERT`, `UPDATE` or `DELETE` with one more bind marker, for its write time, and that marker's index among the
/// text's markers. `None` for any other text, and for one that says its write time itself. `statement` is the
/// classification of this same text.
pub fn with_timestamp_marker(text: &str, statement: &Statement) -> Option<(String, usize)> {
    if statement.using_timestamp.is_some() || statement.has_named_markers() {
        return None;
    }
    let tokens = || lex::tokens(text).filter(|token| !token.is_symbol(b';'));
    // SET and WHERE are reserved words: the first outside of quotes is the clause.
    let before = |word: &str| tokens().find(|token| token.is_word(text, word)).map(|token| token.span().start);
    let at = match statement.kind {
        Kind::Insert => tokens().last().map(|last| last.span().end),
        Kind::Update => before("SET"),
        Kind::Delete => before("WHERE"),
        _ => None,
    }?;
    let keyword = if statement.ttl.is_some() { "AND" } else { "USING" };
    let (head, rest) = text.split_at_checked(at)?;
    let index = statement.markers.iter().filter(|marker| marker.span.start < at).count();
    Some((format!("{head} {keyword} TIMESTAMP ? {rest}"), index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::classify;

    #[test]
    fn a_write_says_its_time() {
        for (text, want) in [
            ("INSERT INTO t (k, v) VALUES (?, ?)", Some(("INSERT INTO t (k, v) VALUES (?, ?) USING TIMESTAMP ? ", 2))),
            (
                "INSERT INTO t (k) VALUES (?) USING TTL ? ; -- end",
                Some(("INSERT INTO t (k) VALUES (?) USING TTL ? AND TIMESTAMP ?  ; -- end", 2)),
            ),
            ("INSERT INTO t JSON ?", Some(("INSERT INTO t JSON ? USING TIMESTAMP ? ", 1))),
            (
                "UPDATE \"set\" USING TTL ? SET v = ? WHERE k = ?",
                Some(("UPDATE \"set\" USING TTL ?  AND TIMESTAMP ? SET v = ? WHERE k = ?", 1)),
            ),
            ("UPDATE k.t SET v = ? WHERE k = ?", Some(("UPDATE k.t  USING TIMESTAMP ? SET v = ? WHERE k = ?", 0))),
            ("DELETE v[?] FROM t WHERE k = ?", Some(("DELETE v[?] FROM t  USING TIMESTAMP ? WHERE k = ?", 1))),
            ("DELETE FROM t USING TIMESTAMP ? WHERE k = ?", None),
            ("INSERT INTO t (k) VALUES (:k)", None),
            ("BEGIN BATCH INSERT INTO t (k) VALUES (?); APPLY BATCH", None),
            ("SELECT * FROM t WHERE k = ?", None),
            ("TRUNCATE t", None),
        ] {
            let want = want.map(|(text, index)| (text.to_owned(), index));
            let made = with_timestamp_marker(text, &classify(text));
            assert_eq!(made, want);
            if let Some((made, index)) = made {
                let said = classify(&made);
                let marker = said.using_timestamp.map(|attribute| attribute.value);
                assert_eq!(marker, Some(crate::statement::AttributeValue::Marker(index)), "{made}");
            }
        }
    }
}
