//! Rolls, decided on invented observations.

use super::*;
use crate::problem::{Problem, Reason};
use proptest::prelude::*;

fn pod(tier: Tier, ordinal: i32, revision: &str, ready: bool) -> PodView {
    PodView {
        name: format!("orders-{}-{ordinal}", tier.component()),
        uid: format!("{tier}-{ordinal}-{revision}"),
        ordinal,
        revision: Some(revision.to_owned()),
        ip: None,
        ready,
        terminating: false,
        failure: None,
    }
}

/// Three tiers of three ready pods; `old` says which tiers have pods of the old revision.
fn stack(old: &[Tier]) -> Vec<TierView> {
    Tier::ALL
        .map(|tier| {
            let revision = if old.contains(&tier) { "old" } else { "new" };
            let pods = (0..3).map(|ordinal| pod(tier, ordinal, revision, true)).collect();
            TierView { tier, size: 3, revision: Some("new".to_owned()), pods }
        })
        .into()
}

/// A whole ensemble led by `leader`, and replicas that serve.
fn healthy(leader: i32) -> Reports {
    let zookeeper = |ordinal| match ordinal == leader {
        true => ZooKeeperReport { role: Role::Leader, synced_followers: 2 },
        false => ZooKeeperReport { role: Role::Follower, synced_followers: 0 },
    };
    let replica = ReplicaReport { state: "serving".into(), lag: Some(0), ..Default::default() };
    Reports {
        zookeeper: (0..3).map(|ordinal| (ordinal, zookeeper(ordinal))).collect(),
        replicas: (0..3).map(|ordinal| (ordinal, replica.clone())).collect(),
    }
}

fn names(step: &Step) -> Vec<&str> {
    step.delete.iter().map(|replacement| replacement.name.as_str()).collect()
}

/// Carries a roll out to its end as the StatefulSet controller would; the order in which pods went.
fn roll_through(mut tiers: Vec<TierView>, leader: i32) -> Vec<String> {
    let mut order = Vec::new();
    while needed(&tiers) {
        let step = plan(&tiers, &healthy(leader));
        assert_eq!(step.delete.len(), 1, "one at a time; {:?}", step.waiting);
        let name = step.delete[0].name.clone();
        for tier in &mut tiers {
            for pod in tier.pods.iter_mut().filter(|pod| pod.name == name) {
                pod.revision = tier.revision.clone();
            }
        }
        order.push(name);
        assert!(order.len() <= 9, "it ends");
    }
    order
}

#[test]
fn nothing_outdated_nothing_done() {
    let tiers = stack(&[]);
    assert!(!needed(&tiers));
    assert_eq!(plan(&tiers, &Reports::default()), Step::default());
}

#[test]
fn zookeeper_then_cassandra_then_replicas_and_the_leader_last() {
    let order = roll_through(stack(&Tier::ALL), 2);
    let expected = [
        "zookeeper-1",
        "zookeeper-0",
        "zookeeper-2",
        "cassandra-2",
        "cassandra-1",
        "cassandra-0",
        "replica-2",
        "replica-1",
        "replica-0",
    ];
    assert_eq!(order, expected.map(|name| format!("orders-{name}")));
}

#[test]
fn zookeeper_waits_for_the_whole_quorum() {
    let tiers = stack(&[Tier::ZooKeeper]);
    let report = |role, synced_followers| ZooKeeperReport { role, synced_followers };
    let cases = [
        ("answer its admin interface", 0, None),
        ("join the quorum", 0, Some(report(Role::Other, 0))),
        ("to be in step", 1, Some(report(Role::Leader, 1))),
        ("one leader", 0, Some(report(Role::Leader, 2))),
    ];
    for (waits_for, ordinal, change) in cases {
        let mut reports = healthy(1);
        reports.zookeeper.remove(&ordinal);
        reports.zookeeper.extend(change.map(|report| (ordinal, report)));
        let step = plan(&tiers, &reports);
        assert!(step.delete.is_empty() && step.waiting.as_ref().is_some_and(|w| w.contains(waits_for)), "{step:?}");
    }
}

