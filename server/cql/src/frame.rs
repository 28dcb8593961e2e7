//! Envelopes and their codec: of protocol version 4, and of version 5 towards Cassandra.

use crate::error::ProtocolError;
use crate::segment;
use crate::wire::Reader;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::io;
use thiserror::Error;
use tokio_util::codec::{Decoder, Encoder};
use uuid::Uuid;

/// The protocol version spoken with clients.
pub const VERSION: u8 = 4;
/// The protocol version that says which second it is.
pub const VERSION_5: u8 = 5;
/// The bytes of an envelope's header.
pub const HEADER_LENGTH: usize = 9;
/// The default bound of a message body, in bytes.
pub const DEFAULT_MAX_BODY: usize = 16 * 1024 * 1024;
/// The most that is reserved for a body before any of it has arrived: a sender has to send what it announces.
const MAX_RESERVE: usize = 64 * 1024;
const DIRECTION_BIT: u8 = 0x80;

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
    /// A request of version 4 without flags.
    pub fn request(stream: i16, opcode: Opcode, body: Bytes) -> Self {
        Self { version: VERSION, is_response: false, flags: 0, stream, opcode, body }
    }

    /// A response of version 4 without flags.
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
    /// Another version: answer ERROR 0x000A with this text in a version 4 envelope, so that drivers step down.
    #[error("Invalid or unsupported protocol version ({version}); supported versions are (4/v4)")]
    UnsupportedVersion {
        /// The version asked for.
        version: u8,
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
    /// A segment (version 5) arrived damaged.
    #[error("the checksum of a segment's {what} does not match")]
    Checksum {
        /// The part.
        what: &'static str,
    },
}

impl FrameError {
    /// The stream on which a client expects the answer; `None` if the connection broke.
    pub fn stream(&self) -> Option<i16> {
        match self {
            Self::Io(_) | Self::Checksum { .. } => None,
            Self::UnsupportedVersion { stream, .. }
            | Self::WrongDirection { stream, .. }
            | Self::UnknownOpcode { stream, .. }
            | Self::Compressed { stream }
            | Self::BodyTooLarge { stream, .. } => Some(*stream),
        }
    }
}

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Server,
    Client,
}

/// Cuts a byte stream into envelopes and back. After an error the stream can't be read on: answer and close.
#[derive(Debug, Clone)]
pub struct Codec {
    role: Role,
    max_body: usize,
    /// Version 5.
    segments: Option<Segments>,
}

/// Where a connection of version 5 stands.
#[derive(Debug, Clone, Default)]
struct Segments {
    /// The server was ready: from then on everything travels in segments.
    begun: bool,
    /// Payloads that are no whole envelope yet.
    payload: BytesMut,
}

impl Codec {
    /// A codec that reads requests; bodies are at most `max_body` bytes (and `i32::MAX`).
    pub fn server(max_body: usize) -> Self {
        Self { role: Role::Server, max_body: max_body.min(i32::MAX as usize), segments: None }
    }

    /// A codec that reads responses; bodies are at most `max_body` bytes (and `i32::MAX`).
    pub fn client(max_body: usize) -> Self {
        Self { role: Role::Client, max_body: max_body.min(i32::MAX as usize), segments: None }
    }

    /// As [`Codec::client`], for one connection of version 5 from its first byte on.
    pub fn client_v5(max_body: usize) -> Self {
        Self { segments: Some(Segments::default()), ..Self::client(max_body) }
    }

    /// The protocol version that it speaks.
    pub fn version(&self) -> u8 {
        if self.segments.is_some() { VERSION_5 } else { VERSION }
    }

    /// The bound of a body in bytes.
    pub fn max_body(&self) -> usize {
        self.max_body
    }

