//! Segments of protocol version 5: what envelopes travel in once a connection is ready
//! (`native_protocol_v5.spec`, section 2, "frames" there).
//!
//! ```text
//! segment            = length:17 self_contained:1 padding:6                 crc24 payload crc32     all little-endian
//! compressed segment = length:17 unpacked_length:17 self_contained:1 padding:5 crc24 payload crc32
//! ```
//! `self_contained` says that the payload is whole envelopes; without it, it is a part of one. A compressed segment with an
//! unpacked length of 0 has its payload as it is. The second checksum is of the payload as it travels.

use bytes::{Buf, BufMut, BytesMut};

use crate::compress::{pack_lz4, unpack_lz4};
use crate::frame::FrameError;

/// The most bytes a payload has, compressed or not.
pub const MAX_PAYLOAD: usize = (1 << 17) - 1;
const LENGTH_BITS: usize = 17;
const CRC24_LENGTH: usize = 3;
const TRAILER: usize = 4;
const CRC24_INIT: u32 = 0x0087_5060;
const CRC24_POLYNOMIAL: u32 = 0x0197_4F0B;
/// What the checksum of a payload starts with.
const CRC32_PREFIX: [u8; 4] = [0xFA, 0x2D, 0x55, 0xCA];

/// How the segments of a connection look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Plain,
    /// Compressed with LZ4, where that makes them shorter.
    Lz4,
}

impl Form {
    /// Bytes of lengths and flag.
    fn lengths(self) -> usize {
        match self {
            Self::Plain => 3,
            Self::Lz4 => 5,
        }
    }

    fn header(self) -> usize {
        self.lengths() + CRC24_LENGTH
    }

    fn pack(self, length: usize, unpacked: usize, self_contained: bool) -> u64 {
        // Both are at most MAX_PAYLOAD: 17 bits.
        match self {
            Self::Plain => length as u64 | u64::from(self_contained) << LENGTH_BITS,
            Self::Lz4 => {
                length as u64 | (unpacked as u64) << LENGTH_BITS | u64::from(self_contained) << (2 * LENGTH_BITS)
            }
        }
    }

    /// Length, unpacked length (0: not compressed), flag.
    fn unpack(self, header: u64) -> (usize, usize, bool) {
        let bits = |from: usize| (header >> from) as usize & MAX_PAYLOAD;
        let flag = |at: usize| header >> at & 1 == 1;
        match self {
            Self::Plain => (bits(0), 0, flag(LENGTH_BITS)),
            Self::Lz4 => (bits(0), bits(LENGTH_BITS), flag(2 * LENGTH_BITS)),
        }
    }
}

/// What a segment carries.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub payload: BytesMut,
    /// The payload is whole envelopes.
    pub self_contained: bool,
}

/// Turns what stands in `out` from `start` on, a whole envelope or several, into one segment, or into several.
pub(crate) fn wrap(form: Form, start: usize, out: &mut BytesMut) {
    let length = out.len().saturating_sub(start);
    if form == Form::Plain && length <= MAX_PAYLOAD {
        return wrap_in_place(start, length, out);
    }
    let envelopes = out.split_off(start);
    for payload in envelopes.chunks(MAX_PAYLOAD) {
        put(form, payload, length <= MAX_PAYLOAD, out);
    }
}

/// Without a second buffer: the payload makes room for the header.
fn wrap_in_place(start: usize, length: usize, out: &mut BytesMut) {
    let header = Form::Plain.header();
    let checksum = crc32(&out[start..]);
    out.put_bytes(0, header);
    out.copy_within(start..start + length, start + header);
    let mut place = &mut out[start..start + header];
    put_header(Form::Plain, Form::Plain.pack(length, 0, true), &mut place);
    out.put_u32_le(checksum);
}

fn put(form: Form, payload: &[u8], self_contained: bool, out: &mut BytesMut) {
    out.reserve(form.header() + payload.len() + TRAILER);
    let mut packed = BytesMut::new();
    let shorter = form == Form::Lz4 && pack_lz4(payload, &mut packed).is_some() && packed.len() < payload.len();
    let (sent, unpacked) = if shorter { (&packed[..], payload.len()) } else { (payload, 0) };
    put_header(form, form.pack(sent.len(), unpacked, self_contained), out);
    out.put_slice(sent);
    out.put_u32_le(crc32(sent));
}

