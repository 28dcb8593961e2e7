//! What the data of an entry's znode looks like. No IO.
//!
//! A header of 16 bytes (magic, format version, kind, two reserved bytes, length and CRC-32 of what follows; numbers
//! big-endian), then either the entry itself or, for one too large for a znode, where its body is.

use bytes::Bytes;

const MAGIC: [u8; 4] = *b"RDBe";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 16;
const KIND_INLINE: u8 = 0;
const KIND_SIDE: u8 = 1;
/// Bytes of a side body's description before its name.
const SIDE_FIXED_BYTES: usize = 10;
/// Longest name of a side body, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// What an entry's znode holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Framed {
    /// The entry itself.
    Inline(Bytes),
    /// Where the entry's body is.
    Side(SideBody),
}

/// A body that is kept outside the order, in chunks; the entry in the order names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SideBody {
    /// Name of the body's node within its segment's bodies.
    pub(crate) name: String,
    /// Number of chunks.
    pub(crate) chunks: u16,
    /// Size of the whole body, in bytes.
    pub(crate) bytes: u32,
    /// CRC-32 of the whole body.
    pub(crate) crc: u32,
}

/// Data that is no entry, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FramingError {
    #[error("{0} bytes are too few for an entry")]
    Short(usize),
    #[error("it does not start like an entry")]
    Magic,
    #[error("format version {0} is not known to this program")]
    Version(u8),
    #[error("entry kind {0} is not known")]
    Kind(u8),
    #[error("the entry says {said} bytes and has {found}")]
    Length { said: usize, found: usize },
    #[error("the checksum is wrong")]
    Checksum,
    #[error("the description of its body is damaged")]
    Side,
}

/// The znode data of an entry that fits.
pub(crate) fn encode_inline(entry: &[u8]) -> Vec<u8> {
    frame(KIND_INLINE, entry)
}

/// The znode data of an entry whose body is elsewhere.
pub(crate) fn encode_side(body: &SideBody) -> Vec<u8> {
    let mut payload = Vec::with_capacity(SIDE_FIXED_BYTES + body.name.len());
    payload.extend_from_slice(&body.chunks.to_be_bytes());
    payload.extend_from_slice(&body.bytes.to_be_bytes());
    payload.extend_from_slice(&body.crc.to_be_bytes());
    payload.extend_from_slice(body.name.as_bytes());
    frame(KIND_SIDE, &payload)
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("an entry is bounded far below 4 GiB before it is framed");
    let mut data = Vec::with_capacity(HEADER_BYTES + payload.len());
    data.extend_from_slice(&MAGIC);
    data.extend_from_slice(&[VERSION, kind, 0, 0]);
    data.extend_from_slice(&length.to_be_bytes());
    data.extend_from_slice(&checksum(kind, payload).to_be_bytes());
    data.extend_from_slice(payload);
    data
}

/// The kind is covered too: a flipped bit must not turn an entry into the description of a body.
fn checksum(kind: u8, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[VERSION, kind]);
    hasher.update(payload);
    hasher.finalize()
}

/// Reads an entry's znode data; total.
pub(crate) fn decode(data: &Bytes) -> Result<Framed, FramingError> {
    let header = data.get(..HEADER_BYTES).ok_or(FramingError::Short(data.len()))?;
    if header[..4] != MAGIC {
        return Err(FramingError::Magic);
    }
    if header[4] != VERSION {
        return Err(FramingError::Version(header[4]));
    }
    let kind = header[5];
    let said = u32_at(header, 8) as usize;
    let payload = data.slice(HEADER_BYTES..);
    if payload.len() != said {
        return Err(FramingError::Length { said, found: payload.len() });
    }
    if checksum(kind, &payload) != u32_at(header, 12) {
        return Err(FramingError::Checksum);
    }
    match kind {
        KIND_INLINE => Ok(Framed::Inline(payload)),
        KIND_SIDE => decode_side(&payload).map(Framed::Side).ok_or(FramingError::Side),
        other => Err(FramingError::Kind(other)),
    }
}

fn decode_side(payload: &[u8]) -> Option<SideBody> {
    let (fixed, name) = payload.split_at_checked(SIDE_FIXED_BYTES)?;
    let name = std::str::from_utf8(name).ok()?;
    // The name becomes part of a path.
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(plain) {
        return None;
    }
    let chunks = u16::from_be_bytes([fixed[0], fixed[1]]);
    Some(SideBody { name: name.to_owned(), chunks, bytes: u32_at(fixed, 2), crc: u32_at(fixed, 6) })
}

/// The big-endian number at `offset`; the caller has checked that four bytes are there.
fn u32_at(data: &[u8], offset: usize) -> u32 {
    u32::from_be_bytes([data[offset], data[offset + 1], data[offset + 2], data[offset + 3]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn side() -> SideBody {
        SideBody { name: "5f-00a1".into(), chunks: 17, bytes: 4 << 20, crc: 0xdead_beef }
    }

    proptest! {
        #[test]
        fn inline_round_trips(entry: Vec<u8>) {
            let framed = decode(&encode_inline(&entry).into());
            prop_assert_eq!(framed, Ok(Framed::Inline(entry.into())));
        }

        #[test]
        fn any_bytes_are_read_or_refused(data: Vec<u8>) {
            let _ = decode(&data.into());
        }

        #[test]
        fn one_changed_byte_never_passes(entry in prop::collection::vec(any::<u8>(), 0..64), at: prop::sample::Index, flip in 1u8..) {
            let mut data = encode_inline(&entry);
            let at = at.index(data.len());
            data[at] ^= flip;
            // The two reserved bytes carry nothing yet.
            prop_assume!(at != 6 && at != 7);
            prop_assert!(decode(&data.into()).is_err());
        }

        #[test]
        fn cut_short_never_passes(entry: Vec<u8>, at: prop::sample::Index) {
            let mut data = encode_inline(&entry);
            data.truncate(at.index(data.len()));
            prop_assert!(decode(&data.into()).is_err());
        }
    }

    #[test]
    fn side_round_trips() {
        assert_eq!(decode(&encode_side(&side()).into()), Ok(Framed::Side(side())));
    }

    #[test]
    fn a_side_name_cannot_leave_its_folder() {
        for name in ["", "..", "a/b", "a b", &"x".repeat(65)] {
            let body = SideBody { name: name.into(), ..side() };
            assert_eq!(decode(&encode_side(&body).into()), Err(FramingError::Side), "{name:?}");
        }
    }

    #[test]
    fn later_formats_are_named() {
        let mut data = encode_inline(b"x");
        data[4] = 2;
        assert_eq!(decode(&data.into()), Err(FramingError::Version(2)));
    }

    #[test]
    fn the_format_does_not_change_unnoticed() {
        let golden = b"RDBe\x01\x00\x00\x00\x00\x00\x00\x02\x00\xb2\x80\x2ahi";
        assert_eq!(encode_inline(b"hi"), golden, "{:02x?}", encode_inline(b"hi"));
    }
}
