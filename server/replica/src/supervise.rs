//! The replica's life: recover, replay, serve; again whenever the backend dies underneath; stop gracefully.

use std::sync::Arc;

use replicateddb_faults::{Fault, pass};
use replicateddb_ordering::{LogHealth, OrderedLog};
use replicateddb_store::api::{Jvm, Mark};
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::apply::Applier;
use crate::backend::Endpoint;
use crate::command::{Command, Exit, Rebuild};
use crate::log_keeper::{LogKeeper, beat, publish};
use crate::look_ahead::LookAhead;
use crate::mutations::{Mutation, mutated};
use crate::propose::{Ended, FENCED, Proposer};
use crate::record::{Record, RecordKind};
use crate::recovery::{Recovered, RecoveryError, distrust, recover};
use crate::replica::{Phase, Serving};
use crate::restore_point::RestorePoints;
use crate::shared::{Condition, Shared};
use crate::site::{Agent, Backend, Connector, Health};
use crate::state::State;
use crate::tick;

/// How often the agent is asked for the JVM while the backend can't be reached.
const WATCH: Duration = Duration::from_millis(500);
/// How often the agent is asked whether it is stopping. It takes a replica that is silent for longer for dead.
const STOP_WATCH: Duration = Duration::from_secs(1);
/// Attempts to write the clean mark at a graceful stop.
const CLEAN_ATTEMPTS: usize = 5;
/// Attempts to switch compaction on before clients are served without it.
const COMPACTION_ATTEMPTS: usize = 5;
/// How long a replica that has stopped waits for the log to know.
const RESIGN_WAIT: Duration = Duration::from_secs(2);
/// Pause between attempts of either kind, and between barriers of recovery.
const AGENT_RETRY: Duration = Duration::from_millis(500);

/// All that the core's life needs.
pub struct Supervisor<L, A, C> {
    /// Shared with the handle.
    pub shared: Arc<Shared>,
    /// The log.
    pub log: L,
    /// The store agent.
    pub agent: A,
    /// The local Cassandra.
    pub connector: C,
    /// For the replica's own records.
    pub proposer: Proposer,
    /// What the handle asks for.
    pub commands: mpsc::Receiver<Command>,
    /// Cancelled: stop gracefully.
    pub stop: CancellationToken,
}

impl<L: OrderedLog, A: Agent, C: Connector> Supervisor<L, A, C> {
    /// Runs to the end of the replica's life; returns why it ended.
    pub async fn run(mut self, proposing: impl Future<Output = Ended> + Send) -> String {
        let mut proposing = std::pin::pin!(proposing);
        let watching = watch_log(self.shared.clone(), self.log.health());
        let beating = beat(self.shared.clone(), self.log.clone(), self.agent.clone());
        let ahead = LookAhead::new(self.shared.clone(), self.log.clone(), self.proposer.clone()).run();
        let reason = tokio::select! {
            biased;
            reason = self.live() => reason,
            ended = &mut proposing => match ended {
                Ended::Fenced => FENCED.to_owned(),
                Ended::Closed => "nobody holds the replica any more".to_owned(),
            },
            never = watching => match never {},
            never = beating => match never {},
            never = ahead => match never {},
        };
        match self.stop.is_cancelled() {
            true => {
                self.shared.end(Phase::Stopping, &reason);
                self.resign().await;
            }
            false => self.shared.fail(&reason),
        }
        reason
    }

