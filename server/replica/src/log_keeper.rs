//! Makes known what this replica's restore points need of the log, gives up what nobody needs, and ends the lives of those
//! that are gone.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, PoisonError};

use replicateddb_faults::{Fault, pass};
use replicateddb_ordering::silence::Silence;
use replicateddb_ordering::truncation::{Published, Seen, decide};
use replicateddb_ordering::{Beginning, LogError, OrderedLog, Position};
use replicateddb_store::api::{RESTORE_POINTS_KEPT, RestorePoint};
use replicateddb_store::client::StoreError;
use tokio::time::{Duration, Instant, sleep};
use uuid::Uuid;

use crate::mutations::{Mutation, mutated};
use crate::propose::FENCED;
use crate::shared::{Condition, Needs, Shared};
use crate::site::Agent;
use crate::state::State;

/// Shortest pause between two rounds, while the log holds much; unless they come as often anyhow.
const SOON: Duration = Duration::from_secs(1);

/// Keeps the log bounded, for as long as one generation of the store lives.
pub struct LogKeeper<L, A> {
    shared: Arc<Shared>,
    log: L,
    agent: A,
    /// What all replicas have made known, at the last look.
    seen: Vec<Published>,
    /// What each restore point needs, by its id.
    known: BTreeMap<String, Needs>,
    /// Who gives signs of life.
    silence: Silence,
    /// Given up, but perhaps not all of it deleted yet.
    unfinished: Option<Beginning>,
}

/// Why a round came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
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
            seen: Vec::new(),
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
            self.rest().await;
        }
    }

    /// Until the next round, which comes sooner while the log holds much.
    async fn rest(&self) {
        let interval = self.shared.config.log_keep_interval;
        let soon = interval.min(SOON);
        sleep(soon).await;
        tokio::select! {
            biased;
            () = self.shared.log_room.pressed() => {}
            () = sleep(interval - soon) => {}
        }
    }

    async fn round(&mut self) -> Result<(), Trouble> {
        let first = self.log.beginning().await?;
        self.shared.log_room.begins(first.bytes);
        self.publish(first.position).await?;
        if let Some(below) = self.unfinished {
            self.log.truncate(below).await?;
            self.unfinished = None;
        }
        let limits = self.shared.config.log_limits();
        let replicas = self.look_at_all().await?;
        self.say_if_full(&replicas);
        let decision = decide(&replicas, first, limits);
        let Some(below) = decision.below else { return Ok(()) };
        if !decision.left_behind.is_empty() {
            tracing::warn!(
                replicas = ?decision.left_behind,
                ?limits,
                "the log no longer waits for replicas that are too far behind: they will take over a restore point"
            );
        }
        self.unfinished = Some(below);
        self.log.truncate(below).await?;
        self.unfinished = None;
        self.shared.log_room.begins(below.bytes);
        self.shared.metrics.truncations.inc();
        tracing::info!(first = %first.position, below = %below.position, "gave up the beginning of the log");
        Ok(())
    }

    /// Says so while writes are refused, and who needs the beginning of the log.
    fn say_if_full(&self, replicas: &[Seen]) {
        let full = self.shared.log_room.refusal().map(|_| {
            let lowest = replicas.iter().map(|one| &one.published).min_by_key(|one| one.needs);
            let who = lowest.map_or("no replica".to_owned(), |one| format!("replica {}", one.replica));
            format!(
                "the ordered log holds as much as its servers have memory for: writes are refused. {who} needs the oldest of \
                 it, until it has made two more restore points or has been left behind"
            )
        });
        self.shared.condition(Condition::LogFull, full);
    }

    /// What survives a crash, and nothing newer: never the index in memory.
    async fn publish(&mut self, first: Position) -> Result<(), Trouble> {
        let needs = match mutated(Mutation::TruncateByApplied) {
            true => Needs { from: self.log.end().await?, index: self.shared.applied(), bytes: None, durable: true },
            false => needs_of_points(&self.agent, self.log.log_id().0, first, &mut self.known).await?,
        };
        self.shared.saw_first(first);
        if self.shared.set_needs(needs) {
            pass(Fault::PositionUnpublished);
            publish(&self.shared, &self.log, &self.agent).await?;
            pass(Fault::PositionPublished);
        }
        Ok(())
    }

    /// What all replicas have made known, and which of them are away or gone.
    async fn look_at_all(&mut self) -> Result<Vec<Seen>, LogError> {
        let all = self.log.published().await?;
        self.seen.clone_from(&all);
        // A look is complete before anything that may panic.
        let mut presences = self.shared.presences.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(presences.look(all, Instant::now(), self.shared.config.patience()))
    }

    /// Ends the lives of replicas that are gone, which reads would ask for ever.
    async fn retire_silent(&mut self) -> Result<(), LogError> {
        let living = self.log.living().await?;
        let limit = self.shared.config.silent_after();
        for life in self.silence.look(&living, &self.seen, Instant::now(), limit) {
            let (replica, incarnation) = life;
            if replica != self.shared.config.replica {
                tracing::warn!(replica, %incarnation, ?limit, "it gives no sign of life: reads ask it no longer");
                self.log.retire(life).await?;
            }
        }
        Ok(())
    }
}

