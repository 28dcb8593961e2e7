//! What an answer of the local Cassandra means for a record. Pure.

use bytes::Bytes;
use replicateddb_cql::ProtocolError;
use replicateddb_cql::frame::{Envelope, Opcode};
use replicateddb_cql::response::{self, ErrorCode, parse_error, result_in_v4};

use replicateddb_store::login;

use super::connection::Lost;

/// An answer that is the record's result on every replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Envelope flags.
    pub flags: u8,
    /// RESULT (0x08) or ERROR (0x00).
    pub opcode: u8,
    /// The body as it came.
    pub body: Bytes,
}

impl Reply {
    /// RESULT Void.
    pub fn void() -> Self {
        Self { flags: 0, opcode: Opcode::Result.code(), body: response::void() }
    }

    /// ERROR Invalid, with this message.
    pub fn invalid(message: &str) -> Self {
        Self { flags: 0, opcode: Opcode::Error.code(), body: response::error_text(ErrorCode::Invalid, message) }
    }

    /// ERROR Unauthorized, with this message.
    pub fn unauthorized(message: &str) -> Self {
        Self { flags: 0, opcode: Opcode::Error.code(), body: response::error_text(ErrorCode::Unauthorized, message) }
    }

    /// Whether it is a RESULT.
    pub fn is_result(&self) -> bool {
        self.opcode == Opcode::Result.code()
    }

    /// The answer to a request of version 5 as version 4 says it, which is how outcomes are kept; as it is where its types are
    /// nested too deep to be read.
    ///
    /// # Errors
    /// It can't be read.
    pub fn in_v4(self) -> Result<Self, ProtocolError> {
        let Some(message) = self.message().filter(|_| self.is_result()) else { return Ok(self) };
        let in_v4 = match result_in_v4(&message) {
            Ok(Some(in_v4)) => in_v4,
            Ok(None) => return Ok(self),
            Err(error) if error.is_of_nesting() => return Ok(self),
            Err(error) => return Err(error),
        };
        let prefix = self.body.slice(..self.body.len().saturating_sub(message.len()));
        Ok(Self { body: [prefix, in_v4].concat().into(), ..self })
    }

    /// The body behind its prefix (warnings), if it can be read.
    pub fn message(&self) -> Option<Bytes> {
        let opcode = Opcode::from_code(self.opcode)?;
        let envelope = Envelope { flags: self.flags, ..Envelope::response(0, opcode, self.body.clone()) };
        envelope.message().ok()
    }
}

/// Why an attempt says nothing about the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// To be tried again.
    Retry {
        /// For people.
        reason: String,
        /// The attempt may have had its effect, or may have it later.
        ambiguous: bool,
    },
    /// Cassandra has answered that it fails, with an error that is not known to be the statement's own. To be tried again, and
    /// complained of if it stays so (`crate::verdict`).
    Refused {
        /// Cassandra's words and the error's code.
        reason: String,
        /// As in [`Failure::Retry`].
        ambiguous: bool,
    },
    /// The JVM that recovery ended with is no more: rewind.
    Gone {
        /// For people.
        reason: String,
    },
}

impl Failure {
    /// Of a request that was not the record alone, so that what Cassandra says of it says nothing about the record.
    pub fn of_another(self) -> Self {
        match self {
            Self::Refused { reason, ambiguous } => Self::Retry { reason, ambiguous },
            other => other,
        }
    }

    /// Of a request that changes no data.
    pub fn without_effect(self) -> Self {
        match self {
            Self::Retry { reason, .. } => Self::Retry { reason, ambiguous: false },
            Self::Refused { reason, .. } => Self::Refused { reason, ambiguous: false },
            gone => gone,
        }
    }

    /// For people.
    pub fn reason(self) -> String {
        match self {
            Self::Retry { reason, .. } | Self::Refused { reason, .. } | Self::Gone { reason } => reason,
        }
    }
}

impl From<Lost> for Failure {
    fn from(lost: Lost) -> Self {
        Self::Retry { reason: lost.reason, ambiguous: lost.sent }
    }
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// The record's result, the same on every replica.
    Reply(Reply),
    /// The prepared statement is not known (any more): prepare it again. Nothing was executed.
    Unprepared,
    /// Says nothing about the record.
    Failure(Failure),
}

