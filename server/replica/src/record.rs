//! Records and entries: what stands in the ordered log, byte for byte.
//!
//! ```text
//! entry  = "RDBE" version:u8 reserved:u8×3 crc32:u32 origin:u32 incarnation:i64 floor:u64 count:u32 record×count
//! record = length:u32 kind:u8 flags:u32 sequence:u64 clock_us:i64 argument:u64
//!          has_keyspace:u8 [length:u16 utf-8] statements:u16 statement×statements
//! statement = length:u32 utf-8 named:u8 length:u32 value-section
//! ```
//! Integers are big-endian; the CRC-32 covers everything behind it. Whatever this version does not know stops the
//! replica with a reason (I8): an unknown version, kind or flag is never skipped. Prepared ids never appear here: a
//! restarted replica knows none.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use replicateddb_cql::request;

/// Bound values of a statement, as on the wire.
pub use replicateddb_cql::request::Values;

/// First bytes of every entry.
pub const MAGIC: &[u8; 4] = b"RDBE";
/// Version of the layout above.
pub const FORMAT_VERSION: u8 = 1;
/// The newest apply semantics this program has; a [`RecordKind::Semantics`] record asking for more stops it (I8).
pub const SEMANTICS_VERSION: u64 = 1;
/// Bytes of an entry besides its records.
pub const ENTRY_HEADER_BYTES: usize = 36;
/// What an entry takes of ZooKeeper's memory besides its bytes, roughly: its node, its path in the tree and in its parent.
const NODE_BYTES: u64 = 300;
/// Bytes of a record without keyspace and statements, its length included.
const RECORD_HEADER_BYTES: usize = 4 + 1 + 4 + 8 + 8 + 8 + 1 + 2;
/// Most statements in one record (the protocol's own limit of a BATCH).
pub const MAX_STATEMENTS: usize = u16::MAX as usize;

/// Bits of [`Record::flags`].
pub mod flags {
    /// Sending the record twice to one state may show (counters, lists): an ambiguous attempt means a rewind.
    pub const NOT_REPEATABLE: u32 = 1;
    /// A batch of counters: Cassandra takes those in a kind of batch of their own.
    pub const COUNTERS: u32 = 2;
    /// A schema statement, or one about roles, with grants behind it for what it makes.
    pub const GRANTS: u32 = 4;
    /// A schema statement that was judged at the schema in [`Record::argument`](super::Record::argument), and is to be executed
    /// at no other one (`crate::premise`).
    pub const JUDGED: u32 = 8;
    /// A statement about roles of somebody who is no superuser: what only superusers may do to superusers is judged at its place.
    pub const NO_SUPERUSER: u32 = 16;
    /// Every bit this version knows.
    pub const KNOWN: u32 = NOT_REPEATABLE | COUNTERS | GRANTS | JUDGED | NO_SUPERUSER;
}

/// What a record is; decides how it is applied. The numbers stand in the log and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum RecordKind {
    /// One INSERT, UPDATE or DELETE, or the text of a whole BATCH.
    Dml = 1,
    /// Several statements as one unlogged batch with one timestamp.
    Batch = 2,
    /// One schema statement; drains everything before it.
    Ddl = 3,
    /// One TRUNCATE; drains everything before it.
    Truncate = 4,
    /// No effect: whoever sees it applied has everything before it.
    Barrier = 5,
    /// No effect but on the log clock.
    Tick = 6,
    /// Every replica computes the digests of its tables at this index.
    Digest = 7,
    /// Changes the apply semantics to the version in the record's argument.
    Semantics = 8,
    /// No effect but on verdicts: the origin can't execute the record at the index in the argument ([`crate::verdict`]).
    Complaint = 9,
}

impl RecordKind {
    /// Every kind.
    pub const EVERY: [Self; 9] = [
        Self::Dml,
        Self::Batch,
        Self::Ddl,
        Self::Truncate,
        Self::Barrier,
        Self::Tick,
        Self::Digest,
        Self::Semantics,
        Self::Complaint,
    ];

    /// The kind of a number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::EVERY.into_iter().find(|kind| *kind as u8 == code)
    }

    /// Whether records of this kind change data or schema.
    pub fn writes(self) -> bool {
        matches!(self, Self::Dml | Self::Batch | Self::Ddl | Self::Truncate)
    }

    /// A lower-case name for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dml => "dml",
            Self::Batch => "batch",
            Self::Ddl => "ddl",
            Self::Truncate => "truncate",
            Self::Barrier => "barrier",
            Self::Tick => "tick",
            Self::Digest => "digest",
            Self::Semantics => "semantics",
            Self::Complaint => "complaint",
        }
    }
}

