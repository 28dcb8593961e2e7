//! The frame codec: round trips, arbitrary splits, hostile headers.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

mod common;

use bytes::{Bytes, BytesMut};
use common::feed;
use proptest::prelude::*;
use replicateddb_cql::frame::{
    Codec, Envelope, FLAG_COMPRESSION, FLAG_CUSTOM_PAYLOAD, FLAG_TRACING, FLAG_WARNING, FrameError, Opcode, Prefix,
    VERSION,
};
use tokio_util::codec::{Decoder, Encoder};

const MAX_BODY: usize = 1024;

fn opcode(is_response: bool) -> impl Strategy<Value = Opcode> {
    let fitting: Vec<_> = Opcode::EVERY.into_iter().filter(|code| code.is_request() != is_response).collect();
    proptest::sample::select(fitting)
}

fn envelope(is_response: bool) -> impl Strategy<Value = Envelope> {
    (opcode(is_response), any::<u8>(), any::<i16>(), proptest::collection::vec(any::<u8>(), 0..200)).prop_map(
        move |(opcode, flags, stream, body)| Envelope {
            version: VERSION,
            is_response,
            flags: flags & !FLAG_COMPRESSION,
            stream,
            opcode,
            body: body.into(),
        },
    )
}

fn codecs(is_response: bool) -> (Codec, Codec) {
    let (server, client) = (Codec::server(MAX_BODY), Codec::client(MAX_BODY));
    if is_response { (server, client) } else { (client, server) }
}

proptest! {
    #[test]
    fn decoding_what_was_encoded_gives_it_back(
        (is_response, envelopes) in any::<bool>().prop_flat_map(|response| {
            (Just(response), proptest::collection::vec(envelope(response), 0..6))
        }),
        pieces in proptest::collection::vec(1_usize..40, 1..8),
    ) {
        let (mut sender, mut receiver) = codecs(is_response);
        let mut wire = BytesMut::new();
        for envelope in &envelopes {
            sender.encode(envelope.clone(), &mut wire).unwrap();
        }
        prop_assert_eq!(feed(&mut receiver, &wire, &pieces).unwrap(), envelopes);
    }

    #[test]
    fn no_bytes_panic_and_pieces_do_not_matter(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        version in prop_oneof![Just(0x04_u8), Just(0x84), any::<u8>()],
        pieces in proptest::collection::vec(1_usize..20, 1..6),
        is_response in any::<bool>(),
    ) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = version;
        }
        let (_, receiver) = codecs(is_response);
        let whole = feed(&mut receiver.clone(), &bytes, &[usize::MAX]);
        let split = feed(&mut receiver.clone(), &bytes, &pieces);
        match (whole, split) {
            (Ok(whole), Ok(split)) => {
                for envelope in &whole {
                    let _ = (envelope.prefix(), envelope.message());
                }
                prop_assert_eq!(whole, split);
            }
            (Err(whole), Err(split)) => prop_assert_eq!(whole.to_string(), split.to_string()),
            (whole, split) => prop_assert!(false, "{:?} in one piece, {:?} in many", whole, split),
        }
    }
}

fn decode_error(header: &[u8]) -> FrameError {
    Codec::server(MAX_BODY).decode(&mut BytesMut::from(header)).unwrap_err()
}

#[test]
fn other_versions_are_refused_with_the_stream_to_answer_on() {
    // The Python driver's first OPTIONS (version 66), one of version 6, and the short header of version 2.
    for (header, version, stream) in [
        (&[0x42, 0, 0, 7, 5, 0, 0, 0, 0][..], 66, 7),
        (&[6, 0, 1, 0, 5, 0, 0, 0, 0][..], 6, 256),
        (&[2, 0, 9, 5, 0, 0, 0, 0][..], 2, 9),
        (&[7, 0, 0, 0, 5, 0, 0, 0, 0][..], 7, 0),
    ] {
        let error = decode_error(header);
        assert!(error.to_string().contains(&format!("unsupported protocol version ({version})")), "{error}");
        assert_eq!(error.stream(), Some(stream));
    }
}

