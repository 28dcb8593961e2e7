//! The deciding part of applying the log: which records count, their indexes, the log clock and their timestamps.
//!
//! Pure: a function of the log's prefix alone, so every replica decides alike, and again so after a restart. It is
//! the `replica_state` of every restore point and restored exactly.

use std::collections::{BTreeMap, BTreeSet};

use replicateddb_ordering::Position;
use replicateddb_store::api::Mark;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::mutations::{Mutation, mutated};
use crate::record::{Entry, Record, RecordKind, SEMANTICS_VERSION};
use crate::verdict::{Complaint, Heard, Verdict, Verdicts, Waiting};

/// Newest version of the serialised form.
pub const STATE_FORMAT: u32 = 3;
/// The version of a state in which nothing was ever said of verdicts: programs without them can read it. Those before
/// it named their log by a number.
const PLAIN_FORMAT: u32 = 2;
/// How far ahead of the log's own time a proposer's clock may pull the log clock, µs.
const CLOCK_AHEAD_US: i64 = 1_000_000;
/// Namespace of the UUIDs derived from the log.
const NAMESPACE: Uuid = Uuid::from_u128(0x7ac5_0f3e_6bd0_4e0c_9d7b_3c1f_52a6_88e1);

/// Why the log can't be applied further. The replica stops and says so (I8).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// An entry does not stand directly behind the last one (I3: the index is dense).
    #[error("the entry at {found} does not follow the one at {last:?}")]
    Gap {
        /// Position of the last entry.
        last: Option<Position>,
        /// Position of this one.
        found: Position,
    },
    /// An incarnation that was replaced has appended (I6).
    #[error("replica {origin}: incarnation {found:#x} stands behind the later {known:#x}")]
    OldIncarnation {
        /// The origin.
        origin: u32,
        /// The incarnation of the entry.
        found: i64,
        /// The latest one seen before.
        known: i64,
    },
    /// A record below its own entry's floor, or without a number.
    #[error("replica {origin}: sequence {sequence} under its entry's floor {floor}")]
    UnderFloor {
        /// The origin.
        origin: u32,
        /// The record's sequence.
        sequence: u64,
        /// The entry's floor.
        floor: u64,
    },
    /// The log asks for apply semantics that this program does not have.
    #[error("the log switches to apply semantics {asked}, this program has {SEMANTICS_VERSION}; update the replica")]
    Semantics {
        /// The version asked for.
        asked: u64,
    },
    /// A complaint that can't be read.
    #[error("the complaint at index {index} can't be read; update the replica")]
    Complaint {
        /// Index of the complaint.
        index: u64,
    },
    /// The index or the clock has come to its end.
    #[error("the index or the clock of the log overflows")]
    Overflow,
}

/// Numbers of one origin's incarnation that have been applied, as disjoint inclusive ranges above a floor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RangeSet(BTreeMap<u64, u64>);

impl RangeSet {
    /// Whether the number is in the set.
    pub fn contains(&self, number: u64) -> bool {
        self.0.range(..=number).next_back().is_some_and(|(_, end)| number <= *end)
    }

    /// Adds a number; `false` if it was there.
    pub fn insert(&mut self, number: u64) -> bool {
        if self.contains(number) {
            return false;
        }
        let mut start = number;
        let mut end = number;
        if let Some(next) = number.checked_add(1).and_then(|next| self.0.remove(&next)) {
            end = next;
        }
        let before = self.0.range(..number).next_back().map(|(first, last)| (*first, *last));
        if let Some((first, last)) = before
            && last.checked_add(1) == Some(number)
        {
            start = first;
        }
        self.0.insert(start, end);
        true
    }

    /// Forgets every number below `floor`.
    pub fn forget_below(&mut self, floor: u64) {
        while let Some((start, end)) = self.0.first_key_value().map(|(start, end)| (*start, *end))
            && start < floor
        {
            self.0.remove(&start);
            if end >= floor {
                self.0.insert(floor, end);
            }
        }
    }

    /// The highest number.
    pub fn last(&self) -> Option<u64> {
        self.0.last_key_value().map(|(_, end)| *end)
    }

