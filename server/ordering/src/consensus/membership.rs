//! Which nodes take part: the first ones, new ones, and ones that leave.
//!
//! - **The first ones.** The replica with the number 0 begins the group, and only if every one of the replicas it is to
//!   begin with answers and none of them has taken part in anything: no vote, no entry, no snapshot; nor has any
//!   of the next few replicas that answers. So a group is never begun beside one that exists, as long as the volume of one of
//!   the first does, or one of the others that it had got is there.
//! - **New ones** (a replica that was added, or one whose volume was emptied) ask whoever leads to be taken in, again and
//!   again, until they vote. Each time the leader takes one step ([`step`]): the node learns first, without a vote; when it
//!   has nearly everything it gets its vote, and whatever node the replica was before loses its own in the same change.
//! - **Ones that leave** lose their vote.
//!
//! A replica with an emptied volume has forgotten what it promised. It is another node then (see
//! [`node_id`](super::types::node_id)), which has no vote until a majority of those that do have one has agreed; its predecessor
//! counts as one that does not answer. If a majority of the volumes is lost, nobody can agree any more, and
//! the log stands still: that is not to be mended by a program, for whatever it would choose might lack acknowledged entries.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::future::join_all;
use openraft::{ChangeMembers, EmptyNode};
use tokio::time::{Duration, Instant, sleep, timeout};

use super::core::{Core, Route};
use super::frames::{Answer, Request, Small};
use super::peer::{ANSWER_LIMIT, Lane};
use super::types::{Metrics, NodeId, replica_of};

/// Pause between two looks at whether the node takes part.
const PAUSE: Duration = Duration::from_millis(250);
/// How long a look at another node may take.
const LOOK_LIMIT: Duration = Duration::from_secs(1);
/// How long one change of the members may take.
const CHANGE_LIMIT: Duration = Duration::from_secs(3);
/// Entries that one may lack when it is given its vote.
const NEARLY: u64 = 1000;
/// Replicas beyond the first ones that may be there already when a group is to begin.
const BEYOND: u32 = 8;
/// Addresses that are asked for a leader in one round.
const ASKED: usize = 4;

/// The members, as whoever leads sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Members {
    /// Who votes; two sets while one replaces the other.
    pub(super) voters: Vec<BTreeSet<NodeId>>,
    /// Who learns.
    pub(super) learners: BTreeSet<NodeId>,
    /// The last entry that each is known to have.
    pub(super) matched: BTreeMap<NodeId, Option<u64>>,
    /// The last entry.
    pub(super) last: Option<u64>,
}

/// What is to be done next to take a node in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing: it votes.
    Votes,
    /// These are to be the voters; who is none any more is removed.
    Vote(BTreeSet<NodeId>),
    /// These learners are to go.
    Forget(BTreeSet<NodeId>),
    /// It is to learn.
    Learn,
    /// It has too little yet.
    Wait,
}

/// The next step for `node`, as `leader` sees it. No IO.
pub(super) fn step(members: &Members, leader: NodeId, node: NodeId) -> Step {
    let Some(newest) = members.voters.last() else { return Step::Wait };
    // A change whose leader went away in the middle.
    if members.voters.len() > 1 {
        return Step::Vote(newest.clone());
    }
    if newest.contains(&node) {
        return Step::Votes;
    }
    let same = |other: &NodeId| *other != node && replica_of(*other) == replica_of(node);
    if same(&leader) {
        // The same number twice, and the one that is here leads.
        return Step::Wait;
    }
    let stale: BTreeSet<NodeId> = members.learners.iter().copied().filter(same).collect();
    if !stale.is_empty() {
        return Step::Forget(stale);
    }
    if !members.learners.contains(&node) {
        return Step::Learn;
    }
    let has = members.matched.get(&node).copied().flatten();
    let nearly = has.is_some_and(|has| members.last.unwrap_or(0) <= has.saturating_add(NEARLY));
    match nearly {
        true => Step::Vote(newest.iter().copied().filter(|other| !same(other)).chain([node]).collect()),
        false => Step::Wait,
    }
}

/// The voters without a replica; `None` if it is the last one.
pub(super) fn without(members: &Members, replica: u32) -> Option<BTreeSet<NodeId>> {
    let newest = members.voters.last()?;
    let rest: BTreeSet<NodeId> = newest.iter().copied().filter(|node| replica_of(*node) != replica).collect();
    (!rest.is_empty()).then_some(rest)
}

