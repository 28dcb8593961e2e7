//! Bodies that a Cassandra sends.

use bytes::Bytes;
use replicateddb_cql::Version;
use replicateddb_cql::response::{self, ErrorDetail, ResultBody};
use replicateddb_cql::wire::Reader;

use super::seeds::{CASSANDRA, hex_lines, join};
use crate::source::Source;

pub fn run(input: &[u8]) {
    let mut source = Source(input);
    let kind = source.byte();
    let body = Bytes::copy_from_slice(source.rest());
    match kind & 3 {
        0 => result(&body),
        1 => error(&body),
        2 => event(&body),
        _ => others(&body),
    }
}

fn result(body: &Bytes) {
    for version in Version::EVERY {
        let read = response::parse_result_of(body, version);
        let Ok(read) = read else { continue };
        let kind = response::result_kind(body).expect("it was read");
        let id = response::prepared_id(body).expect("it was read");
        let again = match &read {
            ResultBody::Void => Ok(response::void()),
            ResultBody::SetKeyspace(name) => Ok(response::set_keyspace(name)),
            ResultBody::SchemaChange(change) => Ok(response::schema_change(change)),
            ResultBody::Rows(rows) => {
                // Without the columns they can't be written, and those without any can't be read again.
                let again = response::rows(rows, false);
                assert_eq!(rows.rows.iter().any(|row| row.len() != rows.columns.len()), again.is_err());
                if rows.columns.is_empty() { Ok(body.clone()) } else { again }
            }
            ResultBody::Prepared(prepared) => {
                assert_eq!(id.as_ref(), Some(&prepared.id));
                if version == Version::V4 { response::prepared(prepared) } else { Ok(body.clone()) }
            }
        };
        let again = again.expect("no longer than what was read");
        assert_eq!(response::parse_result_of(&again, version), Ok(read));
        assert_eq!(response::result_kind(&again), Ok(kind));
    }
    for version in Version::EVERY {
        // What is the same in another version stays as it is, and what is not can be read there, and stays so.
        if let Ok(Some(other)) = response::result_in(body, version) {
            assert!(response::parse_result_of(&other, version).is_ok());
            let again = response::result_in(&other, version).expect("it was just made");
            assert!(again.is_none_or(|again| again == other));
        }
    }
}

fn error(body: &Bytes) {
    let Ok(read) = response::parse_error(body) else { return };
    let again = response::error(&read.message, &ErrorDetail::Raw(read.code, read.extra.clone()));
    assert_eq!(again, *body);
    assert!(read.unprepared_id().is_none_or(|id| read.extra.len() >= id.len() + 2));
    for version in Version::EVERY {
        if let Ok(Some(other)) = response::error_in(body, version) {
            assert!(response::parse_error(&other).is_ok());
        }
    }
}

fn event(body: &Bytes) {
    let Ok(read) = response::parse_event(body) else { return };
    assert_eq!(response::parse_event(&response::event(&read)).as_ref(), Ok(&read));
    if let response::Event::Schema(change) = read {
        for version in Version::EVERY {
            let said = change.clone().in_version(version);
            let result = response::parse_result_of(&response::schema_change(&said), version);
            assert_eq!(result, Ok(ResultBody::SchemaChange(said)));
        }
    }
}

fn others(body: &Bytes) {
    if let Ok(read) = response::parse_supported(body) {
        let options: Vec<(&str, Vec<&str>)> =
            read.iter().map(|(name, values)| (name.as_str(), values.iter().map(String::as_str).collect())).collect();
        let options: Vec<(&str, &[&str])> = options.iter().map(|(name, values)| (*name, &values[..])).collect();
        assert_eq!(response::parse_supported(&response::supported(&options)), Ok(read));
    }
    let _ = response::parse_authenticate(body);
    let mut reader = Reader::new(body.clone());
    if let Ok(kind) = response::TypeReader::read(&mut reader) {
        let mut written = bytes::BytesMut::new();
        kind.write(&mut written).expect("no longer than what was read");
        assert_eq!(written, body[..reader.position()]);
        for version in Version::EVERY {
            let said = kind.clone().in_version(version);
            assert_eq!(said.clone().in_version(version), said);
        }
        assert!(!kind.to_string().is_empty());
    }
    // Cells of collections, cut off wherever.
    let elements: usize = response::cell::as_elements(body).iter().map(|element| element.len() + 4).sum();
    assert!(elements <= body.len());
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for wire in hex_lines(CASSANDRA) {
        let [_, _, _, _, opcode, _, _, _, _, body @ ..] = &wire[..] else { continue };
        let kind = if *opcode == 0 { 1 } else { 0 };
        seeds.push(join(&[&[kind], body]));
    }
    for event in [
        &b"\x00\x0dSTATUS_CHANGE\x00\x02UP\x04\x7f\x00\x00\x01\x00\x00\x23\x52"[..],
        b"\x00\x0dSCHEMA_CHANGE\x00\x07CREATED\x00\x08FUNCTION\x00\x01k\x00\x01f\x00\x01\x00\x03int",
        b"\x00\x0fTOPOLOGY_CHANGE\x00\x0cREMOVED_NODE\x10abcdefghijklmnop\x00\x00\x00\x01",
    ] {
        seeds.push(join(&[&[2], event]));
    }
    for other in [
        &b"\x00\x01\x00\x0bCQL_VERSION\x00\x01\x00\x053.4.7"[..],
        b"\x00\x30\x00\x01k\x00\x01u\x00\x02\x00\x01a\x00\x15\x00\x01b\x00\x31\x00\x02\x00\x20\x00\x13\x00\x22\x00\x0d",
        b"\x00\x00\x00\x02\x00\x00\x00\x01a\x00\x00\x00\x00",
    ] {
        seeds.push(join(&[&[3], other]));
    }
    seeds.push(b"\x00\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00\x02\x00\x00\x00\x05state\x00\x01k\x00\x01t\x00\x01a\x00\x11\x00\x01b\x00\x15\x00\x00\x00\x01\x00\x00\x00\x01\x00\xff\xff\xff\xff".to_vec());
    seeds
}
