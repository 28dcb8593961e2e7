//! Envelopes, and what can be wrong with them; [`Codec`] cuts a connection into them.

pub use crate::codec::Codec;
use crate::error::ProtocolError;
use crate::version::Version;
use crate::wire::Reader;
use bytes::Bytes;
use std::io;
use thiserror::Error;
use uuid::Uuid;

/// The protocol version that envelopes are made in; a codec that knows its connection's version writes that.
pub const VERSION: u8 = Version::V4.code();
/// The bytes of an envelope's header.
pub const HEADER_LENGTH: usize = 9;
/// The default bound of a message body, in bytes.
pub const DEFAULT_MAX_BODY: usize = 16 * 1024 * 1024;
pub(crate) const DIRECTION_BIT: u8 = 0x80;

/// Header flag: the body is compressed.
pub const FLAG_COMPRESSION: u8 = 0x01;
/// Header flag: trace this request; in a response the body starts with the trace's id.
pub const FLAG_TRACING: u8 = 0x02;
/// Header flag: the body starts with (or, in a response, continues with) a custom payload.
pub const FLAG_CUSTOM_PAYLOAD: u8 = 0x04;
/// Header flag, responses: the body starts with warnings, after the trace's id.
pub const FLAG_WARNING: u8 = 0x08;
/// The stream of events that the server pushes.
pub const EVENT_STREAM: i16 = -1;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// Response: an error.
    Error = 0x00,
    /// Request: start the connection.
    Startup = 0x01,
    /// Response: ready for requests.
    Ready = 0x02,
    /// Response: authenticate first.
    Authenticate = 0x03,
    /// Request: what is supported?
    Options = 0x05,
    /// Response: what is supported.
    Supported = 0x06,
    /// Request: execute a text.
    Query = 0x07,
    /// Response: a result.
    Result = 0x08,
    /// Request: prepare a text.
    Prepare = 0x09,
    /// Request: execute a prepared statement.
    Execute = 0x0A,
    /// Request: send events.
    Register = 0x0B,
    /// Response: an event.
    Event = 0x0C,
    /// Request: execute several statements.
    Batch = 0x0D,
    /// Response: the next step of an authentication.
    AuthChallenge = 0x0E,
    /// Request: the answer to a step of an authentication.
    AuthResponse = 0x0F,
    /// Response: authenticated.
    AuthSuccess = 0x10,
}

impl Opcode {
    /// Every opcode.
    pub const EVERY: [Opcode; 16] = [
        Self::Error,
        Self::Startup,
        Self::Ready,
        Self::Authenticate,
        Self::Options,
        Self::Supported,
        Self::Query,
        Self::Result,
        Self::Prepare,
        Self::Execute,
        Self::Register,
        Self::Event,
        Self::Batch,
        Self::AuthChallenge,
        Self::AuthResponse,
        Self::AuthSuccess,
    ];

    /// The opcode of a code, if there is one.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::EVERY.into_iter().find(|opcode| opcode.code() == code)
    }

    /// The code on the wire.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The name as Cassandra writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Startup => "STARTUP",
            Self::Ready => "READY",
            Self::Authenticate => "AUTHENTICATE",
            Self::Options => "OPTIONS",
            Self::Supported => "SUPPORTED",
            Self::Query => "QUERY",
            Self::Result => "RESULT",
            Self::Prepare => "PREPARE",
            Self::Execute => "EXECUTE",
            Self::Register => "REGISTER",
            Self::Event => "EVENT",
            Self::Batch => "BATCH",
            Self::AuthChallenge => "AUTH_CHALLENGE",
            Self::AuthResponse => "AUTH_RESPONSE",
            Self::AuthSuccess => "AUTH_SUCCESS",
        }
    }

    /// Whether clients send it.
    pub fn is_request(self) -> bool {
        matches!(
            self,
            Self::Startup
                | Self::Options
                | Self::Query
                | Self::Prepare
                | Self::Execute
                | Self::Register
                | Self::Batch
                | Self::AuthResponse
        )
    }
}

/// The nine bytes in front of every body, as they are: nothing is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The version, without the direction bit.
    pub version: u8,
    /// The direction bit.
    pub is_response: bool,
    /// Header flags.
    pub flags: u8,
    /// The stream.
    pub stream: i16,
    /// The opcode's code.
    pub opcode: u8,
    /// The length of the body in bytes, as sent.
    pub length: i32,
}

impl Header {
    /// Reads a header.
    pub fn parse(bytes: [u8; HEADER_LENGTH]) -> Self {
        let [version, flags, s0, s1, opcode, l0, l1, l2, l3] = bytes;
        Self {
            version: version & !DIRECTION_BIT,
            is_response: version & DIRECTION_BIT != 0,
            flags,
            stream: i16::from_be_bytes([s0, s1]),
            opcode,
            length: i32::from_be_bytes([l0, l1, l2, l3]),
        }
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The protocol version, without the direction bit.
    pub version: u8,
    /// Whether it goes from the server to the client.
    pub is_response: bool,
    /// Header flags (`FLAG_*`).
    pub flags: u8,
    /// Ties a response to its request; -1 for events.
    pub stream: i16,
    /// What it is.
    pub opcode: Opcode,
    /// The body with its prefix (trace id, warnings, custom payload), if any.
    pub body: Bytes,
}

/// What precedes the message in a body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prefix {
    /// The trace's id (responses).
    pub tracing_id: Option<Uuid>,
    /// The server's warnings (responses).
    pub warnings: Vec<String>,
    /// The custom payload, in the order sent.
    pub custom_payload: Vec<(String, Option<Bytes>)>,
    /// How many bytes of the body the prefix takes.
    pub length: usize,
}

