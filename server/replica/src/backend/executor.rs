//! Records executed on the local Cassandra: one copy each, with the log's timestamp, as of the log's second.
//!
//! Conditional writes go at `NODE_LOCAL` (`cassandra.enable_nodelocal_queries`): Cassandra then reads, compares, answers and
//! writes as for a light-weight transaction, but here and now, without Paxos and its ballots, which follow a clock of its own.
//! The lanes keep everything else away from the partition meanwhile.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use replicateddb_cql::Consistency;
use replicateddb_cql::frame::Opcode;
use replicateddb_cql::lex;
use replicateddb_cql::request::{self, Batch, BatchBody, BatchKind, BatchStatement, Params, Values};
use replicateddb_cql::response::{self, ErrorCode, Prepared, Row};
use replicateddb_cql::statement::{Ident, Kind, Statement, classify};
use replicateddb_cql::wire::Value;
use tokio::sync::watch;

use super::conditional::Conditions;
use super::connection::Connection;
use super::group::{Bounds, Groups, Member, Told};
use super::nulls::{NULL_IN_WHERE, names_null, null_in_where};
use super::outcome::{Failure, Meaning, Reply, judge};
use super::pool::Pool;
use super::prepared::{Known, PreparedCache, Preparing, is_repeatable};
use super::vectors::{NOT_INDEXABLE, Suspect, columns_query, in_text, in_values, indexes_query, vector_indexes};
use super::{BackendError, Endpoint, scan};
use crate::lanes::Lanes;
use crate::record::{Record, RecordKind, StatementText, flags};
use crate::replica::TableDigest;
use crate::site::{Backend, Connector, Health, Place, Plan};

/// Attempts to execute a statement that Cassandra says it doesn't know right after it prepared it.
pub(super) const PREPARE_ATTEMPTS: usize = 3;
/// A batch becomes one statement, whose values are counted in two bytes.
const MANY_VALUES: &str =
    "the statements of a conditional batch have at most 65535 values in all: make several batches";

/// Connects [`Cassandra`] backends.
#[derive(Debug, Clone)]
pub struct CassandraConnector {
    /// Its CQL port.
    pub at: Endpoint,
}

impl Connector for CassandraConnector {
    type Backend = Cassandra;

    fn endpoint(&self) -> Endpoint {
        self.at.clone()
    }

    async fn connect(&self, generation: u64) -> Result<Cassandra, BackendError> {
        Cassandra::connect(&self.at, generation, None).await
    }
}

/// One generation of the local Cassandra.
#[derive(Clone)]
pub struct Cassandra {
    pub(super) pool: Pool,
    pub(super) prepared: Arc<PreparedCache>,
    pub(super) groups: Arc<Groups>,
    pub(super) conditions: Arc<Conditions>,
}

/// A statement as it is sent.
pub(super) enum Ready {
    /// Without markers: as text.
    Text,
    /// With markers: prepared.
    Prepared(Arc<Known>),
    /// It is wrong, on every replica.
    Refused(Reply),
}

impl Backend for Cassandra {
    async fn plan(&self, record: &Record) -> Result<Plan, Failure> {
        let mut lanes = Lanes::none();
        let mut repeatable = record.flags & flags::NOT_REPEATABLE == 0;
        for statement in &record.statements {
            let keyspace = record.keyspace.as_deref();
            match self.ready(keyspace, statement).await? {
                Ready::Refused(reply) => return Ok(Plan::Answer(reply)),
                Ready::Text => {
                    let said = classify(&statement.text);
                    if null_in_where(statement, &said, names_null(&statement.text)) {
                        return Ok(Plan::Answer(Reply::invalid(NULL_IN_WHERE)));
                    }
                    if self.is_unindexable(keyspace, &said, &in_text(&statement.text)).await? {
                        return Ok(Plan::Answer(Reply::invalid(NOT_INDEXABLE)));
                    }
                    repeatable &= is_repeatable(&statement.text, &said, &[]);
                    add_tables(&mut lanes, &said, keyspace);
                }
                Ready::Prepared(known) if null_in_where(statement, &known.said, known.names_null) => {
                    return Ok(Plan::Answer(Reply::invalid(NULL_IN_WHERE)));
                }
                Ready::Prepared(known) => {
                    let mut suspects = in_values(&statement.values, &known.prepared.bind);
                    suspects.extend_from_slice(&known.suspects);
                    if self.is_unindexable(keyspace, &known.said, &suspects).await? {
                        return Ok(Plan::Answer(Reply::invalid(NOT_INDEXABLE)));
                    }
                    repeatable &= known.repeatable;
                    add_lanes(&mut lanes, &known, keyspace, &statement.values);
                }
            }
        }
        Ok(Plan::Execute { lanes, repeatable })
    }

