//! How much of the log may be given up. No IO.
//!
//! Every replica makes known what it would read on from if it lost everything but its restore points, the older of the
//! two. The log is given up below the lowest such position, so that whoever comes back finds what it misses. A replica
//! that is away and too far behind holds nothing any more: it takes a restore point of another one when it comes back. One
//! that is there holds the log for longer: it is coming forward, and must come to an end with that.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use crate::{Incarnation, Position};

/// Restore points at or above what is given up must lie on that many volumes, or on all there are.
const VOLUMES: usize = 2;
/// How many times farther behind one may be that is there.
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
}

/// A replica, as whoever decides sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it has made known last.
    pub published: Published,
    /// It has been silent for long.
    pub away: bool,
}

/// Bounds of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Records that a replica may stay behind the others' restore points before it holds the log no longer; ten times as
    /// many if it is not away.
    pub behind_records: u64,
    /// Fewest entries worth giving up.
    pub step_entries: u32,
}

/// What is to be done with the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Give up the entries below.
    pub below: Option<Position>,
    /// Replicas that need some of what is given up, because they are behind for too long.
    pub left_behind: Vec<u32>,
}

/// Decides how much of a log that starts at `first` may be given up.
pub fn decide(replicas: &[Seen], first: Position, limits: Limits) -> Decision {
    let newest = replicas.iter().map(|one| one.published.index).max().unwrap_or(0);
    let far = limits.behind_records.saturating_mul(PRESENT);
    let limit = |one: &Seen| if one.away { limits.behind_records } else { far };
    let held = |one: &&Seen| newest - one.published.index <= limit(one);
    let lowest = replicas.iter().filter(held).map(|one| one.published.needs).min();
    // What is given up lies in restore points on two volumes, whoever is away. Only when nobody else comes near for very
    // long, as after scaling down to one, one must do.
    let near = |one: &&Seen| one.published.durable && newest - one.published.index <= far;
    let mut near: Vec<_> = replicas.iter().filter(near).collect();
    near.sort_unstable_by_key(|one| Reverse(one.published.needs));
    let safe = near.get(VOLUMES - 1).or(near.last()).map(|one| one.published.needs);
    let below = lowest.min(safe).filter(|below| worth_it(first, *below, limits.step_entries));
    let behind = |one: &&Seen| below.is_some_and(|below| one.published.needs < below);
    let left_behind = replicas.iter().filter(behind).map(|one| one.published.replica).collect();
    Decision { below, left_behind }
}

fn worth_it(first: Position, below: Position, step: u32) -> bool {
    match below.segment.cmp(&first.segment) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => below.sequence >= first.sequence.saturating_add(step.max(1)),
        std::cmp::Ordering::Greater => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { behind_records: 100, step_entries: 10 };

    fn at(replica: u32, segment: u32, sequence: u32, index: u64) -> Seen {
        let (incarnation, needs, source) = (Incarnation(1), Position::new(segment, sequence), String::new());
        Seen {
            published: Published { replica, incarnation, needs, index, source, durable: true, beat: 0, executed: 0 },
            away: true,
        }
    }

    fn copying(seen: Seen) -> Seen {
        Seen { published: Published { durable: false, ..seen.published }, away: false }
    }

    fn present(seen: Seen) -> Seen {
        Seen { away: false, ..seen }
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
            ("exactly as far as may be", vec![at(0, 1, 50, 150), at(1, 0, 50, 50)], (0, 0), below(0, 50), vec![]),
            ("another segment is worth it", vec![at(0, 3, 0, 50)], (2, 9999), below(3, 0), vec![]),
            ("given up already", vec![at(0, 2, 5, 50)], (3, 0), None, vec![]),
            ("long behind, and nothing new", vec![at(0, 5, 5, 500), at(1, 0, 0, 0)], (5, 0), None, vec![]),
        ];
        for (name, replicas, (segment, sequence), below, left_behind) in cases {
            let decision = decide(&replicas, Position::new(segment, sequence), LIMITS);
            assert_eq!(decision, Decision { below, left_behind }, "{name}");
        }
    }

    proptest! {
        /// Whoever is not left behind finds all it needs; what is given up lies on two volumes; nothing moves back.
        #[test]
        fn nobody_who_is_waited_for_loses_anything(
            members in prop::collection::vec((0u32..4, 0u32..40, 0u64..3000, any::<bool>()), 0..6),
            first in (0u32..4, 0u32..40),
        ) {
            let seen = |((segment, sequence, index, away), replica): (&(u32, u32, u64, bool), u32)| {
                Seen { away: *away, ..at(replica, *segment, *sequence, *index) }
            };
            let replicas: Vec<_> = members.iter().zip(0..).map(seen).collect();
            let first = Position::new(first.0, first.1);
            let decision = decide(&replicas, first, LIMITS);
            if let Some(below) = decision.below {
                prop_assert!(below > first);
                let newest = replicas.iter().map(|one| one.published.index).max().unwrap();
                for Seen { published, away } in &replicas {
                    let left = decision.left_behind.contains(&published.replica);
                    prop_assert!(published.needs >= below || left);
                    let limit = LIMITS.behind_records * if *away { 1 } else { PRESENT };
                    prop_assert!(!left || newest - published.index > limit);
                }
                let on = replicas.iter().filter(|one| one.published.needs >= below).count();
                let far = |one: &&Seen| newest - one.published.index > LIMITS.behind_records * PRESENT;
                prop_assert!(on >= VOLUMES.min(replicas.len() - replicas.iter().filter(far).count()));
            } else {
                prop_assert!(decision.left_behind.is_empty());
            }
        }
    }
}
