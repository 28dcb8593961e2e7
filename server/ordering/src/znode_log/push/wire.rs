//! Frames of a connection: each with its length before it, and a MAC that makes it good once, there and whole.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{Sink, SinkExt, Stream, StreamExt};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::{MAX_ENTRY_BYTES, PATIENCE, PushError};

/// Bytes of a frame's MAC.
pub(super) const MAC_BYTES: usize = 16;
/// The most that a frame has beside its MAC and an entry, bytes.
pub(super) const MAX_HEAD_BYTES: usize = 128;

/// What a connection's MACs are made with.
pub(super) type Keyed = Hmac<Sha256>;

pub(super) fn keyed(key: &[u8]) -> Keyed {
    Keyed::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// A frame: the MAC of its number in the connection and its parts, then these.
pub(super) fn sealed(session: &Keyed, number: u64, parts: &[&[u8]]) -> Bytes {
    let mut mac = session.clone().chain_update(number.to_be_bytes());
    parts.iter().for_each(|part| mac.update(part));
    let mut frame = BytesMut::with_capacity(MAC_BYTES + parts.iter().map(|part| part.len()).sum::<usize>());
    frame.extend(mac.finalize().into_bytes().into_iter().take(MAC_BYTES));
    parts.iter().for_each(|part| frame.put_slice(part));
    frame.freeze()
}

/// What a frame says, if it is the one of that number.
pub(super) fn opened(session: &Keyed, number: u64, mut frame: Bytes) -> Result<Bytes, PushError> {
    if frame.len() < MAC_BYTES {
        return Err(PushError::Foreign("a frame without a MAC"));
    }
    let mac = frame.split_to(MAC_BYTES);
    let expected = session.clone().chain_update(number.to_be_bytes()).chain_update(&frame);
    match expected.verify_truncated_left(&mac) {
        Ok(()) => Ok(frame),
        Err(_) => Err(PushError::Foreign("a frame with a wrong MAC")),
    }
}

pub(super) fn framed<S: AsyncRead + AsyncWrite>(stream: S) -> Framed<S, LengthDelimitedCodec> {
    let codec =
        LengthDelimitedCodec::builder().max_frame_length(MAX_ENTRY_BYTES + MAX_HEAD_BYTES + MAC_BYTES).new_codec();
    Framed::new(stream, codec)
}

/// A frame, unless the connection has ended.
pub(super) fn whole(frame: Option<std::io::Result<BytesMut>>) -> Result<Bytes, PushError> {
    match frame {
        Some(frame) => Ok(frame?.freeze()),
        None => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
    }
}

pub(super) async fn next<S>(framed: &mut S, limit: Duration) -> Result<Bytes, PushError>
where
    S: Stream<Item = std::io::Result<BytesMut>> + Unpin,
{
    whole(timeout(limit, framed.next()).await.map_err(|_| PushError::Silent)?)
}

pub(super) async fn put<S>(framed: &mut S, frame: Bytes) -> Result<(), PushError>
where
    S: Sink<Bytes, Error = std::io::Error> + Unpin,
{
    timeout(PATIENCE, framed.send(frame)).await.map_err(|_| PushError::Silent)?.map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_good_once_and_whole() {
        let session = keyed(b"one connection");
        let frame = sealed(&session, 7, &[&[0]]);
        assert!(opened(&session, 7, frame.clone()).is_ok());
        assert!(opened(&session, 8, frame.clone()).is_err(), "again");
        assert!(opened(&keyed(b"another connection"), 7, frame.clone()).is_err(), "in another connection");
        for at in 0..frame.len() {
            let mut damaged = frame.to_vec();
            damaged[at] ^= 1;
            assert!(opened(&session, 7, damaged.into()).is_err(), "byte {at}");
            assert!(opened(&session, 7, frame.slice(..at)).is_err(), "cut at {at}");
        }
    }
}
