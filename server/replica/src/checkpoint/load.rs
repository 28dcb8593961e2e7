//! Restoring a checkpoint into an empty keyspace.

use std::future::Future;
use std::path::Path;

use futures::stream::{FuturesUnordered, StreamExt};
use replicateddb_cql::response::parse_error;
use tokio::sync::mpsc;
use tokio::time::{Duration, sleep};
use uuid::Uuid;

use super::folder::{CheckpointError, Document, DocumentReader, Manifest};
use super::line::{AsOf, Line, Shape, Write};
use super::save::blocking;
use super::tables::{Reading, failed};
use crate::backend::executor::Cassandra;
use crate::record::{Record, RecordKind, StatementText, Values};
use crate::site::{Backend, Failure, Place, second_of};

/// Rows that are written at once.
const ROWS_AT_ONCE: usize = 64;
/// Writes of one row that go together.
const WRITES_TOGETHER: usize = 64;
/// Bytes of values from which on no further write is added to others.
const BYTES_TOGETHER: usize = 1 << 20;
/// Lines that are read ahead.
const LINES_AHEAD: usize = 256;
/// Attempts at what Cassandra refuses for now without having done anything.
const ATTEMPTS: usize = 8;
/// Pause between them.
const PAUSE: Duration = Duration::from_millis(250);

/// Where a checkpoint is restored to.
pub struct Target<'a> {
    /// Connections to the Cassandra.
    pub backend: &'a Cassandra,
    /// The keyspace, which holds nothing but the table `without`.
    pub keyspace: &'a str,
    /// The table that is no part of a checkpoint.
    pub without: &'a str,
    /// Tells this build of the keyspace from every other: tables get ids that are derived from it.
    pub build: Uuid,
}

/// Makes schema and cells of a checkpoint, whose documents were verified. If it fails, or is not carried to its end, the
/// keyspace holds a part of it: whoever calls has made sure that it is emptied then.
///
/// # Errors
/// Cassandra does not take it now, or a document can't be read.
pub async fn restore(target: &Target<'_>, folder: &Path, manifest: &Manifest) -> Result<(), CheckpointError> {
    let timestamp_us = manifest.timestamp_us;
    let as_of = AsOf { timestamp_us, second: second_of(timestamp_us) };
    for (n, text) in manifest.schema.iter().enumerate() {
        let table_id = Uuid::new_v5(&target.build, format!("checkpoint/{n}").as_bytes());
        let statement = StatementText { text: text.clone(), values: Values::none() };
        target.execute(Place { timestamp_us, table_id, fails: false }, RecordKind::Ddl, vec![statement]).await?;
    }
    target.backend.forget_prepared();
    let connection = target.backend.connection().await.map_err(failed)?;
    let reading = Reading { connection: &connection, second: as_of.second };
    let tables = reading.tables(target.keyspace, target.without).await?;
    for document in &manifest.documents {
        let table = tables.iter().find(|table| table.name == document.table);
        let missing = || CheckpointError::Cassandra(format!("the schema has no table {}", document.table));
        let shape = reading.shape(table.ok_or_else(missing)?).await?;
        fill(target, &shape, folder, document, || as_of, |_| ()).await?;
    }
    Ok(())
}

/// Where rows are written to.
pub trait Rows: Sync {
    /// Writes these, which are of one partition, in their order; not one alone that counts with others.
    fn write(
        &self,
        statements: Vec<StatementText>,
        as_of: AsOf,
    ) -> impl Future<Output = Result<(), CheckpointError>> + Send;
}

/// Writes the rows of a document, each as of what `as_of` says when it is its turn. `seen` is told how many lines are done.
pub async fn fill(
    target: &impl Rows,
    shape: &Shape,
    folder: &Path,
    document: &Document,
    as_of: impl Fn() -> AsOf + Send + Sync,
    seen: impl Fn(u64) + Send,
) -> Result<(), CheckpointError> {
    let (sender, mut lines) = mpsc::channel::<Line>(LINES_AHEAD);
    let (folder, document) = (folder.to_owned(), document.clone());
    let reading = blocking(move || {
        let mut reader = DocumentReader::open(&folder, &document)?;
        while let Some(line) = reader.next_line()? {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
        Ok(())
    });
    let writing = async {
        let (mut rows, mut done) = (FuturesUnordered::new(), 0);
        while let Some(line) = lines.recv().await {
            rows.push(row(target, shape, line, &as_of));
            if rows.len() >= ROWS_AT_ONCE {
                rows.next().await.transpose()?;
                done += 1;
                seen(done);
            }
        }
        while rows.next().await.transpose()?.is_some() {}
        // A reader that is not done is told by this that nobody wants the rest.
        drop(lines);
        Ok(())
    };
    tokio::try_join!(reading, writing).map(|_| ())
}

async fn row(
    target: &impl Rows,
    shape: &Shape,
    line: Line,
    as_of: &(impl Fn() -> AsOf + Sync),
) -> Result<(), CheckpointError> {
    let as_of = as_of();
    let mut together: Vec<StatementText> = Vec::new();
    let mut bytes = 0;
    for Write { text, values } in shape.writes(&line, as_of).map_err(CheckpointError::Cassandra)? {
        let values = Values::positional(&values).map_err(|error| CheckpointError::Cassandra(error.to_string()))?;
        let size = values.raw().len();
        // A counter's write goes alone: it has a kind of batch of its own.
        if shape.counts() || together.len() >= WRITES_TOGETHER || bytes + size > BYTES_TOGETHER {
            write(target, std::mem::take(&mut together), as_of).await?;
            bytes = 0;
        }
        bytes += size;
        together.push(StatementText { text, values });
    }
    write(target, together, as_of).await
}

async fn write(target: &impl Rows, statements: Vec<StatementText>, as_of: AsOf) -> Result<(), CheckpointError> {
    match statements.is_empty() {
        true => Ok(()),
        false => target.write(statements, as_of).await,
    }
}

impl Rows for Target<'_> {
    async fn write(&self, statements: Vec<StatementText>, as_of: AsOf) -> Result<(), CheckpointError> {
        let place = Place { timestamp_us: as_of.timestamp_us, table_id: Uuid::nil(), fails: false };
        match statements.len() {
            1 => self.execute(place, RecordKind::Dml, statements).await,
            _ => self.execute(place, RecordKind::Batch, statements).await,
        }
    }
}

impl Target<'_> {
    /// An attempt that may have had its effect is not repeated: a list would double.
    async fn execute(
        &self,
        place: Place,
        kind: RecordKind,
        statements: Vec<StatementText>,
    ) -> Result<(), CheckpointError> {
        let keyspace = Some(self.keyspace.to_owned());
        let record = Record { keyspace, statements, ..Record::bare(kind) };
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.backend.execute(place, &record).await {
                Ok(reply) if reply.is_result() => return Ok(()),
                Ok(reply) => {
                    let said = reply.message().and_then(|message| parse_error(&message).ok());
                    let said = said.map_or_else(|| "an error".to_owned(), |error| error.message);
                    let text = record.statements.first().map_or("", |statement| statement.text.as_str());
                    return Err(CheckpointError::Cassandra(format!("Cassandra refuses `{text}`: {said}")));
                }
                Err(Failure::Retry { ambiguous: false, .. } | Failure::Refused { ambiguous: false, .. })
                    if attempt < ATTEMPTS =>
                {
                    sleep(PAUSE).await
                }
                Err(failure) => return Err(failed(failure)),
            }
        }
    }
}
