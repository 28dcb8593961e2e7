//! Restoring a checkpoint into a running database: through a replica, by the same statements as any client's, so that the order
//! has them and every replica executes them. What is restored are whole keyspaces that are not there; times and ends of cells are
//! those of the checkpoint.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use replicateddb_cql::Consistency;
use replicateddb_cql::ProtocolError;
use replicateddb_cql::frame::Opcode;
use replicateddb_cql::request::{Batch, BatchBody, BatchKind, BatchStatement, Params, Values, v5};
use replicateddb_cql::response::{ErrorCode, parse_error};
use tokio::time::{Duration, sleep};

use super::folder::{CheckpointError, Document, Manifest, read_manifest, verify};
use super::line::AsOf;
use super::load::{Rows, fill};
use super::save::blocking;
use super::schema::qualified;
use super::tables::Reading;
use crate::backend::connection::{Connection, Lost};
use crate::backend::{Endpoint, connect_v5, connect_v5_tls};
use crate::record::StatementText;
use crate::tls::client::Client;

/// Attempts at a write that a replica can't take now: three minutes.
const ATTEMPTS: u32 = 40;
/// Pause before the second; doubles each time.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// What a replica answers that has not written anything, and may soon.
const NOT_NOW: [ErrorCode; 3] = [ErrorCode::Overloaded, ErrorCode::Unavailable, ErrorCode::Bootstrapping];

/// A checkpoint that can be restored: whole, and of keyspaces that are named in it.
#[derive(Debug)]
pub struct Import {
    folder: PathBuf,
    timestamp_us: i64,
    /// By keyspace, what makes it.
    schema: BTreeMap<String, Vec<String>>,
    /// With their keyspaces.
    documents: Vec<(String, Document)>,
}

impl Import {
    /// Reads a checkpoint and checks every file; `only` these keyspaces of it, or all if there are none.
    ///
    /// # Errors
    /// The folder holds none, or something of it is damaged; it has no such keyspace; or the disk.
    pub async fn open(folder: &Path, only: &[String]) -> Result<Self, CheckpointError> {
        let folder = folder.to_owned();
        let (folder, manifest) = blocking(move || {
            let none = || CheckpointError::Damaged { file: folder.clone(), reason: "no checkpoint is there".into() };
            let manifest = read_manifest(&folder)?.ok_or_else(none)?;
            verify(&folder, &manifest)?;
            Ok((folder, manifest))
        })
        .await?;
        Self::of(folder, manifest, only).map_err(CheckpointError::Cassandra)
    }

    fn of(folder: PathBuf, manifest: Manifest, only: &[String]) -> Result<Self, String> {
        let mut schema = BTreeMap::<String, Vec<String>>::new();
        for description in &manifest.schema {
            let statements = qualified(description).map_err(|error| {
                format!("{error}: the checkpoint is of a replica that shares its Cassandra, and restored by such replicas alone")
            })?;
            for (keyspace, statement) in statements {
                schema.entry(keyspace).or_default().push(statement);
            }
        }
        let has: Vec<&str> = schema.keys().map(String::as_str).collect();
        if let Some(missing) = only.iter().find(|name| !schema.contains_key(*name)) {
            return Err(format!("the checkpoint has no keyspace {missing}; it has {}", has.join(", ")));
        }
        schema.retain(|keyspace, _| only.is_empty() || only.contains(keyspace));
        let of_keyspace = |document: Document| match document.table.split_once('.') {
            Some((keyspace, _)) => Ok((keyspace.to_owned(), document)),
            None => Err(format!("the document of {} names no keyspace", document.table)),
        };
        let mut documents: Vec<_> = manifest.documents.into_iter().map(of_keyspace).collect::<Result<_, _>>()?;
        documents.retain(|(keyspace, _)| schema.contains_key(keyspace));
        Ok(Self { folder, timestamp_us: manifest.timestamp_us, schema, documents })
    }

    /// Restores it through the replica `at`, by TLS if there is `tls`. `now` says which second since 1970 it is: what has ended is left out. `progress`
    /// is told of a document and how many of its lines are done. Returns the documents.
    ///
    /// # Errors
    /// A keyspace is there already, and nothing was written; or something was not taken, and the keyspaces hold a part.
    pub async fn through(
        &self,
        at: &Endpoint,
        tls: Option<&Client>,
        now: impl Fn() -> i32 + Send + Sync,
        progress: impl Fn(&Document, u64) + Send + Sync,
    ) -> Result<Vec<&Document>, CheckpointError> {
        let connected = match tls {
            None => connect_v5(at, None).await.map(Connection::new),
            Some(tls) => connect_v5_tls(at, tls).await.map(Connection::new),
        };
        let connection = connected.map_err(|error| of_replica(&error))?;
        let replica = Replica { connection, address: &at.address };
        let reading = Reading { connection: &replica.connection, second: now() };
        let there = reading.keyspaces().await.map_err(|error| of_replica(&error))?;
        let twice: Vec<&str> = self.schema.keys().filter(|name| there.contains(name)).map(String::as_str).collect();
        if !twice.is_empty() {
            return Err(CheckpointError::Cassandra(format!(
                "keyspaces of the checkpoint are there already: {}. Drop them first, or restore others alone (--keyspace)",
                twice.join(", ")
            )));
        }
        let mut begun = Vec::new();
        self.restore(&replica, &reading, &mut begun, &now, &progress).await.map_err(|error| {
            match begun.is_empty() {
                true => of_replica(&error),
                false => CheckpointError::Cassandra(format!(
                    "{}. A part of the checkpoint is there: drop its keyspaces {} before you restore it again",
                    of_replica(&error),
                    begun.join(", ")
                )),
            }
        })?;
        Ok(self.documents.iter().map(|(_, document)| document).collect())
    }