impl Envelope {
    /// A request without flags.
    pub fn request(stream: i16, opcode: Opcode, body: Bytes) -> Self {
        Self { version: VERSION, is_response: false, flags: 0, stream, opcode, body }
    }

    /// A response without flags.
    pub fn response(stream: i16, opcode: Opcode, body: Bytes) -> Self {
        Self { version: VERSION, is_response: true, flags: 0, stream, opcode, body }
    }

    /// Reads what precedes the message.
    ///
    /// # Errors
    /// The flags announce a prefix that is not there.
    pub fn prefix(&self) -> Result<Prefix, ProtocolError> {
        let mut reader = Reader::new(self.body.clone());
        let mut prefix = Prefix::default();
        if self.is_response && self.flags & FLAG_TRACING != 0 {
            prefix.tracing_id = Some(reader.uuid("tracing id")?);
        }
        if self.is_response && self.flags & FLAG_WARNING != 0 {
            prefix.warnings = reader.string_list("warnings")?;
        }
        if self.flags & FLAG_CUSTOM_PAYLOAD != 0 {
            prefix.custom_payload = reader.bytes_map("custom payload")?;
        }
        prefix.length = reader.position();
        Ok(prefix)
    }

    /// The body without its prefix: what the functions of `request` and `response` read.
    ///
    /// # Errors
    /// The flags announce a prefix that is not there.
    pub fn message(&self) -> Result<Bytes, ProtocolError> {
        const PREFIXES: u8 = FLAG_TRACING | FLAG_WARNING | FLAG_CUSTOM_PAYLOAD;
        if self.flags & PREFIXES == 0 {
            return Ok(self.body.clone());
        }
        Ok(self.body.slice(self.prefix()?.length..))
    }
}

/// Why a connection can't be read on. Each but `Io` carries the stream to answer on.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A version that is not spoken here: answer ERROR 0x000A with this text, so that drivers step down, in an envelope of
    /// [`FrameError::answer_version`].
    #[error("Invalid or unsupported protocol version ({version}); supported versions are (3/v3, 4/v4, 5/v5)")]
    UnsupportedVersion {
        /// The version asked for.
        version: u8,
        /// The stream of the message.
        stream: i16,
    },
    /// A version that is spoken here, but not on this connection.
    #[error("Invalid message version. Got {found} but previous messages on this connection had version {agreed}")]
    VersionChanged {
        /// The version of the message.
        found: Version,
        /// The connection's.
        agreed: Version,
        /// The stream of the message.
        stream: i16,
    },
    /// A request where a response is due, or the reverse.
    #[error("Wrong protocol direction: message {opcode:#04x} was sent the wrong way")]
    WrongDirection {
        /// The stream of the message.
        stream: i16,
        /// Its opcode.
        opcode: u8,
    },
    /// An opcode that is not defined, or not for this direction.
    #[error("Unknown opcode {opcode:#04x}")]
    UnknownOpcode {
        /// The stream of the message.
        stream: i16,
        /// Its opcode.
        opcode: u8,
    },
    /// A body compressed although no compression was agreed on.
    #[error("Unknown compression: no compression was negotiated on this connection")]
    Compressed {
        /// The stream of the message.
        stream: i16,
    },
    /// A body over the codec's bound, or of negative length.
    #[error("Message of {length} bytes is too large: at most {limit} bytes are allowed")]
    BodyTooLarge {
        /// The stream of the message.
        stream: i16,
        /// The length as sent.
        length: i64,
        /// The bound.
        limit: usize,
    },
    /// A compressed body holds something else than it says, or more than the codec's bound.
    #[error("{error}")]
    Unpacking {
        /// The stream of the message.
        stream: i16,
        /// What is wrong.
        error: ProtocolError,
    },
    /// A segment (version 5) arrived damaged.
    #[error("invalid, unrecoverable CRC mismatch detected in frame {what}")]
    Checksum {
        /// The part.
        what: &'static str,
    },
    /// A compressed segment (version 5) holds something else than it says.
    #[error("frame: {0}")]
    Segment(ProtocolError),
    /// Segments (version 5) that don't make up whole envelopes as they say they do.
    #[error("frames and the envelopes in them end at different places")]
    Misfit,
}

impl FrameError {
    /// The stream on which a client expects the answer, 0 where none is known; `None` if the connection broke.
    pub fn stream(&self) -> Option<i16> {
        match self {
            Self::Io(_) => None,
            Self::Checksum { .. } | Self::Segment(_) | Self::Misfit => Some(0),
            Self::UnsupportedVersion { stream, .. }
            | Self::VersionChanged { stream, .. }
            | Self::WrongDirection { stream, .. }
            | Self::UnknownOpcode { stream, .. }
            | Self::Compressed { stream }
            | Self::Unpacking { stream, .. }
            | Self::BodyTooLarge { stream, .. } => Some(*stream),
        }
    }

    /// The version to answer in where the connection has none yet, and the message's own is not spoken here: versions 1 and
    /// 2 as they are, since their envelopes are known, and for all others the newest.
    pub fn answer_version(&self) -> Option<u8> {
        match self {
            Self::UnsupportedVersion { version: old @ (1 | 2), .. } => Some(*old),
            Self::UnsupportedVersion { .. } => Some(Version::NEWEST.code()),
            _ => None,
        }
    }
}
