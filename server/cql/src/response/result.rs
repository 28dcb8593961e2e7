//! RESULT: void, rows, keyspace set, prepared, schema changed.

use super::event::{SchemaChange, put_schema_change, read_schema_change};
use super::types::{ColumnType, TypeReader};
use crate::error::ProtocolError;
use crate::version::Version;
use crate::wire::{self, Reader};
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;

const GLOBAL_TABLES_SPEC: i32 = 0x01;
const HAS_MORE_PAGES: i32 = 0x02;
const NO_METADATA: i32 = 0x04;
/// Version 5: the columns are not those that the client knows, and here is their id.
const METADATA_CHANGED: i32 = 0x08;
/// The fewest bytes a column takes in metadata: the length of its name and the code of its type.
const SMALLEST_COLUMN: usize = 4;

/// The kind of a RESULT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum ResultKind {
    /// Nothing to say.
    Void = 1,
    /// Rows.
    Rows = 2,
    /// The connection uses another keyspace.
    SetKeyspace = 3,
    /// A statement was prepared.
    Prepared = 4,
    /// The schema changed.
    SchemaChange = 5,
}

/// A parsed RESULT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResultBody {
    /// Nothing to say.
    Void,
    /// Rows.
    Rows(Rows),
    /// The keyspace's name, not quoted.
    SetKeyspace(String),
    /// A statement was prepared.
    Prepared(Prepared),
    /// The schema changed.
    SchemaChange(SchemaChange),
}

/// A column of a result, or a bind marker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Column {
    /// The table's keyspace (shared: one copy serves all columns of a result).
    pub keyspace: Arc<str>,
    /// The table.
    pub table: Arc<str>,
    /// The column's name; for a marker the name of the column it is compared with or assigned to, or its own.
    pub name: String,
    /// Its type.
    pub kind: ColumnType,
}

/// The cells of a row; `None` is null.
pub type Row = Vec<Option<Bytes>>;

/// RESULT Rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// The columns; empty if the client asked to skip the metadata.
    pub columns: Vec<Column>,
    /// Where the next page starts, if there is one.
    pub paging_state: Option<Bytes>,
    /// The rows, each with as many cells as there are columns.
    pub rows: Vec<Row>,
}

/// RESULT Prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The id to execute it by.
    pub id: Bytes,
    /// Version 5: what the client knows of the result's columns, to be sent along. Empty in the others.
    pub metadata_id: Bytes,
    /// Which markers are the partition key's columns, in the order of the key; empty if not all are markers, and in version
    /// 3.
    pub pk_indices: Vec<u16>,
    /// The bind markers.
    pub bind: Vec<Column>,
    /// The columns of the result; empty for writes.
    pub result: Vec<Column>,
}

/// The kind of a RESULT, without reading the rest.
///
/// # Errors
/// Too short, or an unknown kind.
pub fn result_kind(body: &Bytes) -> Result<ResultKind, ProtocolError> {
    read_kind(&mut Reader::new(body.clone()))
}

fn read_kind(reader: &mut Reader) -> Result<ResultKind, ProtocolError> {
    Ok(match reader.int("result kind")? {
        1 => ResultKind::Void,
        2 => ResultKind::Rows,
        3 => ResultKind::SetKeyspace,
        4 => ResultKind::Prepared,
        5 => ResultKind::SchemaChange,
        code => return Err(ProtocolError::UnknownCode { what: "result kind", code: i64::from(code) }),
    })
}

/// Parses RESULT of version 4; but for Prepared the others have the same.
///
/// # Errors
/// The body breaks the protocol.
pub fn parse_result(body: &Bytes) -> Result<ResultBody, ProtocolError> {
    parse_result_of(body, Version::V4)
}

/// Parses RESULT of protocol version 5.
///
/// # Errors
/// The body breaks the protocol.
pub fn parse_result_v5(body: &Bytes) -> Result<ResultBody, ProtocolError> {
    parse_result_of(body, Version::V5)
}

/// Parses RESULT.
///
/// # Errors
/// The body breaks the protocol.
pub fn parse_result_of(body: &Bytes, version: Version) -> Result<ResultBody, ProtocolError> {
    let mut reader = Reader::new(body.clone());
    Ok(match read_kind(&mut reader)? {
        ResultKind::Void => ResultBody::Void,
        ResultKind::Rows => ResultBody::Rows(read_rows(&mut reader)?),
        ResultKind::SetKeyspace => ResultBody::SetKeyspace(reader.string("keyspace")?),
        ResultKind::Prepared => ResultBody::Prepared(read_prepared(&mut reader, version)?),
        ResultKind::SchemaChange => ResultBody::SchemaChange(read_schema_change(&mut reader)?),
    })
}

