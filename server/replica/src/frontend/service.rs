//! What the sessions of one serving period share, and the work they wait for.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use replicateddb_cql::{
    Consistency,
    frame::{Envelope, Opcode},
    request::Values,
    response::{self, ErrorCode},
    rewrite::with_hashed_passwords,
    statement::{Ident, Statement, classify},
    wire::Value,
};
use replicateddb_store::login;
use tokio::sync::Semaphore;

use super::{
    access::{Access, Denied, Roles, depends_on_schema, grants_to_creator},
    answer,
    control::{Control, ControlError},
    core::Core,
    limits::{JUDGEMENTS, SCHEMA_CHANGE_WAIT, SYNTAX_LOOKS},
    metrics::Metrics,
    peers::Peers,
    plan::Refusal,
    prepared::PreparedCache,
    refuse::{self, Verdict},
    relay::Placed,
    schema::SchemaCache,
    select::Select,
    shares::Shares,
    tls::Tls,
    topology::Topology,
    write::{Part, Write},
};
use crate::backend::Endpoint;
use crate::keyspace::confine;
use crate::premise::is_moved;
use crate::reads::{Early, Hold};
use crate::record::flags;
use crate::replica::{Outcome, ProposeError, Request, StatementText};

/// Whether there is a keyspace.
const KEYSPACE: &str = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";

/// Shared by the sessions on one generation of the backend.
pub struct Service<C> {
    /// The replica.
    pub core: C,
    /// The local Cassandra.
    pub backend: Endpoint,
    /// Its generation; another one must not be used.
    pub generation: u64,
    /// The front end's own questions to it.
    pub control: Control,
    /// Prepared statements of the process.
    pub prepared: Arc<PreparedCache>,
    /// Columns of tables.
    pub schema: SchemaCache,
    /// What roles may do.
    pub roles: Roles,
    /// Passwords that may be hashed at once.
    pub hashing: Semaphore,
    /// Logins that may be with Cassandra at once.
    pub logins: Semaphore,
    /// The topology tables.
    pub topology: Topology,
    /// The other replicas.
    pub peers: Arc<Peers>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Clients log in, and this is the superuser to begin with, which the replicas keep as it is.
    pub superuser: Option<Arc<str>>,
    /// The keyspace that clients are confined to, if they are.
    pub keyspace: Option<Arc<str>>,
    /// How connections begin, where clients use TLS.
    pub tls: Option<Arc<Tls>>,
    /// Bytes of request bodies that may be in flight.
    pub budget: Arc<Semaphore>,
    /// Bytes of answers on their way to clients, of all sessions.
    pub answers: Shares,
}

impl<C: Core> Service<C> {
    /// Gets a read at a linearizable level to its place in the order: behind everything acknowledged before it was asked,
    /// and, unless it reads a single partition, while no record changes what it reads.
    ///
    /// # Errors
    /// The body of the ERROR that says why it is not possible now.
    pub async fn place(
        &self,
        select: &Statement,
        keyspace: Option<&str>,
        consistency: Consistency,
    ) -> Result<Placed, Bytes> {
        let failed = |error: ProposeError| answer::read_error(&error, consistency);
        let placed = |hold| self.placed(hold, consistency);
        self.core.barrier().await.map_err(failed)?;
        let keyspace = select.keyspace.as_ref().map(Ident::as_str).or(keyspace);
        let (Some(keyspace), Some(table)) = (keyspace, &select.table) else {
            // Cassandra will say what is missing.
            return Ok(placed(None));
        };
        let version = *self.core.schema().borrow();
        let columns = self.schema.columns(&self.control, version, keyspace, table.as_str()).await;
        let columns = columns.map_err(|error| error.body())?;
        let lanes = columns.and_then(|columns| columns.read_lanes(keyspace, table.as_str(), &select.equalities));
        match lanes {
            None => Ok(placed(None)),
            Some(lanes) => self.core.hold(lanes).await.map(|hold| placed(Some(hold))).map_err(failed),
        }
    }

    /// A read that has its place in the order, with the lanes that are held for it.
    pub fn placed(&self, hold: Option<Hold>, consistency: Consistency) -> Placed {
        let core = self.core.clone();
        let proof = Box::pin(async move { core.prove().await.is_ok() });
        Placed { hold, standing: self.core.standing(), proof, consistency }
    }

