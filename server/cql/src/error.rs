//! What can be wrong with the bytes of a message.

use thiserror::Error;

/// A message body that breaks the protocol. Answered to a client as ERROR `PROTOCOL_ERROR` (0x000A).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// The body ends before `what` is complete.
    #[error("message ends inside {what}")]
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// A length or count field has a value that makes no sense.
    #[error("{what} has impossible length {length}")]
    BadLength {
        /// What was being read.
        what: &'static str,
        /// The length as sent.
        length: i64,
    },
    /// Text that is not UTF-8.
    #[error("{what} is not valid UTF-8")]
    NotUtf8 {
        /// What was being read.
        what: &'static str,
    },
    /// A code that the protocol does not define.
    #[error("unknown {what} code {code}")]
    UnknownCode {
        /// What was being read.
        what: &'static str,
        /// The code as sent.
        code: i64,
    },
    /// Flags or combinations that are not allowed here.
    #[error("{what} is not supported in this version of the protocol")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
    },
    /// Compressed bytes that hold something else than they say.
    #[error("compressed bytes are broken")]
    BadCompression,
    /// Something is longer than the protocol or a named bound of this crate allows.
    #[error("{what} is too large: {length}, at most {limit} allowed")]
    TooLarge {
        /// What was being read or written.
        what: &'static str,
        /// Its size (bytes or elements).
        length: usize,
        /// The bound.
        limit: usize,
    },
}

/// What [`ProtocolError::TooLarge`] says of types that are nested deeper than
/// [`MAX_TYPE_DEPTH`](crate::response::MAX_TYPE_DEPTH).
pub(crate) const TYPE_NESTING: &str = "type nesting";

impl ProtocolError {
    /// Types are nested too deep: nothing is damaged, and whoever reads the same again is told the same.
    #[must_use]
    pub fn is_of_nesting(&self) -> bool {
        matches!(self, Self::TooLarge { what: TYPE_NESTING, .. })
    }
}
