//! Restoring a checkpoint into a running database: through a replica, by the same statements as any client's, so that the order
//! has them and every replica executes them. What is restored are whole keyspaces that are not there; times and ends of cells are
//! those of the checkpoint.

use std::collections::{BTreeMap, BTreeSet};
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
use crate::backend::connect_v5;
use crate::backend::connection::{Connection, Lost};
use crate::record::StatementText;

/// Attempts at a write that a replica refuses because too much waits already.
const ATTEMPTS: u32 = 10;
/// Pause before the second; doubles each time.
const PAUSE: Duration = Duration::from_millis(100);

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

    /// Restores it through the replica at `address`, as of `second` since 1970: what has ended by then is left out. `progress` is told
    /// of a document and how many of its lines are done. Returns the documents.
    ///
    /// # Errors
    /// A keyspace is there already, and nothing was written; or something was not taken, and the keyspaces hold a part.
    pub async fn through(
        &self,
        address: &str,
        second: i32,
        progress: impl Fn(&Document, u64) + Send + Sync,
    ) -> Result<Vec<&Document>, CheckpointError> {
        let connected = connect_v5(address, None).await;
        let connection =
            Connection::new(connected.map_err(|error| {
                CheckpointError::Cassandra(error.to_string().replace("local Cassandra", "replica"))
            })?);
        let replica = Replica { connection, address };
        let reading = Reading { connection: &replica.connection, second };
        let there: BTreeSet<String> = reading.keyspaces().await?.into_iter().collect();
        let twice: Vec<&str> = self.schema.keys().filter(|name| there.contains(*name)).map(String::as_str).collect();
        if !twice.is_empty() {
            return Err(CheckpointError::Cassandra(format!(
                "keyspaces of the checkpoint are there already: {}. Drop them first, or restore others alone (--keyspace)",
                twice.join(", ")
            )));
        }
        let restored = self.restore(&replica, &reading, &progress).await;
        restored.map_err(|error| {
            let names: Vec<&str> = self.schema.keys().map(String::as_str).collect();
            CheckpointError::Cassandra(format!(
                "{error}. A part of the checkpoint may be there now: drop the keyspaces {} before you restore it again",
                names.join(", ")
            ))
        })?;
        Ok(self.documents.iter().map(|(_, document)| document).collect())
    }

    async fn restore(
        &self,
        replica: &Replica<'_>,
        reading: &Reading<'_>,
        progress: &(impl Fn(&Document, u64) + Send + Sync),
    ) -> Result<(), CheckpointError> {
        for text in self.schema.values().flatten() {
            replica.execute(vec![StatementText { text: text.clone(), values: Values::none() }]).await?;
        }
        let as_of = AsOf { timestamp_us: self.timestamp_us, second: reading.second };
        for (keyspace, document) in &self.documents {
            let tables = reading.tables(keyspace, "").await?;
            let named = |name: &str| document.table.split_once('.').is_some_and(|(_, table)| table == name);
            let missing = || CheckpointError::Cassandra(format!("the schema has no table {}", document.table));
            let table = tables.iter().find(|table| named(&table.name)).ok_or_else(missing)?;
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
        self.execute(statements).await
    }
}

impl Replica<'_> {
    /// What may have had its effect is not repeated: a list or a counter would have it twice.
    async fn execute(&self, statements: Vec<StatementText>) -> Result<(), CheckpointError> {
        let first = statements.first().map_or_else(String::new, |statement| statement.text.clone());
        let (opcode, body) = request(statements).map_err(|error| CheckpointError::Cassandra(error.to_string()))?;
        let mut pause = PAUSE;
        for attempt in 1.. {
            let answer = self.connection.ask(opcode, body.clone()).await.map_err(|lost| self.lost(&lost))?;
            if answer.opcode == Opcode::Result {
                return Ok(());
            }
            let strange = |_| CheckpointError::Cassandra(format!("the replica at {} answers strangely", self.address));
            let error = answer.message().and_then(|message| parse_error(&message)).map_err(strange)?;
            if error.code != ErrorCode::Overloaded as i32 || attempt >= ATTEMPTS {
                return Err(CheckpointError::Cassandra(format!("`{first}`: {}", error.message)));
            }
            sleep(pause).await;
            pause *= 2;
        }
        Ok(())
    }

    fn lost(&self, lost: &Lost) -> CheckpointError {
        let sent = if lost.sent { ", and what was sent last may or may not have been done" } else { "" };
        CheckpointError::Cassandra(format!("the connection to the replica at {} was lost{sent}", self.address))
    }
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
