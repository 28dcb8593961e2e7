//! Recovery: bringing the store to exactly the state at some index before anything is applied (design 7).
//!
//! Order, each step durable before the next (I10): claim the agent for this incarnation (older ones are refused from
//! then on, I6) → a valid clean mark, or a rewind to the last restore point, or empty at 0 → the clean mark is gone
//! from the disk → only then is the next record applied.

use std::collections::BTreeMap;
use std::sync::Arc;

use replicateddb_faults::{Fault, pass};
use replicateddb_ordering::{OrderedLog, Position};
use replicateddb_store::api::{Code, Manifest, Rewind};
use replicateddb_store::client::StoreError;
use tokio::time::{Duration, Instant};

use crate::backend::BackendError;
use crate::log_keeper::needs_of_points;
use crate::mutations::{Mutation, mutated};
use crate::replica::Phase;
use crate::shared::{Condition, Shared};
use crate::site::{Agent, Connector};
use crate::state::State;
use crate::take_over::{first, hold, retract, take_over};

/// Pause between two looks at Cassandra's clock.
const CLOCK_POLL: Duration = Duration::from_millis(200);

/// A store at exactly a state, and the connections to it.
pub struct Recovered<B> {
    /// The state.
    pub state: State,
    /// The generation that holds it.
    pub generation: u64,
    /// Connections to that generation.
    pub backend: B,
    /// The clean mark is known to be gone: from here on only a rewind gives a known state.
    pub restore_point: Option<u64>,
    /// The store was rewound.
    pub rewound: bool,
}

/// Why this attempt failed.
#[derive(Debug)]
pub enum RecoveryError {
    /// Try again.
    Retry(String),
    /// Nothing here can help.
    Fatal(String),
}

impl From<StoreError> for RecoveryError {
    fn from(error: StoreError) -> Self {
        if error.is_stale() {
            return Self::Fatal("a newer incarnation of this replica has claimed the store (I6)".to_owned());
        }
        // With the remedy, in the agent's words.
        if error.is_of_another_log() {
            return Self::Fatal(error.to_string());
        }
        Self::Retry(error.to_string())
    }
}

impl From<BackendError> for RecoveryError {
    fn from(error: BackendError) -> Self {
        Self::Retry(error.to_string())
    }
}

/// What a store was brought to, before anything is known of its log.
struct Base {
    generation: u64,
    manifest: Option<Manifest>,
    rewound: bool,
}

/// Brings the store to a known state, from which the log goes on. `trust_clean`: this process has not applied anything yet,
/// so that a clean mark can only be the last process's; or nothing since it made the mark itself.
pub async fn recover<L: OrderedLog, A: Agent, C: Connector>(
    shared: &Arc<Shared>,
    log: &L,
    agent: &A,
    connector: &C,
    trust_clean: bool,
) -> Result<Recovered<C::Backend>, RecoveryError> {
    shared.enter(Phase::Recovering, "asking what the store holds");
    agent.claim().await?;
    pass(Fault::RecoveryClaimed);
    let status = agent.status().await?;
    let mut clean = status.clean.filter(|_| trust_clean);
    if let Some(why) = status.distrusted {
        rebuild(shared, log, agent, &why).await?;
        clean = None;
    }
    let first = first(shared, log).await?;
    // Before anything is started on what is there: without the log behind it, it is of no use.
    let known = match &clean {
        Some(clean) => state_of(clean.manifest.as_ref(), log)?,
        None => state_of(newest(agent).await?.as_ref(), log)?,
    };
    if known.next_position() < first {
        take_over(shared, log, agent, &too_old(&known, first), false).await?;
        clean = None;
    } else {
        // What survives this life: a clean mark is gone with its first record, and a rewind may need the older point.
        let needs = needs_of_points(agent, log.log_id().0, first, &mut BTreeMap::new()).await;
        hold(shared, log, agent, needs.map_err(|trouble| RecoveryError::Retry(trouble.to_string()))?).await?;
    }
    let Base { generation, manifest, rewound } = match clean {
        Some(clean) => {
            shared.enter(Phase::Recovering, "starting on a cleanly stopped store");
            Base { generation: agent.start().await?, manifest: clean.manifest, rewound: false }
        }
        None => rewind_or_take_over(shared, log, agent).await?,
    };
    let state = state_of(manifest.as_ref(), log)?;
    if state.next_position() < first {
        // The newest restore point was found to be damaged. The next attempt knows.
        return Err(RecoveryError::Retry(too_old(&state, first)));
    }
    if let Some(index) = shared.stuck.held_by(&state) {
        // Its restore points are behind a record that all the others leave out.
        let why = format!("it may hold something of record {index}, which was skipped by the verdict of all replicas");
        agent.distrust(&why).await?;
        return Err(RecoveryError::Retry(why));
    }
    wait_for_clock(shared, agent, manifest.as_ref()).await?;
    if !mutated(Mutation::KeepCleanMark) {
        pass(Fault::MarkUncleared);
        agent.clear_clean().await?;
        pass(Fault::MarkCleared);
    }
    agent.autocompaction(false, None).await?;
    // Proves that the JVM is still the one whose state is known; a later one has another generation.
    let backend = connector.connect(generation).await?;
    let restore_point = manifest.as_ref().filter(|_| rewound).map(|manifest| manifest.mark.index);
    tracing::info!(generation, index = state.index(), rewound, "store recovered");
    Ok(Recovered { state, generation, backend, restore_point, rewound })
}