    async fn execute(&self, place: Place, record: &Record) -> Result<Reply, Failure> {
        match self.conditional(place, record).await? {
            Some(write) => self.execute_conditional(place, &write).await,
            None => {
                self.forget_images(record).await?;
                self.execute_record(place, record).await
            }
        }
    }

    fn is_decided(&self, place: Place) -> bool {
        self.conditions.is_decided(place)
    }

    fn settle(&self, place: Place) -> bool {
        self.conditions.settle(place)
    }

    fn forget_prepared(&self) {
        self.prepared.clear();
    }

    async fn digest(&self, now_s: i32) -> Result<BTreeMap<String, TableDigest>, Failure> {
        self.digest_of(None, now_s).await
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.pool.health()
    }
}

impl Cassandra {
    /// Connects to this generation; the connections tell Cassandra the name of their application, if there is one.
    ///
    /// # Errors
    /// It can't be reached, or is another one.
    pub(crate) async fn connect(at: &Endpoint, generation: u64, name: Option<&str>) -> Result<Self, BackendError> {
        let pool = Pool::connect(at, generation, name).await?;
        // One that is told an application's name is not ours to configure.
        let bounds = if name.is_none() { Bounds::CONFIGURED } else { Bounds::ANY };
        let groups = Arc::new(Groups::new(pool.clone(), bounds));
        let conditions = Arc::new(Conditions::new(pool.clone()));
        Ok(Self { pool, prepared: Arc::default(), groups, conditions })
    }

    /// Digests of one keyspace's tables, or of all users'.
    pub(crate) async fn digest_of(
        &self,
        keyspace: Option<&str>,
        now_s: i32,
    ) -> Result<BTreeMap<String, TableDigest>, Failure> {
        scan::digest(&self.pool.any().await?, keyspace, now_s).await
    }

    /// A connection that uses no keyspace.
    pub(crate) async fn connection(&self) -> Result<Connection, Failure> {
        self.pool.any().await
    }

    /// Has Cassandra execute a record.
    async fn execute_record(&self, place: Place, record: &Record) -> Result<Reply, Failure> {
        let keyspace = record.keyspace.as_deref();
        if record.kind == RecordKind::Ddl {
            return self.execute_ddl(place, record).await;
        }
        let [statement] = record.statements.as_slice() else { return self.execute_batch(place, record).await };
        match record.kind {
            RecordKind::Batch => self.execute_batch(place, record).await,
            RecordKind::Truncate => self.query(keyspace, &statement.text, Consistency::One, place).await,
            _ => match self.execute_grouped(place, record, statement).await? {
                Some(reply) => Ok(reply),
                None => self.execute_one(place, keyspace, statement).await,
            },
        }
    }

    /// What a `Dml` or `Batch` record may change, and everything for others.
    pub(super) async fn lanes_of(&self, record: &Record) -> Result<Lanes, Failure> {
        let mut lanes = Lanes::none();
        if !matches!(record.kind, RecordKind::Dml | RecordKind::Batch) {
            return Ok(Lanes::all());
        }
        let keyspace = record.keyspace.as_deref();
        for statement in &record.statements {
            match self.ready(keyspace, statement).await? {
                Ready::Refused(_) => return Ok(Lanes::all()),
                Ready::Text => add_tables(&mut lanes, &classify(&statement.text), keyspace),
                Ready::Prepared(known) => add_lanes(&mut lanes, &known, keyspace, &statement.values),
            }
        }
        Ok(lanes)
    }

