//! The statements that make a keyspace's schema, as Cassandra describes it. Pure.

use replicateddb_cql::lex::{self, Token, TokenKind};
use replicateddb_cql::statement::classify;

use crate::keyspace::confine::stripped;

/// The statements of a description (`create_statement` of `DESCRIBE KEYSPACE ... WITH INTERNALS`), without the keyspace
/// before names and without ids: a table that is made from it is a new one.
///
/// # Errors
/// It names another keyspace.
pub fn statements(keyspace: &str, description: &str) -> Result<Vec<String>, String> {
    split(description).map(|text| Ok(without_id(&stripped(keyspace, text, classify(text).kind)?))).collect()
}

/// The statements of a description as they are, but without ids, each with the keyspace that it names.
///
/// # Errors
/// One names none.
pub fn qualified(description: &str) -> Result<Vec<(String, String)>, String> {
    let named = |text| {
        let keyspace = classify(text).keyspace.ok_or_else(|| format!("`{text}` names no keyspace"))?;
        Ok((keyspace.as_str().to_owned(), without_id(text)))
    };
    split(description).map(named).collect()
}

/// What stands before each semicolon.
fn split(description: &str) -> impl Iterator<Item = &str> {
    let ends = lex::tokens(description).filter(|token| token.is_symbol(b';')).map(|token| token.span());
    let texts = ends.scan(0, |start, end| {
        let text = description.get(*start..end.start).unwrap_or_default().trim();
        *start = end.end;
        Some(text)
    });
    texts.filter(|text| !text.is_empty())
}

/// The text without `ID = ...` among the options of a table or view.
fn without_id(text: &str) -> String {
    let tokens: Vec<Token> = lex::tokens(text).collect();
    let found = tokens.windows(4).position(|window| match window {
        [with, id, equals, uuid] => {
            with.is_word(text, "WITH")
                && id.is_word(text, "ID")
                && equals.is_symbol(b'=')
                && uuid.kind == TokenKind::Uuid
        }
        _ => false,
    });
    let Some(at) = found else { return text.to_owned() };
    let and = tokens.get(at + 4).filter(|and| and.is_word(text, "AND"));
    // With other options behind it, WITH stays.
    let (from, to) = match (tokens.get(at), tokens.get(at + 3), and) {
        (Some(with), _, Some(and)) => (with.span().end, and.span().end),
        (Some(with), Some(uuid), None) => (with.span().start, uuid.span().end),
        _ => return text.to_owned(),
    };
    let part = |range: Option<&str>| range.unwrap_or_default().trim().to_owned();
    format!("{} {}", part(text.get(..from)), part(text.get(to..))).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_the_keyspace_are_left_out() {
        let description = "CREATE TABLE own.t (\n    k int PRIMARY KEY,\n    gone int\n) WITH ID = 52554d6e-29bb-51e5-b345-feff819cdc9f\n\
                           AND comment = 'a; own.b';\nALTER TABLE own.t DROP gone USING TIMESTAMP 5;\n\
                           CREATE INDEX by_v ON own.t (v);";
        assert_eq!(
            statements("own", description).expect("statements"),
            [
                "CREATE TABLE t (\n    k int PRIMARY KEY,\n    gone int\n) WITH comment = 'a; own.b'",
                "ALTER TABLE t DROP gone USING TIMESTAMP 5",
                "CREATE INDEX by_v ON t (v)",
            ]
        );
        let alone = "CREATE TABLE own.t (k int PRIMARY KEY) WITH ID = 52554d6e-29bb-51e5-b345-feff819cdc9f;";
        assert_eq!(statements("own", alone).expect("statements"), ["CREATE TABLE t (k int PRIMARY KEY)"]);
        assert!(statements("other", alone).is_err());
    }

    #[test]
    fn each_with_its_keyspace() {
        let of =
            |text: &str| qualified(text).map(|all| all.into_iter().map(|(keyspace, _)| keyspace).collect::<Vec<_>>());
        let keyspace =
            "CREATE KEYSPACE \"Shop\" WITH replication = {'class': 'SimpleStrategy', 'replication_factor': '3'};";
        assert_eq!(of(keyspace).expect("named"), ["Shop"]);
        let table = "CREATE TABLE shop.t (k int PRIMARY KEY) WITH ID = 52554d6e-29bb-51e5-b345-feff819cdc9f; \
                     ALTER TABLE shop.t DROP v USING TIMESTAMP 5; CREATE INDEX i ON shop.t (k); CREATE TYPE shop.u (a int);";
        assert_eq!(of(table).expect("named"), ["shop"; 4]);
        assert_eq!(qualified(table).expect("named")[0].1, "CREATE TABLE shop.t (k int PRIMARY KEY)");
        let view = "CREATE MATERIALIZED VIEW shop.v AS SELECT * FROM shop.t WHERE k IS NOT NULL PRIMARY KEY (k); \
                    CREATE FUNCTION shop.f(x int) CALLED ON NULL INPUT RETURNS int LANGUAGE java AS $$ return x; $$; \
                    CREATE AGGREGATE shop.a(int) SFUNC f STYPE int INITCOND 0;";
        assert_eq!(of(view).expect("named"), ["shop"; 3]);
        assert!(of("CREATE TABLE t (k int PRIMARY KEY);").is_err());
    }

    #[test]
    fn bodies_of_functions_stay_as_they_are() {
        let description = "CREATE FUNCTION own.f(x int)\n    RETURNS NULL ON NULL INPUT\n    RETURNS int\n    LANGUAGE java\n    \
                           AS $$ int own = 1; return own.x; $$;";
        let statements = statements("own", description).expect("statements");
        assert_eq!(statements.len(), 1);
        assert!(statements[0].starts_with("CREATE FUNCTION f(x int)") && statements[0].ends_with("return own.x; $$"));
    }
}
