//! ERROR.

use crate::consistency::Consistency;
use crate::error::ProtocolError;
use crate::version::Version;
use crate::wire::{self, Reader};
use bytes::{BufMut, Bytes, BytesMut};

/// The codes of ERROR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum ErrorCode {
    /// Something unexpected in the server.
    Server = 0x0000,
    /// A message that breaks the protocol.
    Protocol = 0x000A,
    /// Wrong credentials.
    BadCredentials = 0x0100,
    /// Not enough replicas are up.
    Unavailable = 0x1000,
    /// The server is overloaded: try again later or elsewhere.
    Overloaded = 0x1001,
    /// The server is starting.
    Bootstrapping = 0x1002,
    /// TRUNCATE failed.
    Truncate = 0x1003,
    /// A write's outcome is unknown.
    WriteTimeout = 0x1100,
    /// A read got no answer in time.
    ReadTimeout = 0x1200,
    /// A read failed.
    ReadFailure = 0x1300,
    /// A function failed.
    FunctionFailure = 0x1400,
    /// A write failed.
    WriteFailure = 0x1500,
    /// Change data capture has no space.
    CdcWriteFailure = 0x1600,
    /// A conditional write's outcome is unknown.
    CasWriteUnknown = 0x1700,
    /// The statement does not parse.
    Syntax = 0x2000,
    /// Not allowed.
    Unauthorized = 0x2100,
    /// The statement parses but can't be executed.
    Invalid = 0x2200,
    /// The configuration does not allow it.
    Config = 0x2300,
    /// The keyspace or table exists already.
    AlreadyExists = 0x2400,
    /// The prepared statement is not known here.
    Unprepared = 0x2500,
}

impl ErrorCode {
    /// Every code.
    pub const EVERY: [ErrorCode; 20] = [
        Self::Server,
        Self::Protocol,
        Self::BadCredentials,
        Self::Unavailable,
        Self::Overloaded,
        Self::Bootstrapping,
        Self::Truncate,
        Self::WriteTimeout,
        Self::ReadTimeout,
        Self::ReadFailure,
        Self::FunctionFailure,
        Self::WriteFailure,
        Self::CdcWriteFailure,
        Self::CasWriteUnknown,
        Self::Syntax,
        Self::Unauthorized,
        Self::Invalid,
        Self::Config,
        Self::AlreadyExists,
        Self::Unprepared,
    ];

    /// The code on the wire.
    pub fn code(self) -> i32 {
        self as i32
    }

    /// The known code of a number.
    pub fn from_code(code: i32) -> Option<Self> {
        Self::EVERY.into_iter().find(|known| known.code() == code)
    }
}

/// A parsed ERROR; what follows the message is kept as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorBody {
    /// The code, known or not.
    pub code: i32,
    /// The text for people.
    pub message: String,
    /// The fields that follow.
    pub extra: Bytes,
}

impl ErrorBody {
    /// The code, if it is a known one.
    pub fn kind(&self) -> Option<ErrorCode> {
        ErrorCode::from_code(self.code)
    }

    /// The id of an `Unprepared` error.
    pub fn unprepared_id(&self) -> Option<Bytes> {
        let reader = &mut Reader::new(self.extra.clone());
        (self.code == ErrorCode::Unprepared.code()).then(|| reader.short_bytes("id").ok()).flatten()
    }
}

