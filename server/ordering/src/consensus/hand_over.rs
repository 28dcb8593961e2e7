//! Giving up leading before a stop, so that nobody has to notice it.
//!
//! Without it the others wait until the leader has been silent for long, and then elect. The library has no message for it,
//! so: the leader proposes nothing more and waits until the one that is to follow it has everything; it has all of them take
//! note of a term that nobody leads, by which they no longer wait for it, and stops leading itself; and it tells the other
//! one to stand for election, which it wins, having everything. Wherever this breaks off, an election comes as after a crash.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::future::join_all;
use tokio::time::{Duration, Instant, timeout_at};

use super::core::Core;
use super::frames::{Request, Small};
use super::peer::Lane;
use super::serve::give_up_lease;
use super::types::{Metrics, NodeId, replica_of};

/// The longest that it takes.
const LIMIT: Duration = Duration::from_secs(3);

/// Hands over to the voter that is farthest, if this node leads; whether another one leads, or none is to.
pub(super) async fn hand_over(core: &Arc<Core>) -> bool {
    if core.metrics().current_leader != Some(core.node) {
        return true;
    }
    core.yielding.store(true, Ordering::Release);
    let done = timeout_at(Instant::now() + LIMIT, try_hand_over(core)).await.unwrap_or(false);
    core.yielding.store(false, Ordering::Release);
    done
}

async fn try_hand_over(core: &Arc<Core>) -> bool {
    let deadline = Instant::now() + LIMIT;
    let mut metrics = core.raft.metrics();
    let ready =
        metrics.wait_for(|metrics| metrics.current_leader != Some(core.node) || follower(metrics).is_some()).await;
    let Ok(ready) = ready.map(|metrics| metrics.clone()) else { return false };
    let Some(next) = follower(&ready).filter(|_| ready.current_leader == Some(core.node)) else {
        return ready.current_leader.is_some();
    };
    let term = ready.current_term + 1;
    let voters: BTreeSet<NodeId> = ready.membership_config.voter_ids().filter(|voter| *voter != core.node).collect();
    let told = voters.iter().map(|voter| {
        let request = Request::Small(Small::Yield { to: *voter, term });
        async move { core.peers.call(replica_of(*voter), Lane::Control, &request, deadline).await }
    });
    // Not each of them has to have heard it: a majority elects.
    let told = join_all(told).await;
    give_up_lease(core, term).await;
    let elect = Request::Small(Small::Elect { to: next });
    let asked = core.peers.call(replica_of(next), Lane::Control, &elect, deadline).await;
    tracing::info!(replica = replica_of(next), told = told.len(), asked = asked.is_ok(), "leading is handed over");
    let other = |metrics: &Metrics| metrics.current_leader.is_some_and(|leader| leader != core.node);
    metrics.wait_for(other).await.is_ok()
}

/// A voter that has everything.
fn follower(metrics: &Metrics) -> Option<NodeId> {
    let replication = metrics.replication.as_ref()?;
    let voters: BTreeSet<NodeId> = metrics.membership_config.voter_ids().collect();
    let whole =
        |matched: &Option<super::types::RaftLogId>| matched.map(|matched| matched.index) == metrics.last_log_index;
    replication
        .iter()
        .find(|(node, matched)| **node != metrics.id && voters.contains(node) && whole(matched))
        .map(|(node, _)| *node)
}