    /// Whether a read at a linearizable level may be made before its barrier has passed: it is of one partition, and little is
    /// written.
    pub fn early(&self, select: &Statement, keyspace: Option<&str>) -> Option<Early> {
        // First: what is known of the table is then no older.
        let early = self.core.early()?;
        let keyspace = select.keyspace.as_ref().map(Ident::as_str).or(keyspace)?;
        let table = select.table.as_ref()?.as_str();
        let columns = self.schema.known(*self.core.schema().borrow(), keyspace, table)?;
        columns.read_lanes(keyspace, table, &select.equalities).is_none().then_some(early)
    }

    /// Answers a SELECT on a topology table.
    pub async fn topology(&self, stream: i16, select: &Select, values: &Values) -> Envelope {
        let version = *self.core.schema().borrow();
        let all = match self.topology.rows(select.table, &self.control, version).await {
            Ok(all) => all,
            Err(error) => return answer::error_body(stream, error.body()),
        };
        let evaluated = select.evaluate(all, values);
        match evaluated.and_then(|rows| response::rows(&rows, false).map_err(|error| error.to_string())) {
            Ok(body) => Envelope::response(stream, Opcode::Result, body),
            Err(message) => answer::error(stream, ErrorCode::Invalid, &message),
        }
    }

    /// Orders a write and gives the answer to it, once it is applied here; a schema change, once the other live replicas
    /// have applied it, too, or [`SCHEMA_CHANGE_WAIT`] has passed.
    ///
    /// `role`: who asks, where clients log in.
    pub async fn write(&self, stream: i16, write: Write, consistency: Consistency, role: Option<&str>) -> Envelope {
        if write.parts().is_empty() {
            return Envelope::response(stream, Opcode::Result, response::void());
        }
        match self.judged_and_ordered(stream, &write, consistency, role).await {
            Err(answer) if is_refusal(&answer) => match self.syntax_error(&write).await {
                Some(body) => answer::error_body(stream, body),
                None => answer,
            },
            Err(answer) => answer,
            Ok(outcome) => {
                let opcode = Opcode::from_code(outcome.opcode).unwrap_or(Opcode::Error);
                if is_syntax_error(&outcome)
                    && let Some(body) = self.syntax_error(&write).await
                {
                    return answer::error_body(stream, body);
                }
                if write.changes_schema()
                    && opcode == Opcode::Result
                    && !self.peers.applied(outcome.index, SCHEMA_CHANGE_WAIT).await
                {
                    tracing::info!(
                        index = outcome.index,
                        "a schema change is acknowledged before all replicas have it"
                    );
                }
                Envelope { flags: outcome.flags, ..Envelope::response(stream, opcode, outcome.body) }
            }
        }
    }

    /// The ERROR of the first part of a write that breaks the grammar, which Cassandra notices before anything else; where it is, is where
    /// it is in what the client wrote, whatever was made of that. What is about roles is read here by the whole grammar, and
    /// has passwords that Cassandra would keep with a prepared text.
    async fn syntax_error(&self, write: &Write) -> Option<Bytes> {
        let of_rows = |part: &&Part| part.statement().is_some_and(|statement| statement.role.is_none());
        for part in write.parts().iter().filter(of_rows).take(SYNTAX_LOOKS) {
            match self.control.syntax_error(part.text()).await {
                Ok(None) => {}
                Ok(found) => return found,
                // There is another answer.
                Err(error) => {
                    tracing::debug!(%error, "whether a refused statement is well formed is not known");
                    return None;
                }
            }
        }
        None
    }

    /// The outcome, or the answer that says why there is none. Judged anew if the schema has changed before its turn came.
    async fn judged_and_ordered(
        &self,
        stream: i16,
        write: &Write,
        consistency: Consistency,
        role: Option<&str>,
    ) -> Result<Outcome, Envelope> {
        let mut attempt = 1;
        loop {
            let judged = match self.may(write, role).await {
                Ok(judged) => judged,
                Err(denied) => return Err(self.denied(stream, denied, consistency).await),
            };
            if let Some(answer) = self.confined(stream, write) {
                return Err(answer);
            }
            let outcome = self.ordered(write, consistency, role, judged).await;
            let outcome = outcome.map_err(|body| answer::error_body(stream, body))?;
            if !is_moved(&outcome) || attempt == JUDGEMENTS {
                return Ok(outcome);
            }
            attempt += 1;
        }
    }

    /// What is answered to a write that reaches out of the keyspace that clients are confined to.
    fn confined(&self, stream: i16, write: &Write) -> Option<Envelope> {
        let own = self.keyspace.as_deref()?;
        write.parts().iter().find_map(|part| match confine::judge(own, part.text(), part.statement()?) {
            confine::Verdict::Fine => None,
            confine::Verdict::Nothing => Some(Envelope::response(stream, Opcode::Result, response::void())),
            confine::Verdict::Refused(reason) => Some(Refusal::invalid(reason).answer(stream)),
        })
    }

