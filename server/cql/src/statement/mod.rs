//! What a statement is and does, as far as its text tells. Sound because `IF`, `FROM`, `SET`, `WHERE`, `USING`, `IN`,
//! `WITH` and the names of the statements are reserved words: where they stand outside of quotes, they are meant.

mod batch;
mod cursor;
mod ddl;
mod dml;
mod functions;
mod markers;
mod role;

pub use cursor::ident;
pub use functions::is_native as is_native_function;
pub use role::{Password, ResourceName, RoleChange, RoleOptions};

use crate::lex::{self, Span};
use crate::request::BatchKind;
use cursor::Cursor;
use std::fmt;

/// The keyspaces that belong to Cassandra itself.
pub const SYSTEM_KEYSPACES: [&str; 8] = [
    "system",
    "system_auth",
    "system_cluster_metadata",
    "system_distributed",
    "system_schema",
    "system_traces",
    "system_views",
    "system_virtual_schema",
];

/// The name of a keyspace, table or column as Cassandra stores it: lower case unless it was quoted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ident(String);

impl Ident {
    /// A name as stored.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name as stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as it must be written in CQL: always quoted, so that it is right for reserved words too.
    pub fn to_cql(&self) -> String {
        format!("\"{}\"", self.0.replace('"', "\"\""))
    }
}

impl fmt::Display for Ident {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What a statement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `SELECT`
    Select,
    /// `INSERT`
    Insert,
    /// `UPDATE`
    Update,
    /// `DELETE`
    Delete,
    /// `BEGIN BATCH`
    Batch(BatchKind),
    /// `CREATE`, `ALTER`, `DROP` of the schema.
    Ddl(Action, Object),
    /// Roles, users, identities, permissions: all but listing them.
    Role,
    /// `TRUNCATE`
    Truncate,
    /// `USE`
    Use,
    /// `DESCRIBE`
    Describe,
    /// `LIST ROLES`, `LIST USERS`, `LIST PERMISSIONS`
    List,
    /// Nothing known. Only to be prepared, for Cassandra's syntax error, and never to be executed.
    Other,
}

impl Kind {
    /// `SELECT`, `DESCRIBE`, `LIST`: changes nothing.
    pub fn is_read(self) -> bool {
        matches!(self, Self::Select | Self::Describe | Self::List)
    }

    /// `INSERT`, `UPDATE`, `DELETE`.
    pub fn is_dml(self) -> bool {
        matches!(self, Self::Insert | Self::Update | Self::Delete)
    }

    /// Whether it changes the database and so has to be ordered.
    pub fn is_write(self) -> bool {
        self.is_dml() || matches!(self, Self::Batch(_) | Self::Ddl(..) | Self::Role | Self::Truncate)
    }
}

/// What happens to an object of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// `CREATE`
    Create,
    /// `ALTER`
    Alter,
    /// `DROP`
    Drop,
}

/// The object of a schema change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Object {
    /// `KEYSPACE`, `SCHEMA`
    Keyspace,
    /// `TABLE`, `COLUMNFAMILY`
    Table,
    /// `INDEX`
    Index,
    /// `TYPE`
    Type,
    /// `MATERIALIZED VIEW`
    MaterializedView,
    /// `FUNCTION`
    Function,
    /// `AGGREGATE`
    Aggregate,
    /// `TRIGGER`
    Trigger,
}

/// A bind marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// Where it is.
    pub span: Span,
    /// Its name, if it has one.
    pub name: Option<Ident>,
}

/// A function whose value depends on where and when it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Function {
    /// `now()`, `current_timeuuid()`: a `timeuuid`.
    Timeuuid,
    /// `uuid()`: a random `uuid`.
    Uuid,
    /// `current_timestamp()`: a `timestamp`.
    Timestamp,
    /// `current_date()`: a `date`.
    Date,
    /// `current_time()`: a `time`.
    Time,
}

impl Function {
    /// The CQL type of its value.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Timeuuid => "timeuuid",
            Self::Uuid => "uuid",
            Self::Timestamp => "timestamp",
            Self::Date => "date",
            Self::Time => "time",
        }
    }
}

