//! The form of Raft's entries on disk and between replicas, and what is left of a file of them after a crash. No IO.
//!
//! ```text
//! file    MAGIC, then records
//! record  magic 4 | checksum 4 | length 4 | write 8 | index 8 | payload
//! payload term 8 | node 8 | index 8 | kind 1 | batch or membership
//! ```
//! The checksum covers what follows it. `write` is the index of the first record that was written by the same call: a call
//! is synced as a whole before the next one begins. So a damaged record that anything of a later call follows was synced
//! once, and has been damaged since; only what the last call wrote may be incomplete because of a crash.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::EntryPayload;

use super::command::{Batch, CodecError, put_length, take};
use super::types::{RaftEntry, RaftLogId, log_id};

/// First bytes of a file: what it is, and the version of its form.
pub(super) const MAGIC: [u8; 8] = *b"RDBraft\x01";
const RECORD_MAGIC: [u8; 4] = *b"\xf1RDr";
/// Bytes before a record's payload.
pub(super) const RECORD_FIXED: usize = 28;
/// The longest payload that is believed, in bytes.
const MAX_PAYLOAD: usize = 256 << 20;
const KIND_BLANK: u8 = 0;
const KIND_BATCH: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;
/// Bytes of a log id.
const LOG_ID_BYTES: usize = 24;

/// Writes a log id.
pub(super) fn put_log_id(out: &mut BytesMut, id: RaftLogId) {
    out.put_u64(id.leader_id.term);
    out.put_u64(id.leader_id.node_id);
    out.put_u64(id.index);
}

/// Reads a log id.
pub(super) fn take_log_id(data: &mut Bytes) -> Result<RaftLogId, CodecError> {
    let mut fixed = take(data, LOG_ID_BYTES)?;
    let (term, node, index) = (fixed.get_u64(), fixed.get_u64(), fixed.get_u64());
    Ok(log_id(term, node, index))
}

/// An entry's bytes.
pub(super) fn encode_entry(entry: &RaftEntry) -> BytesMut {
    let (kind, body) = match &entry.payload {
        EntryPayload::Blank => (KIND_BLANK, BytesMut::new()),
        EntryPayload::Normal(batch) => (KIND_BATCH, batch.encode()),
        EntryPayload::Membership(membership) => {
            let text = serde_json::to_vec(membership).expect("plain fields serialise");
            (KIND_MEMBERSHIP, BytesMut::from(&text[..]))
        }
    };
    let mut out = BytesMut::with_capacity(LOG_ID_BYTES + 1 + body.len());
    put_log_id(&mut out, entry.log_id);
    out.put_u8(kind);
    out.put_slice(&body);
    out
}

/// Reads an entry's bytes, all of them; total.
pub(super) fn decode_entry(mut data: Bytes) -> Result<RaftEntry, CodecError> {
    let log_id = take_log_id(&mut data)?;
    let payload = match take(&mut data, 1)?.get_u8() {
        KIND_BLANK if data.is_empty() => EntryPayload::Blank,
        KIND_BLANK => return Err(CodecError::Length(data.len())),
        KIND_BATCH => EntryPayload::Normal(Batch::decode(data)?),
        KIND_MEMBERSHIP => EntryPayload::Membership(serde_json::from_slice(&data)?),
        other => return Err(CodecError::Kind(other)),
    };
    Ok(RaftEntry { log_id, payload })
}

/// Appends the record of an entry to `out`.
pub(super) fn put_record(out: &mut BytesMut, write: u64, entry: &RaftEntry) {
    let payload = encode_entry(entry);
    let mut covered = BytesMut::with_capacity(RECORD_FIXED - 8 + payload.len());
    put_length(&mut covered, payload.len());
    covered.put_u64(write);
    covered.put_u64(entry.log_id.index);
    covered.put_slice(&payload);
    out.put_slice(&RECORD_MAGIC);
    out.put_u32(crc32fast::hash(&covered));
    out.put_slice(&covered);
}

/// A record that was found whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Where it begins in the file.
    pub(super) offset: u64,
    /// Its bytes, all of them.
    pub(super) length: usize,
    /// Index of the first record of the same write.
    pub(super) write: u64,
    /// The entry's id.
    pub(super) log_id: RaftLogId,
}

