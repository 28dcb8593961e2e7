//! Message bodies as a client sends them: for the connections to Cassandra. In versions 3 and 4, and in [`v5`] in version 5,
//! whose requests can name a keyspace and say which second it is.

use super::{
    Batch, BatchBody, FLAG_KEYSPACE, FLAG_NAMES, FLAG_NOW_IN_SECONDS, FLAG_PAGE_SIZE, FLAG_PAGING_STATE,
    FLAG_SERIAL_CONSISTENCY, FLAG_SKIP_METADATA, FLAG_TIMESTAMP, FLAG_VALUES, Params,
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

/// The body of AUTH_RESPONSE.
///
/// # Errors
/// The token is too long.
pub fn auth_response(token: &[u8]) -> Result<Bytes, ProtocolError> {
    let mut out = BytesMut::new();
    wire::put_bytes(&mut out, Some(token), "AUTH_RESPONSE")?;
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
    put_params(&mut out, params, Tail::v4(params.serial_consistency, params.timestamp))?;
    Ok(out.freeze())
}

/// The body of EXECUTE.
///
/// # Errors
/// A part is longer than its length field can say.
pub fn execute(id: &[u8], params: &Params) -> Result<Bytes, ProtocolError> {
    let mut out = BytesMut::with_capacity(id.len() + params.values.raw().len() + 32);
    wire::put_short_bytes(&mut out, id, "prepared id")?;
    put_params(&mut out, params, Tail::v4(params.serial_consistency, params.timestamp))?;
    Ok(out.freeze())
}

/// The body of BATCH.
///
/// # Errors
/// A part is longer than its length field can say, or a member has named values.
pub fn batch(batch: &Batch) -> Result<Bytes, ProtocolError> {
    put_batch(batch, Tail::v4(batch.serial_consistency, batch.timestamp))
}

/// Bodies of protocol version 5 (`native_protocol_v5.spec`, sections 4.1.4 to 4.1.7). `now` is the second, since 1970,
/// that expiry counts from; without it the server's clock decides.
pub mod v5 {
    use super::super::PREPARE_KEYSPACE;
    use super::{Batch, Params, ProtocolError, Tail, put_batch, put_params};
    use crate::wire;
    use bytes::{BufMut, Bytes, BytesMut};

    /// The body of PREPARE.
    ///
    /// # Errors
    /// A text of more than `i32::MAX` bytes.
    pub fn prepare(text: &str) -> Result<Bytes, ProtocolError> {
        let mut out = BytesMut::with_capacity(text.len() + 8);
        wire::put_long_string(&mut out, text, "statement")?;
        out.put_u32(0);
        Ok(out.freeze())
    }

    /// The body of PREPARE; names without a keyspace are in this one.
    ///
    /// # Errors
    /// A text of more than `i32::MAX` bytes, or a name of more than 65 535.
    pub fn prepare_in(text: &str, keyspace: &str) -> Result<Bytes, ProtocolError> {
        let mut out = BytesMut::with_capacity(text.len() + keyspace.len() + 10);
        wire::put_long_string(&mut out, text, "statement")?;
        out.put_u32(PREPARE_KEYSPACE);
        wire::put_short_bytes(&mut out, keyspace.as_bytes(), "keyspace")?;
        Ok(out.freeze())
    }

    /// The body of QUERY; names without a keyspace are in this one.
    ///
    /// # Errors
    /// A part is longer than its length field can say.
    pub fn query_in(text: &str, keyspace: &str, params: &Params, now: Option<i32>) -> Result<Bytes, ProtocolError> {
        let mut out = BytesMut::with_capacity(text.len() + params.values.raw().len() + 40);
        wire::put_long_string(&mut out, text, "statement")?;
        let tail = Tail::v5(params.serial_consistency, params.timestamp, now);
        put_params(&mut out, params, Tail { keyspace: Some(keyspace), ..tail })?;
        Ok(out.freeze())
    }

    /// The body of QUERY.
    ///
    /// # Errors
    /// A part is longer than its length field can say.
    pub fn query(text: &str, params: &Params, now: Option<i32>) -> Result<Bytes, ProtocolError> {
        let mut out = BytesMut::with_capacity(text.len() + params.values.raw().len() + 40);
        wire::put_long_string(&mut out, text, "statement")?;
        put_params(&mut out, params, Tail::v5(params.serial_consistency, params.timestamp, now))?;
        Ok(out.freeze())
    }

    /// The body of EXECUTE; `metadata_id` is [`Prepared::metadata_id`](crate::response::Prepared::metadata_id).
    ///
    /// # Errors
    /// A part is longer than its length field can say.
    pub fn execute(id: &[u8], metadata_id: &[u8], params: &Params, now: Option<i32>) -> Result<Bytes, ProtocolError> {
        let mut out = BytesMut::with_capacity(id.len() + params.values.raw().len() + 64);
        wire::put_short_bytes(&mut out, id, "prepared id")?;
        wire::put_short_bytes(&mut out, metadata_id, "metadata id")?;
        put_params(&mut out, params, Tail::v5(params.serial_consistency, params.timestamp, now))?;
        Ok(out.freeze())
    }

    /// The body of BATCH.
    ///
    /// # Errors
    /// A part is longer than its length field can say, or a member has named values.
    pub fn batch(batch: &Batch, now: Option<i32>) -> Result<Bytes, ProtocolError> {
        put_batch(batch, Tail::v5(batch.serial_consistency, batch.timestamp, now))
    }

    /// The body of BATCH; names without a keyspace are in this one.
    ///
    /// # Errors
    /// A part is longer than its length field can say, or a member has named values.
    pub fn batch_in(batch: &Batch, keyspace: &str, now: Option<i32>) -> Result<Bytes, ProtocolError> {
        let tail = Tail::v5(batch.serial_consistency, batch.timestamp, now);
        put_batch(batch, Tail { keyspace: Some(keyspace), ..tail })
    }
}

fn put_batch(batch: &Batch, tail: Tail<'_>) -> Result<Bytes, ProtocolError> {
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
    tail.put_flags(&mut out, 0);
    tail.put(&mut out)?;
    Ok(out.freeze())
}

fn put_params(out: &mut BytesMut, params: &Params, tail: Tail<'_>) -> Result<(), ProtocolError> {
    out.put_u16(params.consistency.code());
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let values = &params.values;
    tail.put_flags(
        out,
        flag(!values.is_empty() || values.is_named(), FLAG_VALUES)
            | flag(values.is_named(), FLAG_NAMES)
            | flag(params.skip_metadata, FLAG_SKIP_METADATA)
            | flag(params.page_size.is_some(), FLAG_PAGE_SIZE)
            | flag(params.paging_state.is_some(), FLAG_PAGING_STATE),
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
    tail.put(out)
}

/// What ends QUERY, EXECUTE and BATCH, and the width of their flags.
#[derive(Clone, Copy)]
struct Tail<'a> {
    is_v5: bool,
    serial: Option<Consistency>,
    timestamp: Option<i64>,
    keyspace: Option<&'a str>,
    now: Option<i32>,
}

impl Tail<'_> {
    fn v4(serial: Option<Consistency>, timestamp: Option<i64>) -> Self {
        Self { is_v5: false, serial, timestamp, keyspace: None, now: None }
    }

    fn v5(serial: Option<Consistency>, timestamp: Option<i64>, now: Option<i32>) -> Self {
        Self { is_v5: true, serial, timestamp, keyspace: None, now }
    }

    fn put_flags(&self, out: &mut BytesMut, others: u8) {
        let serial = if self.serial.is_some() { FLAG_SERIAL_CONSISTENCY } else { 0 };
        let timestamp = if self.timestamp.is_some() { FLAG_TIMESTAMP } else { 0 };
        let flags = others | serial | timestamp;
        match self.is_v5 {
            true => {
                let keyspace = if self.keyspace.is_some() { FLAG_KEYSPACE } else { 0 };
                let now = if self.now.is_some() { FLAG_NOW_IN_SECONDS } else { 0 };
                out.put_u32(u32::from(flags) | keyspace | now);
            }
            false => out.put_u8(flags),
        }
    }

    fn put(&self, out: &mut BytesMut) -> Result<(), ProtocolError> {
        if let Some(level) = self.serial {
            out.put_u16(level.code());
        }
        if let Some(timestamp) = self.timestamp {
            out.put_i64(timestamp);
        }
        if let Some(keyspace) = self.keyspace {
            wire::put_short_bytes(out, keyspace.as_bytes(), "keyspace")?;
        }
        if let Some(now) = self.now {
            out.put_i32(now);
        }
        Ok(())
    }
}
