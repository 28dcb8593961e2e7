//! The section of bound values, kept as it came.

use crate::error::ProtocolError;
use crate::version::Version;
use crate::wire::{self, Reader, Value};
use bytes::{BufMut, Bytes, BytesMut};

/// The length of a null.
const NULL: [u8; 4] = (-1_i32).to_be_bytes();

/// Bound values as on the wire: a `[short]` count, then each value, preceded by its name if named. Checked when made,
/// so that it can be sent again as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Values {
    raw: Bytes,
    named: bool,
}

/// One value and its name, if the values are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundValue {
    /// The name of the marker.
    pub name: Option<String>,
    /// The value.
    pub value: Value,
}

impl Values {
    /// No values at all.
    pub fn none() -> Self {
        Self { raw: Bytes::from_static(&[0, 0]), named: false }
    }

    /// Reads a section at the cursor. Version 3 has no unset values: there every negative length is null.
    ///
    /// # Errors
    /// The bytes break the protocol.
    pub fn read(reader: &mut Reader, named: bool, version: Version) -> Result<Self, ProtocolError> {
        if version < Version::V4 {
            return Self::read_v3(reader, named);
        }
        let start = reader.position();
        for _ in 0..reader.short("value count")? {
            if named {
                reader.string("value name")?;
            }
            reader.value("value")?;
        }
        Ok(Self { raw: reader.since(start), named })
    }

    /// As it came, unless there is a null that other versions write differently.
    fn read_v3(reader: &mut Reader, named: bool) -> Result<Self, ProtocolError> {
        let start = reader.position();
        let count = reader.short("value count")?;
        let mut other_nulls = Vec::new();
        for _ in 0..count {
            if named {
                reader.string("value name")?;
            }
            let at = reader.position();
            if reader.bytes("value")?.is_none() {
                other_nulls.push(at - start);
            }
        }
        let mut raw = reader.since(start);
        let is_null = |at: &usize| raw.get(*at..at + 4) == Some(&NULL);
        if !other_nulls.iter().all(is_null) {
            let mut bytes = BytesMut::from(&raw[..]);
            for at in other_nulls {
                bytes[at..at + 4].copy_from_slice(&NULL);
            }
            raw = bytes.freeze();
        }
        Ok(Self { raw, named })
    }

    /// Takes a raw section, such as one kept by [`Values::raw`].
    ///
    /// # Errors
    /// The bytes break the protocol, or more follow.
    pub fn from_raw(raw: Bytes, named: bool) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(raw);
        let values = Self::read(&mut reader, named, Version::V4)?;
        match reader.remaining() {
            0 => Ok(values),
            extra => Err(ProtocolError::BadLength { what: "value section", length: extra as i64 }),
        }
    }

    /// Values by position.
    ///
    /// # Errors
    /// More than 65 535 values, or one of more than `i32::MAX` bytes.
    pub fn positional(values: &[Value]) -> Result<Self, ProtocolError> {
        let mut out = BytesMut::new();
        out.put_u16(wire::short_length(values.len(), "value count")?);
        for value in values {
            wire::put_value(&mut out, value)?;
        }
        Ok(Self { raw: out.freeze(), named: false })
    }

    /// Values by name.
    ///
    /// # Errors
    /// More than 65 535 values, a name of more than 65 535 bytes, or a value of more than `i32::MAX` bytes.
    pub fn by_name(values: &[(&str, Value)]) -> Result<Self, ProtocolError> {
        let mut out = BytesMut::new();
        out.put_u16(wire::short_length(values.len(), "value count")?);
        for (name, value) in values {
            wire::put_short_bytes(&mut out, name.as_bytes(), "value name")?;
            wire::put_value(&mut out, value)?;
        }
        Ok(Self { raw: out.freeze(), named: true })
    }

    /// The section as on the wire, count included.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Whether each value carries its name.
    pub fn is_named(&self) -> bool {
        self.named
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.raw.first_chunk().map_or(0, |count| usize::from(u16::from_be_bytes(*count)))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values in order.
    pub fn iter(&self) -> impl Iterator<Item = BoundValue> {
        let mut reader = Reader::new(self.raw.clone());
        let count = reader.short("value count").unwrap_or(0);
        let named = self.named;
        // The section was checked when it was made, so the iterator ends at the count and never before.
        (0..count).map_while(move |_| {
            let name = if named { Some(reader.string("value name").ok()?) } else { None };
            Some(BoundValue { name, value: reader.value("value").ok()? })
        })
    }
}
