//! What others are told of records as they are applied: clients, sessions, other replicas and people.

use std::sync::atomic::Ordering;

use futures::stream::Stream;
use replicateddb_cql::frame::Opcode;
use replicateddb_cql::response;
use replicateddb_faults::{Fault, pass};
use replicateddb_ordering::{Committed, TailError};
use tokio::time::{Duration, Instant};

use super::Applier;
use crate::metrics::KindLabel;
use crate::mutations::{Mutation, mutated};
use crate::replica::{Outcome, SchemaEvent, Serving};
use crate::site::{Agent, Backend, Reply};
use crate::state::Admitted;

/// How often a replay's progress is logged.
const LOG_PROGRESS: Duration = Duration::from_secs(3);

impl<B, A, T> Applier<B, A, T>
where
    B: Backend,
    A: Agent,
    T: Stream<Item = Result<Committed, TailError>> + Send + Unpin,
{
    pub(super) fn schema_applied(&mut self, admitted: &Admitted, reply: &Reply) {
        self.shared.last_ddl.store(admitted.index, Ordering::Release);
        // Even a refused DDL may have gone half its way in Cassandra's caches: preparing again is cheap.
        self.backend.forget_prepared();
        let Some(message) = reply.message().filter(|_| reply.is_result()) else { return };
        if !matches!(response::result_kind(&message), Ok(response::ResultKind::SchemaChange)) {
            return;
        }
        self.state.schema_changed(admitted.index);
        self.shared.has_schema(&self.state);
        // Nobody listening is fine.
        let _ = self.shared.events.send(SchemaEvent { index: admitted.index, body: message.slice(4..) });
    }

    pub(super) fn answer(&self, admitted: &Admitted, reply: Reply) {
        if (admitted.origin, admitted.incarnation) == self.shared.own() {
            let Reply { flags, opcode, body } = reply;
            let outcome = Outcome { index: admitted.index, flags, opcode, body };
            pass(Fault::AnswerUnsent);
            self.shared.unresolved.applied(admitted.record.sequence, outcome);
            pass(Fault::AnswerGiven);
        }
    }

    /// A record is applied: moves the applied index and answers the barriers that it passes.
    pub(super) fn complete(&mut self, admitted: &Admitted) {
        let kind = admitted.record.kind.name().to_owned();
        self.shared.metrics.applied.get_or_create(&KindLabel { kind }).inc();
        self.done.complete(admitted.index);
        self.shared.stuck.executed(admitted.index);
        if !self.shared.is_current() {
            pass(Fault::Replayed);
        }
        // Published at once: readers look at it after their barrier, and the other replicas after a DDL.
        self.shared.progress(self.done.upto(), self.log_end());
        let upto = if mutated(Mutation::BarrierTooEarly) { u64::MAX } else { self.done.upto() };
        while let Some(entry) = self.barriers.first_entry().filter(|entry| *entry.key() <= upto) {
            let (index, sequence) = entry.remove_entry();
            let outcome = Outcome { index, flags: 0, opcode: Opcode::Result.code(), body: response::void() };
            self.shared.unresolved.applied(sequence, outcome);
        }
    }

    fn log_end(&self) -> u64 {
        self.state.index() + self.intake_records as u64
    }

    pub(super) fn publish(&mut self) {
        self.shared.progress(self.done.upto(), self.log_end());
        let metrics = &self.shared.metrics;
        let next = self.intake.front().map(|&(_, commit_time_ms, _)| commit_time_ms);
        let now_ms = self.shared.config.clock.now_us() / 1000;
        metrics.lag_seconds.set(self.lag.seconds(self.done.upto(), next, now_ms));
        metrics.remembered.set(self.state.remembered() as u64);
        metrics.in_lanes.set(self.scheduler.records() as u64);
        metrics.executing.set(self.executing.len() as u64);
        if !matches!(*self.shared.serving.borrow(), Serving::Yes { .. }) {
            let replay = self.shared.replayed(self.done.upto());
            if let Some(replay) = replay
                && self.logged.elapsed() >= LOG_PROGRESS
            {
                self.logged = Instant::now();
                let (applied, end, seconds) = (self.done.upto(), self.log_end(), replay.seconds);
                tracing::info!(applied, end, replayed = replay.records, seconds, "replaying");
            }
        }
    }
}
