//! Entries that one replica appends for others ([`super::super::gather`]), over the connections of pushed entries.
//!
//! ```text
//! receiver → sender   kind (1), number (8), whether it waits (1), replica (4), name of its incarnation's node with its length (1), entry
//! sender → receiver   kind (1), number (8), what became of it (1), and where it stands: segment (4), sequence (4),
//!                     commit time in ms (8)
//! ```
//! Nothing rests on it that the log does not check: each entry goes in under its own writer's incarnation (I6), and one of
//! which no answer comes may be appended again, as any of unknown outcome.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::super::append::{Outcome, Writer};
use super::wire::MAX_HEAD_BYTES;
use super::{CARRIED, CARRY, PushError};
use crate::{AppendError, Appended, Position};

/// The largest entry that is handed over, bytes.
pub(in crate::znode_log) const MAX_CARRIED_BYTES: usize = 128 << 10;
/// Longest name of an incarnation's node.
const MAX_NODE_BYTES: usize = 64;
const _: () = assert!(1 + 8 + 1 + 4 + 1 + MAX_NODE_BYTES <= MAX_HEAD_BYTES);

const COMMITTED: u8 = 0;
const NOWHERE: u8 = 1;
const UNKNOWN: u8 = 2;

/// What the carrier says of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It is committed.
    At(Appended),
    /// It was not committed and will not be.
    Nowhere,
    /// Nobody knows.
    Unknown,
}

impl From<Outcome> for Told {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Ok(appended) => Self::At(appended),
            Err(AppendError::Unknown { .. }) => Self::Unknown,
            Err(AppendError::Fenced | AppendError::TooLarge { .. } | AppendError::Unavailable { .. }) => Self::Nowhere,
        }
    }
}

/// An entry that is handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Carry {
    pub(super) number: u64,
    pub(in super::super) waits: bool,
    pub(in super::super) writer: Writer,
    pub(in super::super) entry: Bytes,
}

impl Carry {
    /// What a frame has before the entry; see [`can_carry`].
    pub(super) fn head(number: u64, waits: bool, writer: &Writer) -> BytesMut {
        let node = writer.node.as_bytes();
        let mut head = BytesMut::with_capacity(MAX_HEAD_BYTES);
        head.put_u8(CARRY);
        head.put_u64(number);
        head.put_u8(waits.into());
        head.put_u32(writer.replica);
        head.put_u8(u8::try_from(node.len()).unwrap_or(u8::MAX));
        head.put_slice(node);
        head
    }

    /// Reads what follows the kind.
    pub(super) fn parse(mut frame: Bytes) -> Result<Self, PushError> {
        let damaged = PushError::Foreign("an entry to append that is none");
        let (Ok(number), Ok(waits), Ok(replica), Ok(length)) =
            (frame.try_get_u64(), frame.try_get_u8(), frame.try_get_u32(), frame.try_get_u8())
        else {
            return Err(damaged);
        };
        if usize::from(length) > frame.len().min(MAX_NODE_BYTES) {
            return Err(damaged);
        }
        match String::from_utf8(frame.split_to(usize::from(length)).into()) {
            // The name becomes the last part of a path.
            Ok(node) if !node.is_empty() && !node.contains('/') => {
                Ok(Self { number, waits: waits != 0, writer: Writer { replica, node }, entry: frame })
            }
            _ => Err(damaged),
        }
    }
}

/// Whether a writer's entries can be handed over.
pub(super) fn can_carry(writer: &Writer) -> bool {
    writer.node.len() <= MAX_NODE_BYTES
}

/// The frame that answers an entry.
pub(super) fn told(number: u64, told: Told) -> BytesMut {
    let mut frame = BytesMut::with_capacity(MAX_HEAD_BYTES);
    frame.put_u8(CARRIED);
    frame.put_u64(number);
    match told {
        Told::At(Appended { position, commit_time_ms }) => {
            frame.put_u8(COMMITTED);
            frame.put_u32(position.segment);
            frame.put_u32(position.sequence);
            frame.put_i64(commit_time_ms);
        }
        Told::Nowhere => frame.put_u8(NOWHERE),
        Told::Unknown => frame.put_u8(UNKNOWN),
    }
    frame
}

/// Reads what follows the kind: of which entry, and what.
pub(super) fn parse_told(mut frame: Bytes) -> Result<(u64, Told), PushError> {
    match (frame.try_get_u64(), frame.try_get_u8(), frame.len()) {
        (Ok(number), Ok(COMMITTED), 16) => {
            let position = Position::new(frame.get_u32(), frame.get_u32());
            Ok((number, Told::At(Appended { position, commit_time_ms: frame.get_i64() })))
        }
        (Ok(number), Ok(NOWHERE), 0) => Ok((number, Told::Nowhere)),
        (Ok(number), Ok(UNKNOWN), 0) => Ok((number, Told::Unknown)),
        _ => Err(PushError::Foreign("an answer about an entry that says nothing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(node: &str) -> Writer {
        Writer { replica: 7, node: node.into() }
    }

    #[test]
    fn what_is_handed_over_arrives() {
        let head = Carry::head(5, true, &writer("i-77-0000000001"));
        let mut frame = Bytes::from([&head[..], b"entry"].concat());
        assert_eq!(frame.get_u8(), CARRY);
        let carry =
            Carry { number: 5, waits: true, writer: writer("i-77-0000000001"), entry: Bytes::from_static(b"entry") };
        assert_eq!(Carry::parse(frame.clone()).expect("read"), carry);
        for cut in 0..frame.len() - b"entry".len() {
            assert!(Carry::parse(frame.slice(..cut)).is_err(), "cut at {cut}");
        }
        assert!(can_carry(&writer(&"x".repeat(64))) && !can_carry(&writer(&"x".repeat(65))));
        for bad in ["", "a/b", "../1/i-1"] {
            let mut frame = Carry::head(5, true, &writer(bad)).freeze();
            frame.advance(1);
            assert!(Carry::parse(frame).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_became_of_it_arrives() {
        let at = Appended { position: Position::new(3, 9), commit_time_ms: -4 };
        for said in [Told::At(at), Told::Nowhere, Told::Unknown] {
            let mut frame = told(8, said).freeze();
            assert_eq!(frame.get_u8(), CARRIED);
            assert_eq!(parse_told(frame.clone()).expect("read"), (8, said));
            assert!(parse_told(frame.slice(..frame.len() - 1)).is_err());
            assert!(parse_told(Bytes::from([&frame[..], b"x"].concat())).is_err());
        }
    }
}