/// A call of a non-deterministic function in a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Call {
    /// From the first byte of its name (or of its keyspace `system`) to the closing parenthesis.
    pub span: Span,
    /// What is called.
    pub function: Function,
    /// How many of the text's bind markers stand before it.
    pub markers_before: usize,
    /// Inside of a literal of a list, set, map or user-defined type, where Cassandra may accept no bind markers.
    pub in_collection: bool,
}

/// An operation on a part of a column: harmless for sets and maps, not repeatable for lists and counters. The text does
/// not tell the column's type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// The column.
    pub column: Ident,
    /// What is done.
    pub kind: OperationKind,
    /// The assignment or the deleted element.
    pub span: Span,
}

/// What is done to a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// `c = c + x`, `c += x`, `c = c -1`
    Add,
    /// `c = c - x`, `c -= x`
    Subtract,
    /// `c = x + c`
    Prepend,
    /// `c[i] = x`
    SetElement,
    /// `DELETE c[i]`
    DeleteElement,
}

/// `TIMESTAMP x` or `TTL x` in a `USING` clause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute {
    /// The keyword and the value.
    pub span: Span,
    /// The value.
    pub value: AttributeValue,
}

/// The value of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttributeValue {
    /// A literal.
    Integer(i64),
    /// The bind marker of this index among the text's markers.
    Marker(usize),
    /// Something that Cassandra refuses.
    Invalid,
}

/// A table option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableOption {
    /// The name and the value.
    pub span: Span,
    /// The value as an integer, in or out of quotes.
    pub integer: Option<i64>,
}

/// One statement of a batch. Its spans and marker indices are those of the batch's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The statement without the semicolon: `span.of(text)` can be prepared alone.
    pub span: Span,
    /// How many of the batch's markers stand before it.
    pub first_marker: usize,
    /// How many markers it has.
    pub marker_count: usize,
    /// What it is: `INSERT`, `UPDATE` or `DELETE`.
    pub statement: Statement,
}

/// Where `rewrite` may insert what makes DDL deterministic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Insertion {
    /// At this offset, for the first table option: with `WITH`.
    FirstOption(usize),
    /// At this offset, right after `WITH`.
    BeforeOptions(usize),
    /// At this offset, the end of `ALTER TABLE .. DROP ..`.
    DropTimestamp(usize),
}

/// What a text says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// What it is.
    pub kind: Kind,
    /// The keyspace it names, if it does. `USE` and DDL of keyspaces name it here.
    pub keyspace: Option<Ident>,
    /// The table it names: also that of an index, of a trigger and under a materialized view.
    pub table: Option<Ident>,
    /// The object that DDL names.
    pub object: Option<Ident>,
    /// `IF EXISTS` of DDL.
    pub if_exists: bool,
    /// `CREATE OR REPLACE`
    pub replaces: bool,
    /// The types of the arguments of a function or an aggregate that is made, as written.
    pub arguments: Option<Vec<String>>,
    /// The functions that an aggregate is made of, and the types of their arguments.
    pub made_of: Vec<(Ident, Vec<String>)>,
    /// What it does to roles or permissions.
    pub role: Option<Box<RoleChange>>,
    /// The `IF` of a conditional write (of a batch: the first).
    pub conditional: Option<Span>,
    /// `USING TIMESTAMP`; of a batch: only its own clause.
    pub using_timestamp: Option<Attribute>,
    /// `USING TTL`; of a batch: only its own clause.
    pub ttl: Option<Attribute>,
    /// `INSERT JSON`.
    pub json: bool,
    /// `WHERE` of a write uses `IN`: the markers of the key may not be single values.
    pub has_in: bool,
    /// The columns that the `WHERE` of a `SELECT` compares by `=`, each with one value: none of a tuple, an element, or a
    /// function of it.
    pub equalities: Vec<Ident>,
    /// Operations that may not be repeatable. Of a batch: none, see the members.
    pub operations: Vec<Operation>,
    /// Calls to replace before the write is logged, in order; empty for reads. Of a batch: of all members.
    pub calls: Vec<Call>,
    /// The first function called in a write, a materialized view or an initial condition that is not one of Cassandra's
    /// own, as stored: a user's, or nobody's. Of a batch: of all members.
    pub foreign_function: Option<String>,
    /// The bind markers in order. Of a batch: of all members. Exact for writes; a `SELECT` of a map whose values are
    /// columns (`SELECT {1: c} ..`) counts too many.
    pub markers: Vec<Marker>,
    /// The statements of a batch.
    pub members: Vec<Member>,
    /// A column type `counter` in DDL.
    pub counter_column: Option<Span>,
    /// The table option `default_time_to_live`.
    pub default_time_to_live: Option<TableOption>,
    /// `USING TIMESTAMP` of `ALTER TABLE .. DROP`, or the table option `ID`, is there already.
    pub has_explicit_identity: bool,
    pub(crate) insertion: Option<Insertion>,
}

