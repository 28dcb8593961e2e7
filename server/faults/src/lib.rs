//! Fault points of the replica: named places, each before, after or between durable steps, at which a test can make the
//! process end as a crash would.
//!
//! Only with the feature `fault-points` can one be armed; without it [`pass`] and [`once_sent`] do nothing, and nothing of
//! this is left in a program. What is armed stands in the environment:
//!
//! | | |
//! |---|---|
//! | `REPLICATEDDB_FAULT=NAME` or `NAME:n` | the process aborts when it passes the point for the n-th time |
//! | `REPLICATEDDB_FAULT_TOLD=NAME` or `NAME:n` | it only says so, and goes on: whoever reads that ends another process |
//! | `REPLICATEDDB_FAULT_FILE=PATH` | passings count from when this file is there |
//!
//! Either way one line with the point's name goes to standard error first.

macro_rules! points {
    ($($(#[doc = $doc:literal])* $point:ident = $name:literal,)*) => {
        /// A point. Its name is what the environment has.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $($(#[doc = $doc])* $point,)*
        }

        impl Fault {
            /// Every one.
            pub const EVERY: &'static [Self] = &[$(Self::$point,)*];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

points! {
    /// An entry is about to be sent to the log.
    AppendUnsent = "append-unsent",
    /// It is on its way; nobody has read the log's answer.
    AppendSent = "append-sent",
    /// The log has acknowledged it; the proposer doesn't know.
    AppendAcknowledged = "append-acknowledged",
    /// The proposer knows; nothing is applied.
    AppendKnown = "append-known",
    /// A segment of the log is full and about to be sealed.
    SegmentFull = "segment-full",
    /// It is sealed and the next is made, in one step; this replica doesn't know.
    SegmentSealed = "segment-sealed",
    /// A record has its lanes and is about to be sent to Cassandra.
    RecordUnsent = "record-unsent",
    /// It, or what it takes to prepare it, is written to Cassandra's socket; nobody has read the answer.
    RecordSent = "record-sent",
    /// Cassandra has executed it; it doesn't count as applied.
    RecordExecuted = "record-executed",
    /// It counts as executed, and whoever waits is about to be told.
    AnswerUnsent = "answer-unsent",
    /// The session has the answer; the record doesn't count as applied.
    AnswerGiven = "answer-given",
    /// The answer is queued for the client's socket: it may be written.
    AnswerQueued = "answer-queued",
    /// A restore point is due; what is in memory is about to be flushed beside the work.
    RestorePointFlushing = "restore-point-flushing",
    /// The lanes are drained for a restore point.
    RestorePointDrained = "restore-point-drained",
    /// What was left is flushed; the lanes are still held, and the snapshot is about to be taken.
    RestorePointFlushed = "restore-point-flushed",
    /// The snapshot is taken.
    RestorePointTaken = "restore-point-taken",
    /// The snapshot is about to be committed.
    RestorePointUncommitted = "restore-point-uncommitted",
    /// It is committed; the replica doesn't show it yet.
    RestorePointCommitted = "restore-point-committed",
    /// What the restore points need of the log has changed and is about to be made known.
    PositionUnpublished = "position-unpublished",
    /// It is made known.
    PositionPublished = "position-published",
    /// The log's first position has moved; nothing is deleted.
    TruncationMoved = "truncation-moved",
    /// Some entries, or bodies, of those that are given up are deleted.
    TruncationDeleted = "truncation-deleted",
    /// The store agent follows this incarnation; nothing else is done.
    RecoveryClaimed = "recovery-claimed",
    /// A rewind is about to be asked for.
    RewindUnasked = "rewind-unasked",
    /// The store is rewound, and its Cassandra starts.
    RewindDone = "rewind-done",
    /// The clean mark is about to be cleared.
    MarkUncleared = "mark-uncleared",
    /// It is cleared, and nothing was applied.
    MarkCleared = "mark-cleared",
    /// A record of the replay is applied.
    Replayed = "replayed",
    /// The barrier that ends the replay is in the log; what is before it may not be applied.
    BarrierAppended = "barrier-appended",
    /// The replica stops and has drained; the clean mark is about to be made.
    StopDrained = "stop-drained",
    /// The clean mark is made.
    StopMarked = "stop-marked",
    /// The store is to be built anew, and the agent knows; nothing else is done.
    RebuildKnown = "rebuild-known",
    /// What a copy of another replica's restore point will need of the log is made known.
    TakeOverHeld = "take-over-held",
    /// The copy is asked for.
    TakeOverAsked = "take-over-asked",
    /// It is there; the store is not brought back to it yet.
    TakeOverInstalled = "take-over-installed",
}

/// Passes a point: returns, unless the process is to end here.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub const fn pass(_: Fault) {}

/// The future, whose first wait passes a point: what it sends is on its way then, and the answer is not read.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub fn once_sent<F: Future>(_: Fault, future: F) -> F {
    future
}

/// What the environment has for the fault points of the store agent, which has its own.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub const fn armed() -> Option<String> {
    None
}

#[cfg(feature = "fault-points")]
pub use points::{armed, once_sent, pass};

#[cfg(feature = "fault-points")]
mod points {
    use std::io::Write;
    use std::path::PathBuf;
    use std::pin::pin;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Poll;

    use super::Fault;

    struct Armed {
        name: String,
        /// Passings until it fires.
        left: AtomicU64,
        file: Option<PathBuf>,
        only_told: bool,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

    fn from_environment() -> Option<Armed> {
        let told = std::env::var("REPLICATEDDB_FAULT_TOLD").ok();
        let only_told = told.is_some();
        let text = told.or_else(armed)?;
        let (name, number) = text.split_once(':').unwrap_or((&text, "1"));
        let file = std::env::var_os("REPLICATEDDB_FAULT_FILE").map(Into::into);
        let left = AtomicU64::new(number.parse().unwrap_or(1));
        Some(Armed { name: name.to_owned(), left, file, only_told })
    }

    /// See the other one.
    pub fn armed() -> Option<String> {
        std::env::var("REPLICATEDDB_FAULT").ok()
    }

    /// See the other one.
    pub fn pass(fault: Fault) {
        let Some(armed) = ARMED.get_or_init(from_environment) else { return };
        if armed.name != fault.name() || armed.file.as_ref().is_some_and(|file| !file.exists()) {
            return;
        }
        if armed.left.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        // One write: nothing of another thread comes between, and nothing is buffered when the process ends.
        let line = format!("fault point {} is passed\n", armed.name);
        std::io::stderr().write_all(line.as_bytes()).ok();
        if !armed.only_told {
            std::process::abort();
        }
    }

    /// See the other one.
    pub async fn once_sent<F: Future>(fault: Fault, future: F) -> F::Output {
        let mut future = pin!(future);
        let mut passed = false;
        std::future::poll_fn(|context| {
            let polled = future.as_mut().poll(context);
            if polled.is_pending() && !passed {
                passed = true;
                pass(fault);
            }
            match polled {
                Poll::Ready(output) => Poll::Ready(output),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Fault;

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = Fault::EVERY.iter().map(|fault| fault.name()).collect();
        assert_eq!(names.len(), Fault::EVERY.len());
    }
}
