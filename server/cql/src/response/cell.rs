//! The serialized values of the types that the system tables use.

use crate::wire;
use bytes::{BufMut, Bytes, BytesMut};
use std::net::IpAddr;
use uuid::Uuid;

/// `text`, `varchar`, `ascii`.
pub fn text(value: &str) -> Bytes {
    Bytes::copy_from_slice(value.as_bytes())
}

/// `boolean`.
pub fn boolean(value: bool) -> Bytes {
    Bytes::copy_from_slice(&[u8::from(value)])
}

/// `int`.
pub fn int(value: i32) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

/// `bigint`, and `timestamp` in milliseconds since 1970.
pub fn bigint(value: i64) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

/// `uuid`, `timeuuid`.
pub fn uuid(value: Uuid) -> Bytes {
    Bytes::copy_from_slice(value.as_bytes())
}

/// `inet`.
pub fn inet(value: IpAddr) -> Bytes {
    match value {
        IpAddr::V4(ip) => Bytes::copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => Bytes::copy_from_slice(&ip.octets()),
    }
}

/// `set<text>` and `list<text>`. A set's elements must come sorted and without duplicates, as Cassandra stores them;
/// what is over `i32::MAX` bytes or elements is left out.
pub fn text_collection<T: AsRef<str>>(elements: &[T]) -> Bytes {
    let mut out = BytesMut::new();
    let fits = |text: &&T| wire::int_length(text.as_ref().len(), "element").is_ok();
    let elements: Vec<&T> = elements.iter().filter(fits).take(i32::MAX as usize).collect();
    out.put_i32(elements.len() as i32);
    for element in elements {
        out.put_i32(element.as_ref().len() as i32);
        out.put_slice(element.as_ref().as_bytes());
    }
    out.freeze()
}

/// Reads the elements of a list or set, or the keys and values of a map in turn; what is cut off is left out.
pub fn as_elements(cell: &[u8]) -> Vec<&[u8]> {
    let mut rest = cell.get(4..).unwrap_or_default();
    std::iter::from_fn(|| {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (element, after) = after.split_at_checked(usize::try_from(i32::from_be_bytes(*length)).ok()?)?;
        rest = after;
        Some(element)
    })
    .collect()
}

/// The elements of a set or list of texts; none where there is none.
pub fn as_texts(cell: Option<&Option<Bytes>>) -> Vec<String> {
    let elements = cell.and_then(Option::as_deref).map(as_elements).unwrap_or_default();
    elements.into_iter().filter_map(|element| Some(as_text(element)?.to_owned())).collect()
}

/// Reads `int`.
pub fn as_int(cell: &[u8]) -> Option<i32> {
    cell.try_into().ok().map(i32::from_be_bytes)
}

/// Reads `bigint` or `timestamp`.
pub fn as_bigint(cell: &[u8]) -> Option<i64> {
    cell.try_into().ok().map(i64::from_be_bytes)
}

/// Reads `boolean`.
pub fn as_boolean(cell: &[u8]) -> Option<bool> {
    match cell {
        [byte] => Some(*byte != 0),
        _ => None,
    }
}

/// Reads `text`, `varchar` or `ascii`.
pub fn as_text(cell: &[u8]) -> Option<&str> {
    std::str::from_utf8(cell).ok()
}

/// Reads `uuid` or `timeuuid`.
pub fn as_uuid(cell: &[u8]) -> Option<Uuid> {
    Uuid::from_slice(cell).ok()
}
