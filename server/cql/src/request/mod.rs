//! Message bodies that clients send: parsed views of the raw bytes. All functions take the message without its prefix
//! (see [`Envelope::message`](crate::frame::Envelope::message)), and the version that it is written in. What they give is
//! the same for every version.

mod build;
mod values;

pub use build::{auth_response, batch, execute, prepare, query, register, startup, v5};
pub use values::{BoundValue, Values};

use crate::consistency::Consistency;
use crate::error::ProtocolError;
use crate::frame::{Envelope, Opcode};
use crate::version::Version;
use crate::wire::Reader;
use bytes::{Bytes, BytesMut};

const FLAG_VALUES: u8 = 0x01;
const FLAG_SKIP_METADATA: u8 = 0x02;
const FLAG_PAGE_SIZE: u8 = 0x04;
const FLAG_PAGING_STATE: u8 = 0x08;
const FLAG_SERIAL_CONSISTENCY: u8 = 0x10;
const FLAG_TIMESTAMP: u8 = 0x20;
const FLAG_NAMES: u8 = 0x40;
/// Only in version 5, where flags have four bytes.
const FLAG_KEYSPACE: u32 = 0x80;
const FLAG_NOW_IN_SECONDS: u32 = 0x100;
/// The flag of PREPARE in version 5.
const PREPARE_KEYSPACE: u32 = 0x01;

/// STARTUP: options in the order sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// `CQL_VERSION`, `COMPRESSION`, `DRIVER_NAME`, ...
    pub options: Vec<(String, String)>,
}

impl Startup {
    /// The value of an option, whose name may be written in any case.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// What QUERY and EXECUTE carry besides the statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    /// The consistency level.
    pub consistency: Consistency,
    /// The bound values, raw; empty when none were sent.
    pub values: Values,
    /// The client knows the result's metadata.
    pub skip_metadata: bool,
    /// Rows per page.
    pub page_size: Option<i32>,
    /// Where the next page starts (opaque).
    pub paging_state: Option<Bytes>,
    /// The level of a conditional write's reading phase.
    pub serial_consistency: Option<Consistency>,
    /// The default timestamp, microseconds since 1970.
    pub timestamp: Option<i64>,
}

impl Params {
    /// Only a consistency level and values.
    pub fn new(consistency: Consistency, values: Values) -> Self {
        Self {
            consistency,
            values,
            skip_metadata: false,
            page_size: None,
            paging_state: None,
            serial_consistency: None,
            timestamp: None,
        }
    }
}

/// What a request of version 5 may say for itself alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Own {
    /// The keyspace of names without one, in place of the connection's. (EXECUTE: means nothing.)
    pub keyspace: Option<String>,
    /// The second since 1970 that expiry counts from.
    pub now_in_seconds: Option<i32>,
}

/// QUERY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The statement.
    pub text: String,
    /// Everything else.
    pub params: Params,
    /// What only version 5 has.
    pub own: Own,
}

/// PREPARE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepare {
    /// The statement.
    pub text: String,
    /// Version 5: the keyspace of names without one, in place of the connection's.
    pub keyspace: Option<String>,
}

/// EXECUTE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execute {
    /// The prepared statement.
    pub id: Bytes,
    /// Version 5: what the client knows of the result's columns.
    pub metadata_id: Bytes,
    /// Everything else.
    pub params: Params,
    /// What only version 5 has.
    pub own: Own,
}

/// What kind of batch the client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BatchKind {
    /// Atomic by the batch log.
    Logged = 0,
    /// Not atomic across partitions.
    Unlogged = 1,
    /// Counter updates.
    Counter = 2,
}

/// The statement of a member of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchBody {
    /// As text.
    Text(String),
    /// As the id of a prepared statement.
    Id(Bytes),
}

/// A member of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchStatement {
    /// What to execute.
    pub body: BatchBody,
    /// Its values, never named.
    pub values: Values,
}

/// BATCH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The kind asked for.
    pub kind: BatchKind,
    /// The members, in order.
    pub statements: Vec<BatchStatement>,
    /// The consistency level.
    pub consistency: Consistency,
    /// The level of a conditional write's reading phase.
    pub serial_consistency: Option<Consistency>,
    /// The default timestamp, microseconds since 1970.
    pub timestamp: Option<i64>,
}

/// REGISTER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    /// `TOPOLOGY_CHANGE`, `STATUS_CHANGE`, `SCHEMA_CHANGE`; unknown ones as sent.
    pub events: Vec<String>,
}

