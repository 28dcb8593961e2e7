//! Recovery: bringing the store to exactly the state at some index before anything is applied (design 7).
//!
//! Order, each step durable before the next (I10): claim the agent for this incarnation (older ones are refused from
//! then on, I6) → a valid clean mark, or a rewind to the last restore point, or empty at 0 → the clean mark is gone
//! from the disk → only then is the next record applied.

use std::sync::Arc;

use replicateddb_store::api::{Manifest, Rewind};
use replicateddb_store::client::StoreError;
use tokio::time::{Duration, Instant};

use crate::backend::BackendError;
use crate::mutations::{Mutation, mutated};
use crate::replica::Phase;
use crate::shared::{Condition, Shared};
use crate::site::{Agent, Connector};
use crate::state::State;

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

/// Brings the store to a known state. `trust_clean`: this process has not applied anything yet, so that a clean mark
/// can only be the last process's; or nothing since it made the mark itself.
pub async fn recover<A: Agent, C: Connector>(
    shared: &Arc<Shared>,
    agent: &A,
    connector: &C,
    log_id: i64,
    trust_clean: bool,
) -> Result<Recovered<C::Backend>, RecoveryError> {
    shared.enter(Phase::Recovering, "asking what the store holds");
    agent.claim().await?;
    let status = agent.status().await?;
    let clean = status.clean.filter(|_| trust_clean);
    let (generation, manifest, rewound) = if let Some(clean) = clean {
        shared.enter(Phase::Recovering, "starting on a cleanly stopped store");
        let generation = agent.start().await?;
        (generation, clean.manifest, false)
    } else {
        shared.enter(Phase::Recovering, "bringing the store back to its last restore point, or to its beginning");
        let rewound = agent.rewind(Rewind::Latest).await?;
        shared.metrics.rewinds.inc();
        // With an older base there is more to replay; the next restore point ends it.
        let damaged = agent.status().await?.damaged;
        let text = damaged.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        shared.condition(Condition::RestorePoint, (!text.is_empty()).then_some(text));
        (rewound.generation, rewound.manifest, true)
    };
    let state = state_of(manifest.as_ref(), log_id).map_err(RecoveryError::Fatal)?;
    wait_for_clock(shared, agent, manifest.as_ref()).await?;
    if !mutated(Mutation::KeepCleanMark) {
        agent.clear_clean().await?;
    }
    agent.autocompaction(false, None).await?;
    // Proves that the JVM is still the one whose state is known; a later one has another generation.
    let backend = connector.connect(generation).await?;
    let restore_point = manifest.as_ref().filter(|_| rewound).map(|manifest| manifest.mark.index);
    tracing::info!(generation, index = state.index(), rewound, "store recovered");
    Ok(Recovered { state, generation, backend, restore_point, rewound })
}

fn state_of(manifest: Option<&Manifest>, log_id: i64) -> Result<State, String> {
    match manifest {
        None => Ok(State::initial(log_id)),
        Some(manifest) => State::restore(manifest.mark.replica_state.clone(), log_id, manifest.mark.index),
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
