//! Up to where everything is applied, while records are completed in any order.

use std::collections::BTreeSet;

use crate::state::RangeSet;

/// The highest index up to which everything is done.
#[derive(Debug)]
pub struct Watermark {
    upto: u64,
    beyond: BTreeSet<u64>,
}

impl Watermark {
    /// Everything up to this index is done, and nothing beyond.
    pub fn at(upto: u64) -> Self {
        Self { upto, beyond: BTreeSet::new() }
    }

    /// The highest index up to which everything is done.
    pub fn upto(&self) -> u64 {
        self.upto
    }

    /// The record at this index is done.
    pub fn complete(&mut self, index: u64) {
        let new = index > self.upto && self.beyond.insert(index);
        assert!(new, "I3: a record is applied once");
        while self.beyond.first().is_some_and(|first| *first == self.upto + 1) {
            self.beyond.pop_first();
            self.upto += 1;
        }
    }
}

/// What may ever have been executed here, and so been shown to somebody, whatever the store was put back to since.
#[derive(Debug, Default)]
pub struct Executed {
    upto: u64,
    /// As many ranges as records execute at once, at most.
    beyond: RangeSet,
}

impl Executed {
    /// Every record up to this index may have been.
    pub fn upto(&self) -> u64 {
        self.upto
    }

    /// Everything up to this index may have been.
    pub fn raise(&mut self, upto: u64) {
        self.upto = self.upto.max(upto);
        while self.beyond.contains(self.upto + 1) {
            self.upto += 1;
        }
        self.beyond.forget_below(self.upto + 1);
    }

    /// The record at this index was.
    pub fn insert(&mut self, index: u64) {
        if index == self.upto + 1 {
            self.raise(index);
        } else if index > self.upto {
            self.beyond.insert(index);
        }
    }

    /// Whether the record at this index may have been.
    pub fn contains(&self, index: u64) -> bool {
        index <= self.upto || self.beyond.contains(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_executed_stays_so() {
        let mut executed = Executed::default();
        for index in [1, 2, 5, 6, 9] {
            executed.insert(index);
        }
        let known = |executed: &Executed| (1..=10).filter(|index| executed.contains(*index)).collect::<Vec<_>>();
        assert_eq!((executed.upto(), known(&executed)), (2, vec![1, 2, 5, 6, 9]));
        // After a rewind the same come again.
        for index in [2, 3, 4] {
            executed.insert(index);
        }
        assert_eq!((executed.upto(), known(&executed)), (6, vec![1, 2, 3, 4, 5, 6, 9]));
        executed.raise(8);
        executed.raise(3);
        assert_eq!((executed.upto(), executed.beyond.ranges()), (9, 0));
    }
}
