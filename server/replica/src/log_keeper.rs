//! Makes known what this replica's restore points need of the log, gives up what nobody needs, and ends the lives of those
//! that are gone.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use replicateddb_faults::{Fault, pass};
use replicateddb_ordering::silence::Silence;
use replicateddb_ordering::truncation::{Limits, Published, Seen, decide};
use replicateddb_ordering::{LogError, OrderedLog, Position};
use replicateddb_store::client::StoreError;
use tokio::time::{Instant, sleep};

use crate::mutations::{Mutation, mutated};
use crate::propose::FENCED;
use crate::shared::{Needs, Shared};
use crate::site::Agent;
use crate::state::State;

/// Keeps the log bounded, for as long as one generation of the store lives.
pub struct LogKeeper<L, A> {
    shared: Arc<Shared>,
    log: L,
    agent: A,
    /// What each replica has made known, and since when that is the same.
    seen: BTreeMap<u32, (Published, Instant)>,
    /// What each restore point needs, by its id.
    known: BTreeMap<String, (Position, u64)>,
    /// Who gives signs of life.
    silence: Silence,
    /// Given up, but perhaps not all of it deleted yet.
    unfinished: Option<Position>,
}

/// Why a round came to nothing.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Agent(#[from] StoreError),
    #[error("{0}")]
    State(String),
}

impl<L: OrderedLog, A: Agent> LogKeeper<L, A> {
    /// Has made nothing known yet.
    pub fn new(shared: Arc<Shared>, log: L, agent: A) -> Self {
        Self {
            shared,
            log,
            agent,
            seen: BTreeMap::new(),
            known: BTreeMap::new(),
            silence: Silence::default(),
            unfinished: None,
        }
    }

    /// Round after round.
    pub async fn run(mut self) -> Infallible {
        loop {
            let round = async {
                self.round().await?;
                Ok::<_, Trouble>(self.retire_silent().await?)
            };
            if let Err(trouble) = round.await {
                self.silence.forget();
                tracing::info!(%trouble, "what is needed of the log was not made known, or not given up; again soon");
            }
            sleep(self.shared.config.log_keep_interval).await;
        }
    }

    async fn round(&mut self) -> Result<(), Trouble> {
        let first = self.log.first().await?;
        self.publish(first).await?;
        if let Some(below) = self.unfinished {
            self.log.truncate(below).await?;
            self.unfinished = None;
        }
        let config = &self.shared.config;
        let limits = Limits { behind_records: config.log_behind_records, step_entries: config.log_step_entries };
        let replicas = self.look_at_all().await?;
        let decision = decide(&replicas, first, limits);
        let Some(below) = decision.below else { return Ok(()) };
        if !decision.left_behind.is_empty() {
            tracing::warn!(
                replicas = ?decision.left_behind,
                limit = limits.behind_records,
                "the log no longer waits for replicas that are too far behind: they will take over a restore point"
            );
        }
        self.unfinished = Some(below);
        self.log.truncate(below).await?;
        self.unfinished = None;
        self.shared.metrics.truncations.inc();
        tracing::info!(%first, %below, "gave up the beginning of the log");
        Ok(())
    }

    /// What survives a crash, and nothing newer: never the index in memory.
    async fn publish(&mut self, first: Position) -> Result<(), Trouble> {
        let (from, index) = match mutated(Mutation::TruncateByApplied) {
            true => (self.log.end().await?, self.shared.applied()),
            false => self.needs(first).await?,
        };
        self.shared.saw_first(first);
        if self.shared.set_needs(Needs { from, index, durable: true }) {
            pass(Fault::PositionUnpublished);
            publish(&self.shared, &self.log, &self.agent).await?;
            pass(Fault::PositionPublished);
        }
        Ok(())
    }