/// What the oldest restore point needs that a log from `first` on reaches back to; the whole log if there are not two, so that a
/// damaged one has another behind it. In a log that was given up in part one must do. `known`: what each needs, by its id.
pub async fn needs_of_points<A: Agent>(
    agent: &A,
    log: Uuid,
    first: Position,
    known: &mut BTreeMap<String, Needs>,
) -> Result<Needs, Trouble> {
    let source = agent.source();
    let points = own(agent.restore_points_of(&source).await?);
    known.retain(|id, _| points.iter().any(|point| point.id == *id));
    if points.len() < 2 && first == Position::START {
        return Ok(Needs::ALL);
    }
    for point in points {
        let needs = match known.get(&point.id) {
            Some(known) => *known,
            None => {
                let manifest = agent.manifest_of(&source, &point.id).await?;
                let state = State::of_mark(manifest.mark, log).map_err(Trouble::State)?;
                let needs = Needs::after(&state, true);
                known.insert(point.id, needs);
                needs
            }
        };
        if needs.from >= first {
            return Ok(needs);
        }
    }
    Ok(Needs::ALL)
}

/// Those of a store's restore points that its replica needs, oldest first. Older ones are kept while somebody reads them: whoever
/// copies one makes known by itself what that needs, and held by both the log might be full of it.
fn own(mut points: Vec<RestorePoint>) -> Vec<RestorePoint> {
    points.sort_by_key(|point| point.sequence);
    points.split_off(points.len().saturating_sub(RESTORE_POINTS_KEPT))
}

/// Makes known what this replica needs of the log now, if that is known here, and what it has executed: more than its
/// earlier lives have, whatever its store is at.
pub async fn publish<L: OrderedLog, A: Agent>(shared: &Shared, log: &L, agent: &A) -> Result<(), LogError> {
    let Some(Needs { from: needs, index, bytes, durable }) = shared.needs() else { return Ok(()) };
    let (replica, incarnation) = (shared.config.replica, log.incarnation());
    if !shared.stuck.knows_earlier() {
        let all = log.published().await?;
        let earlier = all.iter().find(|one| one.replica == replica).map_or(0, |one| one.executed);
        shared.stuck.earlier_executed(earlier);
    }
    let (source, beat, executed) = (agent.source(), shared.next_beat(), shared.stuck.executed_upto());
    let forward = shared.forward();
    log.publish(Published { replica, incarnation, needs, index, source, durable, beat, executed, bytes, forward }).await
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

#[cfg(test)]
mod tests {
    use replicateddb_store::api::Files;

    use super::*;

    #[test]
    fn a_restore_point_that_somebody_copies_is_no_need_of_ones_own() {
        let point = |sequence: u64| {
            let (id, files) = (format!("p{sequence}"), Files::default());
            RestorePoint { id, sequence, index: 0, created_ms: 0, files }
        };
        let kept = |sequences: &[u64]| -> Vec<u64> {
            own(sequences.iter().map(|sequence| point(*sequence)).collect())
                .iter()
                .map(|point| point.sequence)
                .collect()
        };
        assert!(kept(&[]).is_empty());
        assert_eq!(kept(&[5]), [5]);
        assert_eq!(kept(&[9, 7, 3, 8]), [8, 9], "3 and 7 are being read");
    }
}
