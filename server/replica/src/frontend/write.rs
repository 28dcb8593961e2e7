//! Writes on their way into the order: parts, keyspaces, non-deterministic calls.

use std::sync::Arc;

use bytes::Bytes;
use replicateddb_cql::{
    lex::{self, Token, TokenKind},
    request::{Batch, BatchBody, BatchKind, Values},
    rewrite::{NondeterministicValues, with_markers},
    statement::{Ident, Kind, Statement},
};

use super::{
    metrics::RequestClass,
    plan::{self, Plan, Refusal, WritePlan},
    prepared::{Prepared, PreparedCache},
};
use crate::{
    record::flags,
    replica::{Request, RequestKind, StatementText},
};

/// A write as a client asked for it.
#[derive(Debug)]
pub struct Write {
    kind: RequestKind,
    /// What [`flags`] the kind of a BATCH brings.
    flags: u32,
    /// A BATCH of that kind.
    logged: bool,
    parts: Vec<Part>,
}

/// A statement of a write, and its values.
#[derive(Debug)]
pub struct Part {
    prepared: Arc<Prepared>,
    values: Values,
}

impl Part {
    /// Its text.
    pub fn text(&self) -> &str {
        &self.prepared.text
    }

    /// The session's keyspace that unqualified names belong to.
    pub fn keyspace(&self) -> Option<&str> {
        self.prepared.keyspace.as_deref()
    }

    /// Its classification.
    pub fn statement(&self) -> Option<&Statement> {
        match &self.prepared.plan {
            Plan::Write(plan) => Some(&plan.statement),
            _ => None,
        }
    }
}

/// Why a BATCH is not executed.
#[derive(Debug)]
pub enum BatchError {
    /// A prepared id that is not known here.
    Unprepared(Bytes),
    /// It must not be executed.
    Refused(Refusal),
    /// A member that is not understood: Cassandra says what is wrong with it.
    Unknown(Arc<Prepared>),
}

impl Write {
    /// Of one statement, whose plan is [`Plan::Write`].
    pub fn single(prepared: Arc<Prepared>, values: Values) -> Self {
        let kind = match &prepared.plan {
            Plan::Write(plan) => plan.kind,
            _ => RequestKind::Dml,
        };
        Self { kind, flags: 0, logged: false, parts: vec![Part { prepared, values }] }
    }

    /// How it is counted.
    pub fn class(&self) -> RequestClass {
        match self.kind {
            RequestKind::Ddl | RequestKind::Truncate => RequestClass::Schema,
            _ => RequestClass::Write,
        }
    }

    /// Whether it changes the schema.
    pub fn changes_schema(&self) -> bool {
        self.kind == RequestKind::Ddl
    }

    /// Whether it has rows to write, so that the columns of its tables matter.
    pub fn writes_rows(&self) -> bool {
        matches!(self.kind, RequestKind::Dml | RequestKind::Batch)
    }

    /// Whether it is one INSERT, UPDATE or DELETE, and no batch.
    pub fn is_single_row_write(&self) -> bool {
        let is_row = |part: &Part| part.statement().is_some_and(|statement| statement.kind.is_dml());
        self.kind == RequestKind::Dml && self.parts.iter().all(is_row)
    }

    /// Whether it has a condition.
    pub fn is_conditional(&self) -> bool {
        self.parts.iter().filter_map(Part::statement).any(|statement| statement.conditional.is_some())
    }

    /// Whether it is a batch that is to be logged, which none of counters may be.
    pub fn is_logged(&self) -> bool {
        let logged = |part: &Part| part.statement().is_some_and(|of| of.kind == Kind::Batch(BatchKind::Logged));
        self.logged || self.parts.iter().any(logged)
    }