    /// Whether the ranges are what they should be: none is empty, and none overlaps another.
    fn is_whole(&self) -> bool {
        let mut end_before = None;
        self.0.iter().all(|(start, end)| {
            let before = end_before.replace(*end);
            start <= end && before.is_none_or(|before| before < *start)
        })
    }

    /// How many ranges are kept.
    pub fn ranges(&self) -> usize {
        self.0.len()
    }
}

/// What is known of one origin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    incarnation: i64,
    /// Every number below it has been seen or never will be.
    floor: u64,
    /// Numbers from the floor on that have been seen.
    seen: RangeSet,
}

/// The state at an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    format: u32,
    log_id: Uuid,
    /// Index of the last record that counted; 0 before the first.
    index: u64,
    /// Position of the last entry.
    last: Option<Position>,
    clock_us: i64,
    timestamp_us: i64,
    semantics: u64,
    /// Index of the last DDL that changed the schema; 0 before the first.
    schema_index: u64,
    origins: BTreeMap<u32, Origin>,
    #[serde(default, skip_serializing_if = "Verdicts::is_empty")]
    verdicts: Verdicts,
    /// See [`State::bytes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

/// A record with its place in the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Dense, from 1.
    pub index: u64,
    /// Write timestamp, µs; strictly increasing with the index.
    pub timestamp_us: i64,
    /// The proposer.
    pub origin: u32,
    /// The proposer's incarnation.
    pub incarnation: i64,
    /// The record.
    pub record: Record,
    /// The verdict that this record, a complaint, completes.
    pub verdict: Option<Verdict>,
}

impl State {
    /// The state before the first entry of a log.
    pub fn initial(log_id: Uuid) -> Self {
        Self {
            format: PLAIN_FORMAT,
            log_id,
            index: 0,
            last: None,
            clock_us: 0,
            timestamp_us: 0,
            semantics: SEMANTICS_VERSION,
            schema_index: 0,
            origins: BTreeMap::new(),
            verdicts: Verdicts::default(),
            bytes: Some(0),
        }
    }

    /// Reads a restore point's state.
    ///
    /// # Errors
    /// It can't be read, is of another format, or belongs to another log; for people.
    pub fn restore(value: serde_json::Value, log_id: Uuid, index: u64) -> Result<Self, String> {
        let format = value.get("format").and_then(serde_json::Value::as_u64);
        let known = u64::from(PLAIN_FORMAT)..=u64::from(STATE_FORMAT);
        if let Some(format) = format.filter(|format| !known.contains(format)) {
            return Err(format!(
                "the saved state has format {format}, this program knows {PLAIN_FORMAT} to {STATE_FORMAT}"
            ));
        }
        let mut state: Self =
            serde_json::from_value(value).map_err(|e| format!("the saved state can't be read: {e}"))?;
        if state.log_id != log_id {
            return Err(format!(
                "the store belongs to the log {}, but the log found is {log_id}: the ordering tier lost its data \
                 or another root is configured",
                state.log_id
            ));
        }
        if state.index != index || state.semantics > SEMANTICS_VERSION || !state.is_whole() {
            return Err("the saved state does not fit its manifest or this program".to_owned());
        }
        if mutated(Mutation::ForgetDuplicates) {
            state.origins.clear();
        }
        if mutated(Mutation::ForgetClock) {
            (state.clock_us, state.timestamp_us) = (0, 0);
        }
        Ok(state)
    }

    /// Whether it is one that records can have led to: nothing in it is of a later index, and what was seen is in order.
    fn is_whole(&self) -> bool {
        let origins = self.origins.values().all(|origin| origin.seen.is_whole());
        self.schema_index <= self.index && origins && self.verdicts.are_up_to(self.index)
    }

    /// The state of a restore point or a clean mark.
    ///
    /// # Errors
    /// As for [`State::restore`].
    pub fn of_mark(mark: Mark, log_id: Uuid) -> Result<Self, String> {
        Self::restore(mark.replica_state, log_id, mark.index)
    }

