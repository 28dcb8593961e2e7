//! How much of the log may be given up. No IO.
//!
//! Every replica makes known what it would read on from if it lost everything but its restore points, the older of the
//! two. The log is given up below the lowest such position, so that whoever comes back finds what it misses. A replica
//! that is away and too far behind holds nothing any more: it takes a restore point of another one when it comes back. One
//! that is there holds the log for longer: it is coming forward, and must come to an end with that.
//!
//! How far is counted in records and in bytes, and either bound counts: replaying takes time, which goes with the records;
//! the log takes memory, which goes with the bytes. But that memory is scarce is no reason to have what was given up on one
//! volume alone, as long as there are others that may come to have it: then those who write have to wait. They wait for as long as
//! somebody comes nearer. One that is there and stands still far behind, because its Cassandra is dead or its copy
//! never ends, is like one that is gone: it may be so for ever, and nobody could write any more.

use std::cmp::{Ordering, Reverse};

use serde::{Deserialize, Serialize};

use crate::{Beginning, Incarnation, Position};

/// Restore points at or above what is given up must lie on that many volumes, or on all there are.
const VOLUMES: usize = 2;
/// How many times more records behind one may be that is there.
const PRESENT: u64 = 10;

/// What a replica makes known of its restore points.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Number of the replica.
    pub replica: u32,
    /// Who has written this.
    pub incarnation: Incarnation,
    /// Where it reads on from the older of its restore points; the start of the log if it has not two.
    pub needs: Position,
    /// Index of the last record before that position.
    pub index: u64,
    /// Where others get its restore points from, an `http` URL.
    pub source: String,
    /// It has a restore point there; one that it is still copying from another replica is on no volume of its own yet.
    pub durable: bool,
    /// Goes up for as long as the replica is there.
    pub beat: u64,
    /// The records up to this index were executed by this life or an earlier one, and may have been shown to clients.
    #[serde(default)]
    pub executed: u64,
    /// Bytes of the log before `needs`. `None` from a program that does not count them, and of a log that such a one began:
    /// then the records alone say how far behind it is.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Another number whenever its store has come forward: records were applied, or more of a restore point was copied. 0 from a
    /// program that does not say so.
    #[serde(default)]
    pub forward: u64,
}

/// A replica, as whoever decides sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it has made known last.
    pub published: Published,
    /// How long it has been silent.
    pub presence: Presence,
}

/// Whether a replica gives signs of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It does.
    There,
    /// It has been silent for long.
    Away,
    /// It has been silent for so long that nobody counts on it.
    Gone,
    /// It gives signs of life, but has been far behind for as long, and has not come forward.
    Still,
}

impl Presence {
    /// Nobody counts on it for a second volume.
    fn is_given_up(self) -> bool {
        matches!(self, Self::Gone | Self::Still)
    }
}

/// Bounds of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Records that a replica may stay behind the others' restore points before it holds the log no longer; ten times as
    /// many if it is not away.
    pub behind_records: u64,
    /// Bytes of the log that one may stay behind that is away.
    pub away_bytes: u64,
    /// Bytes of the log that one may stay behind that is there, or that is gone, or stands still, and has a second volume. No multiple as large as that of the records: these bytes are
    /// in the memory of every server of the log, for however long it takes.
    pub present_bytes: u64,
    /// Fewest entries worth giving up.
    pub step_entries: u32,
    /// Bytes that are worth giving up, however few the entries.
    pub step_bytes: u64,
}

/// How far behind one may be.
#[derive(Clone, Copy)]
struct Bound {
    records: u64,
    bytes: u64,
}

/// The farthest that any restore point of a replica lies.
struct Newest {
    index: u64,
    bytes: Option<u64>,
}

impl Newest {
    fn of(replicas: &[Seen]) -> Self {
        let all = || replicas.iter().map(|one| &one.published);
        let index = all().map(|one| one.index).max().unwrap_or(0);
        Self { index, bytes: all().filter_map(|one| one.bytes).max() }
    }

    /// Whether the replica is within the bound. What is not known of its bytes is held against nobody.
    fn is_near(&self, one: &Published, bound: Bound) -> bool {
        let bytes = self.bytes.zip(one.bytes).map_or(0, |(newest, bytes)| newest - bytes);
        self.index - one.index <= bound.records && bytes <= bound.bytes
    }
}

/// What is to be done with the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Give up the entries below.
    pub below: Option<Beginning>,
    /// Replicas that need some of what is given up, because they are behind for too long.
    pub left_behind: Vec<u32>,
}

