//! Replacing pods that were made from an older template. Pure: what is observed goes in, what to do comes out.
//!
//! StatefulSets never replace pods themselves (`OnDelete`). Pods are deleted one by one, with a UID precondition, tier
//! after tier: ZooKeeper (followers first, the leader last, each only while the others make a quorum), Cassandra, then the
//! replicas, each only when every replica has caught up. A pod that does not work and is outdated has nothing to lose:
//! it is replaced before anything is waited for, so that a corrected spec heals a bad roll: one that failed at once, one
//! that is merely not ready when it is what its own tier, or the Cassandras, wait for.

use std::collections::BTreeMap;

use crate::{
    names::Tier,
    pods::PodView,
    probe::{ReplicaReport, Role, ZooKeeperReport},
};

/// Records that a replica may be behind and still count as caught up: what is under way while clients write.
pub const CAUGHT_UP_LAG_MAX: i64 = 10_000;

/// A tier as a roll sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct TierView {
    /// Which.
    pub tier: Tier,
    /// Pods wanted.
    pub size: i32,
    /// The revision that pods should have; `None` until the StatefulSet controller has seen the newest template.
    pub revision: Option<String>,
    /// Its pods, those beyond `size` excluded.
    pub pods: Vec<PodView>,
}

impl TierView {
    fn outdated(&self, pod: &PodView) -> bool {
        self.revision.is_some() && pod.revision != self.revision
    }

    /// Pods of an older revision.
    pub fn outdated_pods(&self) -> impl Iterator<Item = &PodView> {
        self.pods.iter().filter(|pod| self.outdated(pod))
    }

    /// Pods that are ready.
    pub fn ready(&self) -> i32 {
        let ready = self.pods.iter().filter(|pod| pod.ready && !pod.terminating).count();
        i32::try_from(ready).unwrap_or(i32::MAX)
    }

    /// Not all pods are there.
    pub fn lacks_pods(&self) -> bool {
        i32::try_from(self.pods.len()).is_ok_and(|pods| pods < self.size)
    }

    /// All pods are there, ready and current.
    pub fn settled(&self) -> bool {
        self.revision.is_some() && self.ready() == self.size && self.outdated_pods().next().is_none()
    }
}

/// What the admin interfaces said, by ordinal; a member that did not answer is missing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reports {
    /// ZooKeeper servers.
    pub zookeeper: BTreeMap<i32, ZooKeeperReport>,
    /// Replicas.
    pub replicas: BTreeMap<i32, ReplicaReport>,
}

/// What a roll does next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// Pods to delete now.
    pub delete: Vec<Replacement>,
    /// What is waited for before the next one.
    pub waiting: Option<String>,
}

/// A pod to replace.
#[derive(Clone, Debug, PartialEq)]
pub struct Replacement {
    /// Whose.
    pub tier: Tier,
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
    /// Why, for the Event.
    pub why: String,
}

/// Whether any pod is outdated, so that the admin interfaces are worth asking.
pub fn needed(tiers: &[TierView]) -> bool {
    tiers.iter().any(|tier| tier.outdated_pods().next().is_some())
}

/// Decides the next step. `tiers` in rolling order.
pub fn plan(tiers: &[TierView], reports: &Reports) -> Step {
    let mut step = Step::default();
    for tier in tiers {
        for pod in tier.outdated_pods().filter(|pod| !pod.terminating && !pod.ready) {
            if let Some(failure) = &pod.failure {
                step.delete.push(replacement(tier, pod, &format!("it failed ({}) and is outdated", failure.reason)));
            }
        }
    }
    if !step.delete.is_empty() {
        return step;
    }
    for tier in tiers {
        let waiting = if tier.outdated_pods().next().is_some() {
            match next(tier, tiers, reports) {
                Ok(pod) => {
                    step.delete.push(replacement(tier, pod, "its template has changed"));
                    return step;
                }
                Err(waiting) => waiting,
            }
        } else if !tier.settled() && later_outdated(tiers, tier.tier) {
            // A later tier goes on only over earlier ones that are whole.
            format!("the {} pods to be ready before others are replaced", tier.tier)
        } else {
            continue;
        };
        let replicas = tiers.iter().find(|replicas| replicas.tier == Tier::Replica && tier.tier == Tier::Cassandra);
        match replicas.and_then(|replicas| Some((replicas, idle(replicas, reports)?))) {
            Some((replicas, pod)) => {
                let why = "it is outdated and not ready, and the Cassandra pods wait for the replicas";
                step.delete.push(replacement(replicas, pod, why));
            }
            None => step.waiting = Some(waiting),
        }
        return step;
    }
    step
}

/// An outdated replica that serves nobody. Cassandras wait for replicas to be ready, and are themselves ready only once
/// their replica has put them in order: such a one could hold its own correction up for ever.
fn idle<'a>(replicas: &'a TierView, reports: &Reports) -> Option<&'a PodView> {
    if replicas.pods.iter().any(|pod| pod.terminating) {
        return None;
    }
    let serves = |pod: &PodView| reports.replicas.get(&pod.ordinal).is_some_and(|report| report.state == "serving");
    replicas.outdated_pods().find(|pod| !pod.ready && !serves(pod))
}

