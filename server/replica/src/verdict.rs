//! Verdicts: when a record that Cassandra fails to execute on every replica is skipped, by all of them. Pure.
//!
//! A replica whose Cassandra keeps answering one record with the same error, which is not known to be the statement's own,
//! says so in the log: a [`Complaint`]. Until it has taken that back, in the log, it does not count the record as executed,
//! whatever later attempts give. The **verdict** needs no record of its own: it follows from the log's prefix, at the
//! complaint that completes it ([`Verdicts::decide`]), so every reader finds the same one at the same index. The record
//! stands before its verdict; who has executed it by then, or has tried to, rewinds, and leaves it out.

use std::collections::{BTreeMap, BTreeSet};

use replicateddb_cql::request::Values;
use serde::{Deserialize, Serialize};

use crate::mutations::{Mutation, mutated};
use crate::record::{Record, RecordKind, StatementText};

/// Records that one replica complains of at once: the lowest of those that fail.
pub const MAX_COMPLAINTS: usize = 32;
/// Records that replicas may complain of at once, thirty-two of them each of others. Of more, which those leave behind that
/// are gone, the lowest can't be complained of any more.
const MAX_COMPLAINED: usize = 32 * MAX_COMPLAINTS;
/// Verdicts that are remembered, so that what is said late makes no second one. Below the lowest of them there are no more.
const MAX_DECIDED: usize = 1024;
/// Bytes of a failure; what is behind them makes no difference.
const MAX_FAILURE_BYTES: usize = 512;

/// What a replica says of a record, whose index is the argument of the [`RecordKind::Complaint`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Complaint {
    /// What executing it fails with, [normalised]; `None` takes back what was said before.
    pub failure: Option<String>,
    /// Replicas that have been silent for so long that the verdict need not wait for them.
    pub excused: BTreeSet<u32>,
    /// What had come of each of those last when this was said: should more of it stand in the log before this does, it was
    /// back by then, and is waited for. Complaints of before this was kept have none, and count as they did.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub heard: BTreeMap<u32, Heard>,
    /// Goes up with each complaint of a process, to tell its own ones apart.
    pub round: u64,
}

/// The last that came of a replica up to some place in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heard {
    /// The replica's incarnation.
    pub incarnation: i64,
    /// The highest number that it had given a record.
    pub sequence: u64,
}

impl Complaint {
    /// The record that says it of the record at `index`.
    pub fn record(&self, index: u64) -> Record {
        let text = serde_json::to_string(self).expect("plain fields serialise");
        let statements = vec![StatementText { text, values: Values::none() }];
        Record { argument: index, statements, ..Record::bare(RecordKind::Complaint) }
    }

    /// What such a record says; `None` if that can't be read.
    pub fn of(record: &Record) -> Option<Self> {
        let [statement] = record.statements.as_slice() else { return None };
        serde_json::from_str(&statement.text).ok()
    }
}

/// A record that is skipped, at the complaint that decides it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Index of the record.
    pub index: u64,
    /// What every replica failed with.
    pub failure: String,
    /// This store was built without the record; otherwise it has to be put back to before it.
    pub skipped: bool,
}

/// A replica's last word on a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Said {
    /// Of the record that said it: what was said earlier may come to stand in the log later.
    sequence: u64,
    failure: Option<String>,
    excused: BTreeSet<u32>,
}

/// What is said and decided at an index; part of the replica's state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdicts {
    /// By record and replica.
    said: BTreeMap<u64, BTreeMap<u32, Said>>,
    /// Records that verdicts were found on.
    decided: BTreeSet<u64>,
    /// Records that were left out here, whose verdicts are still ahead.
    skipped: BTreeSet<u64>,
    /// There are no verdicts on records below it (any more).
    below: u64,
}

impl Verdicts {
    /// Nothing was ever said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether all of it is about records up to this index.
    pub fn are_up_to(&self, index: u64) -> bool {
        let records = self.said.keys().chain(&self.decided).chain(&self.skipped);
        self.below <= index && records.max().is_none_or(|last| *last <= index)
    }

    /// Replica `origin` says something of the record at `index`; the last word, by `sequence`, counts.
    pub fn say(&mut self, index: u64, origin: u32, sequence: u64, complaint: Complaint) {
        if index < self.below || self.decided.contains(&index) {
            return;
        }
        let of_record = self.said.entry(index).or_default();
        if of_record.get(&origin).is_none_or(|before| before.sequence < sequence) {
            let Complaint { failure, excused, heard: _, round: _ } = complaint;
            of_record.insert(origin, Said { sequence, failure, excused });
        }
        if self.said.len() > MAX_COMPLAINED
            && let Some((lowest, _)) = self.said.pop_first()
        {
            self.below = self.below.max(lowest.saturating_add(1));
        }
    }

    /// A new incarnation of `origin` has come: what the earlier ones said is void, for it executes everything again, and does
    /// not know what they said.
    pub fn restarted(&mut self, origin: u32) {
        self.said.retain(|_, of_record| {
            of_record.remove(&origin);
            !of_record.is_empty()
        });
    }

    /// `origin` has appended to the log: it is there, and nobody is excused from waiting for it by what was said before.
    pub fn heard(&mut self, origin: u32) {
        for said in self.said.values_mut().flat_map(BTreeMap::values_mut) {
            said.excused.remove(&origin);
        }
    }