/// Decides how much of a log that starts at `first` may be given up.
pub fn decide(replicas: &[Seen], first: Beginning, limits: Limits) -> Decision {
    let newest = Newest::of(replicas);
    let absent = Bound { records: limits.behind_records, bytes: limits.away_bytes };
    let far = Bound { records: limits.behind_records.saturating_mul(PRESENT), bytes: limits.present_bytes };
    let is_there = |one: &Seen| matches!(one.presence, Presence::There | Presence::Still);
    let bound = |one: &Seen| if is_there(one) { far } else { absent };
    let held = |one: &&Seen| newest.is_near(&one.published, bound(one));
    let lowest = replicas.iter().filter(held).map(|one| one.published.needs).min();
    // What is given up lies in restore points on two volumes, whoever is away. Only when nobody else comes near for very
    // long, as after scaling down to one, one must do: in records, or in bytes of those that are gone or stand still.
    let whatever_bytes = Bound { bytes: u64::MAX, ..far };
    let reach = |one: &Seen| if one.presence.is_given_up() { far } else { whatever_bytes };
    let near = |one: &&Seen| newest.is_near(&one.published, reach(one));
    let (mut durable, coming): (Vec<_>, Vec<_>) = replicas.iter().filter(near).partition(|one| one.published.durable);
    durable.sort_unstable_by_key(|one| Reverse(one.published.needs));
    // Whoever is still copying is waited for, and has a volume of its own then.
    let alone = durable.last().filter(|_| coming.is_empty());
    let safe = durable.get(VOLUMES - 1).or(alone).map(|one| one.published.needs);
    let bytes_below = |position: Position| {
        let there = |one: &&Seen| one.published.needs == position;
        replicas.iter().filter(there).find_map(|one| one.published.bytes)
    };
    let below = lowest.min(safe).map(|position| Beginning { position, bytes: bytes_below(position) });
    let below = below.filter(|below| worth_it(first, *below, limits));
    let behind = |one: &&Seen| below.is_some_and(|below| one.published.needs < below.position);
    let left_behind = replicas.iter().filter(behind).map(|one| one.published.replica).collect();
    Decision { below, left_behind }
}

