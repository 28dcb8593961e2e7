//! Message bodies that servers send: parsed and built. All functions take the message without its prefix
//! (see [`Envelope::message`](crate::frame::Envelope::message)).

pub mod cell;
mod error;
mod event;
mod result;
mod types;

pub use error::{ErrorBody, ErrorCode, ErrorDetail, error, error_in, error_text, parse_error};
pub use event::{ChangeKind, Event, NodeChange, SchemaChange, SchemaTarget, event, parse_event};
pub use result::{
    Column, Prepared, ResultBody, ResultKind, Row, Rows, parse_result, parse_result_of, parse_result_v5, prepared,
    prepared_id, result_in, result_in_v4, result_kind, rows, schema_change, set_keyspace, void,
};
pub(crate) use types::is_simple_type;
pub use types::{ColumnType, MAX_TYPE_DEPTH, TypeReader};

use crate::error::ProtocolError;
use crate::wire::{self, Reader};
use bytes::{BufMut, Bytes, BytesMut};

/// The body of READY.
pub fn ready() -> Bytes {
    Bytes::new()
}

/// The body of SUPPORTED: each option with its values. At most 65 535 options are written.
pub fn supported(options: &[(&str, &[&str])]) -> Bytes {
    let options = &options[..options.len().min(wire::MAX_SHORT)];
    let mut out = BytesMut::new();
    out.put_u16(options.len() as u16);
    for (name, values) in options {
        wire::put_string(&mut out, name);
        wire::put_string_list(&mut out, values);
    }
    out.freeze()
}

/// Parses SUPPORTED: each option with its values, in the order sent.
///
/// # Errors
/// The body breaks the protocol.
pub fn parse_supported(body: &Bytes) -> Result<Vec<(String, Vec<String>)>, ProtocolError> {
    let mut reader = Reader::new(body.clone());
    let count = reader.short("SUPPORTED options")?;
    (0..count).map(|_| Ok((reader.string("option")?, reader.string_list("option values")?))).collect()
}

/// Parses AUTHENTICATE: the class name of the authenticator.
///
/// # Errors
/// The body breaks the protocol.
pub fn parse_authenticate(body: &Bytes) -> Result<String, ProtocolError> {
    Reader::new(body.clone()).string("authenticator")
}
