//! Entries that this handle has just appended: its tail takes them from here instead of reading them back.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::{Committed, Position};

/// Bounded by entries and bytes (I7); the oldest go first, and whoever misses one reads it from ZooKeeper.
#[derive(Debug)]
pub(super) struct Recent {
    max_entries: usize,
    max_bytes: usize,
    kept: Mutex<Kept>,
    /// Rung for every entry put.
    bell: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    entries: BTreeMap<Position, Committed>,
    bytes: usize,
}

impl Recent {
    pub(super) fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self { max_entries, max_bytes, kept: Mutex::default(), bell: Notify::new() }
    }

    pub(super) fn put(&self, committed: Committed) {
        let mut kept = self.kept();
        kept.bytes += committed.entry.len();
        if let Some(before) = kept.entries.insert(committed.position, committed) {
            kept.bytes -= before.entry.len();
        }
        while kept.entries.len() > self.max_entries || kept.bytes > self.max_bytes {
            let Some((_, oldest)) = kept.entries.pop_first() else { break };
            kept.bytes -= oldest.entry.len();
        }
        drop(kept);
        self.bell.notify_waiters();
    }

    pub(super) fn get(&self, position: Position) -> Option<Committed> {
        self.kept().entries.get(&position).cloned()
    }

    /// The bell; enable a waiter before looking, so that no ring is missed.
    pub(super) fn bell(&self) -> &Notify {
        &self.bell
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing panics under the lock.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sequence: u32, bytes: usize) -> Committed {
        Committed { position: Position::new(0, sequence), commit_time_ms: 0, entry: vec![0; bytes].into() }
    }

    #[test]
    fn the_oldest_go_first() {
        let recent = Recent::new(3, 100);
        for sequence in 0..4 {
            recent.put(entry(sequence, 10));
        }
        assert!(recent.get(Position::new(0, 0)).is_none() && recent.get(Position::new(0, 1)).is_some());
        recent.put(entry(4, 95));
        assert!(recent.get(Position::new(0, 3)).is_none() && recent.get(Position::new(0, 4)).is_some());
        recent.put(entry(5, 101));
        assert_eq!(recent.kept().entries.len(), 0, "what does not fit is not kept");
        assert_eq!(recent.kept().bytes, 0);
    }
}
