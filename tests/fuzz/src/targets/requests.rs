//! Bodies that clients send.

use bytes::Bytes;
use replicateddb_cql::frame::{Envelope, FLAG_CUSTOM_PAYLOAD, Opcode};
use replicateddb_cql::request::{self, Batch, Own, Params, Values};
use replicateddb_cql::{Consistency, Version};

use super::seeds::{DRIVER, hex_lines, join};
use crate::source::Source;

/// The opcodes of requests.
const OPCODES: [Opcode; 8] = [
    Opcode::Startup,
    Opcode::Register,
    Opcode::AuthResponse,
    Opcode::Prepare,
    Opcode::Query,
    Opcode::Execute,
    Opcode::Batch,
    Opcode::Options,
];

pub fn run(input: &[u8]) {
    let mut source = Source(input);
    let bits = source.byte();
    let version = Version::EVERY[usize::from(bits & 3) % Version::EVERY.len()];
    let opcode = OPCODES[usize::from(bits >> 2 & 7)];
    let body = Bytes::copy_from_slice(source.rest());
    let flags = if bits & 0x20 == 0 { 0 } else { FLAG_CUSTOM_PAYLOAD };
    let envelope = Envelope { version: version.code(), flags, ..Envelope::request(3, opcode, body) };
    if let Ok(message) = envelope.message() {
        parse(opcode, &message, version);
        values(&message, version);
        at_another_level(envelope, &message, version);
    }
}

fn parse(opcode: Opcode, message: &Bytes, version: Version) {
    match opcode {
        Opcode::Startup => startup(message),
        Opcode::Register => {
            let Ok(found) = request::parse_register(message) else { return };
            let events: Vec<&str> = found.events.iter().map(String::as_str).collect();
            let again = request::register(&events).expect("as many as were read");
            assert_eq!(request::parse_register(&again), Ok(found));
        }
        Opcode::AuthResponse => {
            let Ok(Some((user, password))) = request::parse_plain(message) else { return };
            let token = ["", &user, &password].join("\0");
            let again = request::auth_response(token.as_bytes()).expect("as long as was read");
            assert_eq!(request::parse_plain(&again), Ok(Some((user, password))));
        }
        Opcode::Prepare => {
            let Ok(found) = request::parse_prepare(message, version) else { return };
            let again = match (&found.keyspace, version) {
                (Some(keyspace), _) => request::v5::prepare_in(&found.text, keyspace),
                (None, Version::V5) => request::v5::prepare(&found.text),
                (None, _) => request::prepare(&found.text),
            };
            assert_eq!(request::parse_prepare(&again.expect("as long as was read"), version), Ok(found));
        }
        Opcode::Query => {
            let Ok(found) = request::parse_query(message, version) else { return };
            let (text, params) = (&found.text, &found.params);
            let again = match (version, &found.own) {
                (Version::V5, Own { keyspace: Some(keyspace), now_in_seconds }) => {
                    request::v5::query_in(text, keyspace, params, *now_in_seconds)
                }
                (Version::V5, Own { now_in_seconds, .. }) => request::v5::query(text, params, *now_in_seconds),
                _ => request::query(text, params),
            };
            assert_eq!(request::parse_query(&again.expect("as long as was read"), version), Ok(found));
        }
        Opcode::Execute => {
            let Ok(mut found) = request::parse_execute(message, version) else { return };
            // It means nothing.
            found.own.keyspace = None;
            let again = match version {
                Version::V5 => {
                    request::v5::execute(&found.id, &found.metadata_id, &found.params, found.own.now_in_seconds)
                }
                _ => request::execute(&found.id, &found.params),
            };
            assert_eq!(request::parse_execute(&again.expect("as long as was read"), version), Ok(found));
        }
        Opcode::Batch => {
            let Ok((found, own)) = request::parse_batch(message, version) else { return };
            let again = batch(&found, &own, version);
            assert_eq!(request::parse_batch(&again, version), Ok((found, own)));
        }
        _ => {}
    }
}

fn startup(message: &Bytes) {
    let Ok(found) = request::parse_startup(message) else { return };
    let options: Vec<(&str, &str)> =
        found.options.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    for (name, _) in &options {
        assert!(found.option(&name.to_ascii_lowercase()).is_some());
    }
    let again = request::startup(&options).expect("as many as were read");
    assert_eq!(request::parse_startup(&again).as_ref(), Ok(&found));
}