/// The id that a RESULT Prepared of any version begins with; `None` for other kinds.
///
/// # Errors
/// The body breaks the protocol.
pub fn prepared_id(body: &Bytes) -> Result<Option<Bytes>, ProtocolError> {
    let mut reader = Reader::new(body.clone());
    match read_kind(&mut reader)? {
        ResultKind::Prepared => reader.short_bytes("prepared id").map(Some),
        _ => Ok(None),
    }
}

struct Metadata {
    column_count: usize,
    paging_state: Option<Bytes>,
    columns: Vec<Column>,
}

fn read_columns(reader: &mut Reader, flags: i32, count: usize) -> Result<Vec<Column>, ProtocolError> {
    if count > reader.remaining() / SMALLEST_COLUMN {
        return Err(ProtocolError::Truncated { what: "columns" });
    }
    let table = |reader: &mut Reader| -> Result<(Arc<str>, Arc<str>), ProtocolError> {
        Ok((reader.string("keyspace")?.into(), reader.string("table")?.into()))
    };
    let global = if flags & GLOBAL_TABLES_SPEC != 0 && count > 0 { Some(table(reader)?) } else { None };
    let mut columns = Vec::new();
    for _ in 0..count {
        let (keyspace, table) = global.clone().map_or_else(|| table(reader), Ok)?;
        let name = reader.string("column")?;
        columns.push(Column { keyspace, table, name, kind: TypeReader::read(reader)? });
    }
    Ok(columns)
}

fn read_metadata(reader: &mut Reader) -> Result<Metadata, ProtocolError> {
    let flags = reader.int("metadata flags")?;
    let length = reader.int("column count")?;
    let column_count = usize::try_from(length)
        .map_err(|_| ProtocolError::BadLength { what: "column count", length: i64::from(length) })?;
    let paging_state = if flags & HAS_MORE_PAGES != 0 { reader.bytes("paging state")? } else { None };
    if flags & METADATA_CHANGED != 0 {
        reader.short_bytes("metadata id")?;
    }
    let columns = if flags & NO_METADATA != 0 { Vec::new() } else { read_columns(reader, flags, column_count)? };
    Ok(Metadata { column_count, paging_state, columns })
}

fn read_rows(reader: &mut Reader) -> Result<Rows, ProtocolError> {
    let Metadata { column_count, paging_state, columns } = read_metadata(reader)?;
    // A cell takes at least its length field, so this bounds what follows by what is there.
    let row_count = reader.count(column_count.saturating_mul(4), "rows")?;
    let mut rows = Vec::with_capacity(row_count);
    for _ in 0..row_count {
        let row = (0..column_count).map(|_| reader.bytes("cell")).collect::<Result<_, _>>()?;
        rows.push(row);
    }
    Ok(Rows { columns, paging_state, rows })
}

fn read_prepared(reader: &mut Reader, version: Version) -> Result<Prepared, ProtocolError> {
    let id = reader.short_bytes("prepared id")?;
    let metadata_id = if version >= Version::V5 { reader.short_bytes("metadata id")? } else { Bytes::new() };
    let flags = reader.int("metadata flags")?;
    let bind_count = reader.count(0, "bind markers")?;
    let pk_count = if version >= Version::V4 { reader.count(2, "partition key indices")? } else { 0 };
    let pk_indices = (0..pk_count).map(|_| reader.short("partition key index")).collect::<Result<_, _>>()?;
    let bind = read_columns(reader, flags, bind_count)?;
    let result = read_metadata(reader)?.columns;
    Ok(Prepared { id, metadata_id, pk_indices, bind, result })
}

fn kind(kind: ResultKind) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_i32(kind as i32);
    out
}

/// The body of RESULT Void.
pub fn void() -> Bytes {
    kind(ResultKind::Void).freeze()
}

/// The body of RESULT SetKeyspace; the name is not quoted.
pub fn set_keyspace(keyspace: &str) -> Bytes {
    let mut out = kind(ResultKind::SetKeyspace);
    wire::put_string(&mut out, keyspace);
    out.freeze()
}

