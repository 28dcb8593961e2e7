//! Compression, as Cassandra's drivers know it: LZ4 blocks and Snappy's raw format. What is to become of a few bytes is
//! bounded before anything is reserved for it.

use crate::error::ProtocolError;
use bytes::{BufMut, Bytes, BytesMut};

/// An algorithm that STARTUP may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// In every version.
    Lz4,
    /// In versions 3 and 4.
    Snappy,
}

/// The bytes of an LZ4 body before its block: the length of what it holds, big-endian.
const LZ4_LENGTH: usize = 4;
/// The most bytes of the length that a Snappy body begins with, seven bits each.
const SNAPPY_LENGTH: usize = 5;
/// No byte of either format stands for more bytes than that.
const MOST_FROM_A_BYTE: usize = 255;

impl Compression {
    /// Every algorithm, as SUPPORTED lists them.
    pub const EVERY: [Compression; 2] = [Self::Snappy, Self::Lz4];

    /// The algorithm of a name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::EVERY.into_iter().find(|known| known.name().eq_ignore_ascii_case(name))
    }

    /// The name in STARTUP and SUPPORTED.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Snappy => "snappy",
        }
    }

    /// How many bytes a body of an envelope holds, by its beginning; `None` if more of it is needed to know.
    ///
    /// # Errors
    /// It says so in no way that makes sense, or has none.
    pub(crate) fn unpacked_length(self, body: &[u8], complete: bool) -> Result<Option<usize>, ProtocolError> {
        match self {
            Self::Lz4 => match body.first_chunk::<LZ4_LENGTH>() {
                Some(length) => Ok(Some(u32::from_be_bytes(*length) as usize)),
                None if complete => Err(BROKEN),
                None => Ok(None),
            },
            Self::Snappy => {
                let end = body.iter().take(SNAPPY_LENGTH).position(|byte| byte & 0x80 == 0);
                match end {
                    Some(end) => {
                        let digits = body[..=end].iter().rev();
                        let length = digits.fold(0_u64, |length, digit| length << 7 | u64::from(digit & 0x7F));
                        usize::try_from(length).map(Some).map_err(|_| BROKEN)
                    }
                    None if complete || body.len() >= SNAPPY_LENGTH => Err(BROKEN),
                    None => Ok(None),
                }
            }
        }
    }

    /// What the body of an envelope holds, at most `limit` bytes.
    ///
    /// # Errors
    /// It is broken, or holds more.
    pub(crate) fn unpack(self, body: &[u8], limit: usize) -> Result<Bytes, ProtocolError> {
        let length = self.unpacked_length(body, true)?.ok_or(BROKEN)?;
        match self {
            Self::Lz4 => unpack_lz4(&body[LZ4_LENGTH..], length, limit).map(BytesMut::freeze),
            Self::Snappy => {
                let mut out = room(body.len(), length, limit)?;
                let found = snap::raw::Decoder::new().decompress(body, &mut out).map_err(|_| BROKEN)?;
                if found == length { Ok(out.freeze()) } else { Err(BROKEN) }
            }
        }
    }

    /// A body of an envelope that holds these bytes; `None` if it would not be shorter.
    pub(crate) fn pack(self, bytes: &[u8]) -> Option<Bytes> {
        let mut out = BytesMut::new();
        match self {
            Self::Lz4 => {
                out.put_u32(u32::try_from(bytes.len()).ok()?);
                pack_lz4(bytes, &mut out)?;
            }
            Self::Snappy => {
                out.resize(snap::raw::max_compress_len(bytes.len()), 0);
                let length = snap::raw::Encoder::new().compress(bytes, &mut out).ok()?;
                out.truncate(length);
            }
        }
        (out.len() < bytes.len()).then(|| out.freeze())
    }
}

const BROKEN: ProtocolError = ProtocolError::BadCompression;

/// Whether what is compressed may have that length.
///
/// # Errors
/// It may not.
pub(crate) fn within(length: usize, limit: usize) -> Result<(), ProtocolError> {
    match length <= limit {
        true => Ok(()),
        false => Err(ProtocolError::TooLarge { what: "a compressed message", length, limit }),
    }
}

/// Zeros for what `packed` bytes hold.
fn room(packed: usize, length: usize, limit: usize) -> Result<BytesMut, ProtocolError> {
    within(length, limit)?;
    if length > packed.saturating_mul(MOST_FROM_A_BYTE) {
        return Err(BROKEN);
    }
    Ok(BytesMut::zeroed(length))
}

/// The `length` bytes that an LZ4 block holds.
///
/// # Errors
/// It is broken, holds another number of bytes, or more than `limit`.
pub(crate) fn unpack_lz4(block: &[u8], length: usize, limit: usize) -> Result<BytesMut, ProtocolError> {
    // Java's decoder is satisfied with no block at all for no bytes at all.
    if length == 0 {
        return Ok(BytesMut::new());
    }
    let mut out = room(block.len(), length, limit)?;
    match lz4_flex::block::decompress_into(block, &mut out) {
        Ok(found) if found == length => Ok(out),
        _ => Err(BROKEN),
    }
}

/// Appends an LZ4 block.
pub(crate) fn pack_lz4(bytes: &[u8], out: &mut BytesMut) -> Option<()> {
    let start = out.len();
    out.resize(start + lz4_flex::block::get_maximum_output_size(bytes.len()), 0);
    let length = lz4_flex::block::compress_into(bytes, &mut out[start..]).ok()?;
    out.truncate(start + length);
    Some(())
}
