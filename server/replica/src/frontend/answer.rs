//! Answers that the front end makes itself.

use bytes::{Bytes, BytesMut};
use replicateddb_cql::{
    Compression, Consistency, ProtocolError, Version,
    frame::{Envelope, FLAG_CUSTOM_PAYLOAD, FLAG_TRACING, FLAG_WARNING, Opcode},
    response::{self, ErrorCode, ErrorDetail},
    wire::put_string_list,
};

use crate::replica::ProposeError;

/// The client's versions of CQL that STARTUP may name. Only the major version has ever meant anything.
pub const CQL_VERSION: &str = "3.4.7";

/// An ERROR without further fields.
pub fn error(stream: i16, code: ErrorCode, message: &str) -> Envelope {
    Envelope::response(stream, Opcode::Error, response::error_text(code, message))
}

/// An ERROR from its body.
pub fn error_body(stream: i16, body: Bytes) -> Envelope {
    Envelope::response(stream, Opcode::Error, body)
}

/// The prepared statement is not known here: drivers prepare it again and repeat.
pub fn unprepared(stream: i16, id: Bytes) -> Envelope {
    let message = "Prepared query with this id not found (it may have been prepared on another replica, or evicted); \
                   prepare it again";
    error_body(stream, response::error(message, &ErrorDetail::Unprepared(id)))
}

/// What this server supports.
pub fn supported(stream: i16) -> Envelope {
    let compressions = Compression::EVERY.map(Compression::name);
    let versions = Version::EVERY.map(Version::name);
    let options: [(&str, &[&str]); 3] =
        [("PROTOCOL_VERSIONS", &versions), ("COMPRESSION", &compressions), ("CQL_VERSION", &[CQL_VERSION])];
    Envelope::response(stream, Opcode::Supported, response::supported(&options))
}

/// How Cassandra's warning begins and ends that a keyspace's replication factor is more than it can realise. Each replica's
/// Cassandra knows of itself alone: of the replicas, for which the keyspace is, that says nothing.
const ONE_NODE: [&str; 2] = ["Your replication factor ", " is higher than the number of nodes 1"];

/// An answer of version 4, which outcomes and what the front end answers itself are in, as a client of another version gets
/// it; without a warning that is true of each replica's Cassandra and not of what the client is connected to.
pub fn in_version(answer: Envelope, version: Version) -> Envelope {
    let answer = of_all_replicas(&answer).ok().flatten().unwrap_or(answer);
    if version == Version::V4 {
        return answer;
    }
    restated(&answer, version).ok().flatten().unwrap_or(answer)
}

/// The answer without [`ONE_NODE`]; `None`: it has no such warning.
fn of_all_replicas(answer: &Envelope) -> Result<Option<Envelope>, ProtocolError> {
    if answer.flags & (FLAG_WARNING | FLAG_TRACING | FLAG_CUSTOM_PAYLOAD) != FLAG_WARNING {
        return Ok(None);
    }
    let [begin, end] = ONE_NODE;
    let mut warnings = answer.prefix()?.warnings;
    let before = warnings.len();
    warnings.retain(|warning| !(warning.starts_with(begin) && warning.ends_with(end)));
    if warnings.len() == before {
        return Ok(None);
    }
    let message = answer.message()?;
    if warnings.is_empty() {
        return Ok(Some(Envelope { flags: answer.flags & !FLAG_WARNING, body: message, ..answer.clone() }));
    }
    let mut body = BytesMut::new();
    put_string_list(&mut body, &warnings);
    body.extend_from_slice(&message);
    Ok(Some(Envelope { body: body.freeze(), ..answer.clone() }))
}

/// `None`: it is the same.
fn restated(answer: &Envelope, version: Version) -> Result<Option<Envelope>, ProtocolError> {
    let message = answer.message()?;
    let changed = match answer.opcode {
        Opcode::Result => response::result_in(&message, version)?,
        Opcode::Error => response::error_in(&message, version)?,
        _ => None,
    };
    // Version 3 has no warnings.
    if version < Version::V4 && answer.flags & FLAG_WARNING != 0 {
        let body = changed.unwrap_or(message);
        return Ok(Some(Envelope { flags: answer.flags & !FLAG_WARNING, body, ..answer.clone() }));
    }
    Ok(changed.map(|changed| {
        let prefix = &answer.body[..answer.body.len().saturating_sub(message.len())];
        Envelope { body: [prefix, &changed].concat().into(), ..answer.clone() }
    }))
}

