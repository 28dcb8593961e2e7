//! Message bodies as a client sends them: for the connections to Cassandra.

use super::{
    Batch, BatchBody, FLAG_NAMES, FLAG_PAGE_SIZE, FLAG_PAGING_STATE, FLAG_SERIAL_CONSISTENCY, FLAG_SKIP_METADATA,
    FLAG_TIMESTAMP, FLAG_VALUES, Params,
};
use crate::consistency::Consistency;
use crate::error::ProtocolError;
use crate::wire;
use bytes::{BufMut, Bytes, BytesMut};

/// The body of STARTUP.
///
/// # Errors
/// More than 65 535 options.
pub fn startup(options: &[(&str, &str)]) -> Result<Bytes, ProtocolError> {
    let mut out = BytesMut::new();
    out.put_u16(wire::short_length(options.len(), "STARTUP options")?);
    for (name, value) in options {
        wire::put_short_bytes(&mut out, name.as_bytes(), "STARTUP option")?;
        wire::put_short_bytes(&mut out, value.as_bytes(), "STARTUP option")?;
    }
    Ok(out.freeze())
}

/// The body of REGISTER.
///
/// # Errors
/// More than 65 535 events, or a name longer than that.
pub fn register(events: &[&str]) -> Result<Bytes, ProtocolError> {
    let mut out = BytesMut::new();
    out.put_u16(wire::short_length(events.len(), "REGISTER events")?);
    for event in events {
        wire::put_short_bytes(&mut out, event.as_bytes(), "REGISTER event")?;
    }
    Ok(out.freeze())
}

/// The body of PREPARE.
///
/// # Errors
/// A text of more than `i32::MAX` bytes.
pub fn prepare(text: &str) -> Result<Bytes, ProtocolError> {
    let mut out = BytesMut::with_capacity(text.len() + 4);
    wire::put_long_string(&mut out, text, "statement")?;
    Ok(out.freeze())
}

/// The body of QUERY.
///
/// # Errors
/// A part is longer than its length field can say.
pub fn query(text: &str, params: &Params) -> Result<Bytes, ProtocolError> {
    let mut out = BytesMut::with_capacity(text.len() + params.values.raw().len() + 32);
    wire::put_long_string(&mut out, text, "statement")?;
    put_params(&mut out, params)?;
    Ok(out.freeze())
}

/// The body of EXECUTE.
///
/// # Errors
/// A part is longer than its length field can say.
pub fn execute(id: &[u8], params: &Params) -> Result<Bytes, ProtocolError> {
    let mut out = BytesMut::with_capacity(id.len() + params.values.raw().len() + 32);
    wire::put_short_bytes(&mut out, id, "prepared id")?;
    put_params(&mut out, params)?;
    Ok(out.freeze())
}

/// The body of BATCH.
///
/// # Errors
/// A part is longer than its length field can say, or a member has named values.
pub fn batch(batch: &Batch) -> Result<Bytes, ProtocolError> {
    let mut out = BytesMut::new();
    out.put_u8(batch.kind as u8);
    out.put_u16(wire::short_length(batch.statements.len(), "batch size")?);
    for statement in &batch.statements {
        match &statement.body {
            BatchBody::Text(text) => {
                out.put_u8(0);
                wire::put_long_string(&mut out, text, "statement")?;
            }
            BatchBody::Id(id) => {
                out.put_u8(1);
                wire::put_short_bytes(&mut out, id, "prepared id")?;
            }
        }
        if statement.values.is_named() {
            return Err(ProtocolError::Unsupported { what: "named values in BATCH" });
        }
        out.put_slice(statement.values.raw());
    }
    out.put_u16(batch.consistency.code());
    out.put_u8(tail_flags(batch.serial_consistency, batch.timestamp));
    put_tail(&mut out, batch.serial_consistency, batch.timestamp);
    Ok(out.freeze())
}

fn put_params(out: &mut BytesMut, params: &Params) -> Result<(), ProtocolError> {
    out.put_u16(params.consistency.code());
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let values = &params.values;
    out.put_u8(
        flag(!values.is_empty() || values.is_named(), FLAG_VALUES)
            | flag(values.is_named(), FLAG_NAMES)
            | flag(params.skip_metadata, FLAG_SKIP_METADATA)
            | flag(params.page_size.is_some(), FLAG_PAGE_SIZE)
            | flag(params.paging_state.is_some(), FLAG_PAGING_STATE)
            | tail_flags(params.serial_consistency, params.timestamp),
    );
    if !values.is_empty() || values.is_named() {
        out.put_slice(values.raw());
    }
    if let Some(page_size) = params.page_size {
        out.put_i32(page_size);
    }
    if let Some(state) = &params.paging_state {
        wire::put_bytes(out, Some(state), "paging state")?;
    }
    put_tail(out, params.serial_consistency, params.timestamp);
    Ok(())
}

fn tail_flags(serial: Option<Consistency>, timestamp: Option<i64>) -> u8 {
    let serial = if serial.is_some() { FLAG_SERIAL_CONSISTENCY } else { 0 };
    let timestamp = if timestamp.is_some() { FLAG_TIMESTAMP } else { 0 };
    serial | timestamp
}

fn put_tail(out: &mut BytesMut, serial: Option<Consistency>, timestamp: Option<i64>) {
    if let Some(level) = serial {
        out.put_u16(level.code());
    }
    if let Some(timestamp) = timestamp {
        out.put_i64(timestamp);
    }
}
