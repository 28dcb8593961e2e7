//! One record's execution on the local Cassandra, to its end: attempts that say nothing are repeated where that is
//! harmless; otherwise the store has to be rewound.

use std::sync::Arc;

use replicateddb_cql::frame::Opcode;
use replicateddb_cql::response::{self, ResultBody, SchemaTarget};
use replicateddb_cql::statement::classify;
use replicateddb_store::api::Table;
use tokio::time::{Duration, Instant};
use uuid::Uuid;

use crate::record::{Record, RecordKind, flags};
use crate::replica::{Digest, Serving};
use crate::shared::{Condition, Shared};
use crate::site::{Agent, Backend, Failure, Place, Reply};
use crate::state::Admitted;

/// A record that is tried again for longer than this is shown as a condition.
const SHOW_AFTER: Duration = Duration::from_secs(2);
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
}

/// Whether a second copy of the record may reach the same state without showing.
fn is_repeatable(record: &Record) -> bool {
    match record.kind {
        RecordKind::Dml | RecordKind::Batch => {
            record.flags & flags::NOT_REPEATABLE == 0
                && record.statements.iter().all(|statement| {
                    // List appends and counters look like operations on sets and maps: all count.
                    let said = classify(&statement.text);
                    said.conditional.is_none() && said.each().all(|each| each.operations.is_empty())
                })
        }
        RecordKind::Ddl | RecordKind::Truncate => false,
        RecordKind::Barrier | RecordKind::Tick | RecordKind::Digest | RecordKind::Semantics => true,
    }
}

impl<B: Backend, A: Agent> Execution<B, A> {
    /// Executes until there is a result or only a rewind helps.
    pub async fn run(self) -> Executed {
        let started = Instant::now();
        let config = &self.shared.config;
        let mut ambiguous = false;
        let mut shown = false;
        let mut pause = config.apply_retry_first;
        let result = loop {
            match self.attempt().await {
                Ok(reply) => break Ok(reply),
                Err(Failure::Gone { reason }) => break Err(reason),
                Err(Failure::Retry { reason, ambiguous: unknown }) => {
                    self.shared.metrics.error(if unknown { "apply_unknown" } else { "apply_retry" });
                    if unknown && !is_repeatable(&self.admitted.record) {
                        break Err(format!("record {} may have been executed: {reason}", self.admitted.index));
                    }
                    ambiguous |= unknown;
                    if started.elapsed() >= SHOW_AFTER {
                        shown = true;
                        let text = format!("record {} can't be applied now: {reason}", self.admitted.index);
                        self.shared.condition(Condition::Apply, Some(text));
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(config.apply_retry_last);
                }
            }
        };
        if shown {
            self.shared.condition(Condition::Apply, None);
        }
        if let Ok(reply) = &result {
            self.hold_compaction(reply).await;
        }
        self.shared.metrics.apply_seconds.observe(started.elapsed().as_secs_f64());
        Executed { admitted: self.admitted, result, ambiguous }
    }

    async fn attempt(&self) -> Result<Reply, Failure> {
        let Admitted { index, timestamp_us, record, .. } = &*self.admitted;
        if record.kind == RecordKind::Digest {
            let tables = self.backend.digest().await?;
            self.shared.keep_digest(Digest { index: *index, tables });
            return Ok(Reply { flags: 0, opcode: Opcode::Result.code(), body: response::void() });
        }
        self.backend.execute(Place { timestamp_us: *timestamp_us, table_id: self.table_id }, record).await
    }

    /// A table that is created or altered compacts from then on; while the replica is not current it must not, for
    /// compaction expires cells by the wall clock (design 4.3).
    async fn hold_compaction(&self, reply: &Reply) {
        let current = matches!(*self.shared.serving.borrow(), Serving::Yes { .. });
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