    /// The others need not ask a replica that has stopped; if that can't be said, their reads go through the log until they
    /// take it for gone. Before that the next life is told what this one has executed.
    async fn resign(&self) {
        let resigned = async {
            publish(&self.shared, &self.log, &self.agent).await?;
            self.log.resign().await
        };
        match timeout(RESIGN_WAIT, resigned).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(%error, "this life of the replica is not taken back"),
            Err(_) => tracing::info!("this life of the replica is not taken back: the log does not answer"),
        }
    }

    async fn live(&mut self) -> String {
        let (mut trust_clean, mut distrusted) = (true, None);
        // How often in a row recovery came to the same index, and which.
        let (mut setbacks, mut last) = (0u32, None);
        let mut pause = self.shared.config.recovery_retry_first;
        self.shared.recovering();
        loop {
            let recovered = tokio::select! {
                biased;
                recovered = self.base(&mut distrusted, trust_clean) => recovered,
                () = self.stop.cancelled() => return "stopped during recovery".to_owned(),
            };
            let recovered = match recovered {
                Ok(recovered) => recovered,
                Err(RecoveryError::Fatal(reason)) => return reason,
                Err(RecoveryError::Retry(reason)) => {
                    self.shared.metrics.error("recovery_retry");
                    self.shared.enter(Phase::Recovering, format!("trying again soon: {reason}"));
                    self.shared.condition(Condition::Agent, Some(reason));
                    if self.rest(&mut pause).await { continue } else { return "stopped during recovery".to_owned() }
                }
            };
            self.shared.condition(Condition::Agent, None);
            self.shared.condition(Condition::Diverged, None);
            trust_clean = false;
            let (generation, before) = (recovered.generation, recovered.state.index());
            // One good stretch does not mean that the trouble is over.
            setbacks = if last == Some(before) { setbacks.saturating_add(1) } else { setbacks.saturating_sub(1) };
            last = Some(before);
            match self.one_generation(recovered, setbacks).await {
                Exit::Stopped(state) => {
                    let (index, marked) = (state.index(), self.mark_clean(generation, &state).await);
                    if self.stop.is_cancelled() {
                        return match marked {
                            Ok(()) => format!("stopped cleanly at index {index}"),
                            Err(reason) => format!("stopped; without a clean mark the next start rewinds: {reason}"),
                        };
                    }
                    // The agent stops. The mark, if there is one, is ours, and nothing is applied before it is cleared.
                    trust_clean = marked.is_ok();
                    tracing::info!(index, ?marked, "drained for the store agent, which is stopping");
                    self.shared.enter(Phase::Recovering, "waiting for the store agent, which is restarted");
                    self.shared.condition(Condition::Backend, None);
                    self.shared.recovering();
                    pause = self.shared.config.recovery_retry_first;
                    if !self.rest(&mut pause).await {
                        return "stopped during recovery".to_owned();
                    }
                }
                Exit::Fatal(reason) => return reason,
                Exit::Rebuild(rebuild) => {
                    let reason = &rebuild.reason;
                    self.shared.metrics.error("diverged");
                    self.shared.condition(Condition::Diverged, Some(format!("the store is built anew: {reason}")));
                    self.shared.enter(Phase::Recovering, format!("building the store anew: {reason}"));
                    self.shared.recovering();
                    distrusted = Some(rebuild);
                }
                Exit::Rewind(reason) if self.stop.is_cancelled() => {
                    return format!("stopped; without a clean mark the next start rewinds: {reason}");
                }
                Exit::Rewind(reason) => {
                    tracing::warn!(%reason, "the store has to be rewound");
                    self.shared.condition(Condition::Backend, None);
                    self.shared.condition(Condition::Apply, None);
                    self.shared.enter(Phase::Recovering, format!("rewinding: {reason}"));
                    self.shared.recovering();
                    if self.shared.applied() > before {
                        pause = self.shared.config.recovery_retry_first;
                    }
                    if !self.rest(&mut pause).await {
                        return "stopped during recovery".to_owned();
                    }
                }
            }
        }
    }

    /// A state from which the log goes on. If what is there is to be built anew, the agent is told before anything else:
    /// from then on every recovery, of a later process, too, gives it up. Until that is done nobody is served.
    async fn base(
        &self,
        distrusted: &mut Option<Rebuild>,
        trust_clean: bool,
    ) -> Result<Recovered<C::Backend>, RecoveryError> {
        if let Some(rebuild) = distrusted.as_ref() {
            distrust(&self.agent, &rebuild.reason).await?;
        }
        if let Some(Rebuild { known, .. }) = distrusted.take() {
            // Who asked may have gone.
            let _ = known.send(());
        }
        recover(&self.shared, &self.log, &self.agent, &self.connector, trust_clean).await
    }

    /// Waits before the next attempt; `false` if the replica is to stop.
    async fn rest(&self, pause: &mut Duration) -> bool {
        let now = *pause;
        *pause = (*pause * 2).min(self.shared.config.recovery_retry_last);
        tokio::select! {
            biased;
            () = tokio::time::sleep(now) => true,
            () = self.stop.cancelled() => false,
        }
    }

    /// From a known state until the generation, or the replica, ends.
    async fn one_generation(&mut self, recovered: Recovered<C::Backend>, setbacks: u32) -> Exit {
        let Recovered { state, generation, backend, restore_point, rewound } = recovered;
        let shared = self.shared.clone();
        // A restore point of another replica may contain what this one has proposed and never executed itself.
        let (replica, incarnation) = (shared.config.replica, shared.incarnation);
        shared.unresolved.executed_elsewhere(|sequence| state.contains(replica, incarnation, sequence));
        shared.recovered(generation, state.index(), restore_point, rewound);
        shared.stuck.passed(state.index());
        shared.enter(Phase::Replaying, format!("replaying from index {}", state.index()));
        let (base, tail) = (state.index(), self.log.tail(state.next_position()));
        let restore_points =
            RestorePoints::new(shared.clone(), self.agent.clone(), generation, state.index(), setbacks);
        let agent = self.agent.clone();
        let applier = Applier::new(shared.clone(), backend.clone(), agent, restore_points, state, tail);
        let life = Life {
            shared: shared.clone(),
            agent: self.agent.clone(),
            backend: backend.clone(),
            proposer: self.proposer.clone(),
            generation,
            base,
            cassandra: self.connector.endpoint(),
        };
        let keeper = LogKeeper::new(shared.clone(), self.log.clone(), self.agent.clone());
        let stop = self.stop.clone();
        let drained = CancellationToken::new();
        let exit = tokio::select! {
            // The applier first: when it has come to an end in the same moment, its word counts.
            biased;
            exit = applier.run(&mut self.commands, &drained) => exit,
            reason = life.watch_generation() => Exit::Rewind(reason),
            never = life.serve() => match never {},
            never = keeper.run() => match never {},
            reason = stopping(&shared, &self.agent, &stop, &drained) => Exit::Rewind(reason),
        };
        if !matches!(exit, Exit::Stopped(_)) {
            shared.stop_serving("the store is being recovered");
        }
        exit
    }

    /// The next start needs no rewind. Nothing is in flight any more.
    async fn mark_clean(&self, generation: u64, state: &State) -> Result<(), String> {
        pass(Fault::StopDrained);
        let replica_state = serde_json::to_value(state).map_err(|e| e.to_string())?;
        let mark = Mark { index: state.index(), replica_state };
        let mut reason = String::new();
        for _ in 0..CLEAN_ATTEMPTS {
            match self.agent.mark_clean(generation, mark.clone()).await {
                Ok(()) => {
                    pass(Fault::StopMarked);
                    return Ok(());
                }
                Err(error) => {
                    tracing::warn!(%error, "no clean mark yet");
                    reason = error.to_string();
                }
            }
            tokio::time::sleep(AGENT_RETRY).await;
        }
        Err(reason)
    }
}