    /// `begun`: the keyspaces that are there, or may be.
    async fn restore<'a>(
        &'a self,
        replica: &Replica<'_>,
        reading: &Reading<'_>,
        begun: &mut Vec<&'a str>,
        now: &(impl Fn() -> i32 + Send + Sync),
        progress: &(impl Fn(&Document, u64) + Send + Sync),
    ) -> Result<(), CheckpointError> {
        for (keyspace, texts) in &self.schema {
            for (n, text) in texts.iter().enumerate() {
                let statement = StatementText { text: text.clone(), values: Values::none() };
                let taken = replica.execute(vec![statement]).await;
                // The first makes the keyspace.
                if n == 0 && !taken.as_ref().is_err_and(|untaken| untaken.nowhere) {
                    begun.push(keyspace);
                }
                taken?;
            }
        }
        let as_of = || AsOf { timestamp_us: self.timestamp_us, second: now() };
        let mut tables = BTreeMap::new();
        for keyspace in self.schema.keys() {
            let made = reading.tables(keyspace, "").await?;
            tables.extend(made.into_iter().map(|table| (format!("{keyspace}.{}", table.name), table)));
        }
        for (_, document) in &self.documents {
            let missing = || CheckpointError::Cassandra(format!("the schema has no table {}", document.table));
            let table = tables.get(&document.table).ok_or_else(missing)?;
            let shape = reading.shape(table).await?;
            fill(replica, &shape, &self.folder, document, as_of, |lines| progress(document, lines)).await?;
            progress(document, document.lines);
        }
        Ok(())
    }
}

/// A connection to a replica.
struct Replica<'a> {
    connection: Connection,
    address: &'a str,
}

impl Rows for Replica<'_> {
    async fn write(&self, statements: Vec<StatementText>, _: AsOf) -> Result<(), CheckpointError> {
        Ok(self.execute(statements).await?)
    }
}

/// Why a replica has not taken something.
#[derive(Debug)]
struct Untaken {
    reason: String,
    /// It has had no effect and will have none.
    nowhere: bool,
}

impl From<Untaken> for CheckpointError {
    fn from(untaken: Untaken) -> Self {
        Self::Cassandra(untaken.reason)
    }
}

impl Replica<'_> {
    /// What may have had its effect is not repeated: a list or a counter would have it twice.
    async fn execute(&self, statements: Vec<StatementText>) -> Result<(), Untaken> {
        let first = statements.first().map_or_else(String::new, |statement| statement.text.clone());
        let request = request(statements).map_err(|error| Untaken { reason: error.to_string(), nowhere: true });
        let (opcode, body) = request?;
        let strange =
            |_| Untaken { reason: format!("the replica at {} answers strangely", self.address), nowhere: false };
        let (mut attempt, mut pause) = (1, PAUSE);
        loop {
            let answer = self.connection.ask(opcode, body.clone()).await.map_err(|lost| self.lost(&lost))?;
            if answer.opcode == Opcode::Result {
                return Ok(());
            }
            let error = answer.message().and_then(|message| parse_error(&message)).map_err(strange)?;
            if attempt >= ATTEMPTS || !NOT_NOW.iter().any(|code| error.code == *code as i32) {
                let nowhere = error.code != ErrorCode::WriteTimeout as i32;
                return Err(Untaken { reason: format!("`{first}`: {}", error.message), nowhere });
            }
            sleep(pause).await;
            (attempt, pause) = (attempt + 1, (pause * 2).min(LONGEST_PAUSE));
        }
    }

    fn lost(&self, lost: &Lost) -> Untaken {
        let sent = if lost.sent { ", and what was sent last may or may not have been done" } else { "" };
        let reason = format!("the connection to the replica at {} was lost{sent}", self.address);
        Untaken { reason, nowhere: !lost.sent }
    }
}

/// An error of what is shared with replicas, which have a Cassandra.
fn of_replica(error: &impl ToString) -> CheckpointError {
    CheckpointError::Cassandra(error.to_string().replace("the local Cassandra", "the replica"))
}

/// QUERY of one statement, BATCH of several.
fn request(mut statements: Vec<StatementText>) -> Result<(Opcode, bytes::Bytes), ProtocolError> {
    if let [_] = statements.as_slice()
        && let Some(StatementText { text, values }) = statements.pop()
    {
        return Ok((Opcode::Query, v5::query(&text, &Params::new(Consistency::Quorum, values), None)?));
    }
    let member = |StatementText { text, values }| BatchStatement { body: BatchBody::Text(text), values };
    let batch = Batch {
        kind: BatchKind::Unlogged,
        statements: statements.into_iter().map(member).collect(),
        consistency: Consistency::Quorum,
        serial_consistency: None,
        timestamp: None,
    };
    Ok((Opcode::Batch, v5::batch(&batch, None)?))
}
