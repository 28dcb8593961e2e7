//! Deciding, without IO: what an append's answer means, what a read of the log means, how much to read next.

use zookeeper_client::{Error, MultiWriteError, MultiWriteResult};

use super::layout::{SegmentState, sequence_of};
use crate::Position;

/// Entries read at once, at most.
pub(crate) const MAX_READ_ENTRIES: usize = 64;
/// Bytes that one read should answer with, more or less.
pub(crate) const READ_TARGET_BYTES: usize = 1 << 20;
/// Entries read at once after a read that found less than it asked for.
const MIN_READ_ENTRIES: usize = 4;

/// Operations of an append's transaction, in order: the segment's check, one for the life of each writer, that of the epoch if
/// there is a leader, the entries.
pub(crate) const APPEND_CHECKS_SEGMENT: usize = 0;
const APPEND_CHECKS_WRITERS: usize = 1;

/// Where an entry came to stand in its segment, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) sequence: u32,
    pub(crate) commit_time_ms: i64,
}

/// What became of an append's transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AppendVerdict {
    /// The entries are committed in the segment they were proposed for.
    Committed(Vec<Place>),
    /// Not committed: the segment takes no more entries.
    Sealed,
    /// Not committed: the segment is not there (any more).
    NoSegment,
    /// None of the entries is committed: the life of this writer, counted from 0, is over.
    Fenced(usize),
    /// Not committed: another replica leads by now.
    Deposed,
    /// Not committed: ZooKeeper refuses it.
    Refused(String),
    /// Nobody knows.
    Unknown(String),
}

/// Reads the answer to `multi{check segment, check the life of each of `writers`, check the epoch if `led`, create sequential for
/// each of `entries`}`. Only a verdict on one of the operations says that nothing was committed; every other error leaves it open.
pub(crate) fn append_verdict(
    answer: Result<Vec<MultiWriteResult>, MultiWriteError>,
    writers: usize,
    led: bool,
    entries: usize,
) -> AppendVerdict {
    let epoch = APPEND_CHECKS_WRITERS + writers;
    match answer {
        Ok(results) => {
            let created = results.iter().skip(epoch + usize::from(led));
            let places: Result<Vec<Place>, String> = created.map(place).collect();
            match places {
                Ok(places) if places.len() == entries => AppendVerdict::Committed(places),
                Ok(_) => AppendVerdict::Unknown("ZooKeeper's answer lacks a created entry".into()),
                Err(detail) => AppendVerdict::Unknown(detail),
            }
        }
        Err(MultiWriteError::OperationFailed { index, source }) => match (index, source) {
            (APPEND_CHECKS_SEGMENT, Error::BadVersion) => AppendVerdict::Sealed,
            (APPEND_CHECKS_SEGMENT, Error::NoNode) => AppendVerdict::NoSegment,
            (index, Error::NoNode) if (APPEND_CHECKS_WRITERS..=writers).contains(&index) => {
                AppendVerdict::Fenced(index - APPEND_CHECKS_WRITERS)
            }
            (index, Error::BadVersion | Error::NoNode) if led && index == epoch => AppendVerdict::Deposed,
            (index, source) if is_refusal(&source) => {
                AppendVerdict::Refused(format!("ZooKeeper refuses operation {index}: {source}"))
            }
            (index, source) => AppendVerdict::Unknown(format!("operation {index}: {source}")),
        },
        Err(MultiWriteError::RequestFailed { source }) => AppendVerdict::Unknown(source.to_string()),
    }
}

fn place(result: &MultiWriteResult) -> Result<Place, String> {
    match result {
        MultiWriteResult::Create { path, stat } if !stat.is_invalid() => match sequence_of(path) {
            Some(sequence) => Ok(Place { sequence, commit_time_ms: stat.ctime }),
            None => Err(format!("ZooKeeper named the entry {path}")),
        },
        _ => Err("ZooKeeper's answer lacks a created entry".into()),
    }
}