    /// Prepares a statement that has values.
    pub(super) async fn ready(&self, keyspace: Option<&str>, statement: &StatementText) -> Result<Ready, Failure> {
        if statement.values.is_empty() {
            return Ok(Ready::Text);
        }
        Ok(match self.prepared.get(&self.pool, keyspace, &unlogged(&statement.text)).await? {
            Preparing::Done(known) => Ready::Prepared(known),
            Preparing::Refused(reply) => Ready::Refused(reply),
        })
    }

    /// A plain write that may be repeated, together with others that are ready. `None`: it is to be executed alone.
    async fn execute_grouped(
        &self,
        place: Place,
        record: &Record,
        statement: &StatementText,
    ) -> Result<Option<Reply>, Failure> {
        let keyspace = record.keyspace.as_deref();
        let may = record.flags & flags::NOT_REPEATABLE == 0 && !statement.values.is_named();
        if !may || statement.values.is_empty() {
            return Ok(None);
        }
        let Ready::Prepared(plain) = self.ready(keyspace, statement).await? else { return Ok(None) };
        let Some((text, marker)) = plain.timed.as_ref().filter(|_| plain.repeatable) else { return Ok(None) };
        let Preparing::Done(timed) = self.prepared.get(&self.pool, keyspace, text).await? else { return Ok(None) };
        let (time, values) =
            ((*marker, place.timestamp_us), statement.values.iter().map(|bound| bound.value).collect());
        let Some(member) = Member::new(&timed, time, values, keyspace, place) else { return Ok(None) };
        match self.groups.execute(member).await {
            Told::Done => Ok(Some(Reply::void())),
            Told::Alone => Ok(None),
            Told::Unprepared => {
                self.prepared.forget(keyspace, text);
                Ok(None)
            }
            Told::Failed(failure) => Err(failure),
        }
    }

    pub(super) async fn execute_one(
        &self,
        place: Place,
        keyspace: Option<&str>,
        statement: &StatementText,
    ) -> Result<Reply, Failure> {
        for _ in 0..PREPARE_ATTEMPTS {
            let known = match self.ready(keyspace, statement).await? {
                Ready::Refused(reply) => return self.as_written(keyspace, statement, reply).await,
                Ready::Text => {
                    let reply = self
                        .query(keyspace, &unlogged(&statement.text), level_of(&classify(&statement.text)), place)
                        .await?;
                    return self.as_written(keyspace, statement, reply).await;
                }
                Ready::Prepared(known) => known,
            };
            let params = params(level_of(&known.said), statement.values.clone(), place);
            let id = &known.prepared;
            let body =
                request::v5::execute(&id.id, &id.metadata_id, &params, Some(place.now_s())).map_err(unsendable)?;
            let connection = self.pool.using(known.needs(keyspace)).await?;
            match judge(connection.ask(Opcode::Execute, body).await?) {
                Meaning::Reply(reply) => return reply.in_v4().map_err(unreadable),
                Meaning::Failure(failure) => return Err(failure),
                Meaning::Unprepared => self.prepared.forget(keyspace, &unlogged(&statement.text)),
            }
        }
        Err(forgetful())
    }

    /// The reply, but for an error that says where in the text it is: that is to be where the client wrote it.
    async fn as_written(
        &self,
        keyspace: Option<&str>,
        statement: &StatementText,
        reply: Reply,
    ) -> Result<Reply, Failure> {
        let is_syntax = |message| response::parse_error(&message).is_ok_and(|e| e.kind() == Some(ErrorCode::Syntax));
        let wrong = !reply.is_result() && reply.message().is_some_and(is_syntax);
        if !wrong || unlogged(&statement.text) == statement.text {
            return Ok(reply);
        }
        match self.prepared.get(&self.pool, keyspace, &statement.text).await? {
            Preparing::Refused(as_written) => Ok(as_written),
            Preparing::Done(_) => Ok(reply),
        }
    }

