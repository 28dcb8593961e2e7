//! A checkpoint as a folder: one document for each table, and the manifest, which is written last and makes it one.
//!
//! ```text
//! <name>/manifest.json       {"manifest": {...}, "sha256": "..."}: the checksum is of the manifest's text without spaces
//! <name>/<table>.jsonl.gz    a line of JSON for each row, see [`super::line`]; its checksum is in the manifest
//! ```
//! Every function here waits for the disk.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, bufread::MultiGzDecoder, write::GzEncoder};
use replicateddb_store::api;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::binary::hex;
use super::line::Line;
use crate::backend::MAX_ANSWER_BYTES;

/// Version of the format.
pub const FORMAT: u32 = 1;
/// The file that makes a folder a checkpoint.
pub const MANIFEST: &str = "manifest.json";
/// What it is written as.
const UNFINISHED: &str = "manifest.json.new";
/// Largest manifest, bytes: the replica's whole state is in it.
pub const MAX_MANIFEST: usize = 64 << 20;
/// Longest line, bytes: the largest answer that Cassandra gives, of one row, in hexadecimal digits. A longer one is not written, and a
/// document that unpacks to a longer one is not read: what unpacks to so much may be a few bytes in the file.
const MAX_LINE: usize = 2 * MAX_ANSWER_BYTES;
/// Bytes that are read or written at once.
const BLOCK: usize = 64 << 10;

/// Why a checkpoint can't be written or used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It is not what was written.
    #[error("{} is damaged: {reason}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// For people.
        reason: String,
    },
    /// The disk.
    #[error("{}: {error}", file.display())]
    Disk {
        /// The file or folder.
        file: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// A row that no checkpoint can hold.
    #[error("a row of {table} takes {bytes} bytes as JSON, and a line of a checkpoint has at most {limit}")]
    LargeRow {
        /// The document's name.
        table: String,
        /// Its bytes as JSON.
        bytes: usize,
        /// The most that there may be.
        limit: usize,
    },
    /// Cassandra did not do its part.
    #[error("{0}")]
    Cassandra(String),
}

/// What a checkpoint holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the format.
    pub format: u32,
    /// What a restore point carries: index, position, clock, duplicates.
    pub point: api::Manifest,
    /// The time that the rows are as of, µs since 1970: the write time of the record at the index.
    pub timestamp_us: i64,
    /// What makes the schema, in order; names are not qualified if it is of one keyspace.
    pub schema: Vec<String>,
    /// One for each table.
    pub documents: Vec<Document>,
}

/// The rows of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// The table's name, with its keyspace before it if the checkpoint is of all.
    pub table: String,
    /// The file's name.
    pub file: String,
    /// Lines in it.
    pub lines: u64,
    /// Size of the file, bytes.
    pub bytes: u64,
    /// Checksum of the file, hex.
    pub sha256: String,
}

/// The manifest's file.
#[derive(Serialize, Deserialize)]
struct Sealed {
    manifest: serde_json::Value,
    sha256: String,
}

fn disk(file: &Path) -> impl FnOnce(io::Error) -> CheckpointError + '_ {
    |error| CheckpointError::Disk { file: file.to_owned(), error }
}

fn damaged(file: &Path, reason: impl ToString) -> CheckpointError {
    CheckpointError::Damaged { file: file.to_owned(), reason: reason.to_string() }
}

