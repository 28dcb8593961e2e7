//! What tests of the codec share.

use bytes::BytesMut;
use replicateddb_cql::frame::{Codec, Envelope, FrameError};
use tokio_util::codec::Decoder;

/// Feeds `bytes` in pieces of the given sizes and decodes what can be decoded after each.
pub fn feed(codec: &mut Codec, bytes: &[u8], pieces: &[usize]) -> Result<Vec<Envelope>, FrameError> {
    let mut buffer = BytesMut::new();
    let mut decoded = Vec::new();
    let mut rest = bytes;
    let mut sizes = pieces.iter().copied().cycle();
    while !rest.is_empty() {
        let size = sizes.next().unwrap_or(1).clamp(1, rest.len());
        buffer.extend_from_slice(&rest[..size]);
        rest = &rest[size..];
        loop {
            // What is told of a body before it is read is what it has.
            let length = codec.next_length(&mut buffer);
            let Some(envelope) = codec.decode(&mut buffer)? else { break };
            assert!(length.unwrap().unwrap() >= envelope.body.len());
            decoded.push(envelope);
        }
    }
    Ok(decoded)
}