#[test]
fn replicas_must_have_caught_up() {
    for tier in [Tier::Cassandra, Tier::Replica] {
        let tiers = stack(&[tier]);
        let serving = healthy(0).replicas[&1].clone();
        let cases = [
            ("to serve, it is replaying", ReplicaReport { state: "replaying".into(), ..serving.clone() }),
            ("to catch up", ReplicaReport { lag: Some(CAUGHT_UP_LAG_MAX + 1), ..serving }),
        ];
        for (waits_for, report) in cases {
            let mut reports = healthy(0);
            reports.replicas.insert(1, report);
            let step = plan(&tiers, &reports);
            assert!(step.delete.is_empty() && step.waiting.as_ref().is_some_and(|w| w.contains(waits_for)), "{step:?}");
        }
        let mut reports = healthy(0);
        reports.replicas.clear();
        assert!(plan(&tiers, &reports).delete.is_empty(), "silence is no consent");
    }
}

#[test]
fn the_replaced_pod_comes_back_before_the_next_goes() {
    let mut tiers = stack(&[Tier::Replica]);
    tiers[2].pods[2] = pod(Tier::Replica, 2, "new", false);
    assert!(plan(&tiers, &healthy(0)).waiting.is_some_and(|w| w.contains("orders-replica-2 to become ready")));
    tiers[2].pods[2].terminating = true;
    assert!(plan(&tiers, &healthy(0)).waiting.is_some_and(|w| w.contains("orders-replica-2 to stop")));
    tiers[2].pods.remove(2);
    assert!(plan(&tiers, &healthy(0)).waiting.is_some_and(|w| w.contains("to exist")));
}

/// A bad image was rolled onto one pod, then corrected: the broken pod is replaced at once, without any gate.
#[test]
fn a_corrected_spec_heals_a_bad_roll() {
    let mut tiers = stack(&[Tier::ZooKeeper]);
    tiers[0].pods[2] = pod(Tier::ZooKeeper, 2, "bad", false);
    tiers[0].pods[2].failure = Some(Problem::new(Reason::ImageUnavailable, "no such image"));
    assert_eq!(names(&plan(&tiers, &Reports::default())), ["orders-zookeeper-2"]);
}

/// Not ready for a reason that no status tells: it is missing already, so it is next, and others wait for it.
#[test]
fn an_outdated_pod_that_is_not_ready_is_next() {
    let mut tiers = stack(&[Tier::Cassandra]);
    tiers[1].pods[0].ready = false;
    assert_eq!(names(&plan(&tiers, &Reports::default())), ["orders-cassandra-0"]);
}

/// A bad spec reached every pod, none of which is ready or says why. Replaced ones can't be ready before the others are
/// there, so the others come first.
#[test]
fn a_corrected_spec_heals_a_whole_tier() {
    let mut tiers = stack(&[Tier::ZooKeeper]);
    for pod in &mut tiers[0].pods {
        pod.ready = false;
    }
    tiers[0].pods[0] = pod(Tier::ZooKeeper, 0, "new", false);
    assert_eq!(names(&plan(&tiers, &Reports::default())), ["orders-zookeeper-1"]);
}

/// Replicas made from a bad template don't get ready; the corrected one changes their Cassandras too, which wait for the
/// replicas, or for what only the replica does.
#[test]
fn cassandras_do_not_wait_for_replicas_that_wait_to_be_replaced() {
    let mut tiers = stack(&[Tier::Cassandra, Tier::Replica]);
    tiers[2].pods[1].ready = false;
    let mut reports = healthy(0);
    reports.replicas.insert(1, ReplicaReport { state: "recovering".into(), ..Default::default() });
    assert_eq!(names(&plan(&tiers, &reports)), ["orders-replica-1"]);
    // a replaced Cassandra that only its replica can make ready
    tiers[1].pods[1] = pod(Tier::Cassandra, 1, "new", false);
    assert_eq!(names(&plan(&tiers, &reports)), ["orders-replica-1"]);
    // and all Cassandras replaced
    let mut tiers = stack(&[Tier::Replica]);
    (tiers[1].pods[1].ready, tiers[2].pods[1].ready) = (false, false);
    assert_eq!(names(&plan(&tiers, &reports)), ["orders-replica-1"]);
    // one at a time, and none that serves
    tiers[2].pods[0].terminating = true;
    assert!(plan(&tiers, &reports).delete.is_empty());
    tiers[2].pods[0].terminating = false;
    assert!(plan(&tiers, &healthy(0)).delete.is_empty(), "its probe is late");
}

