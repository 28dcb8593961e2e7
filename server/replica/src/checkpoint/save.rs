//! Taking a checkpoint: every table of a keyspace is read and written to its document.

use std::path::{Path, PathBuf};

use replicateddb_store::api::{Code, Refusal};
use replicateddb_store::client::StoreError;

use super::folder::{CheckpointError, Document, DocumentWriter, begin};
use super::line::{AsOf, Partition, Shape, Table};
use super::tables::Reading;
use crate::backend::connection::Connection;
use crate::backend::{BackendError, Endpoint, connect_v5};
use crate::site::second_of;

/// What was written, and is no checkpoint before its manifest is there.
#[derive(Debug, Clone)]
pub struct Saved {
    /// Its folder.
    pub folder: PathBuf,
    /// The time it is as of.
    pub as_of: AsOf,
    /// What makes the schema.
    pub schema: Vec<String>,
    /// The tables' documents.
    pub documents: Vec<Document>,
}

/// What a checkpoint is of.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// One keyspace, whose name is nowhere in it.
    Keyspace {
        /// Its name.
        name: &'a str,
        /// A table that is not part of it.
        without: &'a str,
    },
    /// Every user's keyspace; names are qualified.
    Everything,
}

/// Writes what is in scope to a new folder, of the Cassandra `at` and of this generation of it, as of this time in
/// microseconds since 1970. Nothing may write to it meanwhile. Memory: a page of rows.
///
/// # Errors
/// It is another generation, or can't be read now; or the disk.
pub async fn checkpoint_of(
    at: &Endpoint,
    generation: u64,
    scope: Scope<'_>,
    folder: &Path,
    timestamp_us: i64,
) -> Result<Saved, StoreError> {
    let failed = |error: BackendError| match error {
        BackendError::WrongGeneration { .. } => {
            StoreError::Refused(Refusal { code: Code::WrongGeneration, message: error.to_string() })
        }
        error => StoreError::Keyspace(error.to_string()),
    };
    let framed = connect_v5(at, Some(generation)).await.map_err(failed)?;
    let as_of = AsOf { timestamp_us, second: second_of(timestamp_us) };
    Ok(checkpoint(&Connection::new(framed), scope, folder, as_of).await?)
}

async fn checkpoint(
    connection: &Connection,
    scope: Scope<'_>,
    folder: &Path,
    as_of: AsOf,
) -> Result<Saved, CheckpointError> {
    let reading = Reading { connection, second: as_of.second };
    let made = folder.to_owned();
    blocking(move || begin(&made)).await?;
    let (mut schema, mut documents) = (Vec::new(), Vec::new());
    match scope {
        Scope::Keyspace { name, without } => {
            schema = reading.schema(name, without).await?;
            for table in reading.tables(name, without).await? {
                documents.push(document(&reading, &table, table.name.clone(), folder).await?);
            }
        }
        Scope::Everything => {
            for keyspace in reading.keyspaces().await? {
                schema.extend(reading.description(&keyspace).await?);
                for table in reading.tables(&keyspace, "").await? {
                    let name = format!("{keyspace}.{}", table.name);
                    documents.push(document(&reading, &table, name, folder).await?);
                }
            }
        }
    }
    Ok(Saved { folder: folder.to_owned(), as_of, schema, documents })
}

async fn document(
    reading: &Reading<'_>,
    table: &Table,
    name: String,
    folder: &Path,
) -> Result<Document, CheckpointError> {
    let (folder, second) = (folder.to_owned(), reading.second);
    let mut writer = blocking(move || DocumentWriter::create(&folder, &name)).await?;
    let mut shape = None::<Shape>;
    let mut last = Partition::None;
    let mut pages = reading.pages(table.select());
    while let Some(page) = pages.next().await? {
        let typed = match shape.take() {
            Some(shape) => shape,
            None => table.typed(&page.columns).map_err(CheckpointError::Cassandra)?,
        };
        (writer, shape, last) = blocking(move || {
            let mut last = last;
            for row in &page.rows {
                for line in typed.lines(row, second, &mut last).map_err(CheckpointError::Cassandra)? {
                    writer.line(&line)?;
                }
            }
            Ok((writer, Some(typed), last))
        })
        .await?;
    }
    blocking(move || writer.finish()).await
}

/// Waits for the disk beside the other tasks.
///
/// # Errors
/// Those of `work`.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CheckpointError> + Send + 'static,
) -> Result<T, CheckpointError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(CheckpointError::Cassandra(format!("the program is ending: {error}"))))
}
