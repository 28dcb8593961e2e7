//! The protocol's notations: `[int]`, `[string]`, `[bytes]` and the others.

use crate::error::ProtocolError;
use bytes::{BufMut, Bytes, BytesMut};
use std::str;

/// The longest `[string]`, `[short bytes]` or list the protocol can carry.
pub const MAX_SHORT: usize = u16::MAX as usize;

/// A cursor over a message body. Slices it hands out share the body's memory.
#[derive(Debug, Clone)]
pub struct Reader {
    body: Bytes,
    at: usize,
}

/// A bound value. `Unset` leaves the column as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Value {
    /// No value: deletes the cell.
    Null,
    /// Not given: the cell stays as it is.
    Unset,
    /// The serialized value.
    Bytes(Bytes),
}

impl Reader {
    /// A cursor at the start of `body`.
    pub fn new(body: Bytes) -> Self {
        Self { body, at: 0 }
    }

    /// The offset of the cursor from the start of the body.
    pub fn position(&self) -> usize {
        self.at
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.body.len() - self.at
    }

    /// Everything from the cursor on; the cursor stays.
    pub fn rest(&self) -> Bytes {
        self.body.slice(self.at..)
    }

    /// The bytes between an earlier position and the cursor.
    pub fn since(&self, start: usize) -> Bytes {
        self.body.slice(start.min(self.at)..self.at)
    }

    /// The next `length` bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn take(&mut self, length: usize, what: &'static str) -> Result<Bytes, ProtocolError> {
        if length > self.remaining() {
            return Err(ProtocolError::Truncated { what });
        }
        let slice = self.body.slice(self.at..self.at + length);
        self.at += length;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], ProtocolError> {
        let end = self.at.checked_add(N).ok_or(ProtocolError::Truncated { what })?;
        let slice = self.body.get(self.at..end).ok_or(ProtocolError::Truncated { what })?;
        let mut array = [0; N];
        array.copy_from_slice(slice);
        self.at = end;
        Ok(array)
    }

    /// `[byte]`.
    ///
    /// # Errors
    /// Nothing is left.
    pub fn byte(&mut self, what: &'static str) -> Result<u8, ProtocolError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    /// `[short]`.
    ///
    /// # Errors
    /// Fewer than two bytes are left.
    pub fn short(&mut self, what: &'static str) -> Result<u16, ProtocolError> {
        self.array(what).map(u16::from_be_bytes)
    }

    /// `[int]`.
    ///
    /// # Errors
    /// Fewer than four bytes are left.
    pub fn int(&mut self, what: &'static str) -> Result<i32, ProtocolError> {
        self.array(what).map(i32::from_be_bytes)
    }

    /// `[long]`.
    ///
    /// # Errors
    /// Fewer than eight bytes are left.
    pub fn long(&mut self, what: &'static str) -> Result<i64, ProtocolError> {
        self.array(what).map(i64::from_be_bytes)
    }

    /// `[uuid]`.
    ///
    /// # Errors
    /// Fewer than sixteen bytes are left.
    pub fn uuid(&mut self, what: &'static str) -> Result<uuid::Uuid, ProtocolError> {
        self.array(what).map(uuid::Uuid::from_bytes)
    }

    /// An `[int]` that counts things of at least `smallest` bytes each (0 counts as 1): never more than can be there,
    /// so that it is safe to allocate for.
    ///
    /// # Errors
    /// Negative, or more than the rest of the body can hold.
    pub fn count(&mut self, smallest: usize, what: &'static str) -> Result<usize, ProtocolError> {
        let length = self.int(what)?;
        let count =
            usize::try_from(length).map_err(|_| ProtocolError::BadLength { what, length: i64::from(length) })?;
        if count > self.remaining() / smallest.max(1) {
            return Err(ProtocolError::Truncated { what });
        }
        Ok(count)
    }

    fn text(bytes: &Bytes, what: &'static str) -> Result<String, ProtocolError> {
        str::from_utf8(bytes).map(str::to_owned).map_err(|_| ProtocolError::NotUtf8 { what })
    }

    /// `[string]`.
    ///
    /// # Errors
    /// Truncated or not UTF-8.
    pub fn string(&mut self, what: &'static str) -> Result<String, ProtocolError> {
        Self::text(&self.short_bytes(what)?, what)
    }

    /// `[long string]`.
    ///
    /// # Errors
    /// Truncated, negative length or not UTF-8.
    pub fn long_string(&mut self, what: &'static str) -> Result<String, ProtocolError> {
        let length = self.count(1, what)?;
        Self::text(&self.take(length, what)?, what)
    }

    /// `[short bytes]`.
    ///
    /// # Errors
    /// Truncated.
    pub fn short_bytes(&mut self, what: &'static str) -> Result<Bytes, ProtocolError> {
        let length = self.short(what)?;
        self.take(usize::from(length), what)
    }

    /// `[bytes]`: any negative length is null.
    ///
    /// # Errors
    /// Truncated.
    pub fn bytes(&mut self, what: &'static str) -> Result<Option<Bytes>, ProtocolError> {
        let length = self.int(what)?;
        usize::try_from(length).ok().map(|length| self.take(length, what)).transpose()
    }

    /// `[value]`: length -1 is null, -2 is unset.
    ///
    /// # Errors
    /// Truncated, or a length below -2.
    pub fn value(&mut self, what: &'static str) -> Result<Value, ProtocolError> {
        match self.int(what)? {
            -1 => Ok(Value::Null),
            -2 => Ok(Value::Unset),
            length => {
                let size = usize::try_from(length)
                    .map_err(|_| ProtocolError::BadLength { what, length: i64::from(length) })?;
                self.take(size, what).map(Value::Bytes)
            }
        }
    }

    /// `[string list]`.
    ///
    /// # Errors
    /// Truncated or not UTF-8.
    pub fn string_list(&mut self, what: &'static str) -> Result<Vec<String>, ProtocolError> {
        let count = self.short(what)?;
        (0..count).map(|_| self.string(what)).collect()
    }

    /// `[string map]`, in the order sent.
    ///
    /// # Errors
    /// Truncated or not UTF-8.
    pub fn string_map(&mut self, what: &'static str) -> Result<Vec<(String, String)>, ProtocolError> {
        let count = self.short(what)?;
        (0..count).map(|_| Ok((self.string(what)?, self.string(what)?))).collect()
    }

    /// `[bytes map]`, in the order sent.
    ///
    /// # Errors
    /// Truncated or not UTF-8.
    pub fn bytes_map(&mut self, what: &'static str) -> Result<Vec<(String, Option<Bytes>)>, ProtocolError> {
        let count = self.short(what)?;
        (0..count).map(|_| Ok((self.string(what)?, self.bytes(what)?))).collect()
    }
}

