//! What is refused: everything that could not be executed exactly the same, and exactly once, on every replica.

use replicateddb_cql::lex::{self, Token, TokenKind};
use replicateddb_cql::response::MAX_TYPE_DEPTH;
use replicateddb_cql::statement::{Action, Ident, Kind, Object, Statement, is_native_function, is_system_keyspace};

use super::{
    plan::{Refusal, is_trigger},
    schema::{ColumnClass, TableColumns},
};
use crate::record::MAX_STATEMENTS;

/// What the members of a batch begin with: reserved words.
const MEMBERS: [&str; 3] = ["INSERT", "UPDATE", "DELETE"];

/// What the text of a write alone says against executing it, in a session that uses `keyspace`.
pub fn by_text(statement: &Statement, keyspace: Option<&str>) -> Option<Refusal> {
    if is_trigger(statement.kind) {
        return Some(Refusal::invalid(
            "triggers are not supported: they run code of a node's own, which need not do the same on every replica",
        ));
    }
    if let Some(name) = shadowing(statement) {
        return Some(Refusal::invalid(format!(
            "{name} is the name of a function of Cassandra's own, which writes may call: give yours another one"
        )));
    }
    if let Some(function) = &statement.foreign_function {
        return Some(Refusal::invalid(format!(
            "{function} is no function of Cassandra's own: those of users can be called in SELECT alone, for in a write \
             their code could give another value on each replica, or never end; compute the value in the application"
        )));
    }
    if let Some(system) = system_keyspace(statement, keyspace) {
        return Some(Refusal::invalid(format!(
            "the keyspace {system} belongs to Cassandra itself, one on each replica; it can be read, but not written"
        )));
    }
    // Everything else is executed once, in the log's order: a timestamp in the text stands, operations and conditions are
    // decided there, and expiry counts from the log's second.
    None
}

/// Tokens of a text, at most. What is known of a text while it is read, and of a statement as long as it is remembered, takes some
/// tens of bytes for each.
const MAX_TOKENS: usize = 1 << 20;
/// Bind markers of a text, at most, as Cassandra has it: there are no more values in the protocol.
const MAX_MARKERS: usize = u16::MAX as usize;
/// Members of a batch, at most, as of one that the protocol has. Half a kilobyte is known of each.
const MAX_MEMBERS: usize = u16::MAX as usize;
const _: () = assert!(MAX_MEMBERS == MAX_STATEMENTS);

/// The tokens of a text.
///
/// # Errors
/// There is more in it than is to be read of it.
pub fn lexed(text: &str) -> Result<Vec<Token>, Refusal> {
    // Each of what is counted has a byte at least.
    if text.len() <= MAX_MARKERS.min(MAX_MEMBERS) {
        return Ok(lex::tokens(text).collect());
    }
    let is_member = |token: Token| MEMBERS.iter().any(|word| token.is_word(text, word));
    let (mut all, mut markers, mut members) = (Vec::new(), 0, 0);
    for token in lex::tokens(text) {
        all.push(token);
        markers += usize::from(token.kind == TokenKind::QuestionMark);
        members += usize::from(is_member(token));
        let what = match () {
            () if markers > MAX_MARKERS => format!("Too many markers(?): at most {MAX_MARKERS} are allowed"),
            () if members > MAX_MEMBERS => format!("a batch has at most {MAX_MEMBERS} statements"),
            () if all.len() > MAX_TOKENS => {
                format!("the statement has more than {MAX_TOKENS} names, numbers and signs: bind values, or split it")
            }
            () => continue,
        };
        return Err(Refusal::invalid(what));
    }
    Ok(all)
}

/// Deepest nesting of brackets and types, and most operators in one term, of a write: Cassandra's parser and its terms call
/// themselves for each, and the depth at which their stack ends depends on what is compiled, so it may differ between replicas. And
/// types that are nested deeper than [`MAX_TYPE_DEPTH`] are not read here.
const MAX_NESTING: usize = 60;
const _: () = assert!(MAX_NESTING < MAX_TYPE_DEPTH);

