//! Cuts a connection into envelopes: bare ones, compressed ones (versions 3 and 4), and ones in segments (version 5).

use crate::compress::{Compression, within};
use crate::frame::{DIRECTION_BIT, Envelope, FLAG_COMPRESSION, FrameError, HEADER_LENGTH, Header, Opcode, VERSION};
use crate::segment::{self, Form, Segment};
use crate::version::Version;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

/// The most that is reserved for a body before any of it has arrived: a sender has to send what it announces.
const MAX_RESERVE: usize = 64 * 1024;
/// Segments up to so many bytes may be kept in memory by any envelope in them.
const SMALL_SEGMENT: usize = 16 * 1024;

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Server,
    Client,
}

/// Cuts a byte stream into envelopes and back. After an error the stream can't be read on: answer and close.
///
/// A connection begins with bare envelopes. From the answer to STARTUP on ([`Codec::begin`]) they are as was agreed on.
#[derive(Debug, Clone)]
pub struct Codec {
    role: Role,
    max_body: usize,
    /// The connection's, once it is known.
    version: Option<Version>,
    /// Of the envelope that was read last.
    seen: u8,
    /// Asked for in STARTUP.
    compression: Option<Compression>,
    /// STARTUP has been answered.
    begun: bool,
    /// Version 5: payloads of segments that are not taken yet.
    payload: Payload,
}

#[derive(Debug, Clone, Default)]
struct Payload {
    bytes: BytesMut,
    /// They are parts of an envelope, each in a segment of its own.
    is_part: bool,
    /// The bytes of the segment read last.
    segment: usize,
}

impl Codec {
    fn new(role: Role, max_body: usize, version: Option<Version>) -> Self {
        Self {
            role,
            max_body: max_body.min(i32::MAX as usize),
            version,
            seen: VERSION,
            compression: None,
            begun: false,
            payload: Payload::default(),
        }
    }

    /// A codec that reads requests, in every version until [`Codec::begin`] says which; bodies are at most `max_body` bytes
    /// (and `i32::MAX`).
    pub fn server(max_body: usize) -> Self {
        Self::new(Role::Server, max_body, None)
    }

    /// A codec that reads responses, of version 4; bodies are at most `max_body` bytes (and `i32::MAX`).
    pub fn client(max_body: usize) -> Self {
        Self::client_of(Version::V4, None, max_body)
    }

    /// As [`Codec::client`], for one connection of version 5 from its first byte on.
    pub fn client_v5(max_body: usize) -> Self {
        Self::client_of(Version::V5, None, max_body)
    }

    /// As [`Codec::client`], for one connection of a version from its first byte on, whose STARTUP asks for this compression.
    /// It begins by itself with the answer.
    pub fn client_of(version: Version, compression: Option<Compression>, max_body: usize) -> Self {
        Self { compression, ..Self::new(Role::Client, max_body, Some(version)) }
    }

    /// STARTUP has been answered, or is the next thing to be answered with what was encoded before: what follows is as was
    /// agreed on. What is read from now on may have bodies of `max_body` bytes.
    pub fn begin(&mut self, version: Version, compression: Option<Compression>, max_body: usize) {
        self.version = Some(version);
        self.compression = compression;
        self.max_body = max_body.min(i32::MAX as usize);
        self.begun = true;
    }

    /// The connection's version: of the last message, as long as none is agreed on.
    pub fn version(&self) -> Version {
        self.version.or_else(|| Version::from_code(self.seen)).unwrap_or(Version::V4)
    }

    /// The bound of a body in bytes.
    pub fn max_body(&self) -> usize {
        self.max_body
    }

    /// Whether something was taken from the stream that is no whole envelope yet.
    pub fn holds_part(&self) -> bool {
        !self.payload.bytes.is_empty()
    }