    async fn execute_batch(&self, place: Place, record: &Record) -> Result<Reply, Failure> {
        let keyspace = record.keyspace.as_deref();
        for _ in 0..PREPARE_ATTEMPTS {
            let mut statements = Vec::with_capacity(record.statements.len());
            let mut conditional = false;
            for statement in &record.statements {
                let body = match self.ready(keyspace, statement).await? {
                    Ready::Refused(reply) => return Ok(reply),
                    Ready::Text => {
                        conditional |= classify(&statement.text).conditional.is_some();
                        BatchBody::Text(statement.text.clone())
                    }
                    Ready::Prepared(known) => {
                        conditional |= known.said.conditional.is_some();
                        BatchBody::Id(known.prepared.id.clone())
                    }
                };
                statements.push(BatchStatement { body, values: statement.values.clone() });
            }
            if conditional {
                return match one_text(record) {
                    Some(statement) => self.execute_one(place, keyspace, &statement).await,
                    None => Ok(Reply::invalid(MANY_VALUES)),
                };
            }
            let batch = Batch {
                kind: if record.flags & flags::COUNTERS == 0 { BatchKind::Unlogged } else { BatchKind::Counter },
                statements,
                consistency: Consistency::One,
                serial_consistency: None,
                timestamp: Some(place.timestamp_us),
            };
            let body = request::v5::batch(&batch, Some(place.now_s())).map_err(unsendable)?;
            match judge(self.pool.using(keyspace).await?.ask(Opcode::Batch, body).await?) {
                Meaning::Reply(reply) => return reply.in_v4().map_err(unreadable),
                Meaning::Failure(failure) => return Err(failure),
                Meaning::Unprepared => {
                    record.statements.iter().for_each(|s| self.prepared.forget(keyspace, &unlogged(&s.text)));
                }
            }
        }
        Err(forgetful())
    }