/// Parses STARTUP.
///
/// # Errors
/// The body breaks the protocol.
pub fn parse_startup(body: &Bytes) -> Result<Startup, ProtocolError> {
    Ok(Startup { options: Reader::new(body.clone()).string_map("STARTUP options")? })
}

/// Parses REGISTER.
///
/// # Errors
/// The body breaks the protocol.
pub fn parse_register(body: &Bytes) -> Result<Register, ProtocolError> {
    Ok(Register { events: Reader::new(body.clone()).string_list("REGISTER events")? })
}

/// Parses AUTH_RESPONSE, and gives the user and the password of a token of SASL's mechanism PLAIN (RFC 4616), read as Cassandra
/// does: from its end. None: it is no such token.
///
/// # Errors
/// The body breaks the protocol.
pub fn parse_plain(body: &Bytes) -> Result<Option<(String, String)>, ProtocolError> {
    let token = Reader::new(body.clone()).bytes("AUTH_RESPONSE")?.unwrap_or_default();
    let mut parts = token.rsplitn(3, |byte| *byte == 0);
    let (password, user, before) = (parts.next(), parts.next(), parts.next());
    let text = |bytes: Option<&[u8]>| bytes.and_then(|bytes| std::str::from_utf8(bytes).ok()).map(str::to_owned);
    let found = before.and(text(user).filter(|user| !user.is_empty())).zip(text(password));
    Ok(found)
}

/// Parses PREPARE.
///
/// # Errors
/// The body breaks the protocol.
pub fn parse_prepare(body: &Bytes, version: Version) -> Result<Prepare, ProtocolError> {
    let mut reader = Reader::new(body.clone());
    let text = reader.long_string("statement")?;
    let flags = if version >= Version::V5 { reader.int("flags")?.cast_unsigned() } else { 0 };
    let keyspace = (flags & PREPARE_KEYSPACE != 0).then(|| reader.string("keyspace")).transpose()?;
    Ok(Prepare { text, keyspace })
}

/// Parses QUERY.
///
/// # Errors
/// The body breaks the protocol.
pub fn parse_query(body: &Bytes, version: Version) -> Result<Query, ProtocolError> {
    let mut reader = Reader::new(body.clone());
    let text = reader.long_string("statement")?;
    let (params, own) = params(&mut reader, version)?;
    Ok(Query { text, params, own })
}

/// Parses EXECUTE.
///
/// # Errors
/// The body breaks the protocol.
pub fn parse_execute(body: &Bytes, version: Version) -> Result<Execute, ProtocolError> {
    let mut reader = Reader::new(body.clone());
    let id = reader.short_bytes("prepared id")?;
    let metadata_id = if version >= Version::V5 { reader.short_bytes("metadata id")? } else { Bytes::new() };
    let (params, own) = params(&mut reader, version)?;
    Ok(Execute { id, metadata_id, params, own })
}

fn params(reader: &mut Reader, version: Version) -> Result<(Params, Own), ProtocolError> {
    let consistency = Consistency::from_code(reader.short("consistency")?)?;
    let flags = flags(reader, version)?;
    let has = |flag: u8| flags & u32::from(flag) != 0;
    let Options { values, page_size, paging_state } = options(reader, flags, version)?;
    let (serial_consistency, timestamp, own) = tail(reader, flags)?;
    let skip_metadata = has(FLAG_SKIP_METADATA);
    Ok((Params { consistency, values, skip_metadata, page_size, paging_state, serial_consistency, timestamp }, own))
}

/// What stands behind the flags of QUERY and EXECUTE, and may stand behind those of BATCH.
struct Options {
    values: Values,
    page_size: Option<i32>,
    paging_state: Option<Bytes>,
}

fn options(reader: &mut Reader, flags: u32, version: Version) -> Result<Options, ProtocolError> {
    let has = |flag: u8| flags & u32::from(flag) != 0;
    Ok(Options {
        values: if has(FLAG_VALUES) { Values::read(reader, has(FLAG_NAMES), version)? } else { Values::none() },
        page_size: has(FLAG_PAGE_SIZE).then(|| reader.int("page size")).transpose()?,
        paging_state: if has(FLAG_PAGING_STATE) { reader.bytes("paging state")? } else { None },
    })
}

/// The flags of QUERY, EXECUTE and BATCH.
fn flags(reader: &mut Reader, version: Version) -> Result<u32, ProtocolError> {
    if version >= Version::V5 {
        return Ok(reader.int("flags")?.cast_unsigned());
    }
    let flags = u32::from(reader.byte("flags")?);
    if flags & FLAG_KEYSPACE != 0 {
        return Err(ProtocolError::Unsupported { what: "a keyspace per request" });
    }
    Ok(flags)
}

