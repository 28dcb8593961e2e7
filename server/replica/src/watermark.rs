//! Up to where everything is applied, while records are completed in any order.

use std::collections::BTreeSet;

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
