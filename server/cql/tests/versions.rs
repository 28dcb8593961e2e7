//! Connections of every version, with and without compression: round trips, arbitrary splits, damage, bombs.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

mod common;

use bytes::{BufMut, Bytes, BytesMut};
use common::feed;
use proptest::prelude::*;
use replicateddb_cql::frame::{Codec, Envelope, FLAG_COMPRESSION, FrameError, HEADER_LENGTH, Opcode};
use replicateddb_cql::{Compression, Version};
use tokio_util::codec::{Decoder, Encoder};

const MAX_BODY: usize = 1 << 20;
/// The most that a segment carries.
const SEGMENT: usize = (1 << 17) - 1;

/// Every kind of connection there is.
const KINDS: [(Version, Option<Compression>); 8] = [
    (Version::V3, None),
    (Version::V3, Some(Compression::Lz4)),
    (Version::V3, Some(Compression::Snappy)),
    (Version::V4, None),
    (Version::V4, Some(Compression::Lz4)),
    (Version::V4, Some(Compression::Snappy)),
    (Version::V5, None),
    (Version::V5, Some(Compression::Lz4)),
];

/// A server that has answered STARTUP, and the client that has read the answer.
fn connected((version, compression): (Version, Option<Compression>)) -> (Codec, Codec) {
    let (mut server, mut client) = (Codec::server(MAX_BODY), Codec::client_of(version, compression, MAX_BODY));
    let mut wire = BytesMut::new();
    let ready = Envelope::response(0, Opcode::Ready, Bytes::new());
    server.encode(Envelope { version: version.code(), ..ready }, &mut wire).unwrap();
    server.begin(version, compression, MAX_BODY);
    assert_eq!(&wire[..], [0x80 | version.code(), 0, 0, 0, 2, 0, 0, 0, 0], "the answer to STARTUP is bare");
    assert_eq!(client.decode(&mut wire).unwrap().unwrap().opcode, Opcode::Ready);
    (server, client)
}

fn request(version: Version, stream: i16, body: impl Into<Bytes>) -> Envelope {
    Envelope { version: version.code(), ..Envelope::request(stream, Opcode::Query, body.into()) }
}

fn kind() -> impl Strategy<Value = (Version, Option<Compression>)> {
    proptest::sample::select(KINDS.to_vec())
}

/// Bodies that compress well and ones that don't, some over a segment's bound.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let noise = proptest::collection::vec(any::<u8>(), 0..300);
    let long = (any::<u8>(), 0_usize..3 * SEGMENT).prop_map(|(byte, length)| vec![byte; length]);
    let mixed = (noise.clone(), 1_usize..2000).prop_map(|(noise, times)| noise.repeat(times));
    let mixed = mixed.prop_map(|mut body| {
        body.truncate(MAX_BODY);
        body
    });
    prop_oneof![4 => noise, 1 => long, 1 => mixed]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_sent_is_read(
        kind in kind(),
        bodies in proptest::collection::vec(body(), 1..5),
        pieces in proptest::collection::vec(1_usize..5000, 1..5),
        to_client: bool,
    ) {
        let (server, client) = connected(kind);
        let (mut sender, mut receiver) = if to_client { (server, client) } else { (client, server) };
        let sent: Vec<Envelope> = bodies.into_iter().enumerate().map(|(at, body)| {
            let envelope = request(kind.0, at as i16, body);
            if to_client { Envelope { is_response: true, opcode: Opcode::Result, ..envelope } } else { envelope }
        }).collect();
        let mut wire = BytesMut::new();
        for envelope in &sent {
            sender.encode(envelope.clone(), &mut wire).unwrap();
        }
        prop_assert_eq!(feed(&mut receiver, &wire, &pieces).unwrap(), sent);
        prop_assert!(!receiver.holds_part());
    }

    /// In segments no damage goes unnoticed: what is read before it is what was sent.
    #[test]
    fn damage_to_segments_is_found(
        compression in proptest::sample::select(vec![None, Some(Compression::Lz4)]),
        bodies in proptest::collection::vec(body(), 1..4),
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let (mut server, mut client) = connected((Version::V5, compression));
        let sent: Vec<Envelope> = bodies.into_iter().map(|body| request(Version::V5, 1, body)).collect();
        let mut wire = BytesMut::new();
        for envelope in &sent {
            client.encode(envelope.clone(), &mut wire).unwrap();
        }
        let at = at.index(wire.len());
        wire[at] ^= 1 << bit;
        let mut read = Vec::new();
        let end = loop {
            match server.decode(&mut wire) {
                Ok(Some(envelope)) => read.push(envelope),
                other => break other,
            }
        };
        prop_assert!(matches!(end, Err(FrameError::Checksum { .. })), "{:?}", end);
        prop_assert!(read.len() < sent.len());
        prop_assert_eq!(&read[..], &sent[..read.len()]);
    }

    #[test]
    fn no_bytes_panic(
        kind in kind(),
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        compressed: bool,
        pieces in proptest::collection::vec(1_usize..40, 1..5),
    ) {
        let (mut server, mut client) = connected(kind);
        let mut wire = BytesMut::new();
        if kind.0 == Version::V5 {
            // Whole segments with anything in them, which no client's codec would make.
            client.encode(request(Version::V5, 1, bytes.clone()), &mut wire).unwrap();
            let _ = feed(&mut server.clone(), &wire, &pieces);
        } else {
            wire.put_slice(&[kind.0.code(), if compressed { FLAG_COMPRESSION } else { 0 }, 0, 1, Opcode::Query.code()]);
            wire.put_u32(bytes.len() as u32);
            wire.put_slice(&bytes);
            let _ = feed(&mut server.clone(), &wire, &pieces);
        }
        let _ = feed(&mut server, &bytes, &pieces);
    }
}