/// Reads the record at `offset`: its head and payload, or why there is none.
pub(super) fn read_record(data: &[u8], offset: usize) -> Result<(Found, Bytes), String> {
    let rest = data.get(offset..).unwrap_or_default();
    let Some(head) = rest.get(..RECORD_FIXED) else { return Err(format!("{} bytes are no record", rest.len())) };
    if head[..4] != RECORD_MAGIC {
        return Err("no record begins here".into());
    }
    let mut fields = &head[4..];
    let (checksum, length) = (fields.get_u32(), fields.get_u32() as usize);
    let (write, index) = (fields.get_u64(), fields.get_u64());
    let covered = rest.get(8..).and_then(|from| from.get(..RECORD_FIXED - 8 + length.min(MAX_PAYLOAD)));
    let Some(covered) = covered.filter(|_| length <= MAX_PAYLOAD) else {
        return Err(format!("a record of {length} bytes goes beyond the end of the file"));
    };
    if crc32fast::hash(covered) != checksum {
        return Err(format!("the record of entry {index} does not match its checksum"));
    }
    let payload = Bytes::copy_from_slice(&covered[RECORD_FIXED - 8..]);
    let log_id = take_log_id(&mut payload.clone()).map_err(|error| error.to_string())?;
    if log_id.index != index {
        return Err(format!("the record of entry {index} holds entry {}", log_id.index));
    }
    let found = Found { offset: offset as u64, length: RECORD_FIXED + length, write, log_id };
    Ok((found, payload))
}

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Its records.
    pub(super) records: Vec<Found>,
    /// Bytes that are whole; what is beyond is to be cut.
    pub(super) end: u64,
}

/// Damage that is no crash's doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// Where in the file.
    pub(super) offset: u64,
    /// What is wrong.
    pub(super) detail: String,
}

/// What is known of a file before it is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// The index of its first record; `None` if it may begin anywhere.
    pub(super) next: Option<u64>,
    /// No file follows it.
    pub(super) last: bool,
    /// Entries up to this one were synced, as far as is known.
    pub(super) synced: Option<u64>,
}

/// Reads a file. What a crash may have left behind the last whole record is left out; other damage is an error.
pub(super) fn scan(data: &[u8], expected: Expected) -> Result<Scan, Damage> {
    let damage = |offset: usize, detail: String| Damage { offset: offset as u64, detail };
    if !data.starts_with(&MAGIC) {
        // Before its head is synced, nothing is written to a file.
        let unborn = expected.last && data.len() <= MAGIC.len();
        let empty = Scan { records: Vec::new(), end: 0 };
        return if unborn { Ok(empty) } else { Err(damage(0, "it is no log file of this program".into())) };
    }
    let (mut records, mut offset, mut next) = (Vec::new(), MAGIC.len(), expected.next);
    while offset < data.len() {
        let detail = match read_record(data, offset) {
            Ok((found, _)) if next.is_none_or(|next| found.log_id.index == next) => {
                next = Some(found.log_id.index + 1);
                offset += found.length;
                records.push(found);
                continue;
            }
            Ok((found, _)) => {
                format!("entry {} stands in the place of entry {}", found.log_id.index, next.unwrap_or(0))
            }
            Err(detail) => detail,
        };
        let synced = expected.synced.is_some_and(|synced| next.is_some_and(|next| next <= synced));
        if !expected.last || synced || is_followed(data, offset, next) {
            return Err(damage(offset, detail));
        }
        break;
    }
    Ok(Scan { records, end: offset as u64 })
}