/// Why a text is nested too deep to be ordered, if it is.
pub fn too_deep(text: &str, tokens: &[Token]) -> Option<Refusal> {
    let (mut depth, mut operators) = (0_usize, 0_usize);
    for token in tokens {
        match token.kind {
            TokenKind::Symbol(b'(' | b'[' | b'{' | b'<') => depth += 1,
            TokenKind::Symbol(b')' | b']' | b'}' | b'>') => depth = depth.saturating_sub(1),
            TokenKind::Symbol(b'+' | b'-' | b'*' | b'/' | b'%') => operators += 1,
            // A comparison may be written with a bracket of types: each statement begins anew.
            TokenKind::Symbol(b';') => (depth, operators) = (0, 0),
            TokenKind::Symbol(b',' | b'=') => operators = 0,
            TokenKind::Word if token.is_word(text, "AND") => operators = 0,
            _ => continue,
        }
        if depth > MAX_NESTING || operators > MAX_NESTING {
            return Some(Refusal::invalid(format!(
                "the statement is nested more than {MAX_NESTING} deep, or has as many operators in one term: bind the value"
            )));
        }
    }
    None
}

/// What is said of roles where clients do not log in.
pub fn roles_of_nobody() -> Refusal {
    Refusal::invalid(
        "there are roles and permissions only where clients log in, and here every client may do everything: start the \
         replicas with --superuser (in Kubernetes: spec.authentication)",
    )
}

/// The function or aggregate that a statement makes, if a call of it could be taken for one of Cassandra's own.
fn shadowing(statement: &Statement) -> Option<&Ident> {
    let makes = matches!(statement.kind, Kind::Ddl(Action::Create, Object::Function | Object::Aggregate));
    statement.object.as_ref().filter(|name| makes && is_native_function(name.as_str()))
}

/// The keyspace of Cassandra's own that the statement would write to.
fn system_keyspace(statement: &Statement, session: Option<&str>) -> Option<String> {
    let named = |statement: &Statement| {
        let keyspace = statement.keyspace.as_ref().map(Ident::as_str).or(session)?;
        is_system_keyspace(keyspace).then(|| keyspace.to_owned())
    };
    match statement.kind {
        Kind::Role => None,
        _ => statement.each().find_map(named),
    }
}

/// What a table's columns say about a write to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Execute it.
    Execute {
        /// Executing it twice gives the same as once.
        repeatable: bool,
        /// Its table has counters.
        counts: bool,
    },
    /// It names a column that is not known here.
    UnknownColumn(String),
}

/// Judges one INSERT, UPDATE or DELETE by the columns of its table.
pub fn by_columns(statement: &Statement, columns: &TableColumns) -> Verdict {
    // Nothing done to an element, or to a counter, is harmless twice; of sets and maps it would be, but nobody needs it.
    let counts = columns.any(ColumnClass::Counter);
    let mut repeatable = !counts && statement.conditional.is_none();
    for operation in &statement.operations {
        match columns.class(operation.column.as_str()) {
            None => return Verdict::UnknownColumn(operation.column.to_string()),
            Some(ColumnClass::List | ColumnClass::Counter) => repeatable = false,
            Some(ColumnClass::Plain) => {}
        }
    }
    // Overwriting a list writes cells with names made up at execution: done twice, both copies stay.
    repeatable &= statement.kind == Kind::Delete || !columns.any(ColumnClass::List);
    Verdict::Execute { repeatable, counts }
}

#[cfg(test)]
mod tests {
    use super::*;
    use replicateddb_cql::statement::classify;

    fn refused(text: &str) -> Option<String> {
        by_text(&classify(text), None).map(|refusal| refusal.message)
    }