fn put_header(form: Form, header: u64, out: &mut impl BufMut) {
    out.put_uint_le(header, form.lengths());
    out.put_uint_le(u64::from(crc24(header, form.lengths())), CRC24_LENGTH);
}

/// Takes the next segment, if it is all there.
///
/// # Errors
/// A checksum does not match, or what is compressed is broken: the stream can't be read on, and nothing is taken.
pub(crate) fn take(form: Form, source: &mut BytesMut) -> Result<Option<Segment>, FrameError> {
    let Some(mut bytes) = source.get(..form.header()) else { return Ok(None) };
    let header = bytes.get_uint_le(form.lengths());
    if crc24(header, form.lengths()) != bytes.get_uint_le(CRC24_LENGTH) as u32 {
        return Err(FrameError::Checksum { what: "header" });
    }
    let (length, unpacked, self_contained) = form.unpack(header);
    let total = form.header() + length + TRAILER;
    let Some(mut rest) = source.get(form.header()..total) else {
        source.reserve(total - source.len());
        return Ok(None);
    };
    let payload = rest.get(..length).unwrap_or_default();
    rest.advance(length);
    if rest.get_u32_le() != crc32(payload) {
        return Err(FrameError::Checksum { what: "payload" });
    }
    let payload = match unpacked {
        0 => {
            source.advance(form.header());
            let payload = source.split_to(length);
            source.advance(TRAILER);
            payload
        }
        unpacked => {
            let payload = unpack_lz4(payload, unpacked, MAX_PAYLOAD).map_err(FrameError::Segment)?;
            source.advance(total);
            payload
        }
    };
    Ok(Some(Segment { payload, self_contained }))
}

/// The checksum of a header's first bytes.
fn crc24(header: u64, length: usize) -> u32 {
    header.to_le_bytes().into_iter().take(length).fold(CRC24_INIT, |crc, byte| {
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

    fn wrapped(form: Form, envelopes: &[u8]) -> BytesMut {
        // Something stands before.
        let mut wire = BytesMut::from(&b"before"[..]);
        wire.extend_from_slice(envelopes);
        wrap(form, 6, &mut wire);
        assert_eq!(wire.split_to(6), "before");
        wire
    }

    #[test]
    fn what_is_put_is_taken() {
        for form in [Form::Plain, Form::Lz4] {
            for length in [0, 1, 9, MAX_PAYLOAD, MAX_PAYLOAD + 1, 3 * MAX_PAYLOAD + 5] {
                for noise in [1, 0x9E37_79B9_7F4A_7C15_u64] {
                    let envelopes: Vec<u8> = (0..length as u64).map(|n| (n.wrapping_mul(noise) >> 40) as u8).collect();
                    let mut wire = wrapped(form, &envelopes);
                    let mut taken = Vec::new();
                    while let Some(segment) = take(form, &mut wire).unwrap() {
                        assert_eq!(segment.self_contained, length <= MAX_PAYLOAD);
                        taken.extend_from_slice(&segment.payload);
                    }
                    assert_eq!(taken, envelopes);
                    assert!(wire.is_empty());
                }
            }
        }
    }

    #[test]
    fn what_is_shorter_compressed_is_compressed() {
        assert!(wrapped(Form::Lz4, &[7; 10_000]).len() < 200);
        let noise: Vec<u8> = (0..1000_u64).map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
        assert_eq!(wrapped(Form::Lz4, &noise[..100]).len(), 100 + Form::Lz4.header() + TRAILER);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        for form in [Form::Plain, Form::Lz4] {
            let good = wrapped(form, &[b'e'; 60]);
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let before = bad.clone();
                assert!(take(form, &mut bad).is_err(), "{form:?} bit {bit}");
                assert_eq!(bad, before, "nothing is taken");
            }
            for length in 0..good.len() {
                assert_eq!(take(form, &mut BytesMut::from(&good[..length])).unwrap(), None);
            }
        }
    }

    #[test]
    fn what_decompresses_into_something_else_is_refused() {
        let mut block = BytesMut::new();
        pack_lz4(&[0; 5000], &mut block).unwrap();
        for unpacked in [1, 4999, 5001, MAX_PAYLOAD] {
            let mut wire = BytesMut::new();
            put_header(Form::Lz4, Form::Lz4.pack(block.len(), unpacked, true), &mut wire);
            wire.put_slice(&block);
            wire.put_u32_le(crc32(&block));
            assert!(matches!(take(Form::Lz4, &mut wire), Err(FrameError::Segment(_))), "{unpacked}");
        }
    }
}