    /// Whether this state contains the record of that number.
    pub fn contains(&self, origin: u32, incarnation: i64, sequence: u64) -> bool {
        let known = self.origins.get(&origin).filter(|known| known.incarnation == incarnation);
        known.is_some_and(|known| sequence < known.floor || known.seen.contains(sequence))
    }

    /// Ranges of numbers that are remembered to find duplicates, of all origins.
    pub fn remembered(&self) -> usize {
        self.origins.values().map(|origin| origin.seen.ranges()).sum()
    }

    /// Where to read on.
    pub fn next_position(&self) -> Position {
        self.last.map_or(Position::START, Position::next)
    }

    /// Index of the last record that counted.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// What all entries take of the memory of the log's servers ([`Entry::log_bytes`]), those included that were given up.
    /// `None` if a program that did not count has saved this state or an earlier one: a count from there on would be
    /// another one on each replica.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// Timestamp of the last record that counted, µs.
    pub fn timestamp_us(&self) -> i64 {
        self.timestamp_us
    }

    /// Index of the last DDL that changed the schema.
    pub fn schema_index(&self) -> u64 {
        self.schema_index
    }

    /// The schema's version, equal wherever the same DDL was applied last.
    pub fn schema_version(&self) -> Uuid {
        derived_uuid(self.log_id, "schema", self.schema_index)
    }

    /// The id of a table created by the record at `index`.
    pub fn table_id(&self, index: u64) -> Uuid {
        derived_uuid(self.log_id, "table", index)
    }

    /// The DDL at `index` has changed the schema. Called in the order of the log.
    pub fn schema_changed(&mut self, index: u64) {
        assert!(index > self.schema_index && index <= self.index, "I3: DDL applies in order");
        self.schema_index = index;
    }

    /// Takes the next entry of the log: drops duplicates and numbers the rest.
    ///
    /// # Errors
    /// The log breaks its rules or asks for what this program can't do; nothing of the state is to be used then.
    pub fn admit(&mut self, at: Position, commit_time_ms: i64, entry: Entry) -> Result<Vec<Admitted>, StateError> {
        if !self.last.map_or(at == Position::START, |last| at.follows(last)) {
            return Err(StateError::Gap { last: self.last, found: at });
        }
        self.last = Some(at);
        // Copies of what stands there already take room like any other.
        self.bytes = self.bytes.map(|bytes| bytes.saturating_add(entry.log_bytes()));
        let (origin, incarnation, floor) = (entry.origin, entry.incarnation, entry.floor);
        let known = self.origins.entry(origin).or_default();
        if incarnation < known.incarnation {
            return Err(StateError::OldIncarnation { origin, found: incarnation, known: known.incarnation });
        }
        if incarnation > known.incarnation {
            *known = Origin { incarnation, ..Origin::default() };
            self.verdicts.restarted(origin);
        }
        if let Some(record) = entry.records.iter().find(|record| record.sequence < floor.max(1)) {
            return Err(StateError::UnderFloor { origin, sequence: record.sequence, floor });
        }
        let mut admitted = Vec::with_capacity(entry.records.len());
        for record in entry.records {
            let known = self.origins.entry(origin).or_default();
            // I3: the first copy counts, wherever the second one comes from.
            let seen = record.sequence < known.floor || !known.seen.insert(record.sequence);
            if seen && !mutated(Mutation::SkipDedup) {
                continue;
            }
            if admitted.is_empty() {
                // A copy that another replica appends late is no sign of its writer's life.
                self.verdicts.heard(origin);
            }
            admitted.push(self.number(commit_time_ms, origin, incarnation, record)?);
        }
        let known = self.origins.entry(origin).or_default();
        if floor > known.floor {
            known.floor = floor;
            known.seen.forget_below(floor);
            self.verdicts.settled(origin, floor);
        }
        Ok(admitted)
    }

