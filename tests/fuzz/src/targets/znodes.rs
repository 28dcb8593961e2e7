//! What stands in znodes: entries, where their bodies are, the log's header, names, who may lead; and in files of the state log.

use bytes::{BufMut, Bytes, BytesMut};
use replicateddb_ordering::Position;
use replicateddb_ordering::state_log::fuzzing as files;
use replicateddb_ordering::znode_log::fuzzing as znodes;
use replicateddb_ordering::zookeeper_leader::fuzzing as election;

use super::seeds::join;
use crate::source::Source;

/// The bytes of a header that mean nothing yet.
const RESERVED: std::ops::Range<usize> = 6..8;

pub fn run(input: &[u8]) {
    let mut source = Source(input);
    match source.byte() % 6 {
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
        4 => {
            let bytes = source.rest();
            let whole =
                [&(bytes.len() as u32).to_be_bytes()[..], &crc32fast::hash(bytes).to_be_bytes(), bytes].concat();
            for bytes in [bytes, &whole] {
                if let Some(again) = files::record(bytes) {
                    assert_eq!(files::record(&again), Some(again.clone()));
                }
                assert!(!files::is_header(bytes) || bytes.starts_with(b"RDBs"));
            }
        }
        5 => {
            let text = String::from_utf8_lossy(source.rest()).into_owned();
            assert!(election::name(&text).is_none_or(|again| again == text));
            election::data(text.as_bytes());
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
        b"\x04\x01\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00\x02\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x09an entry".to_vec(),
        b"\x050000000001-000000000000002a".to_vec(),
        b"\x05{\"replica\":1,\"incarnation\":42,\"epoch\":3,\"address\":\"h:1\",\"leaving\":true}".to_vec(),
    ]
}
