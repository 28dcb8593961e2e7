//! When the next entry leaves: with as many requests as the last one had, or when the pause since that was committed has
//! been twice as long as its append took.
//!
//! Each entry costs the servers of the log and every replica far more than one more record in it does. Clients that were
//! answered a moment ago are about to ask again, all at once; an entry that left with the first of them would leave the
//! others for the next one. Who asks alone waits for nobody, and at low rates the pause is over before a request comes.

use tokio::time::{Duration, Instant};

/// The pause in times of an append. Where all of a replica's clients come to ask at the same moment, an entry has all of them and
/// nobody waits for the end of the pause; with once the time they fell into two groups again and again, for a tenth more of
/// processor time for each request and a fifth less of them with 64 in flight.
const PAUSE: u32 = 2;
/// Longest pause between a commit and the next entry.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// See the module's head. Pure: time comes from outside.
#[derive(Debug)]
pub struct Cadence {
    records: usize,
    until: Instant,
}

impl Cadence {
    /// Nothing was appended yet.
    pub fn new(now: Instant) -> Self {
        Self { records: 0, until: now }
    }

    /// An entry of so many records is committed, which has taken so long.
    pub fn appended(&mut self, records: usize, took: Duration, now: Instant) {
        *self = Self { records, until: now + (took * PAUSE).min(LONGEST_PAUSE) };
    }

    /// Whether an entry of those that wait leaves now.
    pub fn is_time(&self, waiting: usize, now: Instant) -> bool {
        waiting >= self.records || now >= self.until
    }

    /// When whatever waits leaves at the latest.
    pub fn until(&self) -> Instant {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_last_time_or_twice_as_long_as_that_took() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut cadence = Cadence::new(start);
        assert!(cadence.is_time(1, start), "the first waits for nothing");
        cadence.appended(1, Duration::from_millis(8), at(8));
        assert!(cadence.is_time(1, at(8)), "who asks alone waits for nobody");
        cadence.appended(20, Duration::from_millis(8), at(20));
        assert!(!cadence.is_time(19, at(35)), "the others are about to come");
        assert!(cadence.is_time(20, at(21)), "all are there");
        assert!(cadence.is_time(1, at(36)), "they don't come");
        cadence.appended(2, Duration::from_secs(9), at(10_000));
        assert_eq!(cadence.until(), at(10_000) + LONGEST_PAUSE, "the log was away");
    }
}
