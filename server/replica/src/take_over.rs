//! A replica that the log no longer reaches back to takes over a restore point of another one (I8: it never skips).

use std::cmp::Reverse;

use replicateddb_faults::{Fault, once_sent, pass};
use replicateddb_ordering::truncation::Published;
use replicateddb_ordering::{LogError, OrderedLog, Position};
use replicateddb_store::api::RestorePoint;
use tokio::time::Duration;

use crate::log_keeper::publish;
use crate::recovery::RecoveryError;
use crate::replica::Phase;
use crate::shared::{Needs, Shared};
use crate::site::Agent;
use crate::state::State;

/// Pause before the log is asked again.
const LOG_RETRY: Duration = Duration::from_secs(1);
/// How often the agent is asked how far a copy is.
const PROGRESS: Duration = Duration::from_secs(5);

impl From<LogError> for RecoveryError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Fenced => Self::Fatal(error.to_string()),
            error => Self::Retry(error.to_string()),
        }
    }
}

/// The first position that the log still has.
pub async fn first<L: OrderedLog>(shared: &Shared, log: &L) -> Result<Position, RecoveryError> {
    patiently(shared, || log.first()).await
}

/// Asks the log, and waits while it can't be reached: nothing can be applied before.
async fn patiently<T, F>(shared: &Shared, ask: impl Fn() -> F) -> Result<T, RecoveryError>
where
    F: Future<Output = Result<T, LogError>>,
{
    loop {
        match ask().await {
            Err(LogError::Unavailable { reason }) => {
                shared.enter(Phase::Recovering, format!("waiting for the ordered log: {reason}"));
                tokio::time::sleep(LOG_RETRY).await;
            }
            answer => return Ok(answer?),
        }
    }
}

/// Has the newest restore point of another replica copied that the log reaches back to; a rewind puts it back. `why`: for
/// people. `replace`: the restore points that are here are not to be trusted.
pub async fn take_over<L: OrderedLog, A: Agent>(
    shared: &Shared,
    log: &L,
    agent: &A,
    why: &str,
    replace: bool,
) -> Result<(), RecoveryError> {
    tracing::warn!(why, "looking for a restore point of another replica");
    shared.enter(Phase::Recovering, format!("looking for a restore point of another replica: {why}"));
    let own = shared.config.replica;
    let mut candidates: Vec<(RestorePoint, Published)> = Vec::new();
    let mut reasons = Vec::new();
    for peer in patiently(shared, || log.published()).await? {
        if peer.replica == own || peer.source.is_empty() {
            continue;
        }
        match agent.restore_points_of(&peer.source).await {
            Ok(points) if points.is_empty() => reasons.push(format!("replica {} has none", peer.replica)),
            Ok(points) => candidates.extend(points.into_iter().map(|point| (point, peer.clone()))),
            Err(error) => reasons.push(format!("replica {}: {error}", peer.replica)),
        }
    }
    candidates.sort_by_key(|(point, _)| Reverse(point.index));
    for (point, peer) in candidates {
        match copy(shared, log, agent, &point, &peer, replace).await {
            Ok(()) => {
                shared.metrics.taken_over.inc();
                return Ok(());
            }
            Err(RecoveryError::Retry(reason)) => reasons.push(format!("replica {}: {reason}", peer.replica)),
            Err(fatal) => return Err(fatal),
        }
    }
    if reasons.is_empty() {
        reasons.push("no other replica has made any known".to_owned());
    }
    Err(RecoveryError::Retry(format!(
        "{why}; no restore point of another replica could be taken over: {}",
        reasons.join("; ")
    )))
}

/// Makes known, from now on, what is needed of the log.
pub async fn hold<L: OrderedLog, A: Agent>(
    shared: &Shared,
    log: &L,
    agent: &A,
    needs: Needs,
) -> Result<(), RecoveryError> {
    shared.set_needs(needs);
    patiently(shared, || publish(shared, log, agent)).await
}

/// Takes back that restore points of this store, which are not to be used any more, hold the log's beginning: what is
/// given up of it must lie on two volumes without this one. What this process or an earlier one has made known stands in
/// the log, and the log goes on to be kept from there.
pub async fn retract<L: OrderedLog, A: Agent>(shared: &Shared, log: &L, agent: &A) -> Result<(), RecoveryError> {
    let all = patiently(shared, || log.published()).await?;
    let own = all.into_iter().find(|published| published.replica == shared.config.replica);
    let Some(Published { needs, index, bytes, durable, .. }) = own else { return Ok(()) };
    shared.set_needs(Needs { from: needs, index, bytes, durable: false });
    if durable {
        patiently(shared, || publish(shared, log, agent)).await?;
    }
    Ok(())
}

async fn copy<L: OrderedLog, A: Agent>(
    shared: &Shared,
    log: &L,
    agent: &A,
    point: &RestorePoint,
    peer: &Published,
    replace: bool,
) -> Result<(), RecoveryError> {
    let manifest = agent.manifest_of(&peer.source, &point.id).await?;
    let state = State::of_mark(manifest.mark, log.log_id().0).map_err(RecoveryError::Retry)?;
    if let Some(index) = shared.stuck.held_by(&state) {
        return Err(RecoveryError::Retry(format!(
            "its restore point may hold something of record {index}, which was skipped"
        )));
    }
    // Made known before it is copied, so that the log keeps what follows it.
    let (needs, index) = (state.next_position(), state.index());
    hold(shared, log, agent, Needs::after(&state, false)).await?;
    pass(Fault::TakeOverHeld);
    let start = first(shared, log).await?;
    if needs < start {
        return Err(RecoveryError::Retry(format!(
            "its restore point at index {index} is before the log, which starts at {start}"
        )));
    }
    let what = format!("copying the restore point at index {index} of replica {}", peer.replica);
    shared.enter(Phase::Recovering, what.clone());
    tokio::select! {
        biased;
        copied = once_sent(Fault::TakeOverAsked, agent.install(&peer.source, &point.id, replace)) => {
            copied?;
            pass(Fault::TakeOverInstalled);
            Ok(())
        }
        never = progress(shared, agent, &what) => match never {},
    }
}

/// Shows how far a copy is.
async fn progress<A: Agent>(shared: &Shared, agent: &A, what: &str) -> std::convert::Infallible {
    let mut before = 0;
    loop {
        tokio::time::sleep(PROGRESS).await;
        if let Ok(Some(copy)) = agent.status().await.map(|status| status.installing) {
            if std::mem::replace(&mut before, copy.done_bytes) != copy.done_bytes {
                shared.came_forward();
            }
            let mib = |bytes: u64| bytes >> 20;
            shared
                .enter(Phase::Recovering, format!("{what}: {} of {} MiB", mib(copy.done_bytes), mib(copy.total_bytes)));
        }
    }
}