/// An error with the fields its code calls for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorDetail {
    /// A code without fields.
    Plain(ErrorCode),
    /// `Unavailable`.
    Unavailable {
        /// The level asked for.
        consistency: Consistency,
        /// How many replicas it needs.
        required: i32,
        /// How many are alive.
        alive: i32,
    },
    /// `WriteTimeout`.
    WriteTimeout {
        /// The level asked for.
        consistency: Consistency,
        /// How many replicas answered.
        received: i32,
        /// How many it needs.
        required: i32,
        /// `SIMPLE`, `BATCH`, `UNLOGGED_BATCH`, `COUNTER`, `BATCH_LOG`, `CAS`, `VIEW`, `CDC`.
        write_type: &'static str,
    },
    /// `ReadTimeout`.
    ReadTimeout {
        /// The level asked for.
        consistency: Consistency,
        /// How many replicas answered.
        received: i32,
        /// How many it needs.
        required: i32,
        /// Whether the data was among what was received.
        data_present: bool,
    },
    /// `AlreadyExists`.
    AlreadyExists {
        /// The keyspace.
        keyspace: String,
        /// The table; empty if the keyspace is meant.
        table: String,
    },
    /// `Unprepared`: the id that is not known, at most 65 535 bytes.
    Unprepared(Bytes),
    /// Any code with raw fields, as an [`ErrorBody`] has them.
    Raw(i32, Bytes),
}

/// The body of ERROR. The message is cut at 65 535 bytes.
pub fn error(message: &str, detail: &ErrorDetail) -> Bytes {
    let mut out = BytesMut::new();
    let start = |out: &mut BytesMut, code: i32| {
        out.put_i32(code);
        wire::put_string(out, message);
    };
    match detail {
        ErrorDetail::Plain(code) => start(&mut out, code.code()),
        ErrorDetail::Unavailable { consistency, required, alive } => {
            start(&mut out, ErrorCode::Unavailable.code());
            out.put_u16(consistency.code());
            out.put_i32(*required);
            out.put_i32(*alive);
        }
        ErrorDetail::WriteTimeout { consistency, received, required, write_type } => {
            start(&mut out, ErrorCode::WriteTimeout.code());
            out.put_u16(consistency.code());
            out.put_i32(*received);
            out.put_i32(*required);
            wire::put_string(&mut out, write_type);
        }
        ErrorDetail::ReadTimeout { consistency, received, required, data_present } => {
            start(&mut out, ErrorCode::ReadTimeout.code());
            out.put_u16(consistency.code());
            out.put_i32(*received);
            out.put_i32(*required);
            out.put_u8(u8::from(*data_present));
        }
        ErrorDetail::AlreadyExists { keyspace, table } => {
            start(&mut out, ErrorCode::AlreadyExists.code());
            wire::put_string(&mut out, keyspace);
            wire::put_string(&mut out, table);
        }
        ErrorDetail::Unprepared(id) => {
            start(&mut out, ErrorCode::Unprepared.code());
            let id = &id[..id.len().min(wire::MAX_SHORT)];
            out.put_u16(id.len() as u16);
            out.put_slice(id);
        }
        ErrorDetail::Raw(code, extra) => {
            start(&mut out, *code);
            out.put_slice(extra);
        }
    }
    out.freeze()
}

/// The body of an ERROR whose code has no further fields.
pub fn error_text(code: ErrorCode, message: &str) -> Bytes {
    error(message, &ErrorDetail::Plain(code))
}

/// Parses ERROR.
///
/// # Errors
/// The body breaks the protocol.
pub fn parse_error(body: &Bytes) -> Result<ErrorBody, ProtocolError> {
    let mut reader = Reader::new(body.clone());
    let code = reader.int("error code")?;
    let message = reader.string("error message")?;
    Ok(ErrorBody { code, message, extra: reader.rest() })
}

/// The body of an ERROR of version 4 as this version has it, if it is another: version 3 has no code for the failure of a
/// function, which Cassandra calls an invalid request there.
///
/// # Errors
/// It can't be read.
pub fn error_in(body: &Bytes, version: Version) -> Result<Option<Bytes>, ProtocolError> {
    let error = parse_error(body)?;
    let differs = version < Version::V4 && error.kind() == Some(ErrorCode::FunctionFailure);
    Ok(differs.then(|| error_text(ErrorCode::Invalid, &format!("ERROR FUNCTION_FAILURE: {}", error.message))))
}
