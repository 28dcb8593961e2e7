//! Which lives have given no sign for so long that the others [end them](crate::OrderedLog::retire). No IO.
//!
//! A replica that was scaled down, or whose machine is gone, can't take its life back. As long as it counts as living,
//! each linearizable read asks it in vain, and goes through the log. To end a life is always safe, for it is fenced with
//! that; but who is there after all has to begin anew. So it must have been silent for long, as seen by one who could
//! reach the log all the time: after the log itself was away, everybody gets as long again. And it must have given a sign
//! before: one that never did may be waiting for its store agent, for however long.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::{Duration, Instant};

use crate::truncation::Published;
use crate::{Incarnation, Life};

/// Looks that must have shown the same: a clock that jumps, or a machine that stood still, ends no life.
const LOOKS: u32 = 6;

/// What was last seen of a life.
#[derive(Debug)]
struct Heard {
    incarnation: Incarnation,
    /// The last beat that it has made known.
    beat: u64,
    since: Instant,
    looks: u32,
}

/// Keeps track of who gives signs of life.
#[derive(Debug, Default)]
pub struct Silence {
    heard: BTreeMap<u32, Heard>,
}

impl Silence {
    /// The log could not be reached: nobody could be heard.
    pub fn forget(&mut self) {
        self.heard.clear();
    }

    /// Sees what is in the log at `now`; returns the lives that have been silent for longer than `limit`.
    pub fn look(
        &mut self,
        living: &BTreeSet<Life>,
        published: &[Published],
        now: Instant,
        limit: Duration,
    ) -> Vec<Life> {
        self.heard.retain(|replica, _| living.iter().any(|(living, _)| living == replica));
        let mut silent = Vec::new();
        for (replica, incarnation) in living.iter().copied() {
            let own = |one: &&Published| (one.replica, one.incarnation) == (replica, incarnation);
            let Some(beat) = published.iter().find(own).map(|one| one.beat) else { continue };
            let new = || Heard { incarnation, beat, since: now, looks: 0 };
            let heard = self.heard.entry(replica).or_insert_with(new);
            if (heard.incarnation, heard.beat) != (incarnation, beat) {
                *heard = new();
            }
            heard.looks = heard.looks.saturating_add(1);
            if heard.looks > LOOKS && now.saturating_duration_since(heard.since) > limit {
                silent.push((replica, incarnation));
            }
        }
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Position;

    const LIMIT: Duration = Duration::from_secs(600);
    const ROUND: Duration = Duration::from_secs(10);
    const LIFE: Life = (2, Incarnation(7));

    fn published(incarnation: i64, beat: u64) -> Published {
        let (needs, source) = (Position::START, String::new());
        let incarnation = Incarnation(incarnation);
        Published {
            replica: 2,
            incarnation,
            needs,
            index: 0,
            source,
            durable: true,
            beat,
            executed: 0,
            bytes: None,
            forward: 0,
        }
    }

    /// What is to be seen in a round, and whether the life may be ended then.
    fn ended_in(rounds: u32, seen: impl Fn(u32) -> Option<(Life, Vec<Published>)>) -> Option<u32> {
        let (began, mut silence) = (Instant::now(), Silence::default());
        (0..rounds).find(|round| match seen(*round) {
            Some((life, published)) => {
                let silent = silence.look(&BTreeSet::from([life]), &published, began + ROUND * *round, LIMIT);
                assert!(silent.is_empty() || silent == [life]);
                !silent.is_empty()
            }
            None => {
                silence.forget();
                false
            }
        })
    }

    #[test]
    fn table() {
        type Seen = fn(u32) -> Option<(Life, Vec<Published>)>;
        let cases: [(&str, Seen, Option<u32>); 7] = [
            ("it beats", |round| Some((LIFE, vec![published(7, u64::from(round / 59))])), None),
            ("it beats no more", |_| Some((LIFE, vec![published(7, 3)])), Some(61)),
            ("it never did", |_| Some((LIFE, vec![])), None),
            ("only an earlier life of it did", |_| Some((LIFE, vec![published(6, 3)])), None),
            ("it comes again and again", |round| Some(((2, Incarnation(i64::from(round / 50))), vec![])), None),
            ("the log is away now and then", |round| (round % 60 != 0).then(|| (LIFE, vec![published(7, 3)])), None),
            (
                "the log was away, and then nobody is there",
                |round| (round != 100).then(|| (LIFE, vec![published(7, u64::from(round.min(95)))])),
                Some(162),
            ),
        ];
        for (what, seen, expected) in cases {
            assert_eq!(ended_in(1000, seen), expected, "{what}");
        }
    }

    #[test]
    fn a_clock_that_jumps_ends_nobody() {
        let (began, mut silence, living) = (Instant::now(), Silence::default(), BTreeSet::from([LIFE]));
        let mut look = |at: Duration| silence.look(&living, &[published(7, 3)], began + at, LIMIT);
        assert_eq!(look(Duration::ZERO), []);
        for round in 1..LOOKS {
            assert_eq!(look(LIMIT * 2 + ROUND * round), []);
        }
        assert_eq!(look(LIMIT * 3), [LIFE]);
    }
}