    /// Its statements.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The request to propose at `micros` (µs since 1970): calls of non-deterministic functions become values.
    ///
    /// # Errors
    /// The statement has too many values, or the batch names tables in a way that can't be told apart.
    pub fn request(&self, repeatable: bool, micros: i64) -> Result<Request, Refusal> {
        let mut source = NondeterministicValues::new(micros, rand::random::<u128>);
        let common = self.common_keyspace();
        let mut statements = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let mut text = part.text().to_owned();
            let mut values = part.values.clone();
            if let Some(statement) = part.statement() {
                let rewritten = with_markers(&text, statement, &values, &mut source)
                    .map_err(|error| Refusal::invalid(error.to_string()))?;
                (text, values) = (rewritten.text, rewritten.values);
                if statement.keyspace.is_none() && part.keyspace() != common.as_deref() {
                    text = qualified(&text, part.keyspace()).ok_or_else(|| {
                        Refusal::invalid(
                            "the statements of this batch belong to different keyspaces; name them in the text",
                        )
                    })?;
                }
            }
            statements.push(StatementText { text, values });
        }
        let flags = self.flags | if repeatable { 0 } else { flags::NOT_REPEATABLE };
        Ok(Request { kind: self.kind, keyspace: common, statements, flags })
    }

    /// The keyspace of the first statement that doesn't name one itself; of the first at all if all do.
    fn common_keyspace(&self) -> Option<String> {
        let unqualified = |part: &&Part| part.statement().is_some_and(|statement| statement.keyspace.is_none());
        let part = self.parts.iter().find(unqualified).or(self.parts.first())?;
        part.keyspace().map(str::to_owned)
    }
}

/// Takes up a BATCH of a session that uses `keyspace`. One that was asked for as logged is executed as an unlogged one, or as one
/// of counters: the log gives atomicity.
///
/// # Errors
/// See [`BatchError`].
pub fn batch(batch: Batch, keyspace: Option<String>, cache: &PreparedCache) -> Result<Write, BatchError> {
    let mut parts = Vec::with_capacity(batch.statements.len());
    for member in batch.statements {
        let prepared = match member.body {
            BatchBody::Id(id) => cache.get(&id).ok_or(BatchError::Unprepared(id))?,
            BatchBody::Text(text) => {
                let plan = plan::plan(&text, keyspace.as_deref());
                Arc::new(Prepared { text, keyspace: keyspace.clone(), plan })
            }
        };
        match &prepared.plan {
            Plan::Write(plan) if is_row(plan) => {
                // Before they are ordered: members with conditions are executed as one text, with the values of all.
                let (markers, values) = (plan.statement.markers.len(), member.values.len());
                if markers != values {
                    let message = format!("There were {markers} markers(?) in CQL but {values} bound variables");
                    return Err(BatchError::Refused(Refusal::invalid(message)));
                }
                parts.push(Part { prepared, values: member.values });
            }
            Plan::Refuse(refusal) => return Err(BatchError::Refused(refusal.clone())),
            Plan::Unknown => return Err(BatchError::Unknown(prepared)),
            _ => {
                let message = "Invalid statement in batch: only UPDATE, INSERT and DELETE statements are allowed.";
                return Err(BatchError::Refused(Refusal::invalid(message)));
            }
        }
    }
    let flags = if batch.kind == BatchKind::Counter { flags::COUNTERS } else { 0 };
    Ok(Write { kind: RequestKind::Batch, flags, logged: batch.kind == BatchKind::Logged, parts })
}

fn is_row(plan: &WritePlan) -> bool {
    plan.statement.kind.is_dml()
}