/// Why a write was not acknowledged, in the terms that drivers act on: what was certainly not written may be tried
/// elsewhere, what may have been written is a write time-out of type SIMPLE (BATCH_LOG would be repeated by drivers).
pub fn write_error(error: &ProposeError, consistency: Consistency) -> Bytes {
    let message = error.to_string();
    let detail = match error {
        ProposeError::Overloaded | ProposeError::LogFull { .. } => ErrorDetail::Plain(ErrorCode::Overloaded),
        ProposeError::TooLarge { .. } => ErrorDetail::Plain(ErrorCode::Invalid),
        ProposeError::Unavailable { maybe_written: true, .. }
        | ProposeError::NotServing { maybe_written: true, .. } => {
            ErrorDetail::WriteTimeout { consistency, received: 0, required: 1, write_type: "SIMPLE" }
        }
        ProposeError::Unavailable { .. } => ErrorDetail::Unavailable { consistency, required: 1, alive: 0 },
        ProposeError::NotServing { .. } => ErrorDetail::Plain(ErrorCode::Bootstrapping),
    };
    response::error(&message, &detail)
}

/// Why a linearizable read could not be made. Nothing is written by a read, so any replica may be tried.
pub fn read_error(error: &ProposeError, consistency: Consistency) -> Bytes {
    let detail = match error {
        ProposeError::Overloaded | ProposeError::LogFull { .. } => ErrorDetail::Plain(ErrorCode::Overloaded),
        ProposeError::NotServing { .. } => ErrorDetail::Plain(ErrorCode::Bootstrapping),
        ProposeError::TooLarge { .. } => ErrorDetail::Plain(ErrorCode::Server),
        ProposeError::Unavailable { .. } => ErrorDetail::Unavailable { consistency, required: 1, alive: 0 },
    };
    response::error(&format!("a linearizable read is not possible now: {error}"), &detail)
}

/// The body for a read that took longer than its lanes could be held.
pub fn late_read(consistency: Consistency) -> Bytes {
    read_timeout(consistency, "the read took too long to be a snapshot: writes to its table had to go on")
}

/// The body for a read whose replica does not know at its end that no newer incarnation of it serves already.
pub fn unsure_read(consistency: Consistency) -> Bytes {
    read_timeout(consistency, "the ordered log does not answer: this replica may have been replaced meanwhile")
}

fn read_timeout(consistency: Consistency, message: &str) -> Bytes {
    response::error(message, &ErrorDetail::ReadTimeout { consistency, received: 0, required: 1, data_present: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use replicateddb_cql::response::parse_error;

    fn code(body: &Bytes) -> ErrorCode {
        parse_error(body).expect("an ERROR").kind().expect("a known code")
    }

    /// A RESULT without rows, with these warnings.
    fn warned(warnings: &[&str]) -> Envelope {
        let mut body = BytesMut::new();
        put_string_list(&mut body, warnings);
        body.extend_from_slice(&[0, 0, 0, 1]);
        let answer = Envelope::response(7, Opcode::Result, body.freeze());
        Envelope { flags: FLAG_WARNING, ..answer }
    }

    #[test]
    fn a_replication_factor_is_not_measured_by_one_replicas_nodes() {
        let of_one = "Your replication factor 3 for keyspace shop is higher than the number of nodes 1";
        let other = "Batch of prepared statements is too large";
        let plain = in_version(warned(&[of_one]), Version::V4);
        assert_eq!(plain, Envelope::response(7, Opcode::Result, Bytes::from_static(&[0, 0, 0, 1])));
        assert_eq!(in_version(warned(&[other, of_one]), Version::V5), warned(&[other]));
        assert_eq!(in_version(warned(&[other]), Version::V4), warned(&[other]));
        let many = "Your replication factor 3 for keyspace shop is higher than the number of nodes 12";
        assert_eq!(in_version(warned(&[many]), Version::V4), warned(&[many]));
    }

    #[test]
    fn what_may_be_written_is_a_simple_write_timeout() {
        for error in [
            ProposeError::Unavailable { reason: "log away".into(), maybe_written: true },
            ProposeError::NotServing { reason: "stopping".into(), maybe_written: true },
        ] {
            let body = write_error(&error, Consistency::Quorum);
            assert_eq!(code(&body), ErrorCode::WriteTimeout);
            assert!(body.ends_with(b"\0\x06SIMPLE"), "drivers repeat a BATCH_LOG time-out by themselves");
        }
    }

    #[test]
    fn what_was_not_written_may_be_tried_elsewhere() {
        let away = ProposeError::Unavailable { reason: "log away".into(), maybe_written: false };
        assert_eq!(code(&write_error(&away, Consistency::One)), ErrorCode::Unavailable);
        assert_eq!(code(&write_error(&ProposeError::Overloaded, Consistency::One)), ErrorCode::Overloaded);
        let full = write_error(&ProposeError::LogFull { held: 5 << 20, limit: 4 << 20 }, Consistency::One);
        assert_eq!(code(&full), ErrorCode::Overloaded);
        assert!(parse_error(&full).expect("an ERROR").message.contains("holds 5 of at most 4 MiB"));
        let large = ProposeError::TooLarge { size: 9, limit: 8 };
        let body = write_error(&large, Consistency::One);
        assert_eq!(code(&body), ErrorCode::Invalid);
        assert!(parse_error(&body).expect("an ERROR").message.contains("limit of 8 bytes"));
    }
}
