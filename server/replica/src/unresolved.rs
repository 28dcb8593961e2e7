//! The proposer's memory: requests that were proposed and are not resolved, and who waits for them.
//!
//! *Unresolved* is a number whose record may still come to stand in the log for the first time. The lowest one is the
//! floor that entries carry. *Waiting* is a client whose record has not been applied here.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

use crate::propose::{Answer, Progress, Said};
use crate::replica::{Outcome, ProposeError};

/// Who is told what becomes of a record.
pub enum Asker {
    /// Waits until it is applied here.
    Applied(oneshot::Sender<Answer>),
    /// Waits until it stands in the log.
    Committed(oneshot::Sender<Said>),
}

impl Asker {
    /// Nobody waits any more.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Applied(answer) => answer.is_closed(),
            Self::Committed(said) => said.is_closed(),
        }
    }

    /// Tells that it stands in the log.
    fn tell_committed(self) {
        if let Self::Committed(said) = self {
            // Whoever waited may have gone.
            let _ = said.send(Ok(()));
        }
    }

    /// Tells that it did not come to that.
    pub fn refuse(self, error: ProposeError) {
        // Whoever waited may have gone.
        match self {
            Self::Applied(answer) => drop(answer.send(Err(error))),
            Self::Committed(said) => drop(said.send(Err(error))),
        }
    }
}

struct Waiter {
    progress: Arc<Progress>,
    asker: Asker,
    /// Held as long as somebody waits: bounds what clients may have under way.
    _permit: OwnedSemaphorePermit,
}

#[derive(Default)]
struct Inner {
    unresolved: BTreeSet<u64>,
    waiting: BTreeMap<u64, Waiter>,
}

/// See the module's head.
#[derive(Default)]
pub struct Unresolved {
    inner: Mutex<Inner>,
    changed: Notify,
}

impl Unresolved {
    /// A record gets this number and is about to be proposed.
    pub fn insert(&self, sequence: u64, progress: Arc<Progress>, asker: Asker, permit: OwnedSemaphorePermit) {
        let mut inner = self.lock();
        let new = inner.unresolved.insert(sequence);
        assert!(new, "I3: a number is never used twice");
        inner.waiting.insert(sequence, Waiter { progress, asker, _permit: permit });
    }

    /// The lowest number that is unresolved, `next` if none is.
    pub fn floor(&self, next: u64) -> u64 {
        self.lock().unresolved.first().copied().unwrap_or(next)
    }

    /// How far `next` is ahead of the floor.
    pub fn span(&self, next: u64) -> u64 {
        next - self.floor(next)
    }

    /// These records stand in the log.
    pub fn committed(&self, sequences: Range<u64>) {
        let mut resolved = Vec::new();
        let mut inner = self.lock();
        for sequence in sequences {
            inner.unresolved.remove(&sequence);
            match inner.waiting.get(&sequence) {
                Some(Waiter { asker: Asker::Applied(_), progress, .. }) => progress.commit(),
                Some(_) => resolved.extend(inner.waiting.remove(&sequence)),
                None => {}
            }
        }
        drop(inner);
        resolved.into_iter().for_each(|waiter: Waiter| waiter.asker.tell_committed());
        self.changed.notify_one();
    }

    /// Whether all of these stand in the log.
    pub fn all_committed(&self, sequences: Range<u64>) -> bool {
        self.lock().unresolved.range(sequences).next().is_none()
    }

    /// A record was applied here; its client gets the outcome.
    pub fn applied(&self, sequence: u64, outcome: Outcome) {
        let waiter = {
            let mut inner = self.lock();
            inner.unresolved.remove(&sequence);
            inner.waiting.remove(&sequence)
        };
        // The client may have gone.
        match waiter.map(|waiter| waiter.asker) {
            Some(Asker::Applied(answer)) => drop(answer.send(Ok(outcome))),
            Some(asker) => asker.tell_committed(),
            None => {}
        }
    }

    /// These records are in no log and never will be; whoever waits is told why.
    pub fn refuse(&self, sequences: Range<u64>, error: &ProposeError) {
        let mut inner = self.lock();
        for sequence in sequences {
            inner.unresolved.remove(&sequence);
            if let Some(waiter) = inner.waiting.remove(&sequence) {
                waiter.asker.refuse(error.clone());
            }
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// The replica goes on from a state that it did not come to by itself, in which the records are that `contains` names:
    /// they were executed, and nobody here has seen their outcome.
    pub fn executed_elsewhere(&self, contains: impl Fn(u64) -> bool) {
        let mut inner = self.lock();
        inner.unresolved.retain(|sequence| !contains(*sequence));
        let known: Vec<u64> = inner.waiting.keys().copied().filter(|sequence| contains(*sequence)).collect();
        for waiter in known.iter().filter_map(|sequence| inner.waiting.remove(sequence)) {
            let reason = "the request was executed, and its answer is lost".to_owned();
            match waiter.asker {
                asker @ Asker::Applied(_) => asker.refuse(ProposeError::Unavailable { reason, maybe_written: true }),
                asker @ Asker::Committed(_) => asker.tell_committed(),
            }
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// Resolves these records, which are in no log, if nobody waits for any of them.
    pub fn abandon_if_nobody_waits(&self, sequences: Range<u64>) -> bool {
        let mut inner = self.lock();
        if inner.waiting.range(sequences.clone()).any(|(_, waiter)| !waiter.asker.is_closed()) {
            return false;
        }
        for sequence in sequences {
            inner.unresolved.remove(&sequence);
            inner.waiting.remove(&sequence);
        }
        drop(inner);
        self.changed.notify_one();
        true
    }

    /// Whether any client waits.
    pub fn anyone_waits(&self) -> bool {
        self.lock().waiting.values().any(|waiter| !waiter.asker.is_closed())
    }

    /// Tells everybody who waits that the replica has stopped.
    pub fn fail_all(&self, reason: &str) {
        let waiting = std::mem::take(&mut self.lock().waiting);
        for (_, waiter) in waiting {
            waiter.asker.refuse(ProposeError::NotServing { reason: reason.to_owned(), maybe_written: true });
        }
    }

    /// Completes after numbers were resolved.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change under the lock is complete before anything that may panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