/// The body of RESULT SchemaChange.
pub fn schema_change(change: &SchemaChange) -> Bytes {
    let mut out = kind(ResultKind::SchemaChange);
    put_schema_change(&mut out, change);
    out.freeze()
}

/// The body of RESULT Rows. With `skip_metadata` the columns are only counted.
///
/// # Errors
/// A row with another number of cells than there are columns, or a part longer than its length field can say.
pub fn rows(rows: &Rows, skip_metadata: bool) -> Result<Bytes, ProtocolError> {
    let mut out = kind(ResultKind::Rows);
    put_metadata(&mut out, &rows.columns, rows.paging_state.as_ref(), None, skip_metadata)?;
    out.put_i32(wire::int_length(rows.rows.len(), "rows")?);
    for row in &rows.rows {
        if row.len() != rows.columns.len() {
            return Err(ProtocolError::BadLength { what: "row", length: row.len() as i64 });
        }
        for cell in row {
            wire::put_bytes(&mut out, cell.as_deref(), "cell")?;
        }
    }
    Ok(out.freeze())
}

/// The body of a RESULT of version 5 as version 4 has it, if it is another.
///
/// # Errors
/// It can't be read.
pub fn result_in_v4(body: &Bytes) -> Result<Option<Bytes>, ProtocolError> {
    result_in(body, Version::V4)
}

/// The body of a RESULT, of any version and any kind but Prepared, as this version has it, if it is another. What may differ
/// are the types of a Rows' columns, and what of the schema changed.
///
/// # Errors
/// It can't be read.
pub fn result_in(body: &Bytes, version: Version) -> Result<Option<Bytes>, ProtocolError> {
    match result_kind(body)? {
        ResultKind::Rows => {}
        ResultKind::SchemaChange if version < Version::V4 => {
            let ResultBody::SchemaChange(change) = parse_result(body)? else { return Ok(None) };
            return Ok(Some(schema_change(&change.in_version(version))));
        }
        _ => return Ok(None),
    }
    let ResultBody::Rows(mut read) = parse_result(body)? else { return Ok(None) };
    let mut differs = false;
    for column in &mut read.columns {
        let kind = column.kind.clone().in_version(version);
        differs |= kind != column.kind;
        column.kind = kind;
    }
    if differs { rows(&read, false).map(Some) } else { Ok(None) }
}

/// The body of RESULT Prepared of version 4.
///
/// # Errors
/// A part is longer than its length field can say.
pub fn prepared(prepared: &Prepared) -> Result<Bytes, ProtocolError> {
    let mut out = kind(ResultKind::Prepared);
    wire::put_short_bytes(&mut out, &prepared.id, "prepared id")?;
    put_metadata(&mut out, &prepared.bind, None, Some(&prepared.pk_indices), false)?;
    put_metadata(&mut out, &prepared.result, None, None, prepared.result.is_empty())?;
    Ok(out.freeze())
}

fn put_metadata(
    out: &mut BytesMut,
    columns: &[Column],
    paging_state: Option<&Bytes>,
    pk_indices: Option<&[u16]>,
    skip: bool,
) -> Result<(), ProtocolError> {
    let first = columns.first();
    let global = first.filter(|first| {
        !skip && columns.iter().all(|column| column.keyspace == first.keyspace && column.table == first.table)
    });
    let flag = |set: bool, flag: i32| if set { flag } else { 0 };
    out.put_i32(
        flag(global.is_some(), GLOBAL_TABLES_SPEC)
            | flag(paging_state.is_some(), HAS_MORE_PAGES)
            | flag(skip, NO_METADATA),
    );
    out.put_i32(wire::int_length(columns.len(), "columns")?);
    if let Some(indices) = pk_indices {
        out.put_i32(wire::int_length(indices.len(), "partition key indices")?);
        indices.iter().for_each(|index| out.put_u16(*index));
    }
    if let Some(state) = paging_state {
        wire::put_bytes(out, Some(state), "paging state")?;
    }
    if skip {
        return Ok(());
    }
    if let Some(first) = global {
        wire::put_string(out, &first.keyspace);
        wire::put_string(out, &first.table);
    }
    for column in columns {
        if global.is_none() {
            wire::put_string(out, &column.keyspace);
            wire::put_string(out, &column.table);
        }
        wire::put_string(out, &column.name);
        column.kind.write(out)?;
    }
    Ok(())
}