/// A statement's text and the values bound to its markers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementText {
    /// CQL.
    pub text: String,
    /// Raw section of bound values; [`Values::none`] for a text without markers.
    pub values: Values,
}

/// One request in the global order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub kind: RecordKind,
    /// See [`flags`].
    pub flags: u32,
    /// Number of the request within its origin's incarnation, from 1; never reused for another request (I3).
    pub sequence: u64,
    /// Wall clock of the proposer, µs since 1970.
    pub clock_us: i64,
    /// [`RecordKind::Semantics`]: the version. [`RecordKind::Complaint`]: the index. With [`flags::JUDGED`]: the index of the
    /// record that made the schema. Otherwise 0.
    pub argument: u64,
    /// For unqualified names.
    pub keyspace: Option<String>,
    /// As many as the kind calls for.
    pub statements: Vec<StatementText>,
}

/// A batch of records of one origin: one append to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Id of the replica that proposed it.
    pub origin: u32,
    /// The proposer's incarnation.
    pub incarnation: i64,
    /// Every request of this incarnation with a lower sequence stands in the log before this entry, or never will.
    pub floor: u64,
    /// The records, in order.
    pub records: Vec<Record>,
}

/// Why bytes of the log can't be applied (I8).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer version, or by something else.
    #[error("entry format {found} is unknown (this version knows {FORMAT_VERSION}); update the replica")]
    UnknownFormat {
        /// The version byte.
        found: u8,
    },
    /// A record kind this version does not have.
    #[error("record kind {found} is unknown; update the replica")]
    UnknownKind {
        /// The kind byte.
        found: u8,
    },
    /// A record flag this version does not have.
    #[error("record flags {found:#x} are unknown; update the replica")]
    UnknownFlags {
        /// The flags.
        found: u32,
    },
    /// The bytes break the layout.
    #[error("not an entry: {0}")]
    Malformed(&'static str),
}

impl Record {
    /// A record without statements.
    pub fn bare(kind: RecordKind) -> Self {
        Self { kind, flags: 0, sequence: 0, clock_us: 0, argument: 0, keyspace: None, statements: Vec::new() }
    }

    /// Bytes that the record takes in an entry.
    pub fn encoded_len(&self) -> usize {
        let statements = self.statements.iter().map(|s| 4 + s.text.len() + 1 + 4 + s.values.raw().len());
        RECORD_HEADER_BYTES + self.keyspace.as_ref().map_or(0, |k| 2 + k.len()) + statements.sum::<usize>()
    }

    /// Whether every length fits its field; a record that doesn't must be refused before it is proposed.
    pub fn fits(&self) -> bool {
        self.statements.len() <= MAX_STATEMENTS
            && self.keyspace.as_ref().is_none_or(|k| u16::try_from(k.len()).is_ok())
            && u32::try_from(self.encoded_len()).is_ok()
    }

    fn put(&self, out: &mut BytesMut) {
        out.put_u32(self.encoded_len() as u32 - 4);
        out.put_u8(self.kind as u8);
        out.put_u32(self.flags);
        out.put_u64(self.sequence);
        out.put_i64(self.clock_us);
        out.put_u64(self.argument);
        out.put_u8(u8::from(self.keyspace.is_some()));
        if let Some(keyspace) = &self.keyspace {
            out.put_u16(keyspace.len() as u16);
            out.put_slice(keyspace.as_bytes());
        }
        out.put_u16(self.statements.len() as u16);
        for statement in &self.statements {
            out.put_u32(statement.text.len() as u32);
            out.put_slice(statement.text.as_bytes());
            out.put_u8(u8::from(statement.values.is_named()));
            out.put_u32(statement.values.raw().len() as u32);
            out.put_slice(statement.values.raw());
        }
    }

