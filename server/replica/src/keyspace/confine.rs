//! What a replica's clients may say when it has one keyspace only, and how that is recorded: without naming it. Pure.

use replicateddb_cql::lex::{self, Token, TokenKind};
use replicateddb_cql::statement::{Action, Ident, Kind, Object, Statement, ident};

use super::STATE_TABLE;

/// What becomes of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes its way.
    Fine,
    /// It is answered as done, and nothing is done.
    Nothing,
    /// It is refused, and why.
    Refused(String),
}

/// Judges a statement of a client of the replica whose keyspace is `own`.
pub fn judge(own: &str, text: &str, statement: &Statement) -> Verdict {
    match statement.kind {
        Kind::Ddl(action, Object::Keyspace) => return of_keyspaces(own, text, action, statement),
        Kind::Role => return Verdict::Refused("roles belong to the shared Cassandra: make them there".to_owned()),
        Kind::Use => {
            let used = lex::tokens(text).nth(1).and_then(|token| ident(text, token));
            let used = used.as_ref().map(Ident::as_str);
            return if used == Some(own) { Verdict::Fine } else { Verdict::Refused(elsewhere(own, used)) };
        }
        _ => {}
    }
    for each in statement.each() {
        if let Some(other) = each.keyspace.as_ref().filter(|named| named.as_str() != own) {
            return Verdict::Refused(elsewhere(own, Some(other.as_str())));
        }
        if each.table.as_ref().is_some_and(|table| table.as_str() == STATE_TABLE) && each.kind != Kind::Select {
            return Verdict::Refused(format!("the table {STATE_TABLE} belongs to the replica itself"));
        }
    }
    Verdict::Fine
}

/// Why another keyspace than `own` can't be used.
pub fn elsewhere(own: &str, other: Option<&str>) -> String {
    let other = other.map(|name| format!(" {name}")).unwrap_or_default();
    format!(
        "this replica shares its Cassandra with others and is confined to the keyspace {own}; the keyspace{other} can't be \
         used: leave the keyspace out"
    )
}

fn of_keyspaces(own: &str, text: &str, action: Action, statement: &Statement) -> Verdict {
    let named = statement.keyspace.as_ref().or(statement.object.as_ref()).map(Ident::as_str);
    let mut words = lex::tokens(text).skip(2);
    let if_not_exists = words.next().is_some_and(|token| token.is_word(text, "IF"));
    match (action, named) {
        (Action::Create, Some(name)) if name == own && if_not_exists => Verdict::Nothing,
        _ => Verdict::Refused(format!(
            "this replica shares its Cassandra with others: its one keyspace {own} is there as long as the replica is, and \
             other keyspaces can't be made, altered or dropped through it"
        )),
    }
}

/// The text as it is recorded: without the own keyspace before names. A column of a user-defined type that is called like
/// the keyspace keeps its fields: in INSERT, UPDATE, DELETE, BATCH and TRUNCATE only the table's place counts.
///
/// # Errors
/// A name is qualified with another keyspace.
pub fn stripped(own: &str, text: &str, kind: Kind) -> Result<String, String> {
    let tokens: Vec<Token> = lex::tokens(text).collect();
    let everywhere = matches!(kind, Kind::Ddl(..));
    let mut result = String::with_capacity(text.len());
    let mut kept = 0;
    for (at, window) in tokens.windows(3).enumerate() {
        let &[qualifier, dot, object] = window else { continue };
        let is_name = |token: Token| matches!(token.kind, TokenKind::Word | TokenKind::QuotedName);
        if !(is_name(qualifier) && dot.is_symbol(b'.') && is_name(object)) {
            continue;
        }
        let before = at.checked_sub(1).and_then(|at| tokens.get(at));
        let at_table = before.is_some_and(|before| {
            ["UPDATE", "INTO", "FROM", "TRUNCATE", "TABLE"].iter().any(|word| before.is_word(text, word))
        });
        if !(everywhere || at_table) {
            continue;
        }
        let named = ident(text, qualifier);
        let named = named.as_ref().map_or("", Ident::as_str);
        if named != own {
            return Err(elsewhere(own, Some(named)));
        }
        result.push_str(text.get(kept..qualifier.span().start).unwrap_or_default());
        kept = object.span().start;
    }
    result.push_str(text.get(kept..).unwrap_or_default());
    Ok(result)
}