fn worth_it(first: Beginning, below: Beginning, limits: Limits) -> bool {
    let (Beginning { position: first, bytes: given_up }, Beginning { position: below, bytes }) = (first, below);
    let freed = given_up.zip(bytes).map_or(0, |(given_up, bytes)| bytes.saturating_sub(given_up));
    match below.segment.cmp(&first.segment) {
        Ordering::Less => false,
        Ordering::Equal if below.sequence <= first.sequence => false,
        Ordering::Equal => below.sequence - first.sequence >= limits.step_entries || freed >= limits.step_bytes,
        Ordering::Greater => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits =
        Limits { behind_records: 100, away_bytes: 1000, present_bytes: 1500, step_entries: 10, step_bytes: 300 };

    fn at(replica: u32, segment: u32, sequence: u32, index: u64) -> Seen {
        let (incarnation, needs, source) = (Incarnation(1), Position::new(segment, sequence), String::new());
        Seen {
            published: Published {
                replica,
                incarnation,
                needs,
                index,
                source,
                durable: true,
                beat: 0,
                executed: 0,
                bytes: None,
                forward: 0,
            },
            presence: Presence::Away,
        }
    }

    fn with_bytes(bytes: u64, seen: Seen) -> Seen {
        Seen { published: Published { bytes: Some(bytes), ..seen.published }, ..seen }
    }

    fn copying(seen: Seen) -> Seen {
        Seen { published: Published { durable: false, ..seen.published }, presence: Presence::There }
    }

    fn present(seen: Seen) -> Seen {
        Seen { presence: Presence::There, ..seen }
    }

    fn still(seen: Seen) -> Seen {
        Seen { presence: Presence::Still, ..seen }
    }

    fn gone(seen: Seen) -> Seen {
        Seen { presence: Presence::Gone, ..seen }
    }

    #[test]
    fn table() {
        let below = |segment, sequence| Some(Position::new(segment, sequence));
        let cases = [
            ("nobody has made anything known", vec![], (0, 0), None, vec![]),
            ("one replica holds its own", vec![at(0, 0, 50, 50)], (0, 0), below(0, 50), vec![]),
            ("too little", vec![at(0, 0, 9, 50)], (0, 0), None, vec![]),
            (
                "the lowest counts",
                vec![at(0, 0, 50, 50), at(1, 0, 20, 20), at(2, 0, 90, 90)],
                (0, 0),
                below(0, 20),
                vec![],
            ),
            ("one without restore points holds all", vec![at(0, 0, 50, 50), at(1, 0, 0, 0)], (0, 0), None, vec![]),
            (
                "too far behind",
                vec![at(0, 0, 150, 150), at(1, 0, 20, 20), at(2, 0, 140, 140)],
                (0, 0),
                below(0, 140),
                vec![1],
            ),
            (
                "as far, but it is there",
                vec![at(0, 0, 150, 150), present(at(1, 0, 20, 20)), at(2, 0, 140, 140)],
                (0, 0),
                below(0, 20),
                vec![],
            ),
            (
                "too far even so",
                vec![at(0, 9, 0, 1021), present(at(1, 0, 20, 20)), at(2, 8, 0, 1000)],
                (0, 0),
                below(8, 0),
                vec![1],
            ),
            (
                "all others are away: what they have, on a second volume",
                vec![at(0, 0, 350, 350), at(1, 0, 20, 20), at(2, 0, 140, 140)],
                (0, 0),
                below(0, 140),
                vec![1],
            ),
            (
                "all others are gone for good",
                vec![present(at(0, 9, 0, 2350)), at(1, 0, 20, 20), at(2, 0, 140, 140)],
                (0, 0),
                below(9, 0),
                vec![1, 2],
            ),
            (
                "what is still being copied is on no second volume",
                vec![at(0, 0, 350, 350), copying(at(1, 0, 340, 340)), at(2, 0, 140, 140)],
                (0, 0),
                below(0, 140),
                vec![],
            ),
            (
                "the only other one is still copying: it is waited for",
                vec![present(at(0, 0, 350, 350)), copying(at(1, 0, 340, 340))],
                (0, 0),
                None,
                vec![],
            ),
            ("exactly as far as may be", vec![at(0, 1, 50, 150), at(1, 0, 50, 50)], (0, 0), below(0, 50), vec![]),
            ("another segment is worth it", vec![at(0, 3, 0, 50)], (2, 9999), below(3, 0), vec![]),
            ("given up already", vec![at(0, 2, 5, 50)], (3, 0), None, vec![]),
            ("long behind, and nothing new", vec![at(0, 5, 5, 500), at(1, 0, 0, 0)], (5, 0), None, vec![]),
        ];
        for (name, replicas, (segment, sequence), below, left_behind) in cases {
            let decision = decide(&replicas, Position::new(segment, sequence).into(), LIMITS);
            assert_eq!(decision, Decision { below: below.map(Beginning::from), left_behind }, "{name}");
        }
    }

    #[test]
    fn table_of_bytes() {
        let at = |replica, sequence: u32, bytes| with_bytes(bytes, at(replica, 0, sequence, u64::from(sequence)));
        let unknown = |replica, sequence: u32| super::tests::at(replica, 0, sequence, u64::from(sequence));
        let below = |sequence, bytes| Some(Beginning { position: Position::new(0, sequence), bytes });
        let cases = [
            ("exactly as far as may be", vec![at(0, 60, 1200), at(1, 20, 200)], 0, below(20, Some(200)), vec![]),
            ("too far", vec![at(0, 60, 1200), at(1, 20, 199), at(2, 40, 700)], 0, below(40, Some(700)), vec![1]),
            (
                "as far, but it is there",
                vec![at(0, 60, 1200), present(at(1, 20, 100)), at(2, 40, 700)],
                0,
                below(20, Some(100)),
                vec![],
            ),
            (
                "too far even so",
                vec![at(0, 60, 1700), present(at(1, 20, 199)), at(2, 40, 700)],
                0,
                below(40, Some(700)),
                vec![1],
            ),
            (
                "all others are away: what they have, on a second volume",
                vec![at(0, 60, 1700), at(1, 20, 100), at(2, 40, 250)],
                0,
                below(40, Some(250)),
                vec![1],
            ),
            (
                "all others have been away, for however many bytes: a second volume is waited for",
                vec![present(at(0, 60, 1800)), at(1, 20, 100), present(at(2, 40, 250))],
                0,
                below(40, Some(250)),
                vec![1],
            ),
            (
                "all others are gone for good",
                vec![present(at(0, 60, 1800)), gone(at(1, 20, 100)), gone(at(2, 40, 250))],
                0,
                below(60, Some(1800)),
                vec![1, 2],
            ),
            (
                "all others are there and stand still, as where their Cassandras are dead: one must do",
                vec![present(at(0, 60, 1800)), still(at(1, 20, 100)), still(at(2, 40, 250))],
                0,
                below(60, Some(1800)),
                vec![1, 2],
            ),
            (
                "one of them comes forward: it is waited for",
                vec![present(at(0, 60, 1800)), still(at(1, 20, 100)), present(at(2, 40, 250))],
                0,
                below(40, Some(250)),
                vec![1],
            ),
            (
                "the only other one copies, and its copy stands still",
                vec![present(at(0, 60, 1800)), still(copying(at(1, 20, 100)))],
                0,
                below(60, Some(1800)),
                vec![1],
            ),
            (
                "one that stands still not far behind",
                vec![present(at(0, 60, 1800)), still(at(1, 40, 300))],
                0,
                below(40, Some(300)),
                vec![],
            ),
            (
                "all others are gone, not far",
                vec![present(at(0, 60, 1800)), gone(at(1, 20, 100)), gone(at(2, 40, 300))],
                0,
                below(40, Some(300)),
                vec![1],
            ),
            (
                "of whom no bytes are known the records decide",
                vec![at(0, 60, 9000), unknown(1, 20), at(2, 40, 8500)],
                0,
                below(20, None),
                vec![],
            ),
            (
                "and they do still",
                vec![at(0, 160, 9000), unknown(1, 20), at(2, 140, 8500)],
                0,
                below(140, Some(8500)),
                vec![1],
            ),
            ("few entries, but large ones", vec![at(0, 5, 300)], 0, below(5, Some(300)), vec![]),
            ("few, and not large enough", vec![at(0, 5, 299)], 0, None, vec![]),
            ("given up already", vec![at(0, 5, 300)], 5, None, vec![]),
        ];
        for (name, replicas, first, below, left_behind) in cases {
            let first = Beginning { position: Position::new(0, first), bytes: Some(0) };
            assert_eq!(decide(&replicas, first, LIMITS), Decision { below, left_behind }, "{name}");
        }
    }

    /// What a program of before there were bytes has made known.
    #[test]
    fn what_says_nothing_of_bytes_is_read() {
        let text = r#"{"replica":1,"incarnation":7,"needs":{"segment":2,"sequence":3},"index":9,"source":"","durable":true,"beat":4}"#;
        let read: Published = serde_json::from_str(text).expect("an old one");
        assert_eq!((read.index, read.bytes, read.forward), (9, None, 0));
    }

    proptest! {
        /// Whoever is not left behind finds all it needs; what is given up lies on two volumes; nothing moves back.
        #[test]
        fn nobody_who_is_waited_for_loses_anything(
            members in prop::collection::vec(
                (
                    (0u32..4, 0u32..40, 0u64..3000, prop::option::of(0u64..4000)),
                    prop::sample::select(vec![Presence::There, Presence::Away, Presence::Gone, Presence::Still]),
                ),
                0..6,
            ),
            first in (0u32..4, 0u32..40, prop::option::of(0u64..4000)),
        ) {
            let seen = |(((segment, sequence, index, bytes), presence), replica): (&((_, _, _, Option<u64>), _), u32)| {
                let mut seen = at(replica, *segment, *sequence, *index);
                (seen.published.bytes, seen.presence) = (*bytes, *presence);
                seen
            };
            let replicas: Vec<_> = members.iter().zip(0..).map(seen).collect();
            let first = Beginning { position: Position::new(first.0, first.1), bytes: first.2 };
            let decision = decide(&replicas, first, LIMITS);
            if let Some(below) = decision.below {
                prop_assert!(below.position > first.position);
                prop_assert!(replicas.iter().any(|one| one.published.needs == below.position));
                let known = |one: &&Seen| one.published.needs == below.position && one.published.bytes == below.bytes;
                prop_assert!(replicas.iter().any(|one| known(&one)), "bytes that somebody has made known there");
                let newest = replicas.iter().map(|one| one.published.index).max().unwrap();
                let newest_bytes = replicas.iter().filter_map(|one| one.published.bytes).max().unwrap_or(0);
                let is_far = |one: &Published, records, bytes| {
                    newest - one.index > records || one.bytes.is_some_and(|at| newest_bytes - at > bytes)
                };
                let most = LIMITS.behind_records * PRESENT;
                for Seen { published, presence } in &replicas {
                    let left = decision.left_behind.contains(&published.replica);
                    prop_assert!(published.needs >= below.position || left);
                    let far = match presence {
                        Presence::There | Presence::Still => is_far(published, most, LIMITS.present_bytes),
                        Presence::Away | Presence::Gone => is_far(published, LIMITS.behind_records, LIMITS.away_bytes),
                    };
                    prop_assert!(!left || far);
                }
                let is_gone = |one: &&Seen| match one.presence {
                    Presence::There | Presence::Away => newest - one.published.index > most,
                    Presence::Gone | Presence::Still => is_far(&one.published, most, LIMITS.present_bytes),
                };
                let on = replicas.iter().filter(|one| one.published.needs >= below.position).count();
                let gone = replicas.iter().filter(is_gone).count();
                prop_assert!(on >= VOLUMES.min(replicas.len() - gone));
            } else {
                prop_assert!(decision.left_behind.is_empty());
            }
        }
    }
}