/// Errors that the statement causes by itself, on every replica that has the same state. A function's failure is one: no
/// write may call a function of users', and those of Cassandra's own, and its operators, depend on their arguments alone
/// (`1/0`). A breach of the protocol is none: a proposed record can be sent, so that it would be the connection's fault.
fn is_deterministic(code: ErrorCode) -> bool {
    use ErrorCode as E;
    matches!(code, E::Syntax | E::Unauthorized | E::Invalid | E::Config | E::AlreadyExists | E::FunctionFailure)
}

/// What Cassandra 5.0 says, as an unexpected error of the server (0x0000), of a statement whose values it has failed to
/// check: the beginning of the message, and what else is in it. Each comes before anything is executed, from the values
/// and the schema alone; `tests/always_failing.rs` shows the statements.
const OF_THE_STATEMENT: [(&str, &str); 7] = [
    ("java.lang.ArithmeticException: ", ""),
    ("org.apache.cassandra.serializers.MarshalException: ", ""),
    ("java.lang.IllegalArgumentException: Length ", " > max length "),
    // A null as an element of a collection, an empty write time, a replication without a class.
    ("java.lang.NullPointerException: Cannot invoke \"java.nio.ByteBuffer.remaining()\"", ""),
    ("java.lang.NullPointerException: Cannot invoke \"java.lang.Long.longValue()\"", "LongType.compose"),
    ("java.lang.NullPointerException: Cannot invoke \"String.contains(java.lang.CharSequence)\"", "\"cls\" is null"),
    // Bytes that are no duration; nothing else says that.
    ("java.lang.AssertionError: Unexpected error", ""),
];

fn is_of_the_statement(message: &str) -> bool {
    OF_THE_STATEMENT.iter().any(|(begin, more)| message.starts_with(begin) && message.contains(more))
}

/// Whether Cassandra says that it does not know, or not now, what the replica's own role may do: that is everything, on every replica.
fn is_about_the_replica(message: &str) -> bool {
    message.starts_with("Unable to perform authorization") || message.contains(&format!("User {} ", login::ROLE))
}

/// Errors that are answered before anything was done.
fn is_harmless(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::Unavailable | ErrorCode::Overloaded | ErrorCode::Bootstrapping | ErrorCode::BadCredentials
    )
}

/// Exceptions in errors of the server (0x0000) that say that the machine, the disk or the JVM is in trouble, whatever the
/// statement. Wherever they stand: others may be around them, and those of Cassandra's own come without their package.
const OF_THE_MACHINE: [&str; 10] = [
    "OutOfMemoryError",
    "InternalError",
    "FSWriteError",
    "FSReadError",
    "FSDiskFullWriteError",
    "CorruptSSTableException",
    "IOException",
    "EOFException",
    "java.nio.file.",
    "RejectedExecutionException",
];
/// Why a read or write failed on the one node that there is, where that is the statement's doing or nobody's.
const REASONS: [&str; 3] = ["UNKNOWN from", "READ_TOO_MANY_TOMBSTONES from", "READ_SIZE from"];

/// Whether an error says that the node has tried the statement and failed, so that each attempt may end so: no time-out, no
/// overload, nothing that passes with a start, a stop or a full disk.
fn is_failed_attempt(code: Option<ErrorCode>, message: &str) -> bool {
    match code {
        Some(ErrorCode::Server) => !OF_THE_MACHINE.iter().any(|each| message.contains(each)),
        Some(ErrorCode::WriteFailure | ErrorCode::ReadFailure) => REASONS.iter().any(|each| message.contains(each)),
        Some(ErrorCode::Protocol) | None => true,
        Some(_) => false,
    }
}