    fn number(
        &mut self,
        commit_ms: i64,
        origin: u32,
        incarnation: i64,
        record: Record,
    ) -> Result<Admitted, StateError> {
        if record.kind == RecordKind::Semantics {
            if record.argument > SEMANTICS_VERSION {
                return Err(StateError::Semantics { asked: record.argument });
            }
            self.semantics = self.semantics.max(record.argument);
        }
        let bound_us = commit_ms.saturating_mul(1000).saturating_add(CLOCK_AHEAD_US);
        let bound_us = if mutated(Mutation::UnboundedClock) { i64::MAX } else { bound_us };
        self.clock_us = self.clock_us.max(record.clock_us.min(bound_us));
        self.index = self.index.checked_add(1).ok_or(StateError::Overflow)?;
        let after_last = self.timestamp_us.checked_add(1).ok_or(StateError::Overflow)?;
        self.timestamp_us = after_last.max(self.clock_us);
        if record.kind == RecordKind::Ddl {
            self.timestamp_us = whole_ms(self.timestamp_us).ok_or(StateError::Overflow)?;
        }
        let verdict = match record.kind {
            RecordKind::Complaint => self.complain(origin, &record)?,
            _ => None,
        };
        Ok(Admitted { index: self.index, timestamp_us: self.timestamp_us, origin, incarnation, record, verdict })
    }

    fn complain(&mut self, origin: u32, record: &Record) -> Result<Option<Verdict>, StateError> {
        let unreadable = StateError::Complaint { index: self.index };
        let mut complaint = Complaint::of(record).ok_or(unreadable)?;
        let of = record.argument;
        if of >= self.index {
            return Ok(None);
        }
        self.format = STATE_FORMAT;
        // It may have been on its way for long. Whether its author fails with the same still is no question: as long as the
        // complaint is not taken back, in the log, the author shows the record to nobody.
        let Complaint { excused, heard, .. } = &mut complaint;
        excused.retain(|replica| heard.get(replica).is_none_or(|last| self.heard(*replica) == *last));
        self.verdicts.say(of, origin, record.sequence, complaint);
        let origins = self.known_origins();
        Ok(self.verdicts.decide(of, &origins))
    }

    /// Every replica that has ever appended to the log.
    pub fn known_origins(&self) -> BTreeSet<u32> {
        self.origins.keys().copied().collect()
    }

    /// The last that came of a replica; nothing at all is an incarnation 0, which there is not.
    pub fn heard(&self, replica: u32) -> Heard {
        let Some(Origin { incarnation, floor, seen }) = self.origins.get(&replica) else { return Heard::default() };
        let sequence = seen.last().unwrap_or(floor.saturating_sub(1));
        Heard { incarnation: *incarnation, sequence }
    }

    /// How far a verdict on the record at `index` is; `None` if nobody complains of it.
    pub fn waiting(&self, index: u64) -> Option<Waiting> {
        self.verdicts.waiting(index, &self.known_origins())
    }

    /// Whether that is what the replica says of the record at `index`, in the log.
    pub fn says(&self, index: u64, replica: u32, complaint: &Complaint) -> bool {
        self.verdicts.says(index, replica, complaint)
    }

    /// The record at `index` is left out, by a verdict that is ahead.
    pub fn skip(&mut self, index: u64) {
        assert!(index <= self.index && !self.verdicts.leaves_out(index), "I3: a record is left out at its place, once");
        self.format = STATE_FORMAT;
        self.verdicts.skip(index);
    }

    /// Whether a store at this state may hold something of the record at `index`, on which there is a verdict.
    pub fn may_hold(&self, index: u64) -> bool {
        index <= self.index && !self.verdicts.leaves_out(index)
    }
}

/// The first whole millisecond, in µs, that is not before this time. Cassandra keeps a dropped column's time in µs until
/// it restarts, and in ms from then on: with any other, cells of the last ms would come back with a column of that name.
fn whole_ms(timestamp_us: i64) -> Option<i64> {
    Some(timestamp_us.checked_add(999)?.div_euclid(1000) * 1000)
}

/// A UUID that every replica derives alike.
fn derived_uuid(log_id: Uuid, what: &str, index: u64) -> Uuid {
    Uuid::new_v5(&NAMESPACE, format!("{log_id}/{what}/{index}").as_bytes())
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