/// `text` cut at a character boundary so that it fits a `[string]`.
pub fn fit_short(text: &str) -> &str {
    let mut end = text.len().min(MAX_SHORT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Writes a `[string]`; what is over 65 535 bytes is cut off at a character boundary.
pub fn put_string(out: &mut BytesMut, text: &str) {
    let text = fit_short(text);
    out.put_u16(text.len() as u16);
    out.put_slice(text.as_bytes());
}

/// Writes a `[string list]` of at most 65 535 strings; the others are left out.
pub fn put_string_list(out: &mut BytesMut, list: &[impl AsRef<str>]) {
    let list = &list[..list.len().min(MAX_SHORT)];
    out.put_u16(list.len() as u16);
    for text in list {
        put_string(out, text.as_ref());
    }
}

/// Writes `[short bytes]`.
///
/// # Errors
/// More than 65 535 bytes.
pub fn put_short_bytes(out: &mut BytesMut, bytes: &[u8], what: &'static str) -> Result<(), ProtocolError> {
    out.put_u16(short_length(bytes.len(), what)?);
    out.put_slice(bytes);
    Ok(())
}

/// Writes a `[long string]`.
///
/// # Errors
/// More than `i32::MAX` bytes.
pub fn put_long_string(out: &mut BytesMut, text: &str, what: &'static str) -> Result<(), ProtocolError> {
    out.put_i32(int_length(text.len(), what)?);
    out.put_slice(text.as_bytes());
    Ok(())
}

/// Writes `[bytes]`, null as length -1.
///
/// # Errors
/// More than `i32::MAX` bytes.
pub fn put_bytes(out: &mut BytesMut, bytes: Option<&[u8]>, what: &'static str) -> Result<(), ProtocolError> {
    match bytes {
        None => out.put_i32(-1),
        Some(bytes) => {
            out.put_i32(int_length(bytes.len(), what)?);
            out.put_slice(bytes);
        }
    }
    Ok(())
}

/// Writes a `[value]`.
///
/// # Errors
/// More than `i32::MAX` bytes.
pub fn put_value(out: &mut BytesMut, value: &Value) -> Result<(), ProtocolError> {
    match value {
        Value::Null => put_bytes(out, None, "value"),
        Value::Unset => {
            out.put_i32(-2);
            Ok(())
        }
        Value::Bytes(bytes) => put_bytes(out, Some(bytes), "value"),
    }
}

/// A length as a `[short]`.
///
/// # Errors
/// More than 65 535.
pub fn short_length(length: usize, what: &'static str) -> Result<u16, ProtocolError> {
    u16::try_from(length).map_err(|_| ProtocolError::TooLarge { what, length, limit: MAX_SHORT })
}

/// A length as an `[int]`.
///
/// # Errors
/// More than `i32::MAX`.
pub fn int_length(length: usize, what: &'static str) -> Result<i32, ProtocolError> {
    i32::try_from(length).map_err(|_| ProtocolError::TooLarge { what, length, limit: i32::MAX as usize })
}