    async fn denied(&self, stream: i16, denied: Denied, consistency: Consistency) -> Envelope {
        match denied {
            Denied::Refused(refusal) | Denied::NotThere(Some(refusal)) => refusal.answer(stream),
            Denied::NotThere(None) => Envelope::response(stream, Opcode::Result, response::void()),
            Denied::NoTable { keyspace, table } => {
                Refusal::invalid(self.missing(&keyspace, &table).await).answer(stream)
            }
            Denied::Unknown(error) => answer::error_body(stream, error.body()),
            Denied::NotNow(error) => answer::error_body(stream, answer::read_error(&error, consistency)),
        }
    }

    /// The outcome, or the body of the ERROR that says why there is none.
    async fn ordered(
        &self,
        write: &Write,
        consistency: Consistency,
        role: Option<&str>,
        judged: Judged,
    ) -> Result<Outcome, Bytes> {
        let repeatable = self.repeatable(write, consistency).await?;
        let mut request = write.request(repeatable, now_micros()).map_err(|refusal| body(&refusal))?;
        if let (Some(role), [part]) = (role, write.parts()) {
            self.about_roles(&mut request, part, role).await?;
        }
        if let Some(own) = &self.keyspace {
            request.keyspace = None;
            for statement in &mut request.statements {
                let kind = classify(&statement.text).kind;
                statement.text =
                    confine::stripped(own, &statement.text, kind).map_err(|reason| body(&Refusal::invalid(reason)))?;
            }
        }
        request.flags |= judged.flags;
        let outcome = match judged.schema {
            Some(schema) => self.core.propose_judged(request, schema).await,
            None => self.core.propose(request).await,
        };
        outcome.map_err(|error| answer::write_error(&error, consistency))
    }

    /// Whether the role may have all of a write executed, and what has to be so at its place in the order.
    async fn may(&self, write: &Write, role: Option<&str>) -> Result<Judged, Denied> {
        let is_about_roles = |part: &&Part| part.statement().is_some_and(|statement| statement.role.is_some());
        let Some(role) = role else {
            return match write.parts().iter().any(|part| is_about_roles(&part)) {
                true => Err(Denied::Refused(refuse::roles_of_nobody())),
                false => Ok(Judged::default()),
            };
        };
        // What is rare is judged by all that was acknowledged anywhere before it was asked.
        if !write.writes_rows() {
            self.core.barrier().await.map_err(Denied::NotNow)?;
        }
        match self.may_now(write, role).await {
            // It may have been made through another replica.
            Err(Denied::NoTable { .. }) => {
                self.core.barrier().await.map_err(Denied::NotNow)?;
                self.may_now(write, role).await
            }
            judged => judged,
        }
    }

    /// The same, by what is applied here.
    async fn may_now(&self, write: &Write, role: &str) -> Result<Judged, Denied> {
        // First: what is read then is no older.
        let (version, schema_version) = (self.core.last_ddl(), *self.core.schema().borrow());
        let schema = self.core.schema_index();
        let superuser = self.superuser.as_deref();
        let access = Access { control: &self.control, schema: &self.schema, schema_version, version, superuser };
        let mut judged = Judged::default();
        for part in write.parts() {
            let Some(statement) = part.statement() else { continue };
            let allowed = access.check(&self.roles, role, statement, part.keyspace()).await?;
            if !allowed.superuser && depends_on_schema(statement) {
                judged.schema = Some(schema);
            }
            if !allowed.superuser && statement.role.is_some() {
                judged.flags |= flags::NO_SUPERUSER;
            }
        }
        Ok(judged)
    }

    /// Passwords do not go into the log, only their hashes; and whoever makes something may do everything with it.
    async fn about_roles(&self, request: &mut Request, part: &Part, role: &str) -> Result<(), Bytes> {
        let Some(statement) = part.statement() else { return Ok(()) };
        if statement.role.is_some() {
            let (text, said) = (part.text().to_owned(), statement.clone());
            // A twentieth of a second of a processor.
            let _turn = self
                .hashing
                .acquire()
                .await
                .map_err(|error| response::error_text(ErrorCode::Server, &error.to_string()))?;
            let hashed = tokio::task::spawn_blocking(move || with_hashed_passwords(&text, &said, login::hash)).await;
            let text =
                hashed.map_err(|error| error.to_string()).and_then(|text| text.map_err(|error| error.to_string()));
            let failed =
                |error| response::error_text(ErrorCode::Server, &format!("a password can't be hashed: {error}"));
            request.statements = vec![StatementText { text: text.map_err(failed)?, values: Values::none() }];
        }
        let grants = grants_to_creator(statement, part.keyspace(), role);
        request.flags |= if grants.is_empty() { 0 } else { flags::GRANTS };
        request.statements.extend(grants.into_iter().map(|text| StatementText { text, values: Values::none() }));
        Ok(())
    }