#[test]
fn what_compresses_well_is_compressed() {
    for kind in KINDS {
        let (mut server, _) = connected(kind);
        let mut wire = BytesMut::new();
        server.encode(Envelope::response(1, Opcode::Result, vec![7; 100_000].into()), &mut wire).unwrap();
        assert_eq!(wire.len() < 10_000, kind.1.is_some(), "{kind:?}: {}", wire.len());
        // What would not get shorter travels as it is.
        let mut wire = BytesMut::new();
        server.encode(Envelope::response(1, Opcode::Ready, Bytes::new()), &mut wire).unwrap();
        if kind.0 < Version::V5 {
            assert_eq!(&wire[..], [0x80 | kind.0.code(), 0, 0, 1, 2, 0, 0, 0, 0]);
        }
    }
}

#[test]
fn nothing_is_compressed_before_it_is_agreed_on() {
    for version in [3, 4, 5] {
        let mut wire = BytesMut::from(&[version, FLAG_COMPRESSION, 0, 1, 5, 0, 0, 0, 0][..]);
        let error = Codec::server(MAX_BODY).decode(&mut wire).unwrap_err();
        assert!(matches!(error, FrameError::Compressed { stream: 1 }), "{error}");
    }
    let (mut server, _) = connected((Version::V4, None));
    let mut wire = BytesMut::from(&[4, FLAG_COMPRESSION, 0, 1, 5, 0, 0, 0, 0][..]);
    assert!(matches!(server.decode(&mut wire), Err(FrameError::Compressed { stream: 1 })));
}

/// A body of a few bytes that says it holds many.
fn bomb(compression: Compression, length: u32, filling: &[u8]) -> BytesMut {
    let mut body = match compression {
        Compression::Lz4 => length.to_be_bytes().to_vec(),
        Compression::Snappy => {
            let digits = (0..5).map(|at| (length >> (7 * at)) as u8 & 0x7F).collect::<Vec<_>>();
            let last = digits.iter().rposition(|digit| *digit != 0).unwrap_or(0);
            digits[..=last].iter().enumerate().map(|(at, digit)| digit | if at < last { 0x80 } else { 0 }).collect()
        }
    };
    body.extend_from_slice(filling);
    let mut wire = BytesMut::from(&[4, FLAG_COMPRESSION, 0, 9, Opcode::Query.code()][..]);
    wire.put_u32(body.len() as u32);
    wire.put_slice(&body);
    wire
}

#[test]
fn what_is_compressed_is_bounded_before_it_is_unpacked() {
    for compression in Compression::EVERY {
        let (server, _) = connected((Version::V4, Some(compression)));
        for length in [MAX_BODY as u32, MAX_BODY as u32 + 1, u32::MAX] {
            let mut wire = bomb(compression, length, &[0; 20]);
            // Told in full before it is read, so that it waits for its share of the bounds.
            assert_eq!(server.clone().next_length(&mut wire).unwrap(), Some(length as usize));
            let error = server.clone().decode(&mut wire).unwrap_err();
            assert!(matches!(error, FrameError::Unpacking { stream: 9, .. }), "{error}");
        }
        // Only the beginning is there.
        let whole = bomb(compression, 300, &[0; 20]);
        for end in 0..HEADER_LENGTH + 1 {
            let mut wire = BytesMut::from(&whole[..end]);
            assert_eq!(server.clone().next_length(&mut wire).unwrap(), None, "{end}");
        }
        for filling in [&[][..], &[0xFF; 30], &[0x0F; 30]] {
            let error = server.clone().decode(&mut bomb(compression, 100, filling)).unwrap_err();
            assert!(matches!(error, FrameError::Unpacking { .. }), "{error}");
        }
    }
}