    #[test]
    fn what_is_nested_too_deep_is_refused_before_it_is_ordered() {
        let nested =
            |depth: usize| format!("INSERT INTO a.t (k, l) VALUES (1, {}{})", "[".repeat(depth), "]".repeat(depth));
        let sum = |terms: usize| format!("UPDATE a.t SET v = 1{} WHERE k = 1", " + v".repeat(terms));
        let many = format!("INSERT INTO a.t (k, l) VALUES (1, [{}0])", "1 + 1, ".repeat(500));
        let types = |depth: usize| {
            format!("CREATE TABLE a.t (k {}int{} PRIMARY KEY)", "frozen<".repeat(depth), ">".repeat(depth))
        };
        for (text, refused) in [
            (nested(50), false),
            (nested(61), true),
            (sum(60), false),
            (sum(61), true),
            (many, false),
            (types(50), false),
            (types(61), true),
            ("DELETE FROM a.t WHERE k < 1; ".repeat(200), false),
        ] {
            let tokens = lexed(&text).expect("short");
            assert_eq!(too_deep(&text, &tokens).is_some(), refused, "{text}");
        }
    }

    #[test]
    fn what_has_too_much_in_it_is_refused_before_it_is_read() {
        let batch =
            |members: usize| format!("BEGIN BATCH {} APPLY BATCH", "INSERT INTO a.t (k) VALUES (1);".repeat(members));
        let values = |what: &str, times: usize| format!("INSERT INTO a.t (k, l) VALUES (1, [{}0])", what.repeat(times));
        for (text, why) in [
            (batch(MAX_MEMBERS), None),
            (batch(MAX_MEMBERS + 1), Some("at most 65535 statements")),
            (values("?,", MAX_MARKERS), None),
            (values("?,", MAX_MARKERS + 1), Some("Too many markers")),
            (values("7,", MAX_TOKENS / 2 - 20), None),
            (values("7,", MAX_TOKENS / 2), Some("more than 1048576")),
            (values("'a string of a megabyte'", 1 << 16), None),
        ] {
            let refused = lexed(&text).err().map(|refusal| refusal.message);
            let said = refused.as_deref().unwrap_or("nothing");
            assert_eq!(refused.is_some(), why.is_some(), "{}: {said}", &text[..50]);
            assert!(said.contains(why.unwrap_or("nothing")), "{said}");
        }
    }

    #[test]
    fn what_is_refused_by_its_text() {
        for (text, why) in [
            ("CREATE TRIGGER x ON a.t USING 'y'", "triggers"),
            ("INSERT INTO a.t (k, v) VALUES (1, f(2))", "f is no function of Cassandra's own"),
            ("BEGIN BATCH UPDATE a.t SET v = b.\"F\"(2) WHERE k = 1; APPLY BATCH", "b.F is no function"),
            ("CREATE AGGREGATE a.g (int) SFUNC s STYPE int INITCOND f(1)", "f is no function"),
            (
                "CREATE FUNCTION a.abs (x text) CALLED ON NULL INPUT RETURNS int LANGUAGE java AS 'return 1;'",
                "abs is the name of a function of Cassandra's own",
            ),
            ("CREATE OR REPLACE AGGREGATE a.Now (int) SFUNC f STYPE int", "now is the name"),
            ("INSERT INTO system_auth.roles (role) VALUES ('x')", "belongs to Cassandra"),
            ("DROP KEYSPACE system_traces", "belongs to Cassandra"),
            ("TRUNCATE system.peers", "belongs to Cassandra"),
            (
                "BEGIN BATCH INSERT INTO a.t (k) VALUES (1); DELETE FROM system.peers WHERE peer = '::1'; APPLY BATCH",
                "belongs",
            ),
        ] {
            let message = refused(text).unwrap_or_else(|| panic!("not refused: {text}"));
            assert!(message.contains(why), "{text}: {message}");
        }
        let unqualified = "INSERT INTO roles (role) VALUES ('x')";
        assert!(by_text(&classify(unqualified), Some("system_auth")).is_some());
    }