    /// Whether the write may be repeated without a difference. The error refuses it.
    async fn repeatable(&self, write: &Write, consistency: Consistency) -> Result<bool, Bytes> {
        let (mut all_repeatable, mut all_count, mut any) = (true, true, false);
        if !write.writes_rows() {
            return Ok(all_repeatable);
        }
        for part in write.parts() {
            for statement in part.statement().into_iter().flat_map(Statement::each) {
                let keyspace = statement.keyspace.as_ref().map(Ident::as_str).or(part.keyspace());
                let (Some(keyspace), Some(table)) = (keyspace, &statement.table) else {
                    // Cassandra will say what is missing.
                    continue;
                };
                let (repeatable, counts) = self.judge(statement, keyspace, table.as_str(), consistency).await?;
                all_repeatable &= repeatable;
                all_count &= counts;
                any = true;
            }
        }
        // Executed as one that is not logged, Cassandra would take it. Of a mixture it says itself what is wrong.
        if any && all_count && write.is_logged() {
            return Err(body(&Refusal::invalid("Cannot include a counter statement in a logged batch")));
        }
        Ok(all_repeatable)
    }

    /// Whether a statement may be repeated without a difference, and whether its table has counters.
    ///
    /// A table or column that isn't known here may have been created through another replica: looked up again after a
    /// barrier, which makes the verdict true of a moment after the request was made (I4).
    async fn judge(
        &self,
        statement: &Statement,
        keyspace: &str,
        table: &str,
        consistency: Consistency,
    ) -> Result<(bool, bool), Bytes> {
        let mut caught_up = false;
        loop {
            let unknown = match self.verdict(statement, keyspace, table).await {
                Ok(Some(Verdict::Execute { repeatable, counts })) => return Ok((repeatable, counts)),
                Ok(Some(Verdict::UnknownColumn(column))) => Some(column),
                Ok(None) => None,
                Err(error) => return Err(error.body()),
            };
            if caught_up {
                let missing = match unknown {
                    Some(column) => format!("Undefined column name {column} in table {keyspace}.{table}"),
                    None => self.missing(keyspace, table).await,
                };
                return Err(body(&Refusal::invalid(missing)));
            }
            self.core.barrier().await.map_err(|error| answer::read_error(&error, consistency))?;
            caught_up = true;
        }
    }

    /// What Cassandra says of a table that is not there: its keyspace may not be there either.
    async fn missing(&self, keyspace: &str, table: &str) -> String {
        let name = Values::positional(&[Value::Bytes(Bytes::copy_from_slice(keyspace.as_bytes()))]);
        let found = match name {
            Ok(name) => self.control.query(KEYSPACE, name).await.ok(),
            Err(_) => None,
        };
        match found {
            Some(found) if found.rows.is_empty() => format!("keyspace {keyspace} does not exist"),
            _ => format!("table {table} does not exist"),
        }
    }

    async fn verdict(
        &self,
        statement: &Statement,
        keyspace: &str,
        table: &str,
    ) -> Result<Option<Verdict>, ControlError> {
        let version = *self.core.schema().borrow();
        let columns = self.schema.columns(&self.control, version, keyspace, table).await?;
        Ok(columns.map(|columns| refuse::by_columns(statement, &columns)))
    }
}

/// What a write was judged by, that has to be so at its place in the order, too.
#[derive(Debug, Default, Clone, Copy)]
struct Judged {
    /// The schema, by the index of the record that made it.
    schema: Option<u64>,
    /// What the record says of who asks: [`flags::NO_SUPERUSER`].
    flags: u32,
}

/// Whether an answer says that the statement, or who asks, is wrong, and not that something is not possible now.
fn is_refusal(answer: &Envelope) -> bool {
    let refuses = |code| matches!(code, Some(ErrorCode::Invalid | ErrorCode::Unauthorized));
    answer.opcode == Opcode::Error && response::parse_error(&answer.body).is_ok_and(|error| refuses(error.kind()))
}

fn is_syntax_error(outcome: &Outcome) -> bool {
    outcome.opcode == Opcode::Error.code()
        && response::parse_error(&outcome.body).is_ok_and(|error| error.kind() == Some(ErrorCode::Syntax))
}

fn body(refusal: &Refusal) -> Bytes {
    response::error_text(refusal.code, &refusal.message)
}

/// Wall clock, µs since 1970.
fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