#[test]
fn hostile_headers_are_refused_before_anything_is_reserved() {
    let negative = decode_error(&[4, 0, 0, 1, 7, 0xFF, 0xFF, 0xFF, 0xFF]);
    assert!(matches!(negative, FrameError::BodyTooLarge { stream: 1, length: -1, .. }), "{negative}");
    let large = decode_error(&[4, 0, 0, 1, 7, 0x7F, 0xFF, 0xFF, 0xFF]);
    assert!(matches!(large, FrameError::BodyTooLarge { limit: MAX_BODY, .. }), "{large}");
    let edge = Codec::server(MAX_BODY).decode(&mut BytesMut::from(&[4, 0, 0, 1, 7, 0, 0, 4, 1][..])).unwrap_err();
    assert!(matches!(edge, FrameError::BodyTooLarge { length: 1025, .. }), "{edge}");
    assert!(matches!(decode_error(&[4, 1, 0, 1, 7, 0, 0, 0, 1]), FrameError::Compressed { stream: 1 }));
    assert!(matches!(decode_error(&[0x84, 0, 0, 1, 8, 0, 0, 0, 1]), FrameError::WrongDirection { opcode: 8, .. }));
    assert!(matches!(decode_error(&[4, 0, 0, 1, 8, 0, 0, 0, 1]), FrameError::UnknownOpcode { opcode: 8, .. }));
    assert!(matches!(decode_error(&[4, 0, 0, 1, 0x77, 0, 0, 0, 1]), FrameError::UnknownOpcode { opcode: 0x77, .. }));

    let mut announced = BytesMut::from(&[4, 0, 0, 1, 7, 0x00, 0xF0, 0, 0][..]);
    assert!(Codec::server(16 << 20).decode(&mut announced).unwrap().is_none());
    assert!(announced.capacity() < 1 << 20, "{} bytes reserved for a body that never came", announced.capacity());
}

#[test]
fn a_body_over_the_bound_is_not_sent() {
    let envelope = Envelope::request(3, Opcode::Query, Bytes::from(vec![0; MAX_BODY + 1]));
    let mut out = BytesMut::new();
    let error = Codec::client(MAX_BODY).encode(envelope, &mut out).unwrap_err();
    assert!(matches!(error, FrameError::BodyTooLarge { stream: 3, length: 1025, limit: MAX_BODY }));
    assert!(out.is_empty());
}

#[test]
fn the_prefix_of_a_response_is_read_in_its_order() {
    let mut body = vec![0x11; 16];
    body.extend_from_slice(&[0, 1, 0, 2, b'h', b'o']);
    body.extend_from_slice(&[0, 1, 0, 1, b'k', 0, 0, 0, 1, 0xAA]);
    body.extend_from_slice(&[0, 0, 0, 1]);
    let mut envelope = Envelope::response(1, Opcode::Result, body.into());
    envelope.flags = FLAG_TRACING | FLAG_WARNING | FLAG_CUSTOM_PAYLOAD;
    let Prefix { tracing_id, warnings, custom_payload, length } = envelope.prefix().unwrap();
    assert_eq!(tracing_id.map(|id| id.as_bytes()[0]), Some(0x11));
    assert_eq!(warnings, ["ho"]);
    assert_eq!(custom_payload, [("k".to_owned(), Some(Bytes::from_static(&[0xAA])))]);
    assert_eq!(length, 32);
    assert_eq!(envelope.message().unwrap(), Bytes::from_static(&[0, 0, 0, 1]));
    // In a request the tracing flag has no prefix.
    let mut request = Envelope::request(1, Opcode::Prepare, Bytes::from_static(&[0, 0, 0, 0]));
    request.flags = FLAG_TRACING;
    assert_eq!(request.message().unwrap(), request.body);
}