fn later_outdated(tiers: &[TierView], than: Tier) -> bool {
    tiers.iter().any(|tier| tier.tier > than && tier.outdated_pods().next().is_some())
}

fn replacement(tier: &TierView, pod: &PodView, why: &str) -> Replacement {
    Replacement { tier: tier.tier, name: pod.name.clone(), uid: pod.uid.clone(), why: why.to_owned() }
}

/// The next pod of a tier to replace, or what must come first.
fn next<'a>(tier: &'a TierView, tiers: &[TierView], reports: &Reports) -> Result<&'a PodView, String> {
    if let Some(pod) = tier.pods.iter().find(|pod| pod.terminating) {
        return Err(format!("pod {} to stop", pod.name));
    }
    let missing = tier.lacks_pods();
    let existence = || Err(format!("all {} {} pods to exist", tier.size, tier.tier));
    if missing && tier.tier == Tier::ZooKeeper {
        return existence();
    }
    // Outdated and not ready: it is missing already, so it is next, before a replaced one that may need it to be ready.
    if let Some(pod) = tier.outdated_pods().find(|pod| !pod.ready && dispensable(tier, pod, reports)) {
        return Ok(pod);
    }
    if let Some(pod) = tier.pods.iter().find(|pod| !pod.ready) {
        let replaced = if tier.outdated(pod) { "" } else { "replaced " };
        return Err(format!("the {replaced}pod {} to become ready", pod.name));
    }
    if missing {
        return existence();
    }
    let highest = || {
        let pod = tier.outdated_pods().max_by_key(|pod| pod.ordinal);
        pod.ok_or_else(|| format!("the {} pods to be listed again", tier.tier))
    };
    match tier.tier {
        Tier::ZooKeeper => {
            let leader = quorum(tier, reports)?;
            let follower = tier.outdated_pods().filter(|pod| pod.ordinal != leader).max_by_key(|pod| pod.ordinal);
            follower.map_or_else(highest, Ok)
        }
        Tier::Cassandra | Tier::Replica => {
            for replicas in tiers.iter().filter(|tier| tier.tier == Tier::Replica) {
                caught_up(replicas, reports)?;
            }
            highest()
        }
    }
}

/// Whether a pod that is not ready can go. A ZooKeeper server may be part of the quorum though its probe says otherwise:
/// then the others must make one without it.
fn dispensable(tier: &TierView, victim: &PodView, reports: &Reports) -> bool {
    let takes_part = |pod: &PodView| {
        let report = reports.zookeeper.get(&pod.ordinal);
        report.is_some_and(|report| matches!(report.role, Role::Leader | Role::Follower))
    };
    if tier.tier != Tier::ZooKeeper || tier.size == 1 || !takes_part(victim) {
        return true;
    }
    let others = tier.pods.iter().filter(|pod| pod.uid != victim.uid && pod.ready && !pod.terminating).count();
    i32::try_from(others).is_ok_and(|others| others > tier.size / 2)
}

/// Ordinal of the leader of a whole ensemble: one leader, everybody else following it in step.
fn quorum(tier: &TierView, reports: &Reports) -> Result<i32, String> {
    let mut leaders = Vec::new();
    for pod in &tier.pods {
        match reports.zookeeper.get(&pod.ordinal) {
            None => return Err(format!("ZooKeeper on pod {} to answer its admin interface", pod.name)),
            Some(ZooKeeperReport { role: Role::Leader, synced_followers }) => leaders.push((pod, *synced_followers)),
            Some(ZooKeeperReport { role: Role::Follower, .. }) => {}
            Some(ZooKeeperReport { role: Role::Other, .. }) => {
                return Err(format!("ZooKeeper on pod {} to join the quorum", pod.name));
            }
        }
    }
    match leaders.as_slice() {
        [(leader, synced)] if *synced >= i64::from(tier.size) - 1 => Ok(leader.ordinal),
        [(_, synced)] => Err(format!("{} ZooKeeper followers to be in step, {synced} are", tier.size - 1)),
        _ => Err("ZooKeeper to have one leader".to_owned()),
    }
}

/// Every replica serves and has caught up.
fn caught_up(tier: &TierView, reports: &Reports) -> Result<(), String> {
    if tier.ready() < tier.size {
        return Err(format!("all {} replicas to be ready, {} are", tier.size, tier.ready()));
    }
    for pod in &tier.pods {
        match reports.replicas.get(&pod.ordinal) {
            None => return Err(format!("replica {} to answer its admin interface", pod.ordinal)),
            Some(report) if report.state != "serving" => {
                return Err(format!("replica {} to serve, it is {}", pod.ordinal, report.state));
            }
            Some(ReplicaReport { lag: Some(lag), .. }) if *lag > CAUGHT_UP_LAG_MAX => {
                return Err(format!("replica {} to catch up, it is {lag} records behind", pod.ordinal));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "roll_tests.rs"]
mod tests;
