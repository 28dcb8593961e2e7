//! What stands in znodes: entries, where their bodies are, the log's header, names.

use bytes::{BufMut, Bytes, BytesMut};
use replicateddb_ordering::Position;
use replicateddb_ordering::znode_log::fuzzing as znodes;

use super::seeds::join;
use crate::source::Source;

/// The bytes of a header that mean nothing yet.
const RESERVED: std::ops::Range<usize> = 6..8;

pub fn run(input: &[u8]) {
    let mut source = Source(input);
    match source.byte() & 3 {
        0 => entry(Bytes::copy_from_slice(source.rest())),
        1 => {
            let kind = source.byte();
            entry(sealed(kind, source.rest()));
        }
        2 => {
            if let Some(again) = znodes::header(source.rest()) {
                assert_eq!(znodes::header(&again), Some(again.clone()));
            }
        }
        _ => {
            let created = znodes::created(source.int() as i32, source.int() as i32);
            assert!(created.is_none_or(|created| created <= i32::MAX as u32));
            let text = String::from_utf8_lossy(source.rest()).into_owned();
            znodes::names(&text);
            if let Ok(position) = text.parse::<Position>() {
                assert_eq!(position.to_string().parse(), Ok(position));
            }
        }
    }
}

/// With a length and a checksum that are right.
fn sealed(kind: u8, payload: &[u8]) -> Bytes {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[1, kind]);
    crc.update(payload);
    let mut data = BytesMut::new();
    data.put_slice(b"RDBe");
    data.put_slice(&[1, kind, 0, 0]);
    data.put_u32(payload.len() as u32);
    data.put_u32(crc.finalize());
    data.put_slice(payload);
    data.freeze()
}

fn entry(data: Bytes) {
    let Some(again) = znodes::entry(&data) else { return };
    let plain = |data: &Bytes| {
        let mut data = data.to_vec();
        data[RESERVED].fill(0);
        data
    };
    assert_eq!(plain(&again), plain(&data));
    assert_eq!(znodes::entry(&again), Some(again.clone()));
}

pub fn seeds() -> Vec<Vec<u8>> {
    vec![
        join(&[&[0], &sealed(0, b"an entry")[..]]),
        b"\x01\x00entry".to_vec(),
        b"\x01\x01\x00\x02\x00\x01\x00\x00\x12\x34\x56\x785f-00a1".to_vec(),
        b"\x02{\"format\":2,\"id\":\"00000000-0000-0000-0000-000000000001\",\"first\":{\"segment\":1,\"sequence\":2},\"first_bytes\":77}".to_vec(),
        b"\x03\x00\x00\x00\x07\x00\x00\x00\x03e-0000000007".to_vec(),
        b"\x03\x00\x00\x00\x07\x00\x00\x00\x030000000009".to_vec(),
        b"\x03\x00\x00\x00\x00\x00\x00\x00\x00sealed".to_vec(),
        b"\x03\x00\x00\x00\x00\x00\x00\x00\x00/replicateddb/a-b".to_vec(),
        b"\x03\x00\x00\x00\x00\x00\x00\x00\x0012/345".to_vec(),
    ]
}
