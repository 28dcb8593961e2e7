//! One record's execution on the local Cassandra, to its end: attempts that say nothing are repeated where that is
//! harmless; otherwise the store has to be rewound.

use std::sync::Arc;

use replicateddb_cql::response::{self, ResultBody, SchemaTarget};
use replicateddb_faults::{Fault, pass};
use replicateddb_store::api::Table;
use tokio::time::{Duration, Instant};
use uuid::Uuid;

use crate::mutations::{Mutation, mutated};
use crate::record::{Record, RecordKind};
use crate::replica::Digest;
use crate::shared::{Condition, Shared};
use crate::site::{Agent, Backend, Failure, Place, Plan, Reply, second_of};
use crate::state::Admitted;

/// Pause before a statement that can't be prepared now is tried again.
const PLAN_RETRY: Duration = Duration::from_millis(100);
/// A record that is tried again for longer than this is shown as a condition.
const SHOW_AFTER: Duration = Duration::from_secs(2);
/// Attempts to read all tables for a digest.
const DIGEST_ATTEMPTS: usize = 3;
/// Longest time that a digest holds every lane.
const DIGEST_LIMIT: Duration = Duration::from_secs(120);
/// Attempts to switch off the compaction of a table that a replay created or altered.
const COMPACTION_ATTEMPTS: usize = 3;

/// What became of a record.
pub struct Executed {
    /// The record.
    pub admitted: Arc<Admitted>,
    /// Its result, or why the store has to be rewound.
    pub result: Result<Reply, String>,
    /// A repeatable attempt of unknown outcome may still land.
    pub ambiguous: bool,
}

/// A record and all it needs.
pub struct Execution<B, A> {
    /// Settings and conditions.
    pub shared: Arc<Shared>,
    /// Where to execute.
    pub backend: B,
    /// For compaction.
    pub agent: A,
    /// Id for a table that the record creates.
    pub table_id: Uuid,
    /// The record.
    pub admitted: Arc<Admitted>,
    /// A second copy of it may reach the same state without showing.
    pub repeatable: bool,
}

impl<B: Backend, A: Agent> Execution<B, A> {
    /// Executes until there is a result or only a rewind helps.
    pub async fn run(self) -> Executed {
        let started = Instant::now();
        let config = &self.shared.config;
        let mut ambiguous = false;
        let mut shown = false;
        let mut pause = config.apply_retry_first;
        let (index, stuck) = (self.admitted.index, &self.shared.stuck);
        let result = loop {
            let failure = match self.attempt().await {
                Ok(reply) => break stuck.may_complete(index).await.map(|()| reply),
                Err(failure) => failure,
            };
            let decided = self.backend.is_decided(self.place());
            let refused = matches!(failure, Failure::Refused { .. });
            if let Failure::Refused { reason, .. } = &failure {
                stuck.failed(index, reason);
            }
            match failure {
                Failure::Gone { reason } => break Err(reason),
                Failure::Retry { reason, ambiguous: unknown } | Failure::Refused { reason, ambiguous: unknown } => {
                    self.shared.metrics.error(if unknown { "apply_unknown" } else { "apply_retry" });
                    let over = is_over(unknown, self.repeatable, decided, refused);
                    if over && !mutated(Mutation::RepeatAmbiguous) {
                        // Each attempt costs a rewind: between complaint and verdict there need not be many.
                        if stuck.is_ripe(index, config.complain_after) {
                            let _ = tokio::time::timeout(config.complain_after, stuck.verdict(index)).await;
                        }
                        break Err(format!("record {index} may have been executed: {reason}"));
                    }
                    if mutated(Mutation::SkipTrouble) {
                        break Ok(Reply::void());
                    }
                    ambiguous |= unknown;
                    if started.elapsed() >= SHOW_AFTER {
                        shown = true;
                        let text = format!("record {index} can't be applied now: {reason}");
                        self.shared.condition(Condition::Apply, Some(text));
                    }
                    if let Ok(reason) = tokio::time::timeout(pause, stuck.verdict(index)).await {
                        // An attempt may have had its effect, whatever Cassandra said.
                        break if mutated(Mutation::SkipWithoutRewind) {
                            Ok(Reply::invalid(&reason))
                        } else {
                            Err(reason)
                        };
                    }
                    pause = (pause * 2).min(config.apply_retry_last);
                }
            }
        };
        if shown {
            self.shared.condition(Condition::Apply, None);
        }
        if let Ok(reply) = &result {
            if self.backend.settle(self.place()) {
                self.shared.metrics.in_memory.inc();
            }
            pass(Fault::RecordExecuted);
            self.hold_compaction(reply).await;
        }
        self.shared.metrics.apply_seconds.observe(started.elapsed().as_secs_f64());
        Executed { admitted: self.admitted, result, ambiguous }
    }

    async fn attempt(&self) -> Result<Reply, Failure> {
        let Admitted { index, timestamp_us, record, .. } = &*self.admitted;
        if record.kind == RecordKind::Digest {
            self.digest(*index, second_of(*timestamp_us)).await?;
            return Ok(Reply::void());
        }
        pass(Fault::RecordUnsent);
        self.backend.execute(self.place(), record).await
    }

