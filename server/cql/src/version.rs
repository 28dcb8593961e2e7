//! Versions of the native protocol.

use std::fmt;

/// A version that is spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Version {
    /// Without unset values, warnings, and types and errors that came later.
    V3 = 3,
    /// The one that every driver of today speaks.
    V4 = 4,
    /// In segments with checksums; requests may name a keyspace and say which second it is.
    V5 = 5,
}

impl Version {
    /// Every version, the oldest first.
    pub const EVERY: [Version; 3] = [Self::V3, Self::V4, Self::V5];
    /// The newest.
    pub const NEWEST: Version = Self::V5;

    /// The version of a number, if it is spoken here.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::EVERY.into_iter().find(|version| version.code() == code)
    }

    /// The number on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// As SUPPORTED and errors name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V3 => "3/v3",
            Self::V4 => "4/v4",
            Self::V5 => "5/v5",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
