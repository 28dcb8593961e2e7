//! Consistency levels.

use crate::error::ProtocolError;
use std::fmt;

/// A consistency level as it travels in requests and errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// Writes only: a hint is enough.
    Any,
    /// One replica.
    One,
    /// Two replicas.
    Two,
    /// Three replicas.
    Three,
    /// A majority.
    Quorum,
    /// Every replica.
    All,
    /// A majority in the local data centre.
    LocalQuorum,
    /// A majority in each data centre.
    EachQuorum,
    /// Linearizable reads and conditional writes.
    Serial,
    /// As `Serial`, in the local data centre.
    LocalSerial,
    /// One replica of the local data centre.
    LocalOne,
    /// This node, past everything that makes several nodes one: towards a Cassandra that is alone, and allows it.
    NodeLocal,
}

impl Consistency {
    /// Every level that a client may ask for, in the order of their codes.
    pub const EVERY: [Consistency; 11] = [
        Self::Any,
        Self::One,
        Self::Two,
        Self::Three,
        Self::Quorum,
        Self::All,
        Self::LocalQuorum,
        Self::EachQuorum,
        Self::Serial,
        Self::LocalSerial,
        Self::LocalOne,
    ];

    /// The code on the wire.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// The level of a code.
    ///
    /// # Errors
    /// A code that the protocol does not define.
    pub fn from_code(code: u16) -> Result<Self, ProtocolError> {
        Self::EVERY
            .get(usize::from(code))
            .copied()
            .ok_or(ProtocolError::UnknownCode { what: "consistency", code: i64::from(code) })
    }

    /// Whether this is `SERIAL` or `LOCAL_SERIAL`.
    pub fn is_serial(self) -> bool {
        matches!(self, Self::Serial | Self::LocalSerial)
    }

    /// The name as Cassandra and its drivers write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "ANY",
            Self::One => "ONE",
            Self::Two => "TWO",
            Self::Three => "THREE",
            Self::Quorum => "QUORUM",
            Self::All => "ALL",
            Self::LocalQuorum => "LOCAL_QUORUM",
            Self::EachQuorum => "EACH_QUORUM",
            Self::Serial => "SERIAL",
            Self::LocalSerial => "LOCAL_SERIAL",
            Self::LocalOne => "LOCAL_ONE",
            Self::NodeLocal => "NODE_LOCAL",
        }
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
