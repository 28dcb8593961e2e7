//! Entries that one replica appends for others ([`super::super::gather`]), over the connections of pushed entries.
//!
//! ```text
//! receiver → sender   kind (1), number (8), what it is (1), replica (4), name of its incarnation's node with its length (1), entry;
//!                     of one whose body is stored: the segment that it is stored with (4), and what its node is to hold
//! sender → receiver   kind (1), number (8), what became of it (1), and where it stands: segment (4), sequence (4),
//!                     commit time in ms (8)
//! ```
//! Nothing rests on it that the log does not check: each entry goes in under its own writer's incarnation (I6), and one of
//! which no answer comes may be appended again, as any of unknown outcome.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::super::append::{Outcome, Writer};
use super::wire::MAX_HEAD_BYTES;
use super::{CARRIED, CARRY, PushError};
use crate::framing::{self, Framed};
use crate::{AppendError, Appended, Position};

/// The largest entry that is handed over, bytes.
pub(crate) const MAX_CARRIED_BYTES: usize = 128 << 10;
/// Longest name of an incarnation's node.
const MAX_NODE_BYTES: usize = 64;
const _: () = assert!(1 + 8 + 1 + 4 + 1 + MAX_NODE_BYTES + 4 <= MAX_HEAD_BYTES);

/// Bit of an entry that waits for others.
const WAITS: u8 = 1;
/// Bit of an entry whose body is stored.
const STORED: u8 = 2;

const COMMITTED: u8 = 0;
const NOWHERE: u8 = 1;
const UNKNOWN: u8 = 2;

/// What the carrier says of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
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
    /// The segment that its body is stored with: then `entry` is what its node is to hold.
    pub(in super::super) stored_in: Option<u32>,
    pub(in super::super) entry: Bytes,
}

/// An own entry for another replica to append.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// The entry, or what its node is to hold.
    pub(crate) entry: Bytes,
    /// Whether it waits for others.
    pub(crate) waits: bool,
    /// The segment that its body is stored with, if it is.
    pub(crate) stored_in: Option<u32>,
}

impl Carry {
    /// What a frame has before the entry; see [`can_carry`].
    pub(super) fn head(number: u64, load: &Load, writer: &Writer) -> BytesMut {
        let node = writer.node.as_bytes();
        let mut head = BytesMut::with_capacity(MAX_HEAD_BYTES);
        head.put_u8(CARRY);
        head.put_u64(number);
        let stored = if load.stored_in.is_some() { STORED } else { 0 };
        head.put_u8(stored | if load.waits { WAITS } else { 0 });
        head.put_u32(writer.replica);
        head.put_u8(u8::try_from(node.len()).unwrap_or(u8::MAX));
        head.put_slice(node);
        if let Some(segment) = load.stored_in {
            head.put_u32(segment);
        }
        head
    }

    /// Reads what follows the kind.
    pub(super) fn parse(mut frame: Bytes) -> Result<Self, PushError> {
        let damaged = PushError::Foreign("an entry to append that is none");
        let (Ok(number), Ok(what), Ok(replica), Ok(length)) =
            (frame.try_get_u64(), frame.try_get_u8(), frame.try_get_u32(), frame.try_get_u8())
        else {
            return Err(damaged);
        };
        if usize::from(length) > frame.len().min(MAX_NODE_BYTES) {
            return Err(damaged);
        }
        let node = match String::from_utf8(frame.split_to(usize::from(length)).into()) {
            // The name becomes the last part of a path.
            Ok(node) if !node.is_empty() && !node.contains('/') => node,
            _ => return Err(damaged),
        };
        let stored_in = match what & STORED {
            0 => None,
            _ => Some(frame.try_get_u32().map_err(|_| PushError::Foreign("an entry to append that is none"))?),
        };
        if stored_in.is_some() && !matches!(framing::decode(&frame), Ok(Framed::Side(_))) {
            return Err(damaged);
        }
        Ok(Self { number, waits: what & WAITS != 0, writer: Writer { replica, node }, stored_in, entry: frame })
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

    fn load(waits: bool, stored_in: Option<u32>) -> Load {
        Load { entry: Bytes::new(), waits, stored_in }
    }

    #[test]
    fn a_stored_body_arrives_by_its_name() {
        let side = framing::SideBody { name: "5f-1".into(), chunks: 3, bytes: 300, crc: 7 };
        let side = framing::encode_side(&side);
        let head = Carry::head(5, &load(false, Some(9)), &writer("i-77-0000000001"));
        let parsed = |body: &[u8]| Carry::parse(Bytes::from([&head[1..], body].concat()));
        let carry = parsed(&side).expect("read");
        assert_eq!((carry.stored_in, carry.waits, &carry.entry[..]), (Some(9), false, &side[..]));
        assert!(parsed(b"entry").is_err() && parsed(&framing::encode_inline(b"entry")).is_err(), "names no body");
    }

    #[test]
    fn what_is_handed_over_arrives() {
        let head = Carry::head(5, &load(true, None), &writer("i-77-0000000001"));
        let mut frame = Bytes::from([&head[..], b"entry"].concat());
        assert_eq!(frame.get_u8(), CARRY);
        let carry = Carry {
            number: 5,
            waits: true,
            writer: writer("i-77-0000000001"),
            stored_in: None,
            entry: Bytes::from_static(b"entry"),
        };
        assert_eq!(Carry::parse(frame.clone()).expect("read"), carry);
        for cut in 0..frame.len() - b"entry".len() {
            assert!(Carry::parse(frame.slice(..cut)).is_err(), "cut at {cut}");
        }
        assert!(can_carry(&writer(&"x".repeat(64))) && !can_carry(&writer(&"x".repeat(65))));
        for bad in ["", "a/b", "../1/i-1"] {
            let mut frame = Carry::head(5, &load(true, None), &writer(bad)).freeze();
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
