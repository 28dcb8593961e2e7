//! Which replicas are there and come forward, as one sees it who looks at what they make known. No IO.
//!
//! Time counts only as far as somebody has looked: between two looks at most a named gap of it. While the log can't be reached, or
//! whoever looks is busy with a recovery of its own, nobody is taken for silent; and what was seen before still counts
//! afterwards, however often the looking is interrupted.

use std::collections::BTreeMap;

use tokio::time::{Duration, Instant};

use crate::Position;
use crate::truncation::{Presence, Published, Seen};

/// How long a replica is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// It is away after so much silence.
    pub away: Duration,
    /// It is gone after so much silence, and has come to a standstill if it is far behind for so long and comes no nearer.
    pub gone: Duration,
    /// Bytes of the log from which on one is far behind the others.
    pub far_bytes: u64,
    /// Most that counts between two looks.
    pub gap: Duration,
}

#[derive(Debug)]
struct Watched {
    last: Published,
    silent: Duration,
    still: Duration,
}

/// Keeps track of who is there.
#[derive(Debug, Default)]
pub struct Presences {
    watched: BTreeMap<u32, Watched>,
    looked: Option<Instant>,
}

impl Presences {
    /// Sees at `now` what all replicas have made known.
    pub fn look(&mut self, all: Vec<Published>, now: Instant, patience: Patience) -> Vec<Seen> {
        let since = self.looked.replace(now).map(|looked| now.saturating_duration_since(looked));
        let passed = since.unwrap_or_default().min(patience.gap);
        self.watched.retain(|replica, _| all.iter().any(|one| one.replica == *replica));
        let newest = all.iter().filter_map(|one| one.bytes).max();
        let far = |one: &Published| newest.zip(one.bytes).is_some_and(|(newest, at)| newest - at > patience.far_bytes);
        let look = |published: Published| {
            // Of one that was not there at the last look nothing is known of the time since.
            let passed = if self.watched.contains_key(&published.replica) { passed } else { Duration::ZERO };
            let new = || Watched { last: published.clone(), silent: Duration::ZERO, still: Duration::ZERO };
            let watched = self.watched.entry(published.replica).or_insert_with(new);
            let is_silent = watched.last == published;
            let is_still = far(&published) && reached(&watched.last) == reached(&published);
            watched.silent = if is_silent { watched.silent + passed } else { Duration::ZERO };
            watched.still = if is_still { watched.still + passed } else { Duration::ZERO };
            watched.last.clone_from(&published);
            let presence = match watched {
                Watched { silent, .. } if *silent > patience.gone => Presence::Gone,
                Watched { still, .. } if *still > patience.gone => Presence::Still,
                Watched { silent, .. } if *silent > patience.away => Presence::Away,
                Watched { .. } => Presence::There,
            };
            Seen { presence, published }
        };
        all.into_iter().map(look).collect()
    }
}

/// What changes as a replica comes forward.
fn reached(one: &Published) -> (Position, bool, u64, u64) {
    (one.needs, one.durable, one.executed, one.forward)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Incarnation;

    const PATIENCE: Patience = Patience {
        away: Duration::from_secs(60),
        gone: Duration::from_secs(600),
        far_bytes: 1000,
        gap: Duration::from_secs(30),
    };
    const ROUND: Duration = Duration::from_secs(10);

    fn published(replica: u32, beat: u64, bytes: u64, forward: u64) -> Published {
        let (needs, source, bytes) = (Position::START, String::new(), Some(bytes));
        let incarnation = Incarnation(1);
        Published { replica, incarnation, needs, index: 0, source, durable: true, beat, executed: 0, bytes, forward }
    }

    /// What is seen of replica 1 in the last of these rounds, whose looks are so far apart.
    fn seen(rounds: u32, apart: Duration, of: impl Fn(u64) -> (u64, u64, u64)) -> Presence {
        let (mut presences, mut now) = (Presences::default(), Instant::now());
        let mut last = None;
        for round in 0..=u64::from(rounds) {
            let (beat, bytes, forward) = of(round);
            let all = vec![published(0, round, 5000, round), published(1, beat, bytes, forward)];
            last = presences.look(all, now, PATIENCE).pop();
            now += apart;
        }
        last.map(|seen| seen.presence).expect("there are rounds")
    }

    #[test]
    fn table() {
        let (near, far) = (4000, 3999);
        type Of = fn(u64) -> (u64, u64, u64);
        let cases: [(&str, u32, Of, Presence); 9] = [
            ("it beats, and has nothing to come forward to", 1000, |round| (round, 4000, 0), Presence::There),
            ("it beats no more", 7, |_| (3, 4000, 0), Presence::Away),
            ("for so long that it is not yet", 6, |_| (3, 4000, 0), Presence::There),
            ("for very long", 61, |_| (3, 4000, 0), Presence::Gone),
            ("it beats, and stands still far behind", 61, |round| (round, 3999, 0), Presence::Still),
            ("for so long that it does not yet", 60, |round| (round, 3999, 0), Presence::There),
            ("it comes forward now and then", 1000, |round| (round, 3999, round / 59), Presence::There),
            ("silent, and still", 61, |_| (3, 3999, 0), Presence::Gone),
            ("far since a moment ago", 100, |round| (round, if round < 50 { 4000 } else { 3999 }, 0), Presence::There),
        ];
        for (what, rounds, of, expected) in cases {
            assert_eq!(seen(rounds, ROUND, of), expected, "{what}");
        }
        assert!(5000 - near <= PATIENCE.far_bytes && 5000 - far > PATIENCE.far_bytes);
    }

    #[test]
    fn time_in_which_nobody_looked_does_not_count() {
        let silent = |apart, rounds| seen(rounds, apart, |_| (3, 4000, 0));
        assert_eq!(silent(Duration::from_secs(3600), 2), Presence::There, "two gaps of half a minute");
        assert_eq!(silent(Duration::from_secs(3600), 3), Presence::Away);
        assert_eq!(silent(Duration::from_secs(3600), 20), Presence::Away);
        assert_eq!(silent(Duration::from_secs(3600), 21), Presence::Gone);
    }

    #[test]
    fn who_is_made_known_no_more_begins_anew() {
        let (mut presences, mut now) = (Presences::default(), Instant::now());
        for round in 0..100 {
            let all = if round == 50 { Vec::new() } else { vec![published(1, 3, 0, 0)] };
            let seen = presences.look(all, now, PATIENCE);
            assert!(round == 50 || (seen[0].presence == Presence::There) == (round < 7 || (51..=57).contains(&round)));
            now += ROUND;
        }
    }
}