/// Whether an error of one operation says for certain that its transaction did nothing.
pub(crate) fn is_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::NoNode
            | Error::NodeExists
            | Error::BadVersion
            | Error::NotEmpty
            | Error::NoAuth
            | Error::InvalidAcl
            | Error::QuotaExceeded
            | Error::NoChildrenForEphemerals
    )
}

/// What a read showed of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentView {
    pub(crate) state: SegmentState,
    /// Entries ever created in it: the sequence of the next one. Deleting changes nothing about it.
    pub(crate) created: u32,
}

/// One read of the log: the segment first, then entries, the header last, in one session. Each part may be newer than
/// the one before, never older; that order is what the conclusions below rest on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogView {
    /// The position read from.
    pub(crate) next: Position,
    /// The segment of `next`; `None` if it is not there.
    pub(crate) segment: Option<SegmentView>,
    /// Entries found from `next` on without a hole.
    pub(crate) found: usize,
    /// The first position the log still has.
    pub(crate) first: Position,
    /// Whether the session has caught up with its leader since it was found or lost, so that what is not there does not exist.
    pub(crate) synced: bool,
}

/// What a tail does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Take what was found.
    Take,
    /// The end: wait for the next entry or the seal.
    Wait,
    /// Nothing follows in this segment.
    NextSegment,
    /// The server may lag behind: have it catch up, read again.
    Sync,
    /// The position was given up.
    Truncated { first: Position },
    /// The position lies past the end.
    Ahead { end: Position },
    /// An entry that must be there is not.
    Corrupt(String),
}

/// Decides what a read means. I8: goes past a position only if nothing will ever stand there.
pub(crate) fn step(view: &LogView) -> Step {
    let next = view.next;
    if view.found > 0 {
        return Step::Take;
    }
    if next < view.first {
        return Step::Truncated { first: view.first };
    }
    let Some(segment) = view.segment else {
        return match view.synced {
            false => Step::Sync,
            true => Step::Corrupt(format!("segment {} is missing", next.segment)),
        };
    };
    match (segment.created.cmp(&next.sequence), segment.state) {
        (std::cmp::Ordering::Equal, SegmentState::Open) => Step::Wait,
        (std::cmp::Ordering::Equal, SegmentState::Sealed) => Step::NextSegment,
        // The segment was read before the entry, the header after it: the entry existed, and was not given up.
        (std::cmp::Ordering::Greater, _) => Step::Corrupt(format!(
            "the entry is missing, though its segment has had {} entries and the log starts at {}",
            segment.created, view.first
        )),
        (std::cmp::Ordering::Less, _) if view.synced => {
            Step::Ahead { end: Position::new(next.segment, segment.created) }
        }
        (std::cmp::Ordering::Less, _) => Step::Sync,
    }
}

/// How many entries ZooKeeper has created below a node, from what it tells of the node: it shows
/// `2 * created - children` as the version of the children.
pub(crate) fn created_below(children_version: i32, children: i32) -> Option<u32> {
    let twice = i64::from(children_version) + i64::from(children);
    (twice % 2 == 0).then(|| u32::try_from(twice / 2).ok())?
}

/// How many entries the next read asks for, so that an answer has about a mebibyte and misses are few.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadSize {
    entries: usize,
}

impl ReadSize {
    pub(crate) fn new() -> Self {
        Self { entries: MIN_READ_ENTRIES }
    }

    pub(crate) fn entries(self) -> usize {
        self.entries
    }