/// Counts and hashes what passes.
struct Hashing<T> {
    inner: T,
    hash: Sha256,
    bytes: u64,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }

    fn saw(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.saw(bytes.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a document, line by line.
pub struct DocumentWriter {
    table: String,
    path: PathBuf,
    file: String,
    out: GzEncoder<Hashing<BufWriter<File>>>,
    lines: u64,
    max_line: usize,
}

impl DocumentWriter {
    /// An empty document in a folder.
    ///
    /// # Errors
    /// The disk.
    pub fn create(folder: &Path, table: &str) -> Result<Self, CheckpointError> {
        // Cassandra's tables have names of letters, digits and underscores.
        let file = format!("{table}.jsonl.gz");
        let path = folder.join(&file);
        let out = File::create(&path).map_err(disk(&path))?;
        let out = GzEncoder::new(Hashing::new(BufWriter::with_capacity(BLOCK, out)), Compression::fast());
        Ok(Self { table: table.to_owned(), path, file, out, lines: 0, max_line: MAX_LINE })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// The disk, or the row takes more than a line may.
    pub fn line(&mut self, line: &Line) -> Result<(), CheckpointError> {
        let mut text = serde_json::to_vec(line).map_err(|error| disk(&self.path)(error.into()))?;
        text.push(b'\n');
        if text.len() > self.max_line {
            let (table, bytes) = (self.table.clone(), text.len());
            return Err(CheckpointError::LargeRow { table, bytes, limit: self.max_line });
        }
        self.lines += 1;
        self.out.write_all(&text).map_err(disk(&self.path))
    }

    /// Ends it; it is not synced yet.
    ///
    /// # Errors
    /// The disk.
    pub fn finish(self) -> Result<Document, CheckpointError> {
        let Self { table, path, file, out, lines, .. } = self;
        let mut hashed = out.finish().map_err(disk(&path))?;
        hashed.flush().map_err(disk(&path))?;
        Ok(Document { table, file, lines, bytes: hashed.bytes, sha256: hex(&hashed.hash.finalize()) })
    }
}

/// Makes an empty folder for a checkpoint.
///
/// # Errors
/// The disk, or there is one of that name.
pub fn begin(folder: &Path) -> Result<(), CheckpointError> {
    fs::create_dir(folder).map_err(disk(folder))
}

/// Makes a folder with all its documents a checkpoint: whatever happens from then on, it is one, or it was not.
///
/// # Errors
/// The disk.
pub fn complete(folder: &Path, manifest: &Manifest) -> Result<(), CheckpointError> {
    let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all()).map_err(disk(path));
    for document in &manifest.documents {
        sync(&folder.join(&document.file))?;
    }
    let (unfinished, path) = (folder.join(UNFINISHED), folder.join(MANIFEST));
    let sealed = seal(manifest).map_err(|error| CheckpointError::Disk { file: path.clone(), error })?;
    let written = File::create(&unfinished).and_then(|mut file| {
        file.write_all(&sealed)?;
        file.sync_all()
    });
    written.map_err(disk(&unfinished))?;
    sync(folder)?;
    fs::rename(&unfinished, &path).map_err(disk(&path))?;
    sync(folder)?;
    folder.parent().map_or(Ok(()), sync)
}

fn seal(manifest: &Manifest) -> io::Result<Vec<u8>> {
    let manifest = serde_json::to_value(manifest)?;
    let sha256 = checksum(&manifest);
    Ok(serde_json::to_vec_pretty(&Sealed { manifest, sha256 })?)
}

fn checksum(manifest: &serde_json::Value) -> String {
    hex(&Sha256::digest(manifest.to_string()))
}

/// Reads the manifest of a folder; `None` if it is no checkpoint.
///
/// # Errors
/// The disk, or the manifest is damaged.
pub fn read_manifest(folder: &Path) -> Result<Option<Manifest>, CheckpointError> {
    let path = folder.join(MANIFEST);
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(disk(&path))?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_MANIFEST as u64).read_to_end(&mut bytes).map_err(disk(&path))?;
    parse_manifest(&path, &bytes).map(Some)
}

/// Reads a manifest; `path` is for people.
///
/// # Errors
/// It is damaged.
pub fn parse_manifest(path: &Path, bytes: &[u8]) -> Result<Manifest, CheckpointError> {
    let Sealed { manifest, sha256 } = serde_json::from_slice(bytes).map_err(|error| damaged(path, error))?;
    if checksum(&manifest) != sha256 {
        return Err(damaged(path, "its checksum is another"));
    }
    let format = manifest.get("format").and_then(serde_json::Value::as_u64);
    if format != Some(FORMAT.into()) {
        return Err(damaged(path, format!("it has format {format:?}, this program knows {FORMAT}")));
    }
    let manifest: Manifest = serde_json::from_value(manifest).map_err(|error| damaged(path, error))?;
    // What they name is joined to a folder's path.
    let plain = |file: &str| Path::new(file).file_name().is_some_and(|name| name == file);
    match manifest.documents.iter().find(|document| !plain(&document.file)) {
        Some(document) => Err(damaged(path, format!("{:?} is no name of a document", document.file))),
        None => Ok(manifest),
    }
}

/// Reads every document from its beginning to its end, for its checksum.
///
/// # Errors
/// The first that is damaged, or the disk.
pub fn verify(folder: &Path, manifest: &Manifest) -> Result<(), CheckpointError> {
    let mut block = vec![0; BLOCK];
    for document in &manifest.documents {
        let path = folder.join(&document.file);
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged(&path, "it is missing")),
            file => file.map_err(disk(&path))?,
        };
        let mut hashing = Hashing::new(());
        loop {
            match file.read(&mut block).map_err(disk(&path))? {
                0 => break,
                count => hashing.saw(block.get(..count).unwrap_or_default()),
            }
        }
        if hashing.bytes != document.bytes {
            return Err(damaged(&path, format!("it has {} bytes instead of {}", hashing.bytes, document.bytes)));
        }
        if hex(&hashing.hash.finalize()) != document.sha256 {
            return Err(damaged(&path, "its checksum is another"));
        }
    }
    Ok(())
}

/// Reads a document, line by line.
pub struct DocumentReader {
    path: PathBuf,
    input: BufReader<MultiGzDecoder<BufReader<File>>>,
    expected: u64,
    read: u64,
    line: Vec<u8>,
    max_line: usize,
}

impl DocumentReader {
    /// A document of a folder.
    ///
    /// # Errors
    /// The disk.
    pub fn open(folder: &Path, document: &Document) -> Result<Self, CheckpointError> {
        let path = folder.join(&document.file);
        let file = File::open(&path).map_err(disk(&path))?;
        let input = BufReader::new(MultiGzDecoder::new(BufReader::with_capacity(BLOCK, file)));
        Ok(Self { path, input, expected: document.lines, read: 0, line: Vec::new(), max_line: MAX_LINE })
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// It is damaged: [`verify`] finds the same, and earlier.
    pub fn next_line(&mut self) -> Result<Option<Line>, CheckpointError> {
        self.line.clear();
        let read = (&mut self.input).take(self.max_line as u64 + 1).read_until(b'\n', &mut self.line);
        if self.line.len() > self.max_line {
            return Err(damaged(&self.path, format!("line {} has more than {} bytes", self.read + 1, self.max_line)));
        }
        if read.map_err(|error| damaged(&self.path, error))? == 0 {
            return match self.read == self.expected {
                true => Ok(None),
                false => Err(damaged(&self.path, format!("it has {} lines instead of {}", self.read, self.expected))),
            };
        }
        self.read += 1;
        serde_json::from_slice(&self.line).map(Some).map_err(|error| damaged(&self.path, error))
    }
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
