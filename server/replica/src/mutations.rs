//! Deliberate mistakes, each at the place that decides: the simulation must catch every one of them.
//!
//! Only with the feature `mutations`, which the tests of this crate turn on, can one be made: without it [`mutated`] is
//! the constant `false`, and nothing of this is left in a program.

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// A record that stands in the log twice is applied twice.
    SkipDedup,
    /// Restore points and clean marks forget which records were applied.
    ForgetDuplicates,
    /// Restore points and clean marks forget the log's clock.
    ForgetClock,
    /// A proposer's clock is trusted, however far it is ahead.
    UnboundedClock,
    /// Entries say that nothing before them is unresolved.
    FloorTooHigh,
    /// A client whose request was proposed, with no outcome in time, is told that nothing was written.
    UnknownIsNothing,
    /// An append of unknown outcome counts as committed, and is not repeated.
    UnknownIsCommitted,
    /// The records of one partition get no lane in common.
    WrongLane,
    /// A snapshot read holds no lane.
    ReadWithoutLanes,
    /// DDL and TRUNCATE execute beside other records.
    DdlDoesNotDrain,
    /// A DDL or TRUNCATE executes although an earlier attempt of unknown outcome may still land.
    DdlDespiteStray,
    /// A record of unknown outcome that may not be repeated is repeated.
    RepeatAmbiguous,
    /// Counters count as repeatable.
    RepeatCounter,
    /// A record that can't be executed now is left out.
    SkipTrouble,
    /// A barrier is answered when it is read from the log.
    BarrierTooEarly,
    /// Clients are served before the replica has caught up.
    ServeTooEarly,
    /// A restore point is taken while records execute.
    RestorePointWithoutDraining,
    /// Lanes are free again before what is left is flushed.
    LanesFreeBeforeFlush,
    /// A memtable may be replaced while the snapshot is taken.
    SnapshotDespiteSwitch,
    /// Tables change while the snapshot is taken.
    DdlDuringSnapshot,
    /// What was written since the first flush is not flushed before the snapshot.
    SnapshotWithoutFlush,
    /// A stop marks the store clean while records execute.
    MarkWithoutDraining,
    /// A stop marks the store clean although an attempt of unknown outcome may still land.
    MarkDespiteStray,
    /// The clean mark stays while records are applied.
    KeepCleanMark,
    /// Cassandra's clock is not waited for.
    IgnoreCassandrasClock,
    /// After an unclean end the replay starts from the restore point's index, on the store as it is.
    ReplayWithoutRewind,
    /// The log is given up to where it was applied, not to where a restore point is.
    TruncateByApplied,
    /// What was sent to an earlier JVM may land in this one.
    IgnoreGeneration,
    /// A linearizable read asks no other replica.
    AskNobody,
    /// The list of those to ask is good for ever.
    EndlessLease,
    /// The barrier behind which questions begin, once the list has changed, is begun while who left it may show what it reads.
    BarrierBeforeSettled,
    /// Who left the list shows what it has read, however long that took.
    StandForEver,
    /// A read that began before its barrier passed is shown whatever the barrier found.
    EarlyReadAnyway,
    /// A new life serves before the others know of it.
    ServeUnknown,
    /// One replica's complaint of a record makes a verdict.
    VerdictOfOne,
    /// A record on which there is a verdict is left out where it was tried, without a rewind.
    SkipWithoutRewind,
    /// A record that is executed after all is complete although a complaint of it stands in the log.
    CompleteDespiteComplaint,
}

impl Mutation {
    /// Every one.
    pub const EVERY: [Self; 37] = [
        Self::SkipDedup,
        Self::ForgetDuplicates,
        Self::ForgetClock,
        Self::UnboundedClock,
        Self::FloorTooHigh,
        Self::UnknownIsNothing,
        Self::UnknownIsCommitted,
        Self::WrongLane,
        Self::ReadWithoutLanes,
        Self::DdlDoesNotDrain,
        Self::DdlDespiteStray,
        Self::RepeatAmbiguous,
        Self::RepeatCounter,
        Self::SkipTrouble,
        Self::BarrierTooEarly,
        Self::ServeTooEarly,
        Self::RestorePointWithoutDraining,
        Self::LanesFreeBeforeFlush,
        Self::SnapshotDespiteSwitch,
        Self::DdlDuringSnapshot,
        Self::SnapshotWithoutFlush,
        Self::MarkWithoutDraining,
        Self::MarkDespiteStray,
        Self::KeepCleanMark,
        Self::IgnoreCassandrasClock,
        Self::ReplayWithoutRewind,
        Self::TruncateByApplied,
        Self::IgnoreGeneration,
        Self::AskNobody,
        Self::EndlessLease,
        Self::BarrierBeforeSettled,
        Self::StandForEver,
        Self::EarlyReadAnyway,
        Self::ServeUnknown,
        Self::VerdictOfOne,
        Self::SkipWithoutRewind,
        Self::CompleteDespiteComplaint,
    ];
}

/// Whether this mistake is made here.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub const fn mutated(_: Mutation) -> bool {
    false
}

#[cfg(feature = "mutations")]
pub use made::{Mistaken, mutated};

#[cfg(feature = "mutations")]
mod made {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static MADE: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Whether this mistake is made on this thread.
    pub fn mutated(mutation: Mutation) -> bool {
        MADE.get() == Some(mutation)
    }

    /// While it lives, this thread makes a mistake.
    #[derive(Debug)]
    pub struct Mistaken(());

    impl Mistaken {
        /// Makes this one, or none.
        pub fn begin(mutation: Option<Mutation>) -> Self {
            MADE.set(mutation);
            Self(())
        }
    }

    impl Drop for Mistaken {
        fn drop(&mut self) {
            MADE.set(None);
        }
    }
}