    /// How many bytes the body of the next envelope has, unpacked, if its beginning is there.
    ///
    /// # Errors
    /// As decoding, which gives the same error when it is tried next. Not all errors show here.
    pub fn next_length(&mut self, source: &mut BytesMut) -> Result<Option<usize>, FrameError> {
        if let Some(form) = self.segments() {
            while self.payload.bytes.len() < HEADER_LENGTH {
                if !self.take_segment(form, source)? {
                    return Ok(None);
                }
            }
            return Ok(self.payload.bytes.first_chunk().map(|header| length(Header::parse(*header))));
        }
        // Versions 1 and 2 have shorter headers, which are refused.
        if let [first @ (1 | 2), _flags, stream, ..] = source[..] {
            return Err(old_version(first, stream));
        }
        let Some(header) = source.first_chunk::<HEADER_LENGTH>().map(|bytes| Header::parse(*bytes)) else {
            return Ok(None);
        };
        let packed = length(header);
        let Some(compression) = self.unpacks().filter(|_| header.flags & FLAG_COMPRESSION != 0) else {
            return Ok(Some(packed));
        };
        let body = &source[HEADER_LENGTH..];
        let body = &body[..packed.min(body.len())];
        let unpacked = compression.unpacked_length(body, body.len() == packed);
        let unpacked = unpacked.map_err(|error| FrameError::Unpacking { stream: header.stream, error })?;
        Ok(unpacked.map(|unpacked| packed.max(unpacked)))
    }

    /// How segments look, if there are any by now.
    fn segments(&self) -> Option<Form> {
        let form = if self.compression == Some(Compression::Lz4) { Form::Lz4 } else { Form::Plain };
        (self.begun && self.version == Some(Version::V5)).then_some(form)
    }

    fn check(&mut self, header: Header) -> Result<(Opcode, usize), FrameError> {
        let Header { stream, opcode, .. } = header;
        // The version comes first: the rest of an unknown version's header may mean anything.
        let Some(version) = Version::from_code(header.version) else {
            return Err(FrameError::UnsupportedVersion { version: header.version, stream });
        };
        if let Some(agreed) = self.version.filter(|agreed| *agreed != version) {
            return Err(FrameError::VersionChanged { found: version, agreed, stream });
        }
        self.seen = header.version;
        if header.is_response != (self.role == Role::Client) {
            return Err(FrameError::WrongDirection { stream, opcode });
        }
        let known = Opcode::from_code(opcode)
            .filter(|known| known.is_request() != header.is_response)
            .ok_or(FrameError::UnknownOpcode { stream, opcode })?;
        let length = usize::try_from(header.length)
            .ok()
            .filter(|length| *length <= self.max_body)
            .ok_or(FrameError::BodyTooLarge { stream, length: i64::from(header.length), limit: self.max_body })?;
        Ok((known, length))
    }

    fn take_envelope(&mut self, source: &mut BytesMut) -> Result<Option<Envelope>, FrameError> {
        // Versions 1 and 2 have a header of eight bytes with a stream of one: don't wait for the ninth.
        if let [first @ (1 | 2), _flags, stream, ..] = source[..] {
            return Err(old_version(first, stream));
        }
        let Some(bytes) = source.first_chunk::<HEADER_LENGTH>() else {
            return Ok(None);
        };
        let header = Header::parse(*bytes);
        let (opcode, length) = self.check(header)?;
        // In segments the flag means nothing.
        let in_segments = self.segments().is_some();
        let compression = match header.flags & FLAG_COMPRESSION != 0 && !in_segments {
            true => Some(self.unpacks().ok_or(FrameError::Compressed { stream: header.stream })?),
            false => None,
        };
        let total = HEADER_LENGTH + length;
        if let Some(compression) = compression {
            // What can't become a body is told before the rest of it is here: nobody has set memory aside for that.
            let body = &source[HEADER_LENGTH..total.min(source.len())];
            let told = compression.unpacked_length(body, body.len() == length);
            let told = told.and_then(|unpacked| unpacked.map_or(Ok(()), |unpacked| within(unpacked, self.max_body)));
            told.map_err(|error| FrameError::Unpacking { stream: header.stream, error })?;
        }
        if source.len() < total {
            source.reserve((total - source.len()).min(MAX_RESERVE));
            return Ok(None);
        }
        let Header { version, is_response, stream, .. } = header;
        let body = match compression {
            None => {
                source.advance(HEADER_LENGTH);
                source.split_to(length).freeze()
            }
            Some(compression) => {
                let unpacked = compression.unpack(&source[HEADER_LENGTH..total], self.max_body);
                let unpacked = unpacked.map_err(|error| FrameError::Unpacking { stream, error })?;
                source.advance(total);
                unpacked
            }
        };
        let flags = header.flags & !FLAG_COMPRESSION;
        Ok(Some(Envelope { version, is_response, flags, stream, opcode, body }))
    }

    /// What envelopes may be compressed with that are read. Cassandra's answer to STARTUP is already.
    fn unpacks(&self) -> Option<Compression> {
        self.compression.filter(|_| self.begun || self.role == Role::Client)
    }