fn batch(found: &Batch, own: &Own, version: Version) -> Bytes {
    let made = match (version, own) {
        (Version::V5, Own { keyspace: Some(keyspace), now_in_seconds }) => {
            request::v5::batch_in(found, keyspace, *now_in_seconds)
        }
        (Version::V5, Own { now_in_seconds, .. }) => request::v5::batch(found, *now_in_seconds),
        _ => request::batch(found),
    };
    made.expect("as long as was read")
}

/// A section of values alone, as it stands in the log.
fn values(message: &Bytes, version: Version) {
    for named in [false, true] {
        let mut reader = replicateddb_cql::wire::Reader::new(message.clone());
        let Ok(found) = Values::read(&mut reader, named, version) else { continue };
        assert_eq!(found.iter().count(), found.len());
        assert_eq!(Values::from_raw(found.raw().clone(), named), Ok(found.clone()));
        let all: Vec<_> = found.iter().collect();
        let again = match named {
            false => Values::positional(&all.into_iter().map(|bound| bound.value).collect::<Vec<_>>()),
            true => {
                let named = all.iter().map(|bound| (bound.name.as_deref().unwrap_or_default(), bound.value.clone()));
                Values::by_name(&named.collect::<Vec<_>>())
            }
        };
        let again = again.expect("as many as were read");
        assert_eq!(again.iter().collect::<Vec<_>>(), found.iter().collect::<Vec<_>>());
        assert!(Params::new(Consistency::One, again).values.len() == found.len());
    }
}

/// The level changes, and nothing else does.
fn at_another_level(envelope: Envelope, message: &Bytes, version: Version) {
    let level = |message: &Bytes| match envelope.opcode {
        Opcode::Query => request::parse_query(message, version).ok().map(|found| found.params.consistency),
        Opcode::Execute => request::parse_execute(message, version).ok().map(|found| found.params.consistency),
        Opcode::Batch => request::parse_batch(message, version).ok().map(|(found, _)| found.consistency),
        _ => None,
    };
    let before = level(message);
    let Ok(changed) = request::with_consistency(envelope.clone(), Consistency::EachQuorum, version) else {
        assert_eq!(before, None, "what is read can be given a level");
        return;
    };
    let after = changed.message().expect("there was a message before");
    assert_eq!(after.len(), message.len());
    if before.is_some() {
        assert_eq!(level(&after), Some(Consistency::EachQuorum));
        assert!(after.iter().zip(message).filter(|(new, old)| new != old).count() <= 2);
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for wire in hex_lines(DRIVER) {
        let [version, _, _, _, opcode, _, _, _, _, body @ ..] = &wire[..] else { continue };
        let Some(at) = OPCODES.iter().position(|known| known.code() == *opcode) else { continue };
        seeds.push(join(&[&[(*version - 3) | (at as u8) << 2], body]));
    }
    let params = Params {
        page_size: Some(5000),
        paging_state: Some(Bytes::from_static(b"next")),
        serial_consistency: Some(Consistency::Serial),
        timestamp: Some(-1),
        skip_metadata: true,
        ..Params::new(Consistency::Quorum, Values::none())
    };
    let v5 = request::v5::query_in("SELECT * FROM t", "ks", &params, Some(77)).expect("short");
    seeds.push(join(&[&[2 | 4 << 2], &v5[..]]));
    let named = Values::by_name(&[("a", replicateddb_cql::wire::Value::Unset)]).expect("one");
    let v4 = request::query("SELECT :a FROM t", &Params { values: named, ..params.clone() }).expect("short");
    seeds.push(join(&[&[1 | 4 << 2], &v4[..]]));
    seeds.push(join(&[&[5 << 2 | 2], &request::v5::execute(b"id", b"meta", &params, None).expect("short")[..]]));
    seeds.push(join(&[&[2 << 2], &request::auth_response(b"\0user\0password").expect("short")[..]]));
    seeds.push(join(&[&[3 << 2 | 2], &request::v5::prepare_in("SELECT 1", "ks").expect("short")[..]]));
    seeds
}