    /// What all replicas have made known, and which of them are away.
    async fn look_at_all(&mut self) -> Result<Vec<Seen>, LogError> {
        let all = self.log.published().await?;
        self.seen.retain(|replica, _| all.iter().any(|one| one.replica == *replica));
        let (now, limit) = (Instant::now(), self.shared.config.log_away_after);
        let mut look = |published: Published| {
            let known = self.seen.entry(published.replica).or_insert_with(|| (published.clone(), now));
            if known.0 != published {
                *known = (published.clone(), now);
            }
            Seen { away: now - known.1 > limit, published }
        };
        Ok(all.into_iter().map(&mut look).collect())
    }

    /// Ends the lives of replicas that are gone, which reads would ask for ever.
    async fn retire_silent(&mut self) -> Result<(), LogError> {
        let living = self.log.living().await?;
        let published: Vec<_> = self.seen.values().map(|(published, _)| published.clone()).collect();
        let limit = self.shared.config.silent_after();
        for life in self.silence.look(&living, &published, Instant::now(), limit) {
            let (replica, incarnation) = life;
            if replica != self.shared.config.replica {
                tracing::warn!(replica, %incarnation, ?limit, "it gives no sign of life: reads ask it no longer");
                self.log.retire(life).await?;
            }
        }
        Ok(())
    }

    /// What the oldest restore point needs that the log reaches back to; the whole log if there are not two, so that a
    /// damaged one has another behind it. In a log that was given up in part one must do.
    async fn needs(&mut self, first: Position) -> Result<(Position, u64), Trouble> {
        let source = self.agent.source();
        let mut points = self.agent.restore_points_of(&source).await?;
        points.sort_by_key(|point| point.sequence);
        self.known.retain(|id, _| points.iter().any(|point| point.id == *id));
        if points.len() < 2 && first == Position::START {
            return Ok((Position::START, 0));
        }
        for point in points {
            let (needs, index) = match self.known.get(&point.id) {
                Some(known) => *known,
                None => self.look(&source, point.id).await?,
            };
            if needs >= first {
                return Ok((needs, index));
            }
        }
        Ok((Position::START, 0))
    }

    async fn look(&mut self, source: &str, id: String) -> Result<(Position, u64), Trouble> {
        let manifest = self.agent.manifest_of(source, &id).await?;
        let state = State::of_mark(manifest.mark, self.log.log_id().0).map_err(Trouble::State)?;
        let found = (state.next_position(), state.index());
        self.known.insert(id, found);
        Ok(found)
    }
}

/// Makes known what this replica needs of the log now, if that is known here, and what it has executed: more than its
/// earlier lives have, whatever its store is at.
pub async fn publish<L: OrderedLog, A: Agent>(shared: &Shared, log: &L, agent: &A) -> Result<(), LogError> {
    let Some(Needs { from: needs, index, durable }) = shared.needs() else { return Ok(()) };
    let (replica, incarnation) = (shared.config.replica, log.incarnation());
    if !shared.stuck.knows_earlier() {
        let all = log.published().await?;
        let earlier = all.iter().find(|one| one.replica == replica).map_or(0, |one| one.executed);
        shared.stuck.earlier_executed(earlier);
    }
    let (source, beat, executed) = (agent.source(), shared.next_beat(), shared.stuck.executed_upto());
    log.publish(Published { replica, incarnation, needs, index, source, durable, beat, executed }).await
}

/// Says that this replica is there, whatever it is doing, and needs what it needs.
pub async fn beat<L: OrderedLog, A: Agent>(shared: Arc<Shared>, log: L, agent: A) -> Infallible {
    loop {
        sleep(shared.config.log_keep_interval).await;
        match publish(&shared, &log, &agent).await {
            Ok(()) => {}
            // Without writes or reads nobody else may find out.
            Err(LogError::Fenced) => {
                shared.fail(FENCED);
                return std::future::pending().await;
            }
            Err(error) => tracing::debug!(%error, "what is needed of the log was not made known; again soon"),
        }
    }
}