fn members(metrics: &Metrics) -> Members {
    let membership = metrics.membership_config.membership();
    let matched = metrics.replication.iter().flatten();
    Members {
        voters: membership.get_joint_config().clone(),
        learners: membership.learner_ids().collect(),
        matched: matched.map(|(node, matched)| (*node, matched.map(|matched| matched.index))).collect(),
        last: metrics.last_log_index,
    }
}

/// Takes a step towards taking a node in, as the leader.
pub(super) async fn take_in(core: &Core, node: NodeId) -> Answer {
    let Ok(_changing) = core.changing.try_lock() else { return Answer::Joined(false) };
    let step = step(&members(&core.metrics()), core.node, node);
    let (changes, retain) = match step {
        Step::Votes => return Answer::Joined(true),
        Step::Wait => return Answer::Joined(false),
        Step::Vote(ref voters) => (ChangeMembers::ReplaceAllVoters(voters.clone()), false),
        Step::Forget(ref learners) => (ChangeMembers::RemoveNodes(learners.clone()), true),
        Step::Learn => (ChangeMembers::AddNodes(BTreeMap::from([(node, EmptyNode {})])), true),
    };
    tracing::info!(replica = replica_of(node), node = format!("{node:x}"), ?step, "the members change");
    match change(core, changes, retain).await {
        Ok(()) => Answer::Joined(false),
        Err(reason) => Answer::Refused(reason),
    }
}

/// Takes a replica out, as the leader.
pub(super) async fn take_out(core: &Core, replica: u32) -> Answer {
    let Ok(_changing) = core.changing.try_lock() else { return Answer::Refused("the members are changing".into()) };
    let members = members(&core.metrics());
    let learners: BTreeSet<NodeId> =
        members.learners.iter().copied().filter(|node| replica_of(*node) == replica).collect();
    let Some(rest) = without(&members, replica) else {
        return Answer::Refused(format!("replica {replica} is the last one"));
    };
    tracing::info!(replica, "a replica leaves");
    if !learners.is_empty()
        && let Err(reason) = change(core, ChangeMembers::RemoveNodes(learners), true).await
    {
        return Answer::Refused(reason);
    }
    if members.voters.len() == 1 && members.voters[0] == rest {
        return Answer::Done;
    }
    match change(core, ChangeMembers::ReplaceAllVoters(rest), false).await {
        Ok(()) => Answer::Done,
        Err(reason) => Answer::Refused(reason),
    }
}

async fn change(core: &Core, changes: ChangeMembers<NodeId, EmptyNode>, retain: bool) -> Result<(), String> {
    match timeout(CHANGE_LIMIT, core.raft.change_membership(changes, retain)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no majority agreed within {CHANGE_LIMIT:?}")),
    }
}

/// Sees to it that the node takes part, until it is dropped.
pub(super) async fn keep(core: Arc<Core>) {
    let mut votes = false;
    loop {
        if core.leaving.load(Ordering::Acquire) {
            votes = false;
            sleep(PAUSE).await;
            continue;
        }
        let pristine = core.machine.is_pristine();
        match core.route() {
            Route::Here => {
                // It may have come to lead in the middle of a change.
                take_in(&core, core.node).await;
                votes = true;
            }
            Route::There(_) if votes => {}
            Route::There(_) | Route::Nowhere => {
                votes = false;
                if pristine && replica_of(core.node) == 0 && begin(&core).await {
                    continue;
                }
                votes = ask_in(&core).await;
            }
        }
        sleep(PAUSE).await;
    }
}

/// Begins the group, if all of its first members are there and none has taken part in anything.
async fn begin(core: &Core) -> bool {
    let deadline = Instant::now() + LOOK_LIMIT;
    let hello = Request::Small(Small::Hello);
    let replicas = core.config.replicas;
    let looks = (1..replicas + BEYOND).map(|replica| {
        let look = core.peers.call(replica, Lane::Control, &hello, deadline);
        async move { (replica, look.await) }
    });
    let mut first = BTreeSet::from([core.node]);
    for (replica, look) in join_all(looks).await {
        match look {
            Ok(Answer::Hello { node, pristine: true }) if replica < replicas => {
                first.insert(node);
            }
            Ok(Answer::Hello { pristine: true, .. }) | Err(_) if replica >= replicas => {}
            _ => return false,
        }
    }
    if first.len() != core.config.replicas as usize {
        return false;
    }
    match core.raft.initialize(first).await {
        Ok(()) => {
            tracing::info!(replicas = core.config.replicas, "a new group begins");
            true
        }
        Err(error) => {
            tracing::debug!(%error, "the group was not begun");
            false
        }
    }
}