    /// Learns from a read that found `found` entries with `bytes` bytes.
    pub(crate) fn learn(&mut self, found: usize, bytes: usize) {
        let average = bytes / found.max(1);
        let affordable = (READ_TARGET_BYTES / average.max(1)).clamp(1, MAX_READ_ENTRIES);
        let wanted = if found == 0 { MIN_READ_ENTRIES } else { (found * 2).max(MIN_READ_ENTRIES) };
        self.entries = wanted.min(affordable);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zookeeper_client::Stat;

    use super::*;

    fn view(next: (u32, u32), segment: Option<(SegmentState, u32)>, first: (u32, u32), synced: bool) -> LogView {
        LogView {
            next: Position::new(next.0, next.1),
            segment: segment.map(|(state, created)| SegmentView { state, created }),
            found: 0,
            first: Position::new(first.0, first.1),
            synced,
        }
    }

    #[test]
    fn reads_and_what_they_mean() {
        use SegmentState::{Open, Sealed};
        let first = Position::new(3, 5);
        for (view, expected) in [
            (view((3, 7), Some((Open, 7)), (0, 0), true), Step::Wait),
            (view((3, 7), Some((Sealed, 7)), (0, 0), true), Step::NextSegment),
            (view((3, 4), Some((Sealed, 7)), (3, 5), true), Step::Truncated { first }),
            (view((2, 9), None, (3, 5), false), Step::Truncated { first }),
            (view((4, 0), None, (3, 5), false), Step::Sync),
            (view((3, 8), Some((Open, 7)), (0, 0), false), Step::Sync),
            (view((3, 8), Some((Open, 7)), (0, 0), true), Step::Ahead { end: Position::new(3, 7) }),
            (view((3, 8), Some((Sealed, 7)), (0, 0), true), Step::Ahead { end: Position::new(3, 7) }),
        ] {
            assert_eq!(step(&view), expected, "{view:?}");
        }
        for missing in [view((3, 6), Some((Open, 7)), (3, 6), true), view((4, 0), None, (3, 5), true)] {
            assert!(matches!(step(&missing), Step::Corrupt(_)), "{missing:?}");
        }
    }

    /// A log as it stands, for the property below: `sealed` segments with their sizes, one open one, a first position.
    fn any_log() -> impl Strategy<Value = (Vec<u32>, u32, usize)> {
        (prop::collection::vec(0u32..4, 0..4), 0u32..4, any::<prop::sample::Index>()).prop_map(
            |(sealed, open, first)| {
                let total = sealed.iter().sum::<u32>() + open;
                let first = first.index(total as usize + 1);
                (sealed, open, first)
            },
        )
    }

    proptest! {
        /// I8: whatever of the log is given up, reading from anywhere yields exactly what is retained, or says why not.
        #[test]
        fn a_tail_skips_nothing((sealed, open, given_up) in any_log(), from in (0u32..5, 0u32..5)) {
            let sizes: Vec<u32> = sealed.iter().copied().chain([open]).collect();
            let last = sizes.len() - 1;
            let all: Vec<Position> = sizes.iter().enumerate()
                .flat_map(|(segment, size)| (0..*size).map(move |n| Position::new(segment as u32, n))).collect();
            let first = all.get(given_up).copied().unwrap_or(Position::new(last as u32, open));
            let from = Position::new(from.0, from.1);
            let mut next = from;
            let mut taken = Vec::new();
            let end = loop {
                let segment = sizes.get(next.segment as usize).filter(|_| next.segment >= first.segment).map(|size| SegmentView {
                    state: if next.segment as usize == last { SegmentState::Open } else { SegmentState::Sealed },
                    created: *size,
                });
                let there = next >= first && segment.is_some_and(|segment| next.sequence < segment.created);
                match step(&LogView { next, segment, found: usize::from(there), first, synced: true }) {
                    Step::Take => { taken.push(next); next = next.next(); }
                    Step::NextSegment => next = next.next_segment(),
                    other => break other,
                }
            };
            let retained: Vec<Position> = all.iter().copied().filter(|p| *p >= from).collect();
            match end {
                Step::Wait => prop_assert_eq!(taken, retained),
                Step::Truncated { first: said } => prop_assert!(from < said && said == first && taken.is_empty()),
                Step::Ahead { .. } | Step::Corrupt(_) => prop_assert!(taken.is_empty() && !all.contains(&from)),
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn created_is_what_zookeeper_counts(created in 0i32..1_000_000, deleted in 0i32..1_000_000) {
            let children = created - deleted.min(created);
            prop_assert_eq!(created_below(2 * created - children, children), u32::try_from(created).ok());
        }

        #[test]
        fn reads_stay_bounded(reads: Vec<(u8, u32)>) {
            let mut size = ReadSize::new();
            for (found, bytes) in reads {
                size.learn(usize::from(found), bytes as usize);
                prop_assert!((1..=MAX_READ_ENTRIES).contains(&size.entries()));
            }
        }
    }

    fn stat(czxid: i64) -> Stat {
        Stat {
            czxid,
            mzxid: 1,
            pzxid: 1,
            ctime: 42,
            mtime: 42,
            version: 0,
            cversion: 0,
            aversion: 0,
            ephemeral_owner: 0,
            data_length: 0,
            num_children: 0,
        }
    }

    #[test]
    fn verdicts() {
        let check = || MultiWriteResult::Check;
        let create = |path: &str, czxid| MultiWriteResult::Create { path: path.into(), stat: stat(czxid) };
        let created = |path: &str, czxid| append_verdict(Ok(vec![check(), check(), create(path, czxid)]), 1, false, 1);
        let place = |sequence| Place { sequence, commit_time_ms: 42 };
        let entry = "/r/requests/0000000001/e-0000000007";
        assert_eq!(created(entry, 9), AppendVerdict::Committed(vec![place(7)]));
        assert!(matches!(created(entry, -1), AppendVerdict::Unknown(_)));
        assert!(matches!(created("/r/elsewhere", 9), AppendVerdict::Unknown(_)));
        let next = "/r/requests/0000000001/e-0000000008";
        let two = || vec![check(), check(), check(), create(entry, 9), create(next, 9)];
        assert_eq!(append_verdict(Ok(two()), 2, false, 2), AppendVerdict::Committed(vec![place(7), place(8)]));
        assert_eq!(append_verdict(Ok(two()), 1, true, 2), AppendVerdict::Committed(vec![place(7), place(8)]));
        assert!(matches!(append_verdict(Ok(two()), 2, false, 3), AppendVerdict::Unknown(_)), "one is missing");
        assert!(matches!(append_verdict(Ok(two()), 1, false, 2), AppendVerdict::Unknown(_)), "a check too many");
        let answer = |index, source| Err(MultiWriteError::OperationFailed { index, source });
        let failed = |index, source| append_verdict(answer(index, source), 2, false, 2);
        let led = |index, source| append_verdict(answer(index, source), 2, true, 2);
        assert_eq!(led(2, Error::NoNode), AppendVerdict::Fenced(1));
        assert_eq!(led(3, Error::BadVersion), AppendVerdict::Deposed);
        assert_eq!(led(3, Error::NoNode), AppendVerdict::Deposed);
        assert!(matches!(led(4, Error::NoNode), AppendVerdict::Refused(_)));
        assert!(
            matches!(failed(3, Error::BadVersion), AppendVerdict::Refused(_)),
            "without a leader nobody is deposed"
        );
        assert_eq!(failed(0, Error::BadVersion), AppendVerdict::Sealed);
        assert_eq!(failed(0, Error::NoNode), AppendVerdict::NoSegment);
        assert_eq!(failed(1, Error::NoNode), AppendVerdict::Fenced(0));
        assert_eq!(failed(2, Error::NoNode), AppendVerdict::Fenced(1));
        assert!(matches!(failed(3, Error::NoNode), AppendVerdict::Refused(_)), "the segment has gone meanwhile");
        assert!(matches!(failed(3, Error::NoAuth), AppendVerdict::Refused(_)));
        assert!(matches!(failed(3, Error::UnexpectedErrorCode(-200)), AppendVerdict::Unknown(_)));
        for source in [Error::ConnectionLoss, Error::SessionExpired, Error::ClientClosed, Error::Throttled] {
            let verdict = append_verdict(Err(MultiWriteError::RequestFailed { source }), 1, false, 1);
            assert!(matches!(verdict, AppendVerdict::Unknown(_)));
        }
    }
}