/// What ends QUERY, EXECUTE and BATCH: serial consistency, timestamp, and what only version 5 has.
fn tail(reader: &mut Reader, flags: u32) -> Result<(Option<Consistency>, Option<i64>, Own), ProtocolError> {
    let has = |flag: u8| flags & u32::from(flag) != 0;
    let serial = match has(FLAG_SERIAL_CONSISTENCY) {
        true => Some(Consistency::from_code(reader.short("serial consistency")?)?),
        false => None,
    };
    let timestamp = has(FLAG_TIMESTAMP).then(|| reader.long("timestamp")).transpose()?;
    let keyspace = (flags & FLAG_KEYSPACE != 0).then(|| reader.string("keyspace")).transpose()?;
    let now_in_seconds = (flags & FLAG_NOW_IN_SECONDS != 0).then(|| reader.int("now in seconds")).transpose()?;
    Ok((serial, timestamp, Own { keyspace, now_in_seconds }))
}

/// Parses BATCH.
///
/// # Errors
/// The body breaks the protocol.
pub fn parse_batch(body: &Bytes, version: Version) -> Result<(Batch, Own), ProtocolError> {
    let mut reader = Reader::new(body.clone());
    let (kind, statements) = members(&mut reader, version)?;
    let consistency = Consistency::from_code(reader.short("consistency")?)?;
    let flags = flags(&mut reader, version)?;
    // Cassandra reads what QUERY may say besides, and takes no notice of it: values that belong to no statement, paging, and whether
    // metadata is wanted.
    options(&mut reader, flags, version)?;
    let (serial_consistency, timestamp, own) = tail(&mut reader, flags)?;
    Ok((Batch { kind, statements, consistency, serial_consistency, timestamp }, own))
}

fn members(reader: &mut Reader, version: Version) -> Result<(BatchKind, Vec<BatchStatement>), ProtocolError> {
    let kind = match reader.byte("batch type")? {
        0 => BatchKind::Logged,
        1 => BatchKind::Unlogged,
        2 => BatchKind::Counter,
        code => return Err(ProtocolError::UnknownCode { what: "batch type", code: i64::from(code) }),
    };
    let count = reader.short("batch size")?;
    let statements = (0..count).map(|_| member(reader, version)).collect::<Result<_, _>>()?;
    Ok((kind, statements))
}

fn member(reader: &mut Reader, version: Version) -> Result<BatchStatement, ProtocolError> {
    let body = match reader.byte("statement kind")? {
        0 => BatchBody::Text(reader.long_string("statement")?),
        1 => BatchBody::Id(reader.short_bytes("prepared id")?),
        code => return Err(ProtocolError::UnknownCode { what: "statement kind", code: i64::from(code) }),
    };
    Ok(BatchStatement { body, values: Values::read(reader, false, version)? })
}

/// Where the consistency level lies in the message of a QUERY, EXECUTE or BATCH; `None` for other opcodes.
///
/// # Errors
/// The message ends before it.
pub fn consistency_offset(opcode: Opcode, message: &Bytes, version: Version) -> Result<Option<usize>, ProtocolError> {
    let mut reader = Reader::new(message.clone());
    match opcode {
        Opcode::Query => {
            let length = reader.count(1, "statement")?;
            reader.take(length, "statement")?;
        }
        Opcode::Execute => {
            reader.short_bytes("prepared id")?;
            if version >= Version::V5 {
                reader.short_bytes("metadata id")?;
            }
        }
        Opcode::Batch => {
            members(&mut reader, version)?;
        }
        _ => return Ok(None),
    }
    let offset = reader.position();
    reader.short("consistency")?;
    Ok(Some(offset))
}

/// The same request at another consistency level: two bytes change, everything else stays byte for byte. Requests
/// without a level stay as they are. Copies the body only if it is shared.
///
/// # Errors
/// The body breaks the protocol.
pub fn with_consistency(
    mut envelope: Envelope,
    level: Consistency,
    version: Version,
) -> Result<Envelope, ProtocolError> {
    let prefix = envelope.prefix()?.length;
    let message = envelope.body.slice(prefix..);
    let Some(offset) = consistency_offset(envelope.opcode, &message, version)? else {
        return Ok(envelope);
    };
    drop(message);
    let mut body = envelope.body.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    let start = prefix + offset;
    if let Some(bytes) = body.get_mut(start..start + 2) {
        bytes.copy_from_slice(&level.code().to_be_bytes());
    }
    envelope.body = body.freeze();
    Ok(envelope)
}