/// An INSERT, UPDATE or DELETE with the keyspace written before its unqualified table.
fn qualified(text: &str, keyspace: Option<&str>) -> Option<String> {
    let keyspace = keyspace?;
    let tokens: Vec<Token> = lex::tokens(text).collect();
    let first = tokens.first()?;
    let before_table = match first.text(text).to_ascii_uppercase().as_str() {
        "UPDATE" => 0,
        "INSERT" => tokens.iter().position(|token| token.is_word(text, "INTO"))?,
        "DELETE" => tokens.iter().position(|token| token.is_word(text, "FROM"))?,
        _ => return None,
    };
    let table = tokens.get(before_table + 1)?;
    matches!(table.kind, TokenKind::Word | TokenKind::QuotedName).then_some(())?;
    let (before, after) = text.split_at_checked(table.span().start)?;
    Some(format!("{before}{}.{after}", Ident::new(keyspace).to_cql()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use replicateddb_cql::{Consistency, request::BatchStatement};

    fn text(text: &str) -> BatchStatement {
        BatchStatement { body: BatchBody::Text(text.into()), values: Values::none() }
    }

    fn of(kind: BatchKind, statements: Vec<BatchStatement>) -> Batch {
        Batch { kind, statements, consistency: Consistency::One, serial_consistency: None, timestamp: None }
    }

    #[test]
    fn a_batch_of_two_keyspaces_says_which_is_which() {
        let cache = PreparedCache::new(10, 1000);
        let insert = "INSERT INTO t (k) VALUES (1)";
        let prepared = |keyspace: &str, text: &str| Prepared {
            text: text.into(),
            keyspace: Some(keyspace.into()),
            plan: plan::plan(text, Some(keyspace)),
        };
        cache.insert(b"one", prepared("one", insert)).expect("small");
        cache.insert(b"two", prepared("Two", "UPDATE t SET v = 1 WHERE k = 1")).expect("small");
        let id = |id: &'static [u8]| BatchStatement { body: BatchBody::Id(id.into()), values: Values::none() };
        let statements = vec![id(b"one"), id(b"two"), text("DELETE FROM three.t WHERE k = 1")];
        let write = batch(of(BatchKind::Logged, statements), Some("two".into()), &cache).expect("fine");
        let request = write.request(true, 0).expect("fine");
        assert_eq!(request.keyspace.as_deref(), Some("one"));
        let texts: Vec<_> = request.statements.iter().map(|statement| statement.text.as_str()).collect();
        assert_eq!(texts, [insert, "UPDATE \"Two\".t SET v = 1 WHERE k = 1", "DELETE FROM three.t WHERE k = 1"]);
        assert_eq!((request.kind, request.flags), (RequestKind::Batch, 0));
        let counters = vec![text("UPDATE three.t SET n = n + 1 WHERE k = 1")];
        let write = batch(of(BatchKind::Counter, counters), None, &cache).expect("fine");
        let request = write.request(false, 0).expect("fine");
        assert_eq!(request.flags, flags::COUNTERS | flags::NOT_REPEATABLE);
    }

    #[test]
    fn what_a_batch_may_not_hold() {
        let cache = PreparedCache::new(10, 1000);
        let of_text = |kind, member: &str| batch(of(kind, vec![text(member)]), Some("a".into()), &cache);
        for member in ["SELECT * FROM t", "TRUNCATE t", "USE b", "DELETE FROM t WHERE k = f(1)"] {
            assert!(matches!(of_text(BatchKind::Logged, member), Err(BatchError::Refused(_))), "{member}");
        }
        assert!(matches!(of_text(BatchKind::Logged, "INSRET INTO t (k) VALUES (1)"), Err(BatchError::Unknown(_))));
        let error = of_text(BatchKind::Logged, "UPDATE t SET v = 1 WHERE k = ? IF v = ?");
        let wrong = "There were 2 markers(?) in CQL but 0 bound variables";
        assert!(matches!(&error, Err(BatchError::Refused(refusal)) if refusal.message == wrong), "{error:?}");
        let unknown = BatchStatement { body: BatchBody::Id("x".into()), values: Values::none() };
        let error = batch(of(BatchKind::Unlogged, vec![unknown]), None, &cache);
        assert!(matches!(error, Err(BatchError::Unprepared(id)) if id == "x"));
    }

    #[test]
    fn non_deterministic_calls_become_values() {
        let text = "INSERT INTO a.t (k, v, w) VALUES (?, now(), ?)";
        let statement = Prepared { text: text.into(), keyspace: None, plan: plan::plan(text, None) };
        let null = replicateddb_cql::wire::Value::Null;
        let values = Values::positional(&[null.clone(), null]).expect("short");
        let request = Write::single(Arc::new(statement), values).request(false, 1).expect("fine");
        assert!(!request.statements[0].text.contains("now"), "{}", request.statements[0].text);
        assert_eq!(request.statements[0].values.len(), 3);
        assert_eq!(request.flags, flags::NOT_REPEATABLE);
    }

    #[test]
    fn qualifying() {
        assert_eq!(
            qualified("insert into \"T\" (a) values (1)", Some("k")).as_deref(),
            Some("insert into \"k\".\"T\" (a) values (1)")
        );
        assert_eq!(
            qualified("DELETE v FROM t WHERE k = 1", Some("k")).as_deref(),
            Some("DELETE v FROM \"k\".t WHERE k = 1")
        );
        assert_eq!(qualified("INSERT", Some("k")), None);
        assert_eq!(qualified("INSERT INTO t", None), None);
    }
}
