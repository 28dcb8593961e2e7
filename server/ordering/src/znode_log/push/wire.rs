//! Frames of a connection: each with its length before it, and a MAC that makes it good once, there and whole.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{Sink, SinkExt, Stream, StreamExt};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::codec::{Decoder, Encoder, Framed, LengthDelimitedCodec};

use super::{MAX_ENTRY_BYTES, PATIENCE, PushError};

/// Bytes of a frame's MAC.
pub(super) const MAC_BYTES: usize = 16;
/// The most that a frame has beside its MAC and an entry, bytes.
pub(super) const MAX_HEAD_BYTES: usize = 128;

/// The most that a frame has, bytes.
const MAX_FRAME_BYTES: usize = MAX_ENTRY_BYTES + MAX_HEAD_BYTES + MAC_BYTES;
/// Bytes of a frame's length.
const LENGTH_BYTES: usize = 4;
/// Bytes of a frame that memory is taken for before they have come.
const STEP_BYTES: usize = 8 << 10;

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

pub(super) fn framed<S: AsyncRead + AsyncWrite>(stream: S) -> Framed<S, Frames> {
    Framed::new(stream, Frames(LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME_BYTES).new_codec()))
}

/// Frames by their lengths. Memory is taken for what has come and a [`STEP_BYTES`] more, and not for what a length announces: whoever
/// sends it may be anybody until its first MAC has come.
#[derive(Debug)]
pub(super) struct Frames(LengthDelimitedCodec);

impl Decoder for Frames {
    type Item = BytesMut;
    type Error = std::io::Error;

    fn decode(&mut self, from: &mut BytesMut) -> std::io::Result<Option<BytesMut>> {
        let announced = from.first_chunk().map(|length| u32::from_be_bytes(*length) as usize);
        // One that may not be so long is an error at once.
        if let Some(length) = announced.filter(|length| *length <= MAX_FRAME_BYTES)
            && let Some(missing) = (LENGTH_BYTES + length).checked_sub(from.len()).filter(|missing| *missing > 0)
        {
            from.reserve(missing.min(STEP_BYTES));
            return Ok(None);
        }
        self.0.decode(from)
    }
}

impl Encoder<Bytes> for Frames {
    type Error = std::io::Error;

    fn encode(&mut self, frame: Bytes, to: &mut BytesMut) -> std::io::Result<()> {
        self.0.encode(frame, to)
    }
}

/// A frame, unless the connection has ended.
fn whole(frame: Option<std::io::Result<BytesMut>>) -> Result<Bytes, PushError> {
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

/// The next frame, if it comes by then. One that is there is taken however late it is.
pub(super) async fn next_by<S>(framed: &mut S, limit: Option<Instant>) -> Result<Bytes, PushError>
where
    S: Stream<Item = std::io::Result<BytesMut>> + Unpin,
{
    match limit {
        Some(limit) => whole(timeout_at(limit, framed.next()).await.map_err(|_| PushError::Silent)?),
        None => whole(framed.next().await),
    }
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
    fn memory_is_taken_for_what_has_come() {
        let mut frames = Frames(LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME_BYTES).new_codec());
        let frame = Bytes::from(vec![7; MAX_FRAME_BYTES]);
        let mut sent = BytesMut::new();
        frames.encode(frame.clone(), &mut sent).expect("not too large");
        let mut come = BytesMut::new();
        let mut got = None;
        for part in sent.chunks(1000) {
            assert_eq!(got, None);
            come.extend_from_slice(part);
            got = frames.decode(&mut come).expect("a frame");
            let bounded = come.capacity() <= 2 * come.len() + 2 * STEP_BYTES;
            assert!(bounded || got.is_some(), "{} for {}", come.capacity(), come.len());
        }
        assert_eq!(got.map(BytesMut::freeze), Some(frame));
        // Whole, in parts of one byte, two at once; and none that is longer.
        let mut two = BytesMut::new();
        for frame in [&b"one"[..], b""] {
            frames.encode(Bytes::from_static(frame), &mut two).expect("small");
        }
        let mut come = BytesMut::new();
        let got: Vec<_> = two
            .iter()
            .filter_map(|byte| {
                come.put_u8(*byte);
                frames.decode(&mut come).expect("a frame")
            })
            .collect();
        assert_eq!(got, [&b"one"[..], b""]);
        assert_eq!(frames.decode(&mut two).expect("a frame").as_deref(), Some(&b"one"[..]));
        assert_eq!(frames.decode(&mut two).expect("a frame").as_deref(), Some(&b""[..]));
        let mut long = BytesMut::from(&(MAX_FRAME_BYTES as u32 + 1).to_be_bytes()[..]);
        assert!(frames.decode(&mut long).is_err());
    }

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