    #[test]
    fn what_is_not_refused_by_its_text() {
        for text in [
            "INSERT INTO a.t (k) VALUES (1)",
            "INSERT INTO a.t (k) VALUES (1) USING TIMESTAMP 5",
            "INSERT INTO a.t (k) VALUES (1) IF NOT EXISTS",
            "UPDATE a.t SET v = 1 WHERE k = 1 IF v = 2",
            "BEGIN BATCH UPDATE a.t SET v = 1 WHERE k = 1 IF v = 2; APPLY BATCH",
            "INSERT INTO a.t (k) VALUES (1) USING TTL 5",
            "UPDATE a.t USING TIMESTAMP 1 AND TTL ? SET v = 1 WHERE k = 1",
            "CREATE TABLE IF NOT EXISTS a.t (k int PRIMARY KEY, counter int) WITH default_time_to_live = 9",
            "CREATE KEYSPACE a WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 3}",
            "UPDATE a.t SET s = s + {1}, m['x'] = 2 WHERE k = 1",
            "CREATE TABLE a.t (k int PRIMARY KEY, c counter)",
            "BEGIN COUNTER BATCH UPDATE a.t SET c = c + 1 WHERE k = 1; APPLY BATCH",
            "BEGIN BATCH INSERT INTO a.t (k) VALUES (1); DELETE FROM a.t WHERE k = 2; APPLY BATCH",
            "TRUNCATE a.t",
            "DROP TABLE IF EXISTS a.t",
            "DROP FUNCTION IF EXISTS a.f",
            "CREATE FUNCTION a.f (x int) CALLED ON NULL INPUT RETURNS int LANGUAGE java AS 'return x;'",
            "CREATE OR REPLACE AGGREGATE a.g (int) SFUNC f STYPE int",
        ] {
            assert_eq!(refused(text), None, "{text}");
        }
    }

    fn judge(text: &str) -> Verdict {
        let columns = TableColumns::new([
            ("k".to_owned(), ColumnClass::Plain),
            ("s".to_owned(), ColumnClass::Plain),
            ("l".to_owned(), ColumnClass::List),
        ]);
        by_columns(&classify(text), &columns)
    }

    #[test]
    fn what_makes_cells_of_its_own_is_not_repeatable() {
        for text in [
            "UPDATE a.t SET l = l + [1] WHERE k = 1",
            "UPDATE a.t SET l += ? WHERE k = 1",
            "UPDATE a.t SET l = [1] + l WHERE k = 1",
            "UPDATE a.t SET l = l - [1] WHERE k = 1",
            "UPDATE a.t SET l[0] = 1 WHERE k = 1",
            "DELETE l[0] FROM a.t WHERE k = 1",
            "INSERT INTO a.t (k, l) VALUES (1, [2])",
            "UPDATE a.t SET s = s + {1} WHERE k = 1",
        ] {
            assert_eq!(judge(text), Verdict::Execute { repeatable: false, counts: false }, "{text}");
        }
        assert_eq!(judge("DELETE l FROM a.t WHERE k = 1"), Verdict::Execute { repeatable: true, counts: false });
        assert_eq!(judge("UPDATE a.t SET x = x + {1} WHERE k = 1"), Verdict::UnknownColumn("x".into()));
    }

    #[test]
    fn a_condition_is_decided_once() {
        for text in ["DELETE FROM a.t WHERE k = 1 IF EXISTS", "UPDATE a.t SET s = {1} WHERE k = 1 IF s = {2}"] {
            let columns = TableColumns::new([("s".to_owned(), ColumnClass::Plain)]);
            assert_eq!(
                by_columns(&classify(text), &columns),
                Verdict::Execute { repeatable: false, counts: false },
                "{text}"
            );
        }
    }

    #[test]
    fn counters_are_never_repeatable() {
        for text in ["UPDATE a.t SET c = c + 1 WHERE k = 1", "DELETE FROM a.t WHERE k = 1"] {
            let columns = TableColumns::new([("c".to_owned(), ColumnClass::Counter)]);
            assert_eq!(by_columns(&classify(text), &columns), Verdict::Execute { repeatable: false, counts: true });
            let columns = TableColumns::new([("c".to_owned(), ColumnClass::Plain)]);
            assert_eq!(by_columns(&classify(text), &columns), Verdict::Execute { repeatable: true, counts: false });
        }
    }
}
