//! What stands in a file of the state log.
//!
//! ```text
//! header   "RDBs", version (1), reserved (3), log id (16), CRC-32 of these (4)
//! entries  length of what follows the CRC (4), CRC-32 of that (4), flags (1): 1 comes after another one,
//!          position of that one (8), own position (8), commit time in ms (8), entry
//! ```
//! Numbers big-endian.

use std::io::{self, ErrorKind, Read};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::znode_log::Config;
use crate::{Committed, LogId, Position};

/// Of the files' names.
pub(super) const EXTENSION: &str = "entries";
const MAGIC: &[u8; 4] = b"RDBs";
const VERSION: u8 = 1;
/// Bytes of a file's header.
pub(super) const HEADER_BYTES: usize = 4 + 1 + 3 + 16 + 4;
/// Bytes of an entry's head behind the CRC.
const HEAD_BYTES: usize = 1 + 8 + 8 + 8;
const PREFIX_BYTES: usize = 8;
const FOLLOWS: u8 = 1;

/// An entry, and which one is right before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) after: Option<Position>,
    pub(super) committed: Committed,
}

/// Name of the file that begins with that entry; names sort as positions do.
pub(super) fn file_name(first: Position) -> String {
    format!("{:010}-{:010}.{EXTENSION}", first.segment, first.sequence)
}

pub(super) fn header(log: LogId) -> BytesMut {
    let mut header = BytesMut::with_capacity(HEADER_BYTES);
    header.put_slice(MAGIC);
    header.put_slice(&[VERSION, 0, 0, 0]);
    header.put_u128(log.0.as_u128());
    let crc = crc32fast::hash(&header);
    header.put_u32(crc);
    header
}

/// Which log a file is of; `None` if it is none of ours.
pub(super) fn read_header(file: &mut impl Read) -> io::Result<Option<LogId>> {
    let mut bytes = [0; HEADER_BYTES];
    if !fill(file, &mut bytes)? {
        return Ok(None);
    }
    let (body, crc) = bytes.split_at(HEADER_BYTES - 4);
    let mut rest = &body[8..];
    let id = LogId(Uuid::from_u128(rest.get_u128()));
    let good = body[..4] == MAGIC[..] && body[4] == VERSION && crc == crc32fast::hash(body).to_be_bytes();
    Ok(good.then_some(id))
}

/// An entry's bytes.
pub(super) fn encode(after: Option<Position>, Committed { position, commit_time_ms, entry }: &Committed) -> BytesMut {
    let length = HEAD_BYTES + entry.len();
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.put_u32(0);
    bytes.put_u8(if after.is_some() { FOLLOWS } else { 0 });
    for position in [after.unwrap_or(Position::START), *position] {
        bytes.put_u32(position.segment);
        bytes.put_u32(position.sequence);
    }
    bytes.put_i64(*commit_time_ms);
    bytes.put_slice(entry);
    let crc = crc32fast::hash(&bytes[PREFIX_BYTES..]);
    bytes[4..PREFIX_BYTES].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// The next entry; `None` where there is none, or none that is whole.
pub(super) fn read_record(file: &mut impl Read) -> io::Result<Option<Record>> {
    let mut prefix = [0; PREFIX_BYTES];
    if !fill(file, &mut prefix)? {
        return Ok(None);
    }
    let mut prefix = &prefix[..];
    let (length, crc) = (prefix.get_u32() as usize, prefix.get_u32());
    if !(HEAD_BYTES..=HEAD_BYTES + Config::MAX_BODY_BYTES).contains(&length) {
        return Ok(None);
    }
    // Grows with what is there: a length that is garbage costs nothing.
    let mut bytes = Vec::new();
    file.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() != length || crc32fast::hash(&bytes) != crc {
        return Ok(None);
    }
    let mut bytes = Bytes::from(bytes);
    let follows = bytes.get_u8() & FOLLOWS != 0;
    let after = Position::new(bytes.get_u32(), bytes.get_u32());
    let position = Position::new(bytes.get_u32(), bytes.get_u32());
    let commit_time_ms = bytes.get_i64();
    let after = follows.then_some(after);
    Ok(Some(Record { after, committed: Committed { position, commit_time_ms, entry: bytes } }))
}

/// `false` if the file ends before.
fn fill(file: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn committed(entry: Vec<u8>) -> Committed {
        Committed { position: Position::new(3, 7), commit_time_ms: -5, entry: entry.into() }
    }

    proptest! {
        #[test]
        fn entries_round_trip(entry: Vec<u8>, follows: bool) {
            let after = follows.then_some(Position::new(3, 6));
            let bytes = encode(after, &committed(entry.clone()));
            let record = read_record(&mut &bytes[..]).expect("no error");
            prop_assert_eq!(record, Some(Record { after, committed: committed(entry) }));
        }

        #[test]
        fn damage_never_passes(entry: Vec<u8>, at: prop::sample::Index, flip in 1u8..) {
            let mut bytes = encode(None, &committed(entry));
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert_eq!(read_record(&mut &bytes[..]).expect("no error"), None);
            prop_assert_eq!(read_record(&mut &bytes[..at]).expect("no error"), None);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = (read_header(&mut &bytes[..]), read_record(&mut &bytes[..]));
        }
    }

    #[test]
    fn headers_name_their_log() {
        let log = LogId(Uuid::from_u128(77));
        let bytes = header(log);
        assert_eq!(read_header(&mut &bytes[..]).expect("no error"), Some(log));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(read_header(&mut &damaged[..]).expect("no error"), None, "byte {at}");
        }
    }
}