/// Shows when the ordered log can't be reached.
async fn watch_log(shared: Arc<Shared>, mut health: watch::Receiver<LogHealth>) -> std::convert::Infallible {
    loop {
        let text = match &*health.borrow_and_update() {
            LogHealth::Connected => None,
            LogHealth::Disconnected { detail, .. } => Some(format!("the ordered log can't be reached: {detail}")),
        };
        shared.condition(Condition::Log, text);
        if health.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Completes when the agent shuts down gracefully.
async fn agent_stops<A: Agent>(agent: &A) {
    loop {
        tokio::time::sleep(STOP_WATCH).await;
        if agent.status().await.is_ok_and(|status| status.stopping) {
            return;
        }
    }
}

/// At a graceful stop, of the replica or of the agent beside it: no new requests, those on their way get their answers,
/// then the applier drains; both bounded. Completes, with the reason, if it does not drain in time: what the store holds
/// is not known then.
async fn stopping<A: Agent>(
    shared: &Shared,
    agent: &A,
    stop: &CancellationToken,
    drained: &CancellationToken,
) -> String {
    tokio::select! {
        biased;
        () = stop.cancelled() => shared.enter(Phase::Stopping, "stopping: finishing what is on its way"),
        () = agent_stops(agent) => {
            shared.enter(Phase::Recovering, "the store agent is stopping: finishing what is on its way");
        }
    }
    let deadline = Instant::now() + shared.config.stop_wait;
    while shared.unresolved.anyone_waits() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drained.cancel();
    tokio::time::sleep(shared.config.drain_wait).await;
    "records on their way were not executed in time; the next start rewinds".to_owned()
}

/// What goes on beside the applier of one generation.
struct Life<A, B> {
    shared: Arc<Shared>,
    agent: A,
    backend: B,
    proposer: Proposer,
    generation: u64,
    /// Index that the store was brought to.
    base: u64,
    cassandra: Endpoint,
}

impl<A: Agent, B: Backend> Life<A, B> {
    /// Completes, with the reason, when the JVM is no longer the one that was recovered.
    async fn watch_generation(&self) -> String {
        let mut health = self.backend.health();
        loop {
            let known = health.borrow_and_update().clone();
            match known {
                Health::Healthy => {
                    self.shared.condition(Condition::Backend, None);
                    if health.changed().await.is_err() {
                        return "the backend's connections are gone".to_owned();
                    }
                }
                Health::Gone { reason } => return reason,
                Health::Lost { reason } => {
                    self.shared.set_current(false);
                    // At once: sessions find their own connections broken, too.
                    self.shared.stop_serving(&reason);
                    self.shared.condition(Condition::Backend, Some(reason));
                    if let Some(over) = self.is_over().await {
                        return over;
                    }
                    let _ = tokio::time::timeout(WATCH, health.changed()).await;
                }
            }
        }
    }

    async fn is_over(&self) -> Option<String> {
        let status = self.agent.status().await.ok()?;
        if status.generation != self.generation {
            return Some(format!("Cassandra was restarted (generation {})", status.generation));
        }
        match status.jvm {
            Jvm::Running | Jvm::Starting => None,
            Jvm::Stopped => Some("Cassandra was stopped".to_owned()),
            Jvm::Failed { detail } => Some(format!("Cassandra died: {detail}")),
        }
    }

    /// Catches up, then serves whenever the backend is healthy (I5); proposes ticks.
    async fn serve(&self) -> std::convert::Infallible {
        // The first barrier is behind all that was in the log when the replay began, the second catches up with what
        // came meanwhile.
        self.catch_up().await;
        // What this replica has said it could not execute, and now has of another one, must be taken back before anybody sees it.
        self.shared.stuck.settled(self.base).await;
        self.now_current().await;
        self.shared.settled().await;
        let index = self.shared.applied();
        if let Some(replay) = self.shared.replayed(index) {
            self.shared.metrics.replayed.inc_by(replay.records);
        }
        let ticks = tick::propose_ticks(self.shared.clone(), self.proposer.clone());
        tokio::select! {
            biased;
            never = self.serve_while_healthy() => never,
            never = ticks => never,
        }
    }

    /// Catches up, and lets compaction go on. A DDL that was under way when the replica became current may still switch
    /// its table's compaction off: it is behind the second barrier, and what is behind it does not.
    async fn now_current(&self) {
        self.catch_up().await;
        self.shared.set_current(true);
        self.catch_up().await;
        self.start_compaction().await;
    }

    /// Completes when everything acknowledged before is applied here.
    async fn catch_up(&self) {
        if mutated(Mutation::ServeTooEarly) {
            return;
        }
        while let Err(error) = self.proposer.propose_patiently(Record::bare(RecordKind::Barrier)).await {
            tracing::warn!(%error, "the barrier before clients are served");
            tokio::time::sleep(AGENT_RETRY).await;
        }
    }

    /// The replica is current: cells may expire by the wall clock. Without compaction it can serve, too.
    async fn start_compaction(&self) {
        for _ in 0..COMPACTION_ATTEMPTS {
            match self.agent.autocompaction(true, None).await {
                Ok(()) => return self.shared.condition(Condition::Compaction, None),
                Err(error) => {
                    self.shared.condition(Condition::Compaction, Some(format!("compaction is off: {error}")));
                }
            }
            tokio::time::sleep(AGENT_RETRY).await;
        }
    }

    async fn serve_while_healthy(&self) -> std::convert::Infallible {
        let mut health = self.backend.health();
        let mut caught_up = true;
        loop {
            let healthy = *health.borrow_and_update() == Health::Healthy;
            let serving = matches!(*self.shared.serving.borrow(), Serving::Yes { .. });
            // Not while it drains.
            let phase = self.shared.status().state;
            if healthy && !serving && matches!(phase, Phase::Replaying | Phase::Serving) {
                // It may have been lost, and be back, while the replica became current.
                if !caught_up || !self.shared.is_current() {
                    // While the backend was lost nothing was applied; a DDL may have left its table without compaction.
                    self.now_current().await;
                    caught_up = true;
                    continue;
                }
                self.shared.enter(Phase::Serving, "serving clients");
                self.shared.start_serving(self.generation, self.cassandra.clone());
            }
            if health.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            caught_up = false;
        }
    }
}
