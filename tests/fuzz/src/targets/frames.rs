//! Bare envelopes, compressed or not: versions 3 and 4, and all versions before STARTUP is answered.

use super::seeds::{CASSANDRA, DRIVER, hex_lines, join};
use crate::source::Source;
use crate::wires::Setting;

/// The bound of bodies here.
pub const MAX_BODY: usize = 64 << 10;

pub fn run(input: &[u8]) {
    let mut source = Source(input);
    let setting = Setting::of(&mut source, MAX_BODY);
    let pieces = source.byte();
    setting.check(source.rest(), pieces);
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let with = |setting: u8, wire: &[u8]| join(&[&[setting, 3], wire]);
    for wire in hex_lines(DRIVER) {
        seeds.push(with(0b1000_1001, &wire));
        seeds.push(with(0b0000_1001, &wire));
    }
    seeds.extend(hex_lines(CASSANDRA).iter().map(|wire| with(0b0000_1000, wire)));
    // Every setting, with bodies that can be made shorter and with one that can't.
    for setting in 0..48 {
        let made = Setting::of(&mut Source(&[setting]), MAX_BODY);
        for body in [&b"none"[..], &[7; 300], b"again and again and again and again and again"] {
            let wire = [made.sent(body), made.sent(b"next")].concat();
            seeds.push(with(setting, &wire));
        }
    }
    seeds
}