/// Whether anything stands behind the damage at `offset` that was written after what stood there had been synced.
fn is_followed(data: &[u8], offset: usize, damaged: Option<u64>) -> bool {
    let begins = |at: &usize| data[*at..].starts_with(&RECORD_MAGIC);
    (offset + 1..data.len())
        .filter(begins)
        .filter_map(|at| read_record(data, at).ok())
        .any(|(found, _)| damaged.is_none_or(|damaged| found.write > damaged))
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use openraft::Membership;
    use proptest::prelude::*;

    use super::super::command::tests::batch;
    use super::*;

    /// An entry of any kind, at index 0.
    pub(in super::super) fn entry() -> impl Strategy<Value = RaftEntry> {
        let payload = prop_oneof![
            1 => Just(EntryPayload::Blank),
            4 => batch().prop_map(EntryPayload::Normal),
            1 => prop::collection::btree_set(any::<u64>(), 1..4)
                .prop_map(|voters: BTreeSet<u64>| EntryPayload::Membership(Membership::new(vec![voters], ()))),
        ];
        (1..9u64, any::<u64>(), payload)
            .prop_map(|(term, node, payload)| RaftEntry { log_id: log_id(term, node, 0), payload })
    }

    /// A file of several writes, each of several entries from `first` on; and where each write ends.
    fn file(first: u64, writes: &[Vec<RaftEntry>]) -> (Vec<u8>, Vec<(usize, u64)>) {
        let (mut out, mut index, mut ends) = (BytesMut::from(&MAGIC[..]), first, Vec::new());
        for entries in writes {
            let write = index;
            for entry in entries {
                let mut entry = entry.clone();
                entry.log_id.index = index;
                put_record(&mut out, write, &entry);
                index += 1;
            }
            ends.push((out.len(), index));
        }
        (out.to_vec(), ends)
    }

    fn writes() -> impl Strategy<Value = Vec<Vec<RaftEntry>>> {
        prop::collection::vec(prop::collection::vec(entry(), 1..4), 1..5)
    }

    const FIRST: u64 = 5;
    const LAST: Expected = Expected { next: Some(FIRST), last: true, synced: None };

    proptest! {
        #[test]
        fn an_entry_round_trips(entry in entry()) {
            prop_assert_eq!(decode_entry(encode_entry(&entry).freeze()).unwrap(), entry);
        }

        #[test]
        fn any_bytes_are_read_or_refused(data: Vec<u8>) {
            let _ = decode_entry(data.clone().into());
            let _ = scan(&data, LAST);
            let _ = scan(&[&MAGIC[..], &data].concat(), LAST);
        }

        #[test]
        fn a_whole_file_is_read(writes in writes()) {
            let (data, ends) = file(FIRST, &writes);
            let scan = scan(&data, Expected { last: false, ..LAST }).unwrap();
            prop_assert_eq!(scan.end, data.len() as u64);
            prop_assert_eq!(scan.records.len() as u64 + FIRST, ends[ends.len() - 1].1);
            let entries = writes.concat();
            for (found, entry) in scan.records.iter().zip(entries) {
                let (_, payload) = read_record(&data, found.offset as usize).unwrap();
                prop_assert_eq!(decode_entry(payload).unwrap().payload, entry.payload);
            }
        }

        /// A file that a crash has cut anywhere: every write that was whole is there, nothing else but whole records is, and
        /// what is known to be synced is missed.
        #[test]
        fn a_torn_end_is_cut(writes in writes(), at: prop::sample::Index) {
            let (data, ends) = file(FIRST, &writes);
            let cut = at.index(data.len());
            let found = scan(&data[..cut], LAST).unwrap();
            prop_assert!(found.end <= cut as u64);
            let whole = ends.iter().filter(|(end, _)| *end <= cut).map(|(_, next)| *next).max().unwrap_or(FIRST);
            let next = FIRST + found.records.len() as u64;
            prop_assert!(next >= whole);
            if cut > MAGIC.len() && found.end < cut as u64 {
                let followed = scan(&data[..cut], Expected { last: false, ..LAST });
                prop_assert!(followed.is_err());
                let missed = scan(&data[..cut], Expected { synced: Some(next), ..LAST });
                prop_assert_eq!(missed.unwrap_err().offset, found.end);
            }
        }

        /// A flipped bit in anything but the last write is found, and where it is.
        #[test]
        fn damage_in_the_middle_is_found(writes in writes(), at: prop::sample::Index, bit in 0..8u32) {
            let (mut data, ends) = file(FIRST, &writes);
            prop_assume!(ends.len() > 1);
            let last = ends[ends.len() - 2].0;
            let whole = scan(&data, LAST).unwrap();
            let at = MAGIC.len() + at.index(last - MAGIC.len());
            data[at] ^= 1 << bit;
            let damage = scan(&data, LAST).unwrap_err();
            let hit = whole.records.iter().rfind(|found| found.offset <= at as u64).unwrap();
            prop_assert_eq!(damage.offset, hit.offset);
        }

        /// A flipped bit in the last write loses no more than that, and is found if that is known to be synced.
        #[test]
        fn damage_at_the_end_is_cut_unless_it_was_synced(writes in writes(), at: prop::sample::Index, bit in 0..8u32) {
            let (mut data, ends) = file(FIRST, &writes);
            let (begin, next) = if ends.len() > 1 { ends[ends.len() - 2] } else { (MAGIC.len(), FIRST) };
            let at = begin + at.index(data.len() - begin);
            data[at] ^= 1 << bit;
            let cut = scan(&data, LAST).unwrap();
            prop_assert!(cut.end >= begin as u64 && cut.end <= at as u64);
            let synced = Some(next + writes[writes.len() - 1].len() as u64 - 1);
            prop_assert_eq!(scan(&data, Expected { synced, ..LAST }).unwrap_err().offset, cut.end);
        }
    }

    #[test]
    fn a_gap_is_damage() {
        let blank = RaftEntry { log_id: log_id(1, 1, 0), payload: EntryPayload::Blank };
        let (data, _) = file(FIRST, &[vec![blank.clone()], vec![blank]]);
        let gap = Expected { next: Some(FIRST - 1), ..LAST };
        assert!(scan(&data, gap).unwrap_err().detail.contains("entry 5 stands in the place of entry 4"));
    }

    #[test]
    fn the_format_does_not_change_unnoticed() {
        let mut out = BytesMut::new();
        put_record(&mut out, 2, &RaftEntry { log_id: log_id(1, 9, 3), payload: EntryPayload::Blank });
        let golden = b"\xf1RDr\xfe\x2d\xcf\xef\0\0\0\x19\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\
            \0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x03\0";
        assert_eq!(&out[..], golden, "{:02x?}", &out[..]);
    }
}
