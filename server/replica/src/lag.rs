//! How long what is in the log and not applied here has been there.

use std::collections::VecDeque;

/// The entries that are admitted and not applied, oldest first; bounded as what may be admitted is. Pure: time comes from outside.
#[derive(Debug, Default)]
pub struct Lag {
    /// Index of the last record, and when the entry was committed, ms since 1970 by the log's clock.
    entries: VecDeque<(u64, i64)>,
}

impl Lag {
    /// An entry is admitted, up to this index.
    pub fn admitted(&mut self, index: u64, commit_time_ms: i64) {
        // One of duplicates alone ends where the one before it did, and is applied with it.
        if self.entries.back().is_none_or(|&(last, _)| last < index) {
            self.entries.push_back((index, commit_time_ms));
        }
    }

    /// The age in seconds of the oldest entry of which something is not applied; 0 if there is none. `applied` is the index up to
    /// which all is, `next` when the first entry that is not admitted was committed.
    pub fn seconds(&mut self, applied: u64, next: Option<i64>, now_ms: i64) -> f64 {
        while self.entries.front().is_some_and(|&(last, _)| last <= applied) {
            self.entries.pop_front();
        }
        let oldest = self.entries.front().map(|&(_, at)| at).or(next);
        // The clocks of the log's servers and of this machine may differ.
        oldest.map_or(0.0, |at| now_ms.saturating_sub(at).max(0) as f64 / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_is_not_applied_counts() {
        let mut lag = Lag::default();
        assert_eq!(lag.seconds(0, None, 9_000), 0.0);
        assert_eq!(lag.seconds(0, Some(8_000), 9_000), 1.0, "read, and not admitted");
        lag.admitted(3, 1_000);
        lag.admitted(3, 1_500);
        lag.admitted(7, 2_000);
        assert_eq!(lag.seconds(2, Some(8_000), 9_000), 8.0);
        assert_eq!(lag.seconds(3, Some(8_000), 9_000), 7.0);
        assert_eq!(lag.seconds(6, None, 1_000), 0.0, "another clock");
        assert_eq!(lag.seconds(7, Some(8_000), 9_000), 1.0);
        assert_eq!(lag.seconds(7, None, 9_000), 0.0);
    }
}