/// Asks to be taken in, wherever a leader may be; whether this node votes.
async fn ask_in(core: &Core) -> bool {
    let request = Request::Small(Small::Join { node: core.node });
    let own = replica_of(core.node);
    let mut places: Vec<u32> = (0..core.config.replicas).filter(|replica| *replica != own).collect();
    if let Route::There(leader) = core.route() {
        places.push(replica_of(leader));
    }
    for _ in 0..ASKED {
        let Some(replica) = places.pop() else { return false };
        match core.peers.call(replica, Lane::Control, &request, Instant::now() + ANSWER_LIMIT).await {
            Ok(Answer::Joined(votes)) => return votes,
            Ok(Answer::NotLeader(Some(leader))) if replica_of(leader) != own => places.push(replica_of(leader)),
            Ok(_) | Err(_) => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::types::node_id;
    use super::*;

    fn of(replicas: &[(u32, u64)]) -> BTreeSet<NodeId> {
        replicas.iter().map(|(replica, volume)| node_id(*replica, *volume)).collect()
    }

    fn three() -> Members {
        Members { voters: vec![of(&[(0, 1), (1, 1), (2, 1)])], last: Some(5000), ..Members::default() }
    }

    #[test]
    fn a_new_replica_learns_and_then_votes() {
        let (mut members, leader, new) = (three(), node_id(0, 1), node_id(3, 1));
        assert_eq!(step(&members, leader, new), Step::Learn);
        members.learners.insert(new);
        assert_eq!(step(&members, leader, new), Step::Wait);
        members.matched.insert(new, Some(3999));
        assert_eq!(step(&members, leader, new), Step::Wait);
        members.matched.insert(new, Some(4000));
        assert_eq!(step(&members, leader, new), Step::Vote(of(&[(0, 1), (1, 1), (2, 1), (3, 1)])));
        members.voters[0].insert(new);
        assert_eq!(step(&members, leader, new), Step::Votes);
    }

    #[test]
    fn an_emptied_volume_takes_its_predecessors_place() {
        let (mut members, leader, new) = (three(), node_id(0, 1), node_id(2, 9));
        assert_eq!(step(&members, leader, new), Step::Learn);
        members.learners.extend([new, node_id(2, 5)]);
        assert_eq!(step(&members, leader, new), Step::Forget(of(&[(2, 5)])));
        members.learners.remove(&node_id(2, 5));
        members.matched.insert(new, Some(5000));
        assert_eq!(step(&members, leader, new), Step::Vote(of(&[(0, 1), (1, 1), (2, 9)])));
    }

    #[test]
    fn nobody_takes_the_place_of_the_leader_that_is_there() {
        let mut members = three();
        members.learners.insert(node_id(0, 9));
        members.matched.insert(node_id(0, 9), Some(5000));
        assert_eq!(step(&members, node_id(0, 1), node_id(0, 9)), Step::Wait);
    }

    #[test]
    fn a_change_that_was_left_in_the_middle_is_finished_first() {
        let mut members = three();
        members.voters.push(of(&[(0, 1), (1, 1)]));
        assert_eq!(step(&members, node_id(0, 1), node_id(4, 1)), Step::Vote(of(&[(0, 1), (1, 1)])));
    }

    #[test]
    fn the_last_one_stays() {
        let members = Members { voters: vec![of(&[(1, 4)])], ..Members::default() };
        assert_eq!(without(&members, 1), None);
        assert_eq!(without(&three(), 1), Some(of(&[(0, 1), (2, 1)])));
    }

    proptest! {
        /// Whatever volumes are emptied, in whatever order, step after step: no replica ever votes twice, and whoever asks
        /// for long enough votes in the end.
        #[test]
        fn each_replica_votes_once(comers in prop::collection::vec((1..5u32, 2..6u64), 1..12)) {
            let (mut members, leader) = (three(), node_id(0, 1));
            for (replica, volume) in comers {
                let node = node_id(replica, volume);
                for _ in 0..10 {
                    match step(&members, leader, node) {
                        Step::Votes => break,
                        Step::Vote(voters) => {
                            members.learners.retain(|learner| !voters.contains(learner));
                            members.voters = vec![voters];
                        }
                        Step::Forget(learners) => members.learners.retain(|learner| !learners.contains(learner)),
                        Step::Learn => {
                            members.learners.insert(node);
                        }
                        Step::Wait => {
                            members.matched.insert(node, members.last);
                        }
                    }
                    let replicas: BTreeSet<u32> = members.voters[0].iter().map(|node| replica_of(*node)).collect();
                    prop_assert_eq!(replicas.len(), members.voters[0].len());
                }
                prop_assert!(members.voters[0].contains(&node));
            }
        }
    }
}