    fn check(&self, header: Header) -> Result<(Opcode, usize), FrameError> {
        let Header { stream, opcode, .. } = header;
        // The version comes first: the rest of an unknown version's header may mean anything.
        if header.version != self.version() {
            return Err(FrameError::UnsupportedVersion { version: header.version, stream });
        }
        if header.is_response != (self.role == Role::Client) {
            return Err(FrameError::WrongDirection { stream, opcode });
        }
        let known = Opcode::from_code(opcode)
            .filter(|known| known.is_request() != header.is_response)
            .ok_or(FrameError::UnknownOpcode { stream, opcode })?;
        if header.flags & FLAG_COMPRESSION != 0 {
            return Err(FrameError::Compressed { stream });
        }
        let length = usize::try_from(header.length)
            .ok()
            .filter(|length| *length <= self.max_body)
            .ok_or(FrameError::BodyTooLarge { stream, length: i64::from(header.length), limit: self.max_body })?;
        Ok((known, length))
    }

    fn take_envelope(&self, source: &mut BytesMut) -> Result<Option<Envelope>, FrameError> {
        // Versions 1 and 2 have a header of eight bytes with a stream of one: don't wait for the ninth.
        if let [first @ (1 | 2), _flags, stream, ..] = source[..] {
            let stream = i16::from(i8::from_be_bytes([stream]));
            return Err(FrameError::UnsupportedVersion { version: first, stream });
        }
        let Some(bytes) = source.first_chunk::<HEADER_LENGTH>() else {
            return Ok(None);
        };
        let header = Header::parse(*bytes);
        let (opcode, length) = self.check(header)?;
        let total = HEADER_LENGTH + length;
        if source.len() < total {
            source.reserve((total - source.len()).min(MAX_RESERVE));
            return Ok(None);
        }
        source.advance(HEADER_LENGTH);
        let body = source.split_to(length).freeze();
        let Header { version, is_response, flags, stream, .. } = header;
        Ok(Some(Envelope { version, is_response, flags, stream, opcode, body }))
    }

    /// An envelope out of segments. What is waiting for its end is bounded as the envelope is.
    fn take_from_segments(&mut self, source: &mut BytesMut) -> Result<Option<Envelope>, FrameError> {
        let mut payload = self.segments.as_mut().map(|segments| segments.payload.split()).unwrap_or_default();
        let taken = loop {
            match self.take_envelope(&mut payload)? {
                Some(envelope) => break Some(envelope),
                None => match segment::take(source)? {
                    Some(more) => payload.extend_from_slice(&more),
                    None => break None,
                },
            }
        };
        if let Some(segments) = &mut self.segments {
            segments.payload = payload;
        }
        Ok(taken)
    }
}

impl Decoder for Codec {
    type Item = Envelope;
    type Error = FrameError;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<Envelope>, FrameError> {
        if self.segments.as_ref().is_some_and(|segments| segments.begun) {
            return self.take_from_segments(source);
        }
        let envelope = self.take_envelope(source)?;
        if let (Some(segments), Some(envelope)) = (&mut self.segments, &envelope) {
            segments.begun = matches!(envelope.opcode, Opcode::Ready | Opcode::Authenticate);
        }
        Ok(envelope)
    }
}

impl Encoder<Envelope> for Codec {
    type Error = FrameError;

    fn encode(&mut self, envelope: Envelope, out: &mut BytesMut) -> Result<(), FrameError> {
        let length = envelope.body.len();
        let Some(wire_length) = i32::try_from(length).ok().filter(|_| length <= self.max_body) else {
            let limit = self.max_body;
            return Err(FrameError::BodyTooLarge { stream: envelope.stream, length: length as i64, limit });
        };
        let in_segments = self.segments.as_ref().is_some_and(|segments| segments.begun);
        let version = if self.segments.is_some() { VERSION_5 } else { envelope.version };
        let mut unpacked = BytesMut::new();
        let to: &mut BytesMut = if in_segments { &mut unpacked } else { out };
        to.reserve(HEADER_LENGTH + length);
        to.put_u8(version | if envelope.is_response { DIRECTION_BIT } else { 0 });
        to.put_u8(envelope.flags);
        to.put_i16(envelope.stream);
        to.put_u8(envelope.opcode.code());
        to.put_i32(wire_length);
        to.put_slice(&envelope.body);
        if in_segments {
            segment::put(&unpacked, out);
        }
        Ok(())
    }
}