/// Has what the store holds, which differs from what the other replicas have, never used again, after whatever crash.
pub async fn distrust<A: Agent>(agent: &A, why: &str) -> Result<(), RecoveryError> {
    agent.claim().await?;
    agent.distrust(why).await?;
    pass(Fault::RebuildKnown);
    Ok(())
}

/// Gives up what a store holds that is [distrusted](distrust), by this process or an earlier one: it is built anew from the
/// whole log, or from a restore point of another replica. What is here goes when that is there, and not before.
async fn rebuild<L: OrderedLog, A: Agent>(shared: &Shared, log: &L, agent: &A, why: &str) -> Result<(), RecoveryError> {
    shared.condition(Condition::Diverged, Some(format!("the store is built anew: {why}")));
    retract(shared, log, agent).await?;
    if first(shared, log).await? == Position::START {
        shared.enter(Phase::Recovering, format!("emptying the store, to build it anew from the log: {why}"));
        agent.rewind(Rewind::Empty).await?;
        return Ok(());
    }
    take_over(shared, log, agent, why, true).await
}

/// The manifest of what a rewind would put back.
async fn newest<A: Agent>(agent: &A) -> Result<Option<Manifest>, RecoveryError> {
    let source = agent.source();
    let points = agent.restore_points_of(&source).await?;
    match points.iter().max_by_key(|point| point.sequence) {
        Some(point) => Ok(Some(agent.manifest_of(&source, &point.id).await?)),
        None => Ok(None),
    }
}

fn too_old(state: &State, first: Position) -> String {
    let (index, next) = (state.index(), state.next_position());
    format!("the store is at index {index} and needs the log from {next} on, which starts at {first}")
}

/// Puts back the newest restore point that is whole, or nothing if there never was one; another replica's if there were
/// and all are damaged.
async fn rewind_or_take_over<L: OrderedLog, A: Agent>(
    shared: &Shared,
    log: &L,
    agent: &A,
) -> Result<Base, RecoveryError> {
    shared.enter(Phase::Recovering, "bringing the store back to its last restore point, or to its beginning");
    pass(Fault::RewindUnasked);
    let rewound = match agent.rewind(Rewind::Latest).await {
        Err(error) if error.code() == Some(Code::Damaged) => {
            take_over(shared, log, agent, &error.to_string(), false).await?;
            agent.rewind(Rewind::Latest).await?
        }
        answer => answer?,
    };
    pass(Fault::RewindDone);
    shared.metrics.rewinds.inc();
    // With an older base there is more to replay; the next restore point ends it.
    let damaged = agent.status().await?.damaged;
    let text = damaged.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    shared.condition(Condition::RestorePoint, (!text.is_empty()).then_some(text));
    Ok(Base { generation: rewound.generation, manifest: rewound.manifest, rewound: true })
}

fn state_of<L: OrderedLog>(manifest: Option<&Manifest>, log: &L) -> Result<State, RecoveryError> {
    let log_id = log.log_id().0;
    match manifest {
        None => Ok(State::initial(log_id)),
        Some(manifest) => State::of_mark(manifest.mark.clone(), log_id).map_err(RecoveryError::Fatal),
    }
}

/// List order and dropped columns follow Cassandra's clock: nothing is applied before it has passed the manifest's.
async fn wait_for_clock<A: Agent>(
    shared: &Shared,
    agent: &A,
    manifest: Option<&Manifest>,
) -> Result<(), RecoveryError> {
    let Some(manifest) = manifest else { return Ok(()) };
    let started = Instant::now();
    loop {
        let now = agent.cassandra_now_ms().await?;
        if now > manifest.cassandra_now_ms || mutated(Mutation::IgnoreCassandrasClock) {
            shared.condition(Condition::Clock, None);
            return Ok(());
        }
        let behind = manifest.cassandra_now_ms - now;
        let text =
            format!("Cassandra's clock is {behind} ms behind the restore point's; waiting until it has passed it");
        if started.elapsed() >= shared.config.clock_wait {
            shared.condition(Condition::Clock, Some(text.clone()));
            return Err(RecoveryError::Retry(text));
        }
        tokio::time::sleep(CLOCK_POLL).await;
    }
}