#[cfg(test)]
mod tests {
    use replicateddb_cql::statement::classify;

    use super::*;

    #[test]
    fn the_own_keyspace_is_left_out() {
        for (text, want) in [
            ("INSERT INTO own.t (k) VALUES (1)", "INSERT INTO t (k) VALUES (1)"),
            ("INSERT INTO t (k) VALUES ('own.t')", "INSERT INTO t (k) VALUES ('own.t')"),
            ("UPDATE \"own\" . \"T\" SET own.f = 1 WHERE k = 1", "UPDATE \"T\" SET own.f = 1 WHERE k = 1"),
            ("DELETE own.f FROM Own.t WHERE k = 1", "DELETE own.f FROM t WHERE k = 1"),
            (
                "BEGIN BATCH INSERT INTO own.t (k) VALUES (1); UPDATE own.u SET v = 1.5 WHERE k = 2; APPLY BATCH",
                "BEGIN BATCH INSERT INTO t (k) VALUES (1); UPDATE u SET v = 1.5 WHERE k = 2; APPLY BATCH",
            ),
            ("TRUNCATE own.t", "TRUNCATE t"),
            ("TRUNCATE TABLE own.t", "TRUNCATE TABLE t"),
            (
                "CREATE TABLE own.t (k int PRIMARY KEY, f frozen<own.u>)",
                "CREATE TABLE t (k int PRIMARY KEY, f frozen<u>)",
            ),
            ("CREATE INDEX i ON own.t (v)", "CREATE INDEX i ON t (v)"),
            (
                "CREATE MATERIALIZED VIEW own.m AS SELECT * FROM own.t WHERE v IS NOT NULL PRIMARY KEY (v, k)",
                "CREATE MATERIALIZED VIEW m AS SELECT * FROM t WHERE v IS NOT NULL PRIMARY KEY (v, k)",
            ),
        ] {
            assert_eq!(stripped("own", text, classify(text).kind).as_deref(), Ok(want));
            assert_eq!(judge("own", text, &classify(text)), Verdict::Fine, "{text}");
        }
        let text = "CREATE TABLE t (k int PRIMARY KEY, f frozen<other.u>)";
        assert!(stripped("own", text, classify(text).kind).is_err());
    }

    #[test]
    fn other_keyspaces_are_refused() {
        for text in [
            "INSERT INTO other.t (k) VALUES (1)",
            "SELECT * FROM other.t",
            "BEGIN BATCH INSERT INTO t (k) VALUES (1); DELETE FROM other.t WHERE k = 1; APPLY BATCH",
            "DROP TABLE other.t",
            "TRUNCATE other.t",
            "USE other",
            "CREATE KEYSPACE other WITH replication = {}",
            "CREATE KEYSPACE own WITH replication = {}",
            "DROP KEYSPACE own",
            "ALTER KEYSPACE own WITH durable_writes = false",
            "CREATE ROLE r",
            "TRUNCATE replicateddb_state",
            "DROP TABLE own.replicateddb_state",
        ] {
            assert!(matches!(judge("own", text, &classify(text)), Verdict::Refused(_)), "{text}");
        }
        for text in ["USE own", "USE \"own\"", "SELECT * FROM t", "SELECT * FROM own.replicateddb_state"] {
            assert_eq!(judge("own", text, &classify(text)), Verdict::Fine, "{text}");
        }
        let there = "CREATE KEYSPACE IF NOT EXISTS own WITH replication = {'class': 'SimpleStrategy'}";
        assert_eq!(judge("own", there, &classify(there)), Verdict::Nothing);
    }
}
