//! Restore points of the store: flush beside the work, then hold the lanes at an index, flush what is left, snapshot,
//! commit, go on. The order makes the snapshot exactly the state at that index (design 7).

use std::future::pending;
use std::sync::Arc;

use futures::future::BoxFuture;
use replicateddb_store::api::{Code, Mark};
use replicateddb_store::client::StoreError;
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};

use crate::shared::{Condition, Shared};
use crate::site::Agent;
use crate::state::State;

/// How often builds of indexes and views are asked for before this restore point is given up.
const BUILD_POLLS: usize = 20;
/// Pause between two such questions.
const BUILD_POLL: Duration = Duration::from_millis(500);
/// Fewest records between two restore points, however often the store had to be rewound.
const FEWEST_RECORDS: u64 = 16;
/// People who may wait for a restore point they asked for.
const ASKERS: usize = 16;

type Asker = oneshot::Sender<Result<u64, String>>;

enum Doing {
    Nothing,
    Flushing(BoxFuture<'static, Result<(), Trouble>>),
    /// Waits for the lanes to drain, since then.
    Draining(Instant),
    Saving(BoxFuture<'static, Result<u64, Trouble>>),
}

/// What a step has led to.
pub enum Step {
    /// Go on.
    Done,
    /// The agent follows a newer incarnation, or another JVM runs: this applier's time is over.
    Lost(String),
}

/// When and how restore points are made.
pub struct RestorePoints<A> {
    shared: Arc<Shared>,
    agent: A,
    generation: u64,
    /// Records between two restore points.
    records: u64,
    doing: Doing,
    /// Index and time of the last one, or of the start.
    last: (Option<u64>, Instant),
    not_before: Instant,
    /// Records with an effect since the last one.
    writes: u64,
    made: u64,
    askers: Vec<Asker>,
}

impl<A: Agent> RestorePoints<A> {
    /// None is under way. `setbacks`: how often in a row the store was rewound to the same index. Each halves the
    /// distance between restore points, so that a replay that keeps meeting trouble still comes forward.
    pub fn new(shared: Arc<Shared>, agent: A, generation: u64, setbacks: u32) -> Self {
        let now = Instant::now();
        let most = shared.config.restore_point_records.max(1);
        let records = (most.checked_shr(setbacks).unwrap_or(0)).max(FEWEST_RECORDS.min(most));
        Self {
            shared,
            agent,
            generation,
            records,
            doing: Doing::Nothing,
            last: (None, now),
            not_before: now,
            writes: 0,
            made: 0,
            askers: Vec::new(),
        }
    }

    /// No record may be admitted: lanes drain, or the snapshot is being made.
    pub fn holds_lanes(&self) -> bool {
        matches!(self.doing, Doing::Draining(_) | Doing::Saving(_))
    }

    /// One is under way.
    pub fn is_busy(&self) -> bool {
        !matches!(self.doing, Doing::Nothing)
    }

    /// A record with an effect was applied; `index` is the last that was admitted.
    pub fn wrote(&mut self, index: u64) {
        self.writes += 1;
        if self.writes.is_multiple_of(self.records) {
            self.look(index);
        }
    }

    /// Somebody wants one now.
    pub fn ask(&mut self, asker: Asker) {
        if self.askers.len() >= ASKERS {
            let _ = asker.send(Err("too many are waiting for a restore point".to_owned()));
            return;
        }
        self.askers.push(asker);
        self.not_before = Instant::now();
    }

    /// Begins one if it is due at this index.
    pub fn look(&mut self, index: u64) {
        let config = &self.shared.config;
        let (last, since) = self.last;
        let by_time = self.writes > 0 && since.elapsed() >= config.restore_point_interval;
        let by_count = self.writes >= self.records;
        // Records without an effect pile up, too: a replay has to read them.
        let by_index = last.is_some_and(|last| index - last >= self.records);
        let due = by_time || by_count || by_index || !self.askers.is_empty();
        if due && !self.is_busy() && Instant::now() >= self.not_before {
            self.doing = Doing::Flushing(Box::pin(flush(self.agent.clone())));
        }
        // One record that can't be applied must not hold up all others for a snapshot's sake.
        if let Doing::Draining(since) = self.doing
            && since.elapsed() >= config.restore_point_timeout
        {
            self.failed("the lanes did not drain".into());
        }
    }

    /// Waits for what is under way; never completes if nothing is. Cancel-safe.
    pub async fn step(&mut self) -> Step {
        let (flushed, saved) = match &mut self.doing {
            Doing::Nothing | Doing::Draining(_) => return pending().await,
            Doing::Flushing(flushing) => (Some(flushing.await), None),
            Doing::Saving(saving) => (None, Some(saving.await)),
        };
        match (flushed, saved) {
            (Some(Ok(())), _) => self.doing = Doing::Draining(Instant::now()),
            (_, Some(Ok(index))) => self.saved(index),
            (Some(Err(trouble)), _) | (_, Some(Err(trouble))) => return self.failed(trouble),
            (None, None) => {}
        }
        Step::Done
    }

    /// All lanes are free and the store is exactly at this state: takes the snapshot.
    pub fn drained(&mut self, state: &State) {
        if !matches!(self.doing, Doing::Draining(_)) {
            return;
        }
        self.made += 1;
        let index = state.index();
        let (incarnation, generation, made) = (self.shared.incarnation, self.generation, self.made);
        // Never the same again, so that an aborted one stays aborted.
        let id = format!("{index:016x}-{incarnation:x}-{generation}-{made}");
        let mark = serde_json::to_value(state).map(|replica_state| Mark { index, replica_state });
        let (agent, shared) = (self.agent.clone(), self.shared.clone());
        self.doing = Doing::Saving(Box::pin(async move {
            let started = Instant::now();
            let mark = mark.map_err(|e| Trouble { reason: e.to_string(), over: false })?;
            let limit = shared.config.restore_point_timeout;
            let saved = tokio::time::timeout(limit, save(&agent, &id, generation, mark)).await;
            shared.metrics.restore_point_seconds.observe(started.elapsed().as_secs_f64());
            let failed = match saved {
                Ok(Ok(())) => return Ok(index),
                Ok(Err(trouble)) => trouble,
                Err(_) => Trouble { reason: format!("it took longer than {limit:?}"), over: false },
            };
            // The id is never committed after this: a late snapshot can't be taken for this index's. Should the abort
            // be lost, nobody commits the id either.
            let _ = tokio::time::timeout(limit, agent.abort(&id)).await;
            Err(failed)
        }));
    }

    fn saved(&mut self, index: u64) {
        self.doing = Doing::Nothing;
        self.last = (Some(index), Instant::now());
        // Nothing was applied since the lanes were drained.
        self.writes = 0;
        self.shared.metrics.restore_points.inc();
        self.shared.restore_point(index);
        self.shared.condition(Condition::RestorePoint, None);
        tracing::info!(index, "restore point");
        for asker in self.askers.drain(..) {
            let _ = asker.send(Ok(index));
        }
    }

    fn failed(&mut self, trouble: Trouble) -> Step {
        let Trouble { reason, over } = trouble;
        self.doing = Doing::Nothing;
        self.not_before = Instant::now() + self.shared.config.restore_point_retry;
        self.shared.metrics.error("restore_point");
        self.shared.condition(Condition::RestorePoint, Some(format!("no restore point could be made: {reason}")));
        for asker in self.askers.drain(..) {
            let _ = asker.send(Err(reason.clone()));
        }
        if over { Step::Lost(reason) } else { Step::Done }
    }
}

/// Why there is no restore point.
struct Trouble {
    reason: String,
    /// This applier's time is over.
    over: bool,
}

impl From<&str> for Trouble {
    fn from(reason: &str) -> Self {
        Self { reason: reason.to_owned(), over: false }
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        let over = matches!(error.code(), Some(Code::StaleIncarnation | Code::OtherLog | Code::WrongGeneration));
        Self { reason: error.to_string(), over }
    }
}

async fn flush<A: Agent>(agent: A) -> Result<(), Trouble> {
    for _ in 0..BUILD_POLLS {
        let builds = agent.flush().await?;
        if builds.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(BUILD_POLL).await;
    }
    Err("indexes or views are still being built".into())
}

async fn save<A: Agent>(agent: &A, id: &str, generation: u64, mark: Mark) -> Result<(), Trouble> {
    // What is built now was begun by a DDL after the flush: it may not be in the snapshot half.
    if !agent.flush().await?.is_empty() {
        return Err("indexes or views are being built".into());
    }
    agent.snapshot(id, generation).await?;
    Ok(agent.commit(id, mark).await?)
}