/// Judges an answer. Whatever is not known to be the statement's own fault is tried again (never recorded).
pub fn judge(answer: Envelope) -> Meaning {
    let reply = |answer: Envelope| Reply { flags: answer.flags, opcode: answer.opcode.code(), body: answer.body };
    let retry = |reason: String, ambiguous| Meaning::Failure(Failure::Retry { reason, ambiguous });
    match answer.opcode {
        Opcode::Result => Meaning::Reply(reply(answer)),
        Opcode::Error => {
            let Ok(error) = answer.message().and_then(|message| parse_error(&message)) else {
                return retry("an ERROR that can't be read".to_owned(), true);
            };
            let text = format!("{} ({:#06x})", error.message, error.code);
            match error.kind() {
                Some(ErrorCode::Unprepared) => Meaning::Unprepared,
                // Before anything is executed.
                Some(ErrorCode::Unauthorized) if is_about_the_replica(&error.message) => retry(text, false),
                Some(code) if is_deterministic(code) => Meaning::Reply(reply(answer)),
                // As what it is: drivers would try an error of the server's elsewhere.
                Some(ErrorCode::Server) if is_of_the_statement(&error.message) => {
                    Meaning::Reply(Reply::invalid(&error.message))
                }
                code if is_failed_attempt(code, &error.message) => {
                    // A name: numbers make no difference between failures.
                    let code = code.map_or_else(|| "unknown code".to_owned(), |code| format!("{code:?}"));
                    let reason = format!("{} ({code})", error.message);
                    Meaning::Failure(Failure::Refused { reason, ambiguous: true })
                }
                code => retry(text, !code.is_some_and(is_harmless)),
            }
        }
        other => retry(format!("{other:?} instead of an answer"), true),
    }
}

#[cfg(test)]
mod tests {
    use replicateddb_cql::response::error_text;

    use super::*;

    #[test]
    fn every_error_code_is_judged() {
        for code in ErrorCode::EVERY {
            let answer = Envelope::response(3, Opcode::Error, error_text(code, "x"));
            let meaning = judge(answer);
            match code.code() {
                0x2000..=0x2400 | 0x1400 => assert!(matches!(meaning, Meaning::Reply(_)), "{code:?}"),
                0x2500 => assert_eq!(meaning, Meaning::Unprepared),
                0x1000..=0x1002 | 0x0100 => {
                    assert!(matches!(meaning, Meaning::Failure(Failure::Retry { ambiguous: false, .. })), "{code:?}");
                }
                0x0000 | 0x000A => {
                    assert!(matches!(meaning, Meaning::Failure(Failure::Refused { ambiguous: true, .. })), "{code:?}");
                }
                _ => assert!(matches!(meaning, Meaning::Failure(Failure::Retry { ambiguous: true, .. })), "{code:?}"),
            }
        }
        let server =
            |message: &str| judge(Envelope::response(3, Opcode::Error, error_text(ErrorCode::Server, message)));
        let unauthorized =
            |message: &str| judge(Envelope::response(3, Opcode::Error, error_text(ErrorCode::Unauthorized, message)));
        for passing in [
            "Unable to perform authorization of super-user permission: Operation timed out",
            "User replicateddb has no MODIFY permission on <table k.t> or any of its parents",
        ] {
            let again = Failure::Retry { reason: format!("{passing} (0x2100)"), ambiguous: false };
            assert_eq!(unauthorized(passing), Meaning::Failure(again));
        }
        assert!(matches!(
            unauthorized("Granting permissions on system keyspaces is strictly limited"),
            Meaning::Reply(_)
        ));
        let known = "java.lang.IllegalArgumentException: Length 70000 > max length 65535";
        assert_eq!(server(known), Meaning::Reply(Reply::invalid(known)));
        for other in ["java.lang.IllegalArgumentException: Length", "java.lang.NullPointerException", ""] {
            assert!(matches!(server(other), Meaning::Failure(Failure::Refused { ambiguous: true, .. })), "{other}");
        }
        for trouble in [
            "java.lang.OutOfMemoryError: Java heap space",
            "FSWriteError in /data/cassandra/data/k/t/nb-1-big-Data.db",
            "java.lang.RuntimeException: java.io.UncheckedIOException: java.nio.file.FileSystemException",
        ] {
            assert!(matches!(server(trouble), Meaning::Failure(Failure::Retry { ambiguous: true, .. })), "{trouble}");
        }
        let write = |message| judge(Envelope::response(3, Opcode::Error, error_text(ErrorCode::WriteFailure, message)));
        let failed = "Operation failed - received 0 responses and 1 failures: UNKNOWN from localhost/127.0.0.1:7000";
        assert!(matches!(write(failed), Meaning::Failure(Failure::Refused { ambiguous: true, .. })));
        let late = "Operation failed - received 0 responses and 1 failures: TIMEOUT from localhost/127.0.0.1:7000";
        assert!(matches!(write(late), Meaning::Failure(Failure::Retry { ambiguous: true, .. })));
        let strange = Envelope::response(3, Opcode::Error, Bytes::from_static(&[1]));
        assert!(matches!(judge(strange), Meaning::Failure(Failure::Retry { ambiguous: true, .. })));
    }
}