    /// The compression of envelopes, once there is one.
    fn agreed(&self) -> Option<Compression> {
        self.compression.filter(|_| self.begun)
    }

    /// Adds the next segment to the payloads; false if it is not all there.
    fn take_segment(&mut self, form: Form, source: &mut BytesMut) -> Result<bool, FrameError> {
        let fresh = self.payload.bytes.is_empty();
        // An envelope that ends in its segment leaves nothing, and one that does not has segments of its own.
        if !fresh && !self.payload.is_part {
            return Err(FrameError::Misfit);
        }
        let before = source.len();
        let Some(Segment { payload, self_contained }) = segment::take(form, source)? else { return Ok(false) };
        self.payload.segment = before - source.len();
        if fresh {
            self.payload.bytes = payload;
            self.payload.is_part = !self_contained;
        } else if self_contained {
            // The segment is gone: so it is a misfit whenever this is asked again.
            self.payload.is_part = false;
            return Err(FrameError::Misfit);
        } else {
            self.payload.bytes.extend_from_slice(&payload);
        }
        Ok(true)
    }

    /// An envelope out of segments. What is waiting for its end is bounded as the envelope is, and by a segment more.
    fn take_from_segments(&mut self, form: Form, source: &mut BytesMut) -> Result<Option<Envelope>, FrameError> {
        loop {
            let mut bytes = std::mem::take(&mut self.payload.bytes);
            let taken = self.take_envelope(&mut bytes);
            if !bytes.is_empty() {
                self.payload.bytes = bytes;
            }
            let Some(mut envelope) = taken? else {
                match self.take_segment(form, source)? {
                    true => continue,
                    false => return Ok(None),
                }
            };
            if self.payload.is_part && self.holds_part() {
                return Err(FrameError::Misfit);
            }
            if self.payload.segment > SMALL_SEGMENT && envelope.body.len() < SMALL_SEGMENT {
                // A request that waits is not to keep much more than itself.
                envelope.body = Bytes::copy_from_slice(&envelope.body);
            }
            return Ok(Some(envelope));
        }
    }
}

/// A body's length as sent; what makes no sense is told when it is decoded.
fn length(header: Header) -> usize {
    usize::try_from(header.length).unwrap_or(0)
}

fn old_version(version: u8, stream: u8) -> FrameError {
    FrameError::UnsupportedVersion { version, stream: i16::from(i8::from_be_bytes([stream])) }
}

impl Decoder for Codec {
    type Item = Envelope;
    type Error = FrameError;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<Envelope>, FrameError> {
        if let Some(form) = self.segments() {
            return self.take_from_segments(form, source);
        }
        let envelope = self.take_envelope(source)?;
        if self.role == Role::Client
            && let Some(Envelope { opcode: Opcode::Ready | Opcode::Authenticate, .. }) = envelope
        {
            self.begun = true;
        }
        Ok(envelope)
    }
}

impl Encoder<Envelope> for Codec {
    type Error = FrameError;

    fn encode(&mut self, envelope: Envelope, out: &mut BytesMut) -> Result<(), FrameError> {
        let too_large = |length: usize| FrameError::BodyTooLarge {
            stream: envelope.stream,
            length: length as i64,
            limit: self.max_body,
        };
        if envelope.body.len() > self.max_body {
            return Err(too_large(envelope.body.len()));
        }
        let version = self.version.map_or(envelope.version, Version::code);
        let segments = self.segments();
        let packed = match self.agreed() {
            Some(compression) if segments.is_none() => compression.pack(&envelope.body),
            _ => None,
        };
        let flags = envelope.flags | if packed.is_some() { FLAG_COMPRESSION } else { 0 };
        let body = packed.as_ref().unwrap_or(&envelope.body);
        let wire_length = i32::try_from(body.len()).map_err(|_| too_large(body.len()))?;
        let start = out.len();
        out.reserve(HEADER_LENGTH + body.len());
        out.put_u8(version | if envelope.is_response { DIRECTION_BIT } else { 0 });
        out.put_u8(flags);
        match version {
            // So that clients of the oldest versions can read why they are refused.
            1 | 2 => out.put_i8(i8::try_from(envelope.stream).unwrap_or_default()),
            _ => out.put_i16(envelope.stream),
        }
        out.put_u8(envelope.opcode.code());
        out.put_i32(wire_length);
        out.put_slice(body);
        if let Some(form) = segments {
            segment::wrap(form, start, out);
        }
        Ok(())
    }
}