impl Statement {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            keyspace: None,
            table: None,
            object: None,
            if_exists: false,
            replaces: false,
            arguments: None,
            made_of: Vec::new(),
            role: None,
            conditional: None,
            using_timestamp: None,
            ttl: None,
            json: false,
            has_in: false,
            equalities: Vec::new(),
            operations: Vec::new(),
            calls: Vec::new(),
            foreign_function: None,
            markers: Vec::new(),
            members: Vec::new(),
            counter_column: None,
            default_time_to_live: None,
            has_explicit_identity: false,
            insertion: None,
        }
    }

    /// The bytes of memory that it takes, besides names, which are no longer than the text.
    pub fn bytes(&self) -> usize {
        let members =
            self.members.iter().map(|member| size_of::<Span>() + 2 * size_of::<usize>() + member.statement.bytes());
        size_of::<Self>()
            + size_of_val(&self.markers[..])
            + size_of_val(&self.calls[..])
            + size_of_val(&self.operations[..])
            + size_of_val(&self.equalities[..])
            + members.sum::<usize>()
    }

    /// Whether markers are named.
    pub fn has_named_markers(&self) -> bool {
        self.markers.iter().any(|marker| marker.name.is_some())
    }

    /// The statement itself, or the members of a batch.
    pub fn each(&self) -> impl Iterator<Item = &Statement> {
        let own = (!matches!(self.kind, Kind::Batch(_))).then_some(self);
        own.into_iter().chain(self.members.iter().map(|member| &member.statement))
    }

    /// Whether the statement, or a member of the batch, names a keyspace of Cassandra's own, or names none while the
    /// session uses one.
    pub fn touches_system(&self, session_keyspace: Option<&str>) -> bool {
        self.each().any(|statement| {
            let named = statement.keyspace.as_ref().map(Ident::as_str);
            named.or(session_keyspace).is_some_and(is_system_keyspace)
        })
    }
}

/// A statement about roles; one that is not understood, if it is `None`.
fn of_role(role: Option<RoleChange>) -> Statement {
    let kind = if role.is_some() { Kind::Role } else { Kind::Other };
    Statement { role: role.map(Box::new), ..Statement::new(kind) }
}

/// Whether a keyspace (as stored) belongs to Cassandra itself.
pub fn is_system_keyspace(name: &str) -> bool {
    SYSTEM_KEYSPACES.contains(&name)
}

/// Says what a text is and does. Any text gets an answer; what is not understood is [`Kind::Other`].
pub fn classify(text: &str) -> Statement {
    let tokens: Vec<lex::Token> = lex::tokens(text).collect();
    classify_lexed(text, &tokens)
}

/// The same of a text whose tokens are known.
pub fn classify_lexed(text: &str, tokens: &[lex::Token]) -> Statement {
    let cursor = Cursor::new(text, tokens);
    let Some(first) = cursor.first_word() else {
        return Statement::new(Kind::Other);
    };
    let mut statement = match first.as_str() {
        "SELECT" => dml::select(cursor),
        "INSERT" | "UPDATE" | "DELETE" => dml::write(cursor),
        "BEGIN" => batch::batch(cursor),
        "CREATE" | "ALTER" | "DROP" => ddl::ddl(cursor),
        "GRANT" | "REVOKE" => of_role(role::grant(cursor)),
        "ADD" => of_role(Some(RoleChange::Identity)),
        "TRUNCATE" => dml::truncate(cursor),
        "USE" => dml::use_keyspace(cursor),
        "DESCRIBE" | "DESC" => Statement::new(Kind::Describe),
        "LIST" => Statement::new(Kind::List),
        _ => Statement::new(Kind::Other),
    };
    if statement.kind.is_read() {
        statement.markers = markers::scan(cursor).markers;
    }
    statement
}