/// Memory is set aside by what the beginning says; where that makes no sense, nothing more is read.
#[test]
fn what_can_not_be_unpacked_is_refused_before_the_rest_of_it_is_here() {
    let endless = [0xff; 5];
    let large = (MAX_BODY as u32 + 1).to_be_bytes();
    for (compression, beginning) in [(Compression::Snappy, &endless[..]), (Compression::Lz4, &large)] {
        let (mut server, _) = connected((Version::V4, Some(compression)));
        let mut wire = BytesMut::from(&[4, FLAG_COMPRESSION, 0, 9, Opcode::Query.code()][..]);
        wire.put_i32(MAX_BODY as i32);
        assert!(server.decode(&mut wire).unwrap().is_none(), "nothing is known yet");
        wire.put_slice(beginning);
        let error = server.decode(&mut wire).unwrap_err();
        assert!(matches!(error, FrameError::Unpacking { stream: 9, .. }), "{error}");
    }
}

#[test]
fn segments_fit_the_envelopes_in_them() {
    let sent = |parts: &[&[u8]]| {
        let mut wire: BytesMut = parts.iter().flat_map(|part| segment(part)).collect();
        let (mut server, _) = connected((Version::V5, None));
        server.decode(&mut wire)
    };
    let envelope = [5, 0, 0, 1, Opcode::Query.code(), 0, 0, 0, 2, 7, 7];
    assert!(sent(&[&envelope]).unwrap().is_some());
    for at in [1, 9, 10] {
        assert!(matches!(sent(&[&envelope[..at]]), Err(FrameError::Misfit)), "{at}");
        assert!(matches!(sent(&[&envelope[..at], &envelope[at..]]), Err(FrameError::Misfit)), "{at}");
    }
}

/// A self-contained segment with any payload.
fn segment(payload: &[u8]) -> Vec<u8> {
    let crc24 = |bytes: &[u8]| {
        bytes.iter().fold(0x0087_5060_u32, |crc, byte| {
            (0..8).fold(crc ^ (u32::from(*byte) << 16), |crc, _| {
                let crc = crc << 1;
                if crc & 0x0100_0000 == 0 { crc } else { crc ^ 0x0197_4F0B }
            })
        })
    };
    let header = (payload.len() as u32 | 1 << 17).to_le_bytes();
    let mut crc32 = crc32fast::Hasher::new();
    crc32.update(&[0xFA, 0x2D, 0x55, 0xCA]);
    crc32.update(payload);
    let checksum = crc24(&header[..3]).to_le_bytes();
    [&header[..3], &checksum[..3], payload, &crc32.finalize().to_le_bytes()].concat()
}

#[test]
fn a_connection_keeps_its_version() {
    for kind in KINDS {
        let (mut server, _) = connected(kind);
        for other in Version::EVERY.into_iter().filter(|other| *other != kind.0) {
            let header = [other.code(), 0, 0, 3, 5, 0, 0, 0, 0];
            let mut wire = BytesMut::from(&header[..]);
            if kind.0 == Version::V5 {
                if kind.1.is_some() {
                    continue;
                }
                wire = BytesMut::from(&segment(&header)[..]);
            }
            let error = server.clone().decode(&mut wire).unwrap_err();
            assert!(matches!(error, FrameError::VersionChanged { stream: 3, .. }), "{kind:?} {other}: {error}");
        }
        // The next one is fine.
        let (_, mut client) = connected(kind);
        let mut wire = BytesMut::new();
        client.encode(request(kind.0, 4, vec![1]), &mut wire).unwrap();
        assert_eq!(server.decode(&mut wire).unwrap().unwrap().stream, 4);
    }
}

#[test]
fn clients_of_other_versions_are_told_so_in_an_envelope_that_they_can_read() {
    for (version, header, answered) in [
        (1, &[1, 0, 7, 1, 0][..], 1),
        (2, &[2, 0, 7, 1, 0], 2),
        (6, &[6, 0, 0, 7, 5, 0, 0, 0, 0], 5),
        (66, &[66, 0, 0, 7, 5, 0, 0, 0, 0], 5),
    ] {
        let mut codec = Codec::server(MAX_BODY);
        let error = codec.decode(&mut BytesMut::from(header)).unwrap_err();
        let text =
            format!("Invalid or unsupported protocol version ({version}); supported versions are (3/v3, 4/v4, 5/v5)");
        assert_eq!(error.to_string(), text);
        assert_eq!((error.stream(), error.answer_version()), (Some(7), Some(answered)));
        let mut wire = BytesMut::new();
        let answer = Envelope::response(7, Opcode::Error, Bytes::new());
        codec.encode(Envelope { version: answered, ..answer }, &mut wire).unwrap();
        let short = [0x80 | answered, 0, 7, 0, 0, 0, 0, 0];
        let long = [0x80 | answered, 0, 0, 7, 0, 0, 0, 0, 0];
        assert_eq!(&wire[..], if answered < 3 { &short[..] } else { &long[..] });
    }
}
