//! Segments of version 5, with checksums that are right: the others are refused, and no chance finds them.

use bytes::{BufMut, BytesMut};

use crate::source::Source;
use crate::wires::Setting;

/// The bound of bodies here: more than one segment has.
pub const MAX_BODY: usize = 300 << 10;
/// Segments of one input, at most.
const SEGMENTS: usize = 12;
/// The most bytes of a payload.
const MAX_PAYLOAD: usize = (1 << 17) - 1;

pub fn run(input: &[u8]) {
    let mut source = Source(input);
    let bits = source.byte();
    let setting = Setting::in_segments(bits & 1 == 1, bits & 2 == 2, MAX_BODY);
    let pieces = source.byte();
    let mut wire = BytesMut::new();
    for _ in 0..SEGMENTS {
        if source.is_empty() {
            break;
        }
        put_something(&mut source, setting, &mut wire);
    }
    setting.check(&wire, pieces);
}

/// A segment, or a whole envelope in some.
fn put_something(source: &mut Source<'_>, setting: Setting, wire: &mut BytesMut) {
    let kind = source.byte();
    let is_whole = kind & 1 == 1;
    match kind >> 1 & 7 {
        // An envelope as it should be, of any length.
        0 => {
            let length = (source.int() as usize) % MAX_BODY;
            let body: Vec<u8> = source.bytes().iter().copied().chain([0]).cycle().take(length).collect();
            wire.put_slice(&setting.sent(&body));
        }
        // A payload as it is.
        1 | 2 => put_segment(setting, source.bytes(), 0, is_whole, wire),
        // The beginning of an envelope, and some more.
        3 | 4 => {
            let direction = if kind & 0x80 == 0 { 0x05 } else { 0x85 };
            let mut payload = vec![direction, source.byte(), 0, 1, source.byte()];
            payload.extend_from_slice(&(source.int() >> 12).to_be_bytes());
            let more = source.bytes();
            payload.extend(more.iter().copied().cycle().take(more.len() * usize::from(source.byte())));
            payload.truncate(MAX_PAYLOAD);
            put_segment(setting, &payload, 0, is_whole, wire);
        }
        // What is said to be compressed.
        5 => put_segment(setting, source.bytes(), source.int() as usize >> 15, is_whole, wire),
        6 => {
            let block = lz4_flex::block::compress(source.bytes());
            put_segment(setting, &block, usize::from(source.short()), is_whole, wire);
        }
        // Something is damaged.
        _ => {
            let start = wire.len();
            put_segment(setting, source.bytes(), 0, is_whole, wire);
            let at = start + usize::from(source.short()) % (wire.len() - start);
            wire[at] ^= 1 << source.below(8);
        }
    }
}

/// A segment as it stands on the wire (`native_protocol_v5.spec`, section 2).
fn put_segment(setting: Setting, payload: &[u8], unpacked: usize, is_whole: bool, wire: &mut BytesMut) {
    let (length, unpacked) = (payload.len() as u64, (unpacked & MAX_PAYLOAD) as u64);
    let (bytes, header) = match setting.is_packed() {
        true => (5, length | unpacked << 17 | u64::from(is_whole) << 34),
        false => (3, length | u64::from(is_whole) << 17),
    };
    wire.put_uint_le(header, bytes);
    wire.put_uint_le(u64::from(crc24(header, bytes)), 3);
    wire.put_slice(payload);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[0xFA, 0x2D, 0x55, 0xCA]);
    crc.update(payload);
    wire.put_u32_le(crc.finalize());
}

fn crc24(header: u64, bytes: usize) -> u32 {
    header.to_le_bytes().iter().take(bytes).fold(0x0087_5060, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte) << 16, |crc, _| match crc & 0x0080_0000 {
            0 => crc << 1,
            _ => crc << 1 ^ 0x0197_4F0B,
        })
    })
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for setting in 0..4 {
        seeds.push(vec![setting, 1, 1, 0, 0, 1, 0, 0, 3, 7, 8, 9]);
        seeds.push(vec![setting, 2, 1, 0, 2, 0, 0, 0, 1, 7, 1, 0, 0, 0, 9, 0, 0]);
        seeds.push(vec![setting, 3, 0x86, 0, 8, 1, 0x20, 0, 0, 4, 1, 2, 3, 4, 200, 0x84, 0, 4, 1, 2, 3, 4]);
        seeds.push(vec![
            setting, 4, 13, 0, 20, 5, 0, 0, 1, 7, 0, 0, 0, 3, 1, 2, 3, 5, 0, 0, 1, 7, 0, 0, 0, 0, 20, 0, 20,
        ]);
        seeds.push(vec![setting, 5, 15, 0, 4, 9, 9, 9, 9, 0, 1, 3]);
    }
    seeds
}
