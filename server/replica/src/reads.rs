//! Reads that hold lanes: while one is held, no record changes what it looks at (design 5).
//!
//! A [`Hold`] is given to a reader when its lanes are free of all records before it. It ends when the reader drops it, or
//! after [`LONGEST_HOLD`]: then the read is no snapshot, and [`Hold::finish`] says so.
//!
//! A read of one partition needs no lanes, and may begin before its barrier has passed ([`Early`]): it is then made again
//! unless everything that the barrier had to wait for was applied when it began.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant, sleep_until};

use crate::mutations::{Mutation, mutated};

/// The longest time that a read keeps writers out of a table: shorter than writers wait, so that a slow read fails itself
/// and not them.
pub const LONGEST_HOLD: Duration = Duration::from_secs(8);

/// Held lanes. Dropping it frees them.
#[derive(Debug)]
pub struct Hold {
    number: u64,
    expired: Arc<AtomicBool>,
    ended: mpsc::UnboundedSender<u64>,
}

impl Hold {
    /// One of no applier, for tests.
    #[cfg(test)]
    pub(crate) fn new(expired: Arc<AtomicBool>) -> Self {
        Self { number: 0, expired, ended: mpsc::unbounded_channel().0 }
    }

    /// Ends it; whether the lanes were held until now, so that what was read is a snapshot.
    pub fn finish(self) -> bool {
        !self.expired.load(Ordering::Acquire)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // With the applier gone there are no lanes any more.
        let _ = self.ended.send(self.number);
    }
}

/// What was applied here when a read began, before its barrier has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Early(u64);

impl Early {
    /// Of a read that begins when everything up to `applied` is.
    pub fn at(applied: u64) -> Self {
        Self(applied)
    }

    /// Whether the read has seen all that its barrier, begun no earlier than the read was asked for, had to wait for.
    pub fn covers(self, barrier: u64) -> bool {
        barrier <= self.0 || mutated(Mutation::EarlyReadAnyway)
    }
}

enum Read {
    /// Its lanes are not free yet.
    Waiting(oneshot::Sender<Hold>),
    /// Until then at the latest.
    Holding(Instant, Arc<AtomicBool>),
}

/// The reads in the scheduler. There are at most as many as sessions may have requests in flight.
pub struct Reads {
    reads: BTreeMap<u64, Read>,
    // Bounded by the reads themselves: each sends once.
    ended: mpsc::UnboundedReceiver<u64>,
    sender: mpsc::UnboundedSender<u64>,
}

impl Default for Reads {
    fn default() -> Self {
        let (sender, ended) = mpsc::unbounded_channel();
        Self { reads: BTreeMap::new(), ended, sender }
    }
}

impl Reads {
    /// A read waits for its lanes.
    pub fn wait(&mut self, number: u64, reader: oneshot::Sender<Hold>) {
        self.reads.insert(number, Read::Waiting(reader));
    }

    /// Its lanes are free: the reader is told. If nobody listens any more, it is over at once.
    pub fn begin(&mut self, number: u64) {
        let expired = Arc::new(AtomicBool::new(false));
        let until = Instant::now() + LONGEST_HOLD;
        let Some(Read::Waiting(reader)) = self.reads.insert(number, Read::Holding(until, expired.clone())) else {
            unreachable!("a read begins once, after it has waited");
        };
        let hold = Hold { number, expired, ended: self.sender.clone() };
        // What nobody takes is dropped, and so ends.
        let _ = reader.send(hold);
    }

    /// Completes with the number of the next read that is over: ended, or held for too long. Cancel-safe.
    pub async fn over(&mut self) -> Option<u64> {
        loop {
            let next = self.reads.iter().filter_map(|(number, read)| match read {
                Read::Holding(until, _) => Some((*until, *number)),
                Read::Waiting(_) => None,
            });
            let number = match next.min() {
                None => self.ended.recv().await?,
                Some((until, first)) => tokio::select! {
                    biased;
                    ended = self.ended.recv() => ended?,
                    () = sleep_until(until) => first,
                },
            };
            // It may have been ended for being too long before.
            if let Some(Read::Holding(_, expired)) = self.reads.remove(&number) {
                expired.store(true, Ordering::Release);
                return Some(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(reads: &mut Reads, number: u64) -> Option<Hold> {
        let (sender, mut receiver) = oneshot::channel();
        reads.wait(number, sender);
        reads.begin(number);
        receiver.try_recv().ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_ends_by_its_end_or_by_its_time() {
        let mut reads = Reads::default();
        let first = begun(&mut reads, 1).expect("begun");
        let second = begun(&mut reads, 2).expect("begun");
        assert!(second.finish());
        assert_eq!(reads.over().await, Some(2));
        assert_eq!(reads.over().await, Some(1));
        assert!(!first.finish(), "what was held too long is no snapshot");
        let third = begun(&mut reads, 3).expect("begun");
        drop(third);
        assert_eq!(reads.over().await, Some(3), "the late end of the first is nobody's");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_has_gone_holds_nothing() {
        let mut reads = Reads::default();
        let (sender, receiver) = oneshot::channel();
        drop(receiver);
        reads.wait(1, sender);
        reads.begin(1);
        assert_eq!(reads.over().await, Some(1));
    }
}
