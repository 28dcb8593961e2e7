//! Where the replica is crashed, and what brings it there.

use replicateddb_faults::Fault;
use replicateddb_store::agent::faults;

use crate::kinds::Kind;

/// What is done to a replica that serves under load, or starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// The load is enough.
    Load,
    /// It is asked for a restore point.
    RestorePoint,
    /// Both replicas are asked for two restore points, which let the log's beginning be given up.
    Truncation,
    /// It is asked to stop.
    Stop,
    /// It is found to differ, which it does, and is asked to build its store anew.
    Rebuild,
    /// Its start, after it died under load.
    Start,
}

/// Who is killed while the replica's store agent works for a restore point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// Cassandra; and again when the rewind has started it.
    Cassandra,
    /// The agent, with Cassandra; and again at this point of the rewind.
    Agent(&'static str),
}

/// One crash.
#[derive(Debug, Clone, Copy)]
pub enum Case {
    /// Of the replica's process, with clients of every kind or of one.
    Replica { at: Fault, by: Trigger, kind: Option<Kind> },
    /// Of what is beside it, at a moment that the replica tells.
    Beside { victim: Victim, at: Fault },
}

impl Case {
    /// What it is asked for by.
    pub fn name(self) -> String {
        match self {
            Self::Replica { at, kind: None, .. } => at.name().to_owned(),
            Self::Replica { at, kind: Some(kind), .. } => format!("{}/{}", at.name(), kind.name()),
            Self::Beside { victim: Victim::Cassandra, at } => format!("cassandra/{}", at.name()),
            Self::Beside { victim: Victim::Agent(again), at } => format!("agent/{}/{again}", at.name()),
        }
    }
}

/// Every point has its trigger.
const fn trigger(at: Fault) -> Trigger {
    match at {
        Fault::AppendUnsent | Fault::AppendSent | Fault::AppendAcknowledged | Fault::AppendKnown => Trigger::Load,
        Fault::SegmentFull | Fault::SegmentSealed => Trigger::Load,
        Fault::RecordUnsent | Fault::RecordSent | Fault::RecordExecuted => Trigger::Load,
        Fault::AnswerUnsent | Fault::AnswerGiven | Fault::AnswerQueued => Trigger::Load,
        Fault::RestorePointFlushing | Fault::RestorePointDrained | Fault::RestorePointFlushed => Trigger::RestorePoint,
        Fault::RestorePointTaken | Fault::RestorePointUncommitted | Fault::RestorePointCommitted => {
            Trigger::RestorePoint
        }
        Fault::PositionUnpublished | Fault::PositionPublished => Trigger::Truncation,
        Fault::TruncationMoved | Fault::TruncationDeleted => Trigger::Truncation,
        Fault::RecoveryClaimed | Fault::RewindUnasked | Fault::RewindDone => Trigger::Start,
        Fault::MarkUncleared | Fault::MarkCleared => Trigger::Start,
        Fault::Replayed | Fault::BarrierAppended => Trigger::Start,
        Fault::StopDrained | Fault::StopMarked => Trigger::Stop,
        Fault::RebuildKnown | Fault::TakeOverHeld => Trigger::Rebuild,
        // The restore point of the other is taken over by whoever starts after that.
        Fault::TakeOverAsked | Fault::TakeOverInstalled => Trigger::Start,
    }
}

/// The order in which the points are passed: what one leaves behind is what the next needs. Every point is in this or in
/// [`AT_RESTORE_POINTS`], once.
const OF_REQUESTS: [Fault; 22] = [
    // With the whole log there, a store is built anew from it.
    Fault::RebuildKnown,
    Fault::AppendUnsent,
    Fault::RecoveryClaimed,
    Fault::AppendSent,
    Fault::RewindUnasked,
    Fault::AppendAcknowledged,
    Fault::RewindDone,
    Fault::AppendKnown,
    Fault::Replayed,
    Fault::SegmentFull,
    Fault::BarrierAppended,
    Fault::SegmentSealed,
    Fault::RecordUnsent,
    Fault::RecordSent,
    Fault::RecordExecuted,
    Fault::StopDrained,
    Fault::AnswerUnsent,
    Fault::AnswerGiven,
    Fault::StopMarked,
    // On what the stop has marked.
    Fault::MarkUncleared,
    Fault::MarkCleared,
    Fault::AnswerQueued,
];

/// As [`OF_REQUESTS`].
const AT_RESTORE_POINTS: [Fault; 13] = [
    Fault::RestorePointFlushing,
    Fault::RestorePointDrained,
    Fault::RestorePointFlushed,
    Fault::RestorePointTaken,
    Fault::RestorePointUncommitted,
    Fault::RestorePointCommitted,
    Fault::PositionUnpublished,
    Fault::PositionPublished,
    Fault::TruncationMoved,
    Fault::TruncationDeleted,
    // With the log's beginning gone, only another replica's restore point helps.
    Fault::TakeOverHeld,
    Fault::TakeOverAsked,
    Fault::TakeOverInstalled,
];

/// Kinds whose repetition, or loss, would show in any other state than the same: each is crashed alone, too.
const ALONE: [Kind; 10] = [
    Kind::Append,
    Kind::Prepend,
    Kind::Counter,
    Kind::InsertIfNotExists,
    Kind::CompareAndSet,
    Kind::ConditionalBatch,
    Kind::UnloggedBatch,
    Kind::Ddl,
    Kind::Truncate,
    Kind::Functions,
];

/// Points between the append and the answer: each of those kinds meets one of them.
const PER_KIND: [Fault; 5] =
    [Fault::RecordSent, Fault::AppendAcknowledged, Fault::RecordExecuted, Fault::AppendSent, Fault::AnswerUnsent];

fn of_process(order: &[Fault]) -> impl Iterator<Item = Case> {
    order.iter().map(|at| Case::Replica { at: *at, by: trigger(*at), kind: None })
}

/// Cases on the way of a request, and of stops and starts, in an order that works.
pub fn of_requests() -> Vec<Case> {
    let kinds = ALONE.iter().zip(PER_KIND.iter().cycle());
    let kinds = kinds.map(|(kind, at)| Case::Replica { at: *at, by: Trigger::Load, kind: Some(*kind) });
    of_process(&OF_REQUESTS).chain(kinds).collect()
}

/// Cases of restore points and of what follows from them, in an order that works.
pub fn of_restore_points() -> Vec<Case> {
    let beside = [
        (Victim::Cassandra, Fault::RestorePointFlushing),
        (Victim::Agent(faults::REWIND[3]), Fault::RestorePointFlushing),
        (Victim::Cassandra, Fault::RestorePointFlushed),
        (Victim::Agent(faults::REWIND[6]), Fault::RestorePointFlushed),
    ];
    let beside = beside.into_iter().map(|(victim, at)| Case::Beside { victim, at });
    of_process(&AT_RESTORE_POINTS).chain(beside).collect()
}

/// Every case.
pub fn all() -> impl Iterator<Item = Case> {
    of_requests().into_iter().chain(of_restore_points())
}

#[test]
fn every_point_has_its_turn() {
    let mut order = [&OF_REQUESTS[..], &AT_RESTORE_POINTS].concat();
    order.sort();
    assert_eq!(order, Fault::EVERY);
}
