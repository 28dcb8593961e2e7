//! Segments of protocol version 5: what envelopes travel in once a connection is ready
//! (`native_protocol_v5.spec`, section 2.2, "frames" there; uncompressed ones).
//!
//! ```text
//! segment = length and flag:u24 crc24:u24 payload crc32:u32      all little-endian
//! ```
//! The flag (bit 17) says that the payload is whole envelopes; without it, it is a part of one.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::frame::FrameError;

/// The most bytes a payload has.
pub const MAX_PAYLOAD: usize = (1 << 17) - 1;
const SELF_CONTAINED: u32 = 1 << 17;
const HEADER: usize = 6;
const TRAILER: usize = 4;
const CRC24_INIT: u32 = 0x0087_5060;
const CRC24_POLYNOMIAL: u32 = 0x0197_4F0B;
/// What the checksum of a payload starts with.
const CRC32_PREFIX: [u8; 4] = [0xFA, 0x2D, 0x55, 0xCA];

/// Writes whole envelopes as one segment, or one large envelope as several.
pub(crate) fn put(envelopes: &[u8], out: &mut BytesMut) {
    let self_contained = envelopes.len() <= MAX_PAYLOAD;
    for payload in envelopes.chunks(MAX_PAYLOAD) {
        out.reserve(HEADER + payload.len() + TRAILER);
        // At most MAX_PAYLOAD: fits 17 bits.
        let header = payload.len() as u32 | if self_contained { SELF_CONTAINED } else { 0 };
        out.put_uint_le(u64::from(header), 3);
        out.put_uint_le(u64::from(crc24(header)), 3);
        out.put_slice(payload);
        out.put_u32_le(crc32(payload));
    }
}

/// Takes the payload of the next segment, if it is all there.
///
/// # Errors
/// A checksum does not match: the stream can't be read on.
pub(crate) fn take(source: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
    let Some(mut bytes) = source.get(..HEADER) else { return Ok(None) };
    let header = bytes.get_uint_le(3) as u32;
    if crc24(header) != bytes.get_uint_le(3) as u32 {
        return Err(FrameError::Checksum { what: "header" });
    }
    let length = header as usize & MAX_PAYLOAD;
    let total = HEADER + length + TRAILER;
    if source.len() < total {
        source.reserve(total - source.len());
        return Ok(None);
    }
    source.advance(HEADER);
    let payload = source.split_to(length).freeze();
    match source.get_u32_le() == crc32(&payload) {
        true => Ok(Some(payload)),
        false => Err(FrameError::Checksum { what: "payload" }),
    }
}

/// The checksum of a header's first three bytes.
fn crc24(header: u32) -> u32 {
    let [first, second, third, _] = header.to_le_bytes();
    [first, second, third].into_iter().fold(CRC24_INIT, |crc, byte| {
        (0..8).fold(crc ^ (u32::from(byte) << 16), |crc, _| {
            let crc = crc << 1;
            if crc & 0x0100_0000 == 0 { crc } else { crc ^ CRC24_POLYNOMIAL }
        })
    })
}

fn crc32(payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&CRC32_PREFIX);
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_taken() {
        for length in [0, 1, 9, MAX_PAYLOAD, MAX_PAYLOAD + 1, 3 * MAX_PAYLOAD + 5] {
            let envelopes: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut wire = BytesMut::new();
            put(&envelopes, &mut wire);
            let mut taken = Vec::new();
            while let Some(payload) = take(&mut wire).unwrap() {
                taken.extend_from_slice(&payload);
            }
            assert_eq!(taken, envelopes);
            assert!(wire.is_empty());
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let mut good = BytesMut::new();
        put(b"an envelope", &mut good);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(take(&mut bad).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert_eq!(take(&mut BytesMut::from(&good[..length])).unwrap(), None);
        }
    }
}