    fn take(mut from: Bytes) -> Result<Self, DecodeError> {
        let kind = take_u8(&mut from)?;
        let kind = RecordKind::from_code(kind).ok_or(DecodeError::UnknownKind { found: kind })?;
        let flags = take_u32(&mut from)?;
        if flags & !flags::KNOWN != 0 {
            return Err(DecodeError::UnknownFlags { found: flags });
        }
        let sequence = take_u64(&mut from)?;
        let clock_us = take_u64(&mut from)? as i64;
        let argument = take_u64(&mut from)?;
        let keyspace = match take_u8(&mut from)? {
            0 => None,
            1 => {
                let length = usize::from(take_u16(&mut from)?);
                Some(take_text(&mut from, length)?)
            }
            _ => return Err(DecodeError::Malformed("keyspace mark")),
        };
        let count = take_u16(&mut from)?;
        let mut statements = Vec::new();
        for _ in 0..count {
            statements.push(take_statement(&mut from)?);
        }
        match from.is_empty() {
            true => Ok(Self { kind, flags, sequence, clock_us, argument, keyspace, statements }),
            false => Err(DecodeError::Malformed("bytes behind a record")),
        }
    }
}

impl Entry {
    /// Size of the entry, bytes.
    pub fn encoded_len(&self) -> usize {
        ENTRY_HEADER_BYTES + self.records.iter().map(Record::encoded_len).sum::<usize>()
    }

    /// What the entry takes of the memory of each server of the log, bytes.
    pub fn log_bytes(&self) -> u64 {
        self.encoded_len() as u64 + NODE_BYTES
    }

    /// The entry's bytes. Every record must [fit](Record::fits).
    pub fn encode(&self) -> Bytes {
        let size = self.encoded_len();
        let mut body = BytesMut::with_capacity(size);
        body.put_u32(self.origin);
        body.put_i64(self.incarnation);
        body.put_u64(self.floor);
        body.put_u32(self.records.len() as u32);
        self.records.iter().for_each(|record| record.put(&mut body));
        let mut out = BytesMut::with_capacity(size);
        out.put_slice(MAGIC);
        out.put_u32(u32::from(FORMAT_VERSION) << 24);
        out.put_u32(crc32fast::hash(&body));
        out.put_slice(&body);
        out.freeze()
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// The bytes are damaged, or of a newer version: the replica has to stop, never to skip (I8).
    pub fn decode(mut from: Bytes) -> Result<Self, DecodeError> {
        if take_bytes(&mut from, 4)?.as_ref() != MAGIC {
            return Err(DecodeError::Malformed("wrong first bytes"));
        }
        let format = take_u32(&mut from)?;
        if format != u32::from(FORMAT_VERSION) << 24 {
            return Err(DecodeError::UnknownFormat { found: (format >> 24) as u8 });
        }
        if take_u32(&mut from)? != crc32fast::hash(&from) {
            return Err(DecodeError::Malformed("checksum"));
        }
        let origin = take_u32(&mut from)?;
        let incarnation = take_u64(&mut from)? as i64;
        let floor = take_u64(&mut from)?;
        let count = take_u32(&mut from)?;
        let mut records = Vec::new();
        for _ in 0..count {
            let length = take_u32(&mut from)? as usize;
            records.push(Record::take(take_bytes(&mut from, length)?)?);
        }
        match from.is_empty() {
            true => Ok(Self { origin, incarnation, floor, records }),
            false => Err(DecodeError::Malformed("bytes behind the last record")),
        }
    }
}

fn take_statement(from: &mut Bytes) -> Result<StatementText, DecodeError> {
    let length = take_u32(from)? as usize;
    let text = take_text(from, length)?;
    let named = match take_u8(from)? {
        0 => false,
        1 => true,
        _ => return Err(DecodeError::Malformed("values mark")),
    };
    let length = take_u32(from)? as usize;
    let raw = take_bytes(from, length)?;
    let values = request::Values::from_raw(raw, named).map_err(|_| DecodeError::Malformed("values"))?;
    Ok(StatementText { text, values })
}

fn take_bytes(from: &mut Bytes, length: usize) -> Result<Bytes, DecodeError> {
    match from.len() >= length {
        true => Ok(from.split_to(length)),
        false => Err(DecodeError::Malformed("it ends too early")),
    }
}

fn take_text(from: &mut Bytes, length: usize) -> Result<String, DecodeError> {
    let bytes = take_bytes(from, length)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::Malformed("text that is not UTF-8"))
}

fn take_u8(from: &mut Bytes) -> Result<u8, DecodeError> {
    Ok(take_bytes(from, 1)?.get_u8())
}

fn take_u16(from: &mut Bytes) -> Result<u16, DecodeError> {
    Ok(take_bytes(from, 2)?.get_u16())
}

fn take_u32(from: &mut Bytes) -> Result<u32, DecodeError> {
    Ok(take_bytes(from, 4)?.get_u32())
}

fn take_u64(from: &mut Bytes) -> Result<u64, DecodeError> {
    Ok(take_bytes(from, 8)?.get_u64())
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
