//! A connection's codec, fed with bytes: at once and in pieces, which must make no difference.

use bytes::{Bytes, BytesMut};
use replicateddb_cql::frame::{Codec, Envelope, HEADER_LENGTH};
use replicateddb_cql::{Compression, Version};
use tokio_util::codec::{Decoder, Encoder};

use crate::source::Source;

/// The most that a segment of version 5 takes on the wire.
const LONGEST_SEGMENT: usize = 8 + (1 << 17) - 1 + 4;
/// Sizes of pieces.
const PIECES: [usize; 8] = [1, 2, 3, 7, 8, 64, 1000, 70_000];

/// Which codec, and how far its connection is.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    is_server: bool,
    version: Version,
    compression: Option<Compression>,
    begun: bool,
    max_body: usize,
}

/// What of an envelope is compared.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    header: (u8, bool, u8, i16, u8),
    length: usize,
    crc: u32,
}

/// What came of bytes: envelopes, and why there were no more.
#[derive(Debug, PartialEq, Eq)]
struct Fed {
    seen: Vec<Seen>,
    error: Option<String>,
}

impl Setting {
    /// From one byte.
    pub fn of(source: &mut Source<'_>, max_body: usize) -> Self {
        let bits = source.byte();
        let compression = [None, Some(Compression::Lz4), Some(Compression::Snappy), None][usize::from(bits >> 1 & 3)];
        let version = Version::EVERY[usize::from(bits >> 3) % Version::EVERY.len()];
        // There is none in version 5.
        let compression = compression.filter(|known| version < Version::V5 || *known == Compression::Lz4);
        Self { is_server: bits & 1 == 1, version, compression, begun: bits & 0x80 == 0, max_body }
    }

    /// One whose envelopes travel in segments.
    pub fn in_segments(is_server: bool, is_packed: bool, max_body: usize) -> Self {
        let compression = is_packed.then_some(Compression::Lz4);
        Self { is_server, version: Version::V5, compression, begun: true, max_body }
    }

    /// Whether its segments are compressed.
    pub fn is_packed(self) -> bool {
        self.compression.is_some()
    }

    /// The codec.
    pub fn codec(self) -> Codec {
        let mut codec = match self.is_server {
            true => Codec::server(self.max_body),
            false => Codec::client_of(self.version, self.compression, self.max_body),
        };
        if self.begun {
            codec.begin(self.version, self.compression, self.max_body);
        }
        codec
    }

    /// The other end's, for an envelope of that version.
    fn other_end(self, version: u8) -> Codec {
        let version = Version::from_code(version).expect("an envelope has a version that is spoken");
        Self { is_server: !self.is_server, version, ..self }.codec()
    }

    /// Feeds the bytes at once and in pieces, and sends each envelope back.
    pub fn check(self, bytes: &[u8], pieces: u8) {
        let whole = self.feed(bytes, None);
        assert_eq!(whole, self.feed(bytes, Some(pieces)), "in pieces: {self:?}");
    }

    /// In pieces it is also asked, before each envelope, how long that will be.
    fn feed(self, bytes: &[u8], pieces: Option<u8>) -> Fed {
        let mut codec = self.codec();
        let mut buffer = BytesMut::new();
        let mut fed = Fed { seen: Vec::new(), error: None };
        let mut rest = bytes;
        let mut turn = usize::from(pieces.unwrap_or_default());
        while !rest.is_empty() {
            let size = if pieces.is_some() { PIECES[turn % PIECES.len()] } else { rest.len() };
            turn = turn.wrapping_mul(5).wrapping_add(1);
            let (piece, behind) = rest.split_at(size.min(rest.len()));
            rest = behind;
            buffer.extend_from_slice(piece);
            loop {
                let length = pieces.map(|_| codec.next_length(&mut buffer));
                let envelope = match codec.decode(&mut buffer) {
                    Ok(envelope) => envelope,
                    Err(error) => {
                        fed.error = Some(error.to_string());
                        return fed;
                    }
                };
                // What is told of a body before it is read is what its share of all memory is.
                match (&length, &envelope) {
                    (Some(Ok(Some(told))), Some(envelope)) => assert!(envelope.body.len() <= *told),
                    (Some(told), Some(_)) => panic!("an envelope of unknown length: {told:?}"),
                    (Some(Err(told)), None) => panic!("what is broken is read on: {told}"),
                    _ => {}
                }
                let Some(envelope) = envelope else { break };
                self.seen(&envelope, pieces.is_none());
                fed.seen.push(Seen {
                    header: (
                        envelope.version,
                        envelope.is_response,
                        envelope.flags,
                        envelope.stream,
                        envelope.opcode.code(),
                    ),
                    length: envelope.body.len(),
                    crc: crc32fast::hash(&envelope.body),
                });
            }
            let most = (HEADER_LENGTH + self.max_body).max(LONGEST_SEGMENT);
            assert!(buffer.len() < most, "{} bytes wait for more", buffer.len());
        }
        fed
    }

    /// What holds for an envelope that was read.
    fn seen(self, envelope: &Envelope, send_back: bool) {
        assert!(envelope.body.len() <= self.max_body);
        // What is in front of a message, and the message, are there or are an error.
        if let Ok(prefix) = envelope.prefix() {
            assert_eq!(envelope.message().expect("there is a prefix").len() + prefix.length, envelope.body.len());
        }
        if send_back {
            let mut wire = BytesMut::new();
            let sent = self.other_end(envelope.version).encode(envelope.clone(), &mut wire);
            sent.expect("what was read can be sent");
            // Of the connection's version, which the first message may have chosen.
            let again = Self { version: Version::from_code(envelope.version).unwrap_or(self.version), ..self };
            let read = again.codec().decode(&mut wire).expect("what was sent is read");
            assert_eq!(read.as_ref(), Some(envelope));
            assert!(wire.is_empty());
        }
    }

    /// These bytes as the body of an envelope that this one reads, as it travels.
    pub fn sent(self, body: &[u8]) -> BytesMut {
        use replicateddb_cql::frame::Opcode;
        let body = Bytes::copy_from_slice(body);
        let envelope = match self.is_server {
            true => Envelope::request(7, Opcode::Query, body),
            false => Envelope::response(7, Opcode::Result, body),
        };
        let mut wire = BytesMut::new();
        let sent = self.other_end(self.version.code()).encode(envelope, &mut wire);
        sent.expect("a body within the bound");
        wire
    }
}
