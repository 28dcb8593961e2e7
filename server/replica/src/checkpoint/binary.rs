//! Parts of Cassandra's serialized values.

use bytes::Bytes;

/// The fewest bytes of an element: its length.
const SMALLEST_ELEMENT: usize = 4;

/// What is left of a composed value.
pub struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    /// A count of elements.
    pub fn count(&mut self) -> Option<usize> {
        let (count, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        usize::try_from(i32::from_be_bytes(*count)).ok()
    }

    /// A part with its length before it; `Some(None)`: null.
    pub fn part(&mut self) -> Option<Option<&'a [u8]>> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else { return Some(None) };
        let (part, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(Some(part))
    }

    /// A count and as many parts: a list or a set.
    pub fn counted(mut self) -> Option<Vec<Option<&'a [u8]>>> {
        let count = self.count()?;
        let mut parts = Vec::with_capacity(count.min(self.0.len() / SMALLEST_ELEMENT));
        for _ in 0..count {
            parts.push(self.part()?);
        }
        Some(parts)
    }

    /// Parts to the end: a tuple, or a value of a user-defined type.
    pub fn all_parts(mut self) -> Option<Vec<Option<&'a [u8]>>> {
        let mut parts = Vec::new();
        while !self.0.is_empty() {
            parts.push(self.part()?);
        }
        Some(parts)
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads hex.
pub fn unhex(text: &str) -> Option<Bytes> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let byte = |[high, low]: &[u8; 2]| u8::try_from(digit(*high)? * 16 + digit(*low)?).ok();
    rest.is_empty().then(|| pairs.iter().map(byte).collect::<Option<Vec<u8>>>())?.map(Bytes::from)
}

/// A `varint` of at most 128 bits.
pub fn number(bytes: &[u8]) -> Option<i128> {
    let first = bytes.first().filter(|_| bytes.len() <= size_of::<i128>())?;
    let sign: i128 = if first & 0x80 == 0 { 0 } else { -1 };
    Some(bytes.iter().fold(sign, |number, byte| (number << 8) | i128::from(*byte)))
}

/// The shortest `varint` of a number.
pub fn shortest(number: i128) -> Vec<u8> {
    let bytes = number.to_be_bytes();
    let says_nothing = |at: usize| match (bytes.get(at), bytes.get(at + 1)) {
        (Some(0), Some(next)) => next & 0x80 == 0,
        (Some(0xff), Some(next)) => next & 0x80 != 0,
        _ => false,
    };
    let start = (0..bytes.len()).find(|at| !says_nothing(*at)).unwrap_or_default();
    bytes.get(start..).unwrap_or_default().to_vec()
}

/// Reads a variable-length integer of a `duration`; gives what follows it, too.
pub fn vint(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let extra = first.leading_ones() as usize;
    let (more, rest) = rest.split_at_checked(extra)?;
    let own = if extra >= 7 { 0 } else { u64::from(first & (0xff >> (extra + 1))) };
    let unsigned = more.iter().fold(own, |number, byte| (number << 8) | u64::from(*byte));
    // Zigzag: the sign is the last bit.
    let (half, sign) = (i64::try_from(unsigned >> 1).ok()?, -i64::from(unsigned & 1 == 1));
    Some((half ^ sign, rest))
}

/// Writes a variable-length integer of a `duration`.
pub fn put_vint(out: &mut Vec<u8>, number: i64) {
    let unsigned = u64::from_ne_bytes(((number << 1) ^ (number >> 63)).to_ne_bytes());
    let bits = 64 - unsigned.leading_zeros() as usize;
    // Seven bits for each byte, the first of which says how many follow.
    let extra = (bits.max(1) - 1) / 7;
    let bytes = unsigned.to_be_bytes();
    if extra >= 8 {
        out.push(0xff);
        out.extend(bytes);
        return;
    }
    let start = out.len();
    out.extend(bytes.get(bytes.len() - extra - 1..).unwrap_or_default());
    if let Some(first) = out.get_mut(start) {
        // As many ones before the number's own bits as bytes follow.
        *first |= !(0xff_u8.checked_shr(extra as u32).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_as_cassandra_writes_them() {
        for (value, bytes) in [(0i128, "00"), (127, "7f"), (128, "0080"), (-1, "ff"), (-128, "80"), (-129, "ff7f")] {
            assert_eq!(hex(&shortest(value)), bytes);
        }
        for (value, bytes) in
            [(0i64, "00"), (-1, "01"), (1, "02"), (63, "7e"), (64, "8080"), (i64::MIN, "ffffffffffffffffff")]
        {
            let mut out = Vec::new();
            put_vint(&mut out, value);
            assert_eq!(hex(&out), bytes, "{value}");
        }
        assert_eq!((unhex("0g"), unhex("000"), unhex("é")), (None, None, None));
    }

    proptest! {
        #[test]
        fn variable_lengths_round_trip(value in any::<i64>(), shift in 0u32..64) {
            let value = value >> shift;
            let mut out = Vec::new();
            put_vint(&mut out, value);
            prop_assert_eq!(vint(&out), Some((value, &[][..])));
        }

        #[test]
        fn big_numbers_round_trip(value in any::<i128>(), shift in 0u32..128) {
            let value = value >> shift;
            prop_assert_eq!(number(&shortest(value)), Some(value));
        }
    }
}