    /// Whether one of a write's vectors is one that an index of its table can't hold, by the schema at its place in the order.
    async fn is_unindexable(
        &self,
        keyspace: Option<&str>,
        said: &Statement,
        suspects: &[Suspect],
    ) -> Result<bool, Failure> {
        if suspects.is_empty() {
            return Ok(false);
        }
        for each in said.each() {
            let queries = (indexes_query(each, keyspace), columns_query(each, keyspace));
            let (Some(indexes), Some(columns)) = queries else { continue };
            let indexes = self.rows(indexes).await?;
            if indexes.is_empty() {
                continue;
            }
            let found = vector_indexes(&indexes, &self.rows(columns).await?);
            if found.iter().any(|index| suspects.iter().any(|suspect| index.refuses(suspect))) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What a query for the schema gives.
    pub(super) async fn rows(&self, text: String) -> Result<Vec<Row>, Failure> {
        scan::Pages::new(&self.pool.any().await?, text, None).all().await
    }

    pub(super) async fn query(
        &self,
        keyspace: Option<&str>,
        text: &str,
        level: Consistency,
        place: Place,
    ) -> Result<Reply, Failure> {
        let params = params(level, Values::none(), place);
        let body = request::v5::query(text, &params, Some(place.now_s())).map_err(unsendable)?;
        match judge(self.pool.using(keyspace).await?.ask(Opcode::Query, body).await?) {
            Meaning::Reply(reply) => reply.in_v4().map_err(unreadable),
            Meaning::Failure(failure) => Err(failure),
            Meaning::Unprepared => Err(forgetful()),
        }
    }
}

/// Conditions are decided here and now; see the module's head.
fn level_of(said: &Statement) -> Consistency {
    if said.conditional.is_some() { Consistency::NodeLocal } else { Consistency::One }
}

fn params(level: Consistency, values: Values, place: Place) -> Params {
    let mut params = Params::new(level, values);
    params.timestamp = Some(place.timestamp_us);
    params
}

/// The members of a batch as one statement: the protocol's BATCH knows no conditions at `NODE_LOCAL`. None if it had more
/// values than a statement can have.
fn one_text(record: &Record) -> Option<StatementText> {
    let mut text = String::from("BEGIN UNLOGGED BATCH\n");
    let mut values = Vec::new();
    for statement in &record.statements {
        // Without what follows its last word: a semicolon, or a comment that would go on.
        let is_end = |token: &lex::Token| token.is_symbol(b';');
        let end = lex::tokens(&statement.text).filter(|token| !is_end(token)).last().map_or(0, |last| last.span().end);
        text.push_str(statement.text.get(..end)?);
        text.push_str(";\n");
        values.extend(statement.values.iter().map(|bound| bound.value));
    }
    text.push_str("APPLY BATCH");
    Some(StatementText { text, values: Values::positional(&values).ok()? })
}

/// A record that was proposed can be sent: the front end checks what it takes from clients.
pub(super) fn unsendable(error: replicateddb_cql::ProtocolError) -> Failure {
    Failure::Retry { reason: format!("the record can't be sent: {error}"), ambiguous: false }
}

/// The effect is there, and what to answer is not known.
fn unreadable(error: replicateddb_cql::ProtocolError) -> Failure {
    Failure::Retry { reason: format!("an answer that can't be read: {error}"), ambiguous: true }
}

pub(super) fn forgetful() -> Failure {
    Failure::Retry { reason: "Cassandra forgets what it has just prepared".to_owned(), ambiguous: false }
}

/// The text of a logged batch as an unlogged one; any other as it is. The ordered log gives atomicity, and
/// Cassandra's batch log could write old cells again later.
fn unlogged(text: &str) -> Cow<'_, str> {
    let Some(begin) = lex::tokens(text).next().filter(|token| token.is_word(text, "BEGIN")) else {
        return Cow::Borrowed(text);
    };
    match text.split_at_checked(begin.span().end) {
        Some((begin, rest)) if classify(text).kind == Kind::Batch(BatchKind::Logged) => {
            Cow::Owned(format!("{begin} UNLOGGED{rest}"))
        }
        _ => Cow::Borrowed(text),
    }
}

/// Adds the lanes of a prepared statement: its partition where the markers tell, otherwise its tables.
pub(super) fn add_lanes(lanes: &mut Lanes, known: &Known, keyspace: Option<&str>, values: &Values) {
    // The protocol's key indices don't tell a single key from the elements of an IN.
    let single = known.said.kind.is_dml() && !known.said.has_in && !values.is_named();
    match partition_key(&known.prepared, values).filter(|_| single) {
        Some((table, key)) => lanes.add_key(&table.0, &table.1, &key),
        None => add_tables(lanes, &known.said, keyspace),
    }
}

/// Adds the tables that a text names, or everything where it does not tell.
fn add_tables(lanes: &mut Lanes, said: &Statement, keyspace: Option<&str>) {
    let mut tables = 0;
    for each in said.each() {
        match (each.keyspace.as_ref().map(Ident::as_str).or(keyspace), &each.table) {
            (Some(keyspace), Some(table)) => lanes.add_table(keyspace, table.as_str()),
            _ => return *lanes = Lanes::all(),
        }
        tables += 1;
    }
    if tables == 0 {
        *lanes = Lanes::all();
    }
}

/// The table and the bytes of the partition key, if the markers of a single key are all of it.
fn partition_key(prepared: &Prepared, values: &Values) -> Option<((String, String), Bytes)> {
    let first = prepared.bind.get(usize::from(*prepared.pk_indices.first()?))?;
    let values: Vec<Value> = values.iter().map(|bound| bound.value).collect();
    let mut key = BytesMut::new();
    for index in &prepared.pk_indices {
        let Value::Bytes(bytes) = values.get(usize::from(*index))? else { return None };
        key.put_u32(bytes.len() as u32);
        key.put_slice(bytes);
    }
    Some(((first.keyspace.to_string(), first.table.to_string()), key.freeze()))
}

#[cfg(test)]
#[path = "executor_tests.rs"]
mod tests;