/// A probe that is late takes no server out of the quorum; deleting it would.
#[test]
fn a_zookeeper_of_the_quorum_goes_only_while_the_others_make_one() {
    let mut tiers = stack(&[Tier::ZooKeeper]);
    tiers[0].pods[0].ready = false;
    assert_eq!(names(&plan(&tiers, &healthy(1))), ["orders-zookeeper-0"], "two are ready");
    tiers[0].pods[1].ready = false;
    let step = plan(&tiers, &healthy(1));
    assert!(step.delete.is_empty() && step.waiting.is_some(), "{step:?}");
    let mut reports = healthy(1);
    reports.zookeeper.insert(0, ZooKeeperReport { role: Role::Other, synced_followers: 0 });
    assert_eq!(names(&plan(&tiers, &reports)), ["orders-zookeeper-0"], "it is in no quorum");
    // one is missing: it is made anew before any other goes
    tiers[0].pods.remove(2);
    let step = plan(&tiers, &reports);
    assert!(step.delete.is_empty() && step.waiting.is_some_and(|w| w.contains("to exist")));
}

#[test]
fn a_failure_of_the_current_template_stops_the_roll() {
    let mut tiers = stack(&[Tier::ZooKeeper, Tier::Replica]);
    tiers[0].pods[2] = pod(Tier::ZooKeeper, 2, "new", false);
    tiers[0].pods[2].failure = Some(Problem::new(Reason::CrashLoop, "again and again"));
    let step = plan(&tiers, &healthy(0));
    assert!(step.delete.is_empty() && step.waiting.is_some());
}

#[test]
fn an_unseen_template_moves_nothing() {
    let mut tiers = stack(&Tier::ALL);
    for tier in &mut tiers {
        tier.revision = None;
    }
    assert!(!needed(&tiers) && plan(&tiers, &healthy(0)).delete.is_empty());
}

#[test]
fn a_later_tier_waits_for_an_earlier_one_to_be_whole() {
    let mut tiers = stack(&[Tier::Replica]);
    tiers[0].pods[1].ready = false;
    let step = plan(&tiers, &healthy(0));
    assert!(step.delete.is_empty() && step.waiting.is_some_and(|w| w.contains("ZooKeeper pods to be ready")));
}

proptest! {
    /// Whatever is observed, pods that are missing included: of pods that work, at most one goes, and only when all others
    /// of its tier are there and ready; only outdated pods go; and a ZooKeeper server that takes part in the quorum without
    /// having failed goes only while the others are there, a majority of them ready.
    #[test]
    fn never_two_working_pods(
        states in prop::collection::vec((0..3u8, any::<bool>(), any::<bool>(), any::<bool>()), 9),
        missing in prop::collection::vec(prop::bool::weighted(0.15), 9),
        silent in prop::collection::vec(any::<bool>(), 3),
        leader in 0..3i32,
    ) {
        let mut tiers = stack(&[]);
        for (index, (revision, ready, terminating, failed)) in states.into_iter().enumerate() {
            let pod = &mut tiers[index / 3].pods[index % 3];
            pod.revision = Some(["new", "old", "older"][usize::from(revision)].to_owned());
            (pod.ready, pod.terminating) = (ready, terminating);
            pod.failure = (failed && !ready).then(|| Problem::new(Reason::CrashLoop, "x"));
        }
        for (index, tier) in tiers.iter_mut().enumerate() {
            tier.pods.retain(|pod| !missing[index * 3 + usize::try_from(pod.ordinal).unwrap()]);
        }
        let mut reports = healthy(leader);
        reports.zookeeper.retain(|ordinal, _| !silent[usize::try_from(*ordinal).unwrap()]);
        let step = plan(&tiers, &reports);
        let gone: Vec<_> = tiers
            .iter()
            .flat_map(|tier| tier.pods.iter().map(move |pod| (tier, pod)))
            .filter(|(_, pod)| step.delete.iter().any(|replacement| replacement.uid == pod.uid))
            .collect();
        prop_assert_eq!(gone.len(), step.delete.len());
        prop_assert!(gone.iter().all(|(tier, pod)| tier.outdated(pod) && !pod.terminating));
        let working: Vec<_> = gone.iter().filter(|(_, pod)| pod.ready).collect();
        prop_assert!(working.len() <= 1);
        for (tier, _) in working {
            prop_assert_eq!(tier.ready(), tier.size);
        }
        for (tier, pod) in gone.iter().filter(|(tier, pod)| tier.tier == Tier::ZooKeeper && pod.failure.is_none()) {
            prop_assert_eq!(tier.pods.len(), 3);
            let others = tier.pods.iter().filter(|other| other.uid != pod.uid && other.ready && !other.terminating).count();
            prop_assert!(others >= 2 || !reports.zookeeper.contains_key(&pod.ordinal));
        }
    }
}
