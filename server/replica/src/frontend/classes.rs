//! Java classes that a schema statement names. One that can't be made, or is not Cassandra's own, is refused: Cassandra
//! notices some of them only when the table is in its schema, and does not start with that schema again.

use replicateddb_cql::{
    lex::{Token, TokenKind},
    statement::{Action, Kind, Object, Statement},
};

/// Compaction strategies, without their package.
const COMPACTIONS: [&str; 4] = [
    "SizeTieredCompactionStrategy",
    "LeveledCompactionStrategy",
    "TimeWindowCompactionStrategy",
    "UnifiedCompactionStrategy",
];
/// What `CREATE INDEX .. USING` may name, without the package.
const INDEXES: [&str; 4] = ["sai", "StorageAttachedIndex", "SASIIndex", "legacy_local_table"];
/// The package of all classes of Cassandra's own.
const OWN: &str = "org.apache.cassandra.";

/// What the statement names that is not known, and what there is.
pub fn unknown_class(text: &str, tokens: &[Token], statement: &Statement) -> Option<String> {
    match statement.kind {
        Kind::Ddl(Action::Create, Object::Index) => {
            let using = tokens.iter().position(|token| token.is_word(text, "USING"))?;
            unknown("index", &INDEXES, string(text, tokens.get(using + 1)?)?)
        }
        Kind::Ddl(Action::Create | Action::Alter, Object::Table | Object::MaterializedView) => {
            let compaction = |pair: &[Token]| pair[0].is_word(text, "compaction") && pair[1].is_symbol(b'=');
            let start = tokens.windows(2).position(compaction)?;
            let map = tokens.get(start + 2..)?;
            let end = map.iter().position(|token| token.is_symbol(b'}')).unwrap_or(map.len());
            let is_class = |token: &Token| string(text, token).is_some_and(|name| name == "class");
            let class = map.get(..end)?.windows(3).find(|three| is_class(&three[0]) && three[1].is_symbol(b':'))?;
            unknown("compaction strategy", &COMPACTIONS, string(text, &class[2])?)
        }
        _ => None,
    }
}

fn unknown(what: &str, known: &[&str], name: &str) -> Option<String> {
    let (package, class) = name.rsplit_once('.').map_or(("", name), |(package, class)| (package, class));
    let own = package.is_empty() || name.starts_with(OWN);
    let there = known.iter().any(|known| known.eq_ignore_ascii_case(class));
    (!own || !there).then(|| format!("there is no {what} {name:?} here; there are: {}", known.join(", ")))
}

/// The text of a string in simple quotes.
fn string<'a>(text: &'a str, token: &Token) -> Option<&'a str> {
    (token.kind == TokenKind::String).then(|| token.text(text).trim_matches('\''))
}

#[cfg(test)]
mod tests {
    use replicateddb_cql::{lex, statement::classify};

    use super::*;

    #[test]
    fn classes_of_cassandras_own_and_no_others() {
        for (text, refused) in [
            ("CREATE TABLE a.t (k int PRIMARY KEY)", false),
            ("CREATE TABLE a.t (k int PRIMARY KEY) WITH compaction = {'class': 'LeveledCompactionStrategy'}", false),
            (
                "ALTER TABLE a.t WITH gc_grace_seconds = 1 AND compaction = {'min_threshold': 4, 'class' : \
                 'org.apache.cassandra.db.compaction.UnifiedCompactionStrategy'}",
                false,
            ),
            ("CREATE TABLE a.t (k int PRIMARY KEY) WITH compaction = {'class': 'AbstractCompactionStrategy'}", true),
            (
                "CREATE MATERIALIZED VIEW a.v AS SELECT * FROM a.t WHERE k IS NOT NULL PRIMARY KEY (k) WITH compaction = \
                 {'class': 'com.example.LeveledCompactionStrategy'}",
                true,
            ),
            ("CREATE TABLE a.t (k int PRIMARY KEY) WITH compression = {'class': 'LZ4Compressor'}", false),
            ("CREATE INDEX ON a.t (v)", false),
            ("CREATE INDEX ON a.t (v) USING 'SAI'", false),
            ("CREATE CUSTOM INDEX i ON a.t (v) USING 'org.apache.cassandra.index.sasi.SASIIndex'", false),
            ("CREATE CUSTOM INDEX i ON a.t (v) USING 'org.apache.cassandra.index.internal.CassandraIndex'", true),
        ] {
            let tokens: Vec<Token> = lex::tokens(text).collect();
            assert_eq!(unknown_class(text, &tokens, &classify(text)).is_some(), refused, "{text}");
        }
    }
}