    fn place(&self) -> Place {
        Place {
            timestamp_us: self.admitted.timestamp_us,
            table_id: self.table_id,
            fails: self.shared.stuck.is_failing(self.admitted.index),
        }
    }

    /// Reads every table, or keeps why not: whatever a digest meets, it holds every lane for a bounded time. While the
    /// replica catches up nobody can want it any more.
    async fn digest(&self, index: u64, now_s: i32) -> Result<(), Failure> {
        if !self.shared.is_current() {
            self.shared.keep_digest(Digest::failed(index, "the replica was catching up; order another one"));
            return Ok(());
        }
        let mut reason = String::new();
        let attempts = async {
            for attempt in 0..DIGEST_ATTEMPTS {
                if attempt > 0 {
                    tokio::time::sleep(self.shared.config.apply_retry_last).await;
                }
                match self.backend.digest(now_s).await {
                    Ok(tables) => return Ok(Some(tables)),
                    Err(gone @ Failure::Gone { .. }) => return Err(gone),
                    Err(failure) => reason = failure.reason(),
                }
            }
            Ok(None)
        };
        let tables = match tokio::time::timeout(DIGEST_LIMIT, attempts).await {
            Ok(tables) => tables?,
            Err(_) => {
                reason = format!("the tables could not be read within {} s: {reason}", DIGEST_LIMIT.as_secs());
                None
            }
        };
        let digest = match tables {
            Some(tables) => Digest { index, tables, failed: None },
            None => {
                self.shared.metrics.error("digest");
                Digest::failed(index, reason)
            }
        };
        self.shared.keep_digest(digest);
        Ok(())
    }

    /// A table that is created or altered compacts from then on; while the replica is not current it must not, for
    /// compaction expires cells by the wall clock (design 4.3).
    async fn hold_compaction(&self, reply: &Reply) {
        let current = self.shared.is_current();
        let Some(table) = changed_table(&self.admitted.record, reply).filter(|_| !current) else { return };
        for _ in 0..COMPACTION_ATTEMPTS {
            match self.agent.autocompaction(false, Some(vec![table.clone()])).await {
                Ok(()) => return self.shared.condition(Condition::Compaction, None),
                Err(error) => self.shared.condition(Condition::Compaction, Some(error.to_string())),
            }
            tokio::time::sleep(self.shared.config.apply_retry_first).await;
        }
    }
}

/// Whether a failed attempt, perhaps one of an effect that is `unknown`, must not be followed by another one before a rewind. What
/// was `decided` may be repeated; but where Cassandra has `refused` that, the replicas that let it decide are told another failure,
/// and only what fails with the same everywhere gets a verdict: so it is Cassandra's to decide from then on, on a state that holds
/// no copy.
fn is_over(unknown: bool, repeatable: bool, decided: bool, refused: bool) -> bool {
    if decided { refused } else { unknown && !repeatable }
}

/// Finds a record's lanes, as often as it takes; fails only if the generation is over or a verdict skips the record.
pub async fn plan_until_known<B: Backend>(shared: &Shared, backend: &B, admitted: &Admitted) -> Result<Plan, Failure> {
    let mut failed = false;
    loop {
        match backend.plan(&admitted.record).await {
            Err(failure @ (Failure::Retry { .. } | Failure::Refused { .. })) => {
                failed = true;
                shared.metrics.error("plan_retry");
                if let Failure::Refused { reason, .. } = &failure {
                    shared.stuck.failed(admitted.index, reason);
                }
                let reason = failure.reason();
                let text = format!("record {} can't be prepared now: {reason}", admitted.index);
                shared.condition(Condition::Apply, Some(text));
                if let Ok(reason) = tokio::time::timeout(PLAN_RETRY, shared.stuck.verdict(admitted.index)).await {
                    return Err(Failure::Gone { reason });
                }
            }
            known => {
                if failed {
                    shared.condition(Condition::Apply, None);
                }
                if let Ok(Plan::Answer(_)) = &known {
                    shared.stuck.may_complete(admitted.index).await.map_err(|reason| Failure::Gone { reason })?;
                }
                return known;
            }
        }
    }
}

/// The table that a DDL has created or altered.
fn changed_table(record: &Record, reply: &Reply) -> Option<Table> {
    if record.kind != RecordKind::Ddl || !reply.is_result() {
        return None;
    }
    let ResultBody::SchemaChange(change) = response::parse_result(&reply.message()?).ok()? else { return None };
    match (change.change, change.target) {
        (response::ChangeKind::Dropped, _) => None,
        (_, SchemaTarget::Table(table)) => Some(Table { keyspace: change.keyspace, table }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::is_over;

    #[test]
    fn what_was_decided_is_repeated_until_cassandra_refuses_it() {
        for unknown in [false, true] {
            for repeatable in [false, true] {
                assert!(!is_over(unknown, repeatable, true, false));
                assert!(is_over(unknown, repeatable, true, true), "Cassandra decides after a rewind");
                for refused in [false, true] {
                    assert_eq!(is_over(unknown, repeatable, false, refused), unknown && !repeatable);
                }
            }
        }
    }
}