    /// Nothing of `origin` below this sequence can come to stand in the log any more: what was taken back may be forgotten.
    pub fn settled(&mut self, origin: u32, floor: u64) {
        self.said.retain(|_, of_record| {
            if of_record.get(&origin).is_some_and(|said| said.failure.is_none() && said.sequence < floor) {
                of_record.remove(&origin);
            }
            !of_record.is_empty()
        });
    }

    /// Whether the record is to be skipped: every one of the `origins`, the replicas that have ever appended to the log, fails
    /// with the same, but for those that all of the complaints excuse; and more than half of all do fail.
    pub fn decide(&mut self, index: u64, origins: &BTreeSet<u32>) -> Option<Verdict> {
        if index < self.below {
            return None;
        }
        let failure = match self.waiting(index, origins)? {
            waiting if waiting.is_decided() || mutated(Mutation::VerdictOfOne) => waiting.failure,
            _ => return None,
        };
        self.said.remove(&index);
        self.decided.insert(index);
        if self.decided.len() > MAX_DECIDED
            && let Some(lowest) = self.decided.pop_first()
        {
            self.below = self.below.max(lowest.saturating_add(1));
        }
        let skipped = self.skipped.remove(&index);
        Some(Verdict { index, failure, skipped })
    }

    /// How far a verdict on the record is; `None` if nobody complains of it. A replica that all the others excuse neither
    /// excuses anybody nor stands in the way with another failure: it may never come back to say otherwise. That it fails
    /// with the same counts all the same, for that is a promise: until it has taken it back nobody is shown the record.
    ///
    /// Not all can be excused by all the others: whoever has appended last is excused by nobody.
    pub fn waiting(&self, index: u64, origins: &BTreeSet<u32>) -> Option<Waiting> {
        let failing = |(origin, said): (&u32, &Said)| Some((*origin, said.failure.clone()?, said.excused.clone()));
        let complaints: Vec<_> = self.said.get(&index)?.iter().filter_map(failing).collect();
        let others = |origin: u32| complaints.iter().filter(move |(of, _, _)| *of != origin);
        let is_gone =
            |origin: u32| others(origin).count() > 0 && others(origin).all(|(_, _, them)| them.contains(&origin));
        let mut present: Vec<_> = complaints.iter().filter(|(of, _, _)| !is_gone(*of)).collect();
        if present.is_empty() {
            present = complaints.iter().collect();
        }
        let (_, failure, _) = (*present.first()?).clone();
        let complains = |origin: &u32| complaints.iter().any(|(of, same, _)| of == origin && *same == failure);
        let excused = |origin: &u32| present.iter().all(|(of, _, them)| of != origin && them.contains(origin));
        let majority = origins.iter().filter(|origin| complains(origin)).count() * 2 > origins.len();
        let missing = origins.iter().filter(|origin| !complains(origin) && !excused(origin)).copied().collect();
        Some(Waiting { failure, missing, majority })
    }

    /// Whether that is what `origin` says of the record, in the log.
    pub fn says(&self, index: u64, origin: u32, complaint: &Complaint) -> bool {
        let said = self.said.get(&index).and_then(|said| said.get(&origin));
        said.is_some_and(|said| said.failure == complaint.failure && said.excused == complaint.excused)
    }

    /// The record is left out here; its verdict is known to follow.
    pub fn skip(&mut self, index: u64) {
        self.skipped.insert(index);
    }

    /// Whether what was done up to a later index left this record, on which there is a verdict, out.
    pub fn leaves_out(&self, index: u64) -> bool {
        self.skipped.contains(&index) || self.decided.contains(&index) || index < self.below
    }
}

/// How far a verdict is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// What is complained of.
    pub failure: String,
    /// Replicas that have not failed with the same.
    pub missing: Vec<u32>,
    /// More than half of all replicas have.
    pub majority: bool,
}

impl Waiting {
    fn is_decided(&self) -> bool {
        self.missing.is_empty() && self.majority
    }
}

/// A failure as every replica says it: words that are numbers or may be (addresses, ids, hashes), and what joins them, become
/// `#`;
/// at most [`MAX_FAILURE_BYTES`].
pub fn normalised(failure: &str) -> String {
    const JOINS: [char; 5] = ['.', ':', '-', '/', '@'];
    let mut out = String::new();
    let mut rest = failure;
    while let Some(first) = rest.chars().next().filter(|_| out.len() < MAX_FAILURE_BYTES) {
        let is_word = first.is_ascii_alphanumeric();
        let end = rest.find(|c: char| c.is_ascii_alphanumeric() != is_word).unwrap_or(rest.len());
        let (part, behind) = rest.split_at(end);
        rest = behind;
        let is_number = part.contains(|c: char| c.is_ascii_digit());
        // Parts of ids without a digit.
        let is_hex = part.len() >= 4 && part.chars().all(|c| c.is_ascii_hexdigit());
        if is_word && (is_number || is_hex) {
            let joined = out.trim_end_matches(JOINS).len();
            match out.get(..joined).is_some_and(|before| before.ends_with('#')) {
                true => out.truncate(joined),
                false => out.push('#'),
            }
        } else {
            out.push_str(part);
        }
    }
    let end = (0..=MAX_FAILURE_BYTES.min(out.len())).rev().find(|end| out.is_char_boundary(*end));
    out.truncate(end.unwrap_or(0));
    out
}

/// What the client of a skipped record is told, and people.
pub fn skipped_because(index: u64, failure: &str) -> String {
    format!(
        "record {index} was skipped by the verdict of all replicas, nothing was written: Cassandra fails it with {failure}"
    )
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
