//! What pods and claims say, told so that a user can act.

use super::*;
use serde_json::{Value, json};

fn pod(status: Value) -> Pod {
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "status": status,
        "metadata": {"name": "orders-cassandra-1", "uid": "u", "labels": {LABEL_REVISION: "r1"}},
    }))
    .unwrap()
}

fn failure_in(tier: Tier, status: Value) -> Option<(Reason, String)> {
    view(&pod(status), tier, now()).unwrap().failure.map(|problem| (problem.reason, problem.message))
}

fn failure_of(status: Value) -> Option<(Reason, String)> {
    failure_in(Tier::Cassandra, status)
}

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

fn container(state: Value, last: Value) -> Value {
    let container = json!({"name": "c", "image": "reg/cassandra:typo", "imageID": "", "ready": false, "restartCount": 1,
        "state": state, "lastState": last});
    json!({"phase": "Running", "containerStatuses": [container]})
}

#[test]
fn a_pod_as_decisions_see_it() {
    let view = view(
        &pod(json!({"podIP": "10.0.0.7", "conditions": [{"type": "Ready", "status": "True"}]})),
        Tier::Cassandra,
        now(),
    )
    .unwrap();
    assert_eq!((view.ordinal, view.ready, view.terminating), (1, true, false));
    assert_eq!((view.revision.as_deref(), view.ip.as_deref(), view.failure), (Some("r1"), Some("10.0.0.7"), None));
}

#[test]
fn failures_name_the_remedy() {
    let waiting = |reason: &str| container(json!({"waiting": {"reason": reason, "message": "not found"}}), json!({}));
    for reason in ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"] {
        let (kind, message) = failure_of(waiting(reason)).unwrap();
        assert_eq!(kind, Reason::ImageUnavailable);
        assert!(message.contains("reg/cassandra:typo") && message.contains("spec.cassandra.image"), "{message}");
    }
    let (kind, message) = failure_of(waiting("CreateContainerConfigError")).unwrap();
    assert!(kind == Reason::ContainerConfig && message.contains("not found"));
    let crash = container(
        json!({"waiting": {"reason": "CrashLoopBackOff"}}),
        json!({"terminated": {"exitCode": 3, "reason": "Error"}}),
    );
    let (kind, message) = failure_of(crash).unwrap();
    assert!(
        kind == Reason::CrashLoop && message.contains("code 3") && message.contains("logs --previous"),
        "{message}"
    );
    let killed = container(
        json!({"waiting": {"reason": "CrashLoopBackOff"}}),
        json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
    );
    let (kind, message) = failure_of(killed).unwrap();
    assert!(kind == Reason::OutOfMemory && message.contains("spec.cassandra.resources.limits.memory"), "{message}");
    let scheduled =
        json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"});
    let (kind, message) = failure_of(json!({"phase": "Pending", "conditions": [scheduled]})).unwrap();
    assert!(kind == Reason::Unschedulable && message.contains("0/3 nodes"), "{message}");
}

/// A ZooKeeper that has used its heap up ends with the JVM's own code; a Cassandra's agent has that code for other things.
#[test]
fn a_used_up_heap_names_the_limit() {
    let crash = container(
        json!({"waiting": {"reason": "CrashLoopBackOff"}}),
        json!({"terminated": {"exitCode": 3, "reason": "Error"}}),
    );
    let (kind, message) = failure_in(Tier::ZooKeeper, crash.clone()).unwrap();
    assert!(kind == Reason::OutOfMemory && message.contains("spec.zookeeper.resources.limits.memory"), "{message}");
    assert_eq!(failure_in(Tier::Cassandra, crash).unwrap().0, Reason::CrashLoop);
}

/// What killed it an hour ago does not make a pod that starts a failed one, which a roll would delete at once.
#[test]
fn a_kill_of_the_past_is_no_failure() {
    let killed = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
    assert_eq!(failure_of(container(json!({"running": {}}), killed.clone())), None);
    assert_eq!(failure_of(container(killed, json!({}))).unwrap().0, Reason::OutOfMemory);
}

#[test]
fn a_pod_that_does_not_stop_names_its_node() {
    let going = |until: &str| {
        let mut pod = pod(json!({"conditions": [{"type": "Ready", "status": "True"}]}));
        pod.metadata.deletion_timestamp = serde_json::from_value(json!(until)).unwrap();
        pod.spec = serde_json::from_value(json!({"containers": [], "nodeName": "node-7"})).unwrap();
        view(&pod, Tier::Cassandra, now()).unwrap().failure
    };
    assert_eq!(going("2026-01-01T00:09:30Z"), None, "not long overdue");
    let problem = going("2026-01-01T00:08:00Z").unwrap();
    assert!(
        problem.reason == Reason::NodeLost && problem.message.contains("kubectl taint nodes node-7"),
        "{problem:?}"
    );
}

#[test]
fn starting_is_no_failure() {
    assert_eq!(failure_of(container(json!({"waiting": {"reason": "ContainerCreating"}}), json!({}))), None);
    assert_eq!(failure_of(container(json!({"running": {}}), json!({"terminated": {"exitCode": 1}}))), None);
    assert_eq!(failure_of(json!({})), None);
}

#[test]
fn claims_without_a_volume() {
    let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
    let claim = |phase: &str, class: Option<&str>, created: &str| -> PersistentVolumeClaim {
        let mut claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": {}, "status": {"phase": phase},
            "metadata": {"name": "data-orders-cassandra-0", "creationTimestamp": created},
        });
        if let Some(class) = class {
            claim["spec"]["storageClassName"] = class.into();
        }
        serde_json::from_value(claim).unwrap()
    };
    let old = "2026-01-01T00:00:00Z";
    let told = |claim: &PersistentVolumeClaim, known| {
        claim_problem(claim, Tier::Cassandra, known, now).map(|problem| problem.message).unwrap_or_default()
    };
    assert!(told(&claim("Pending", None, old), None).contains("no storage class"));
    assert!(told(&claim("Pending", Some("fast"), old), Some(false)).contains("there is no storage class \"fast\""));
    assert!(told(&claim("Lost", Some("fast"), old), None).contains("lost its volume"));
    for fine in [
        claim("Bound", Some("fast"), old),
        claim("Pending", Some("fast"), old), // waits for its first pod
        claim("Pending", None, "2026-01-01T00:00:58Z"),
    ] {
        assert_eq!(told(&fine, Some(true)), "");
    }
}

/// A failure to make pods is of today if no pod has been made since.
#[test]
fn pods_that_can_not_be_made() {
    let event = |at: &str| -> Event {
        serde_json::from_value(json!({"metadata": {}, "eventTime": null, "deprecatedLastTimestamp": at,
            "note": "create Pod orders-cassandra-1 failed error: exceeded quota"}))
        .unwrap()
    };
    let made = |at: &str| {
        let mut pod = pod(json!({}));
        pod.metadata.creation_timestamp = serde_json::from_value(json!(at)).unwrap();
        pod
    };
    let told = |events: &[Event], pods: &[Pod]| {
        let pods: Vec<_> = pods.iter().collect();
        creation_problem("orders-cassandra", events, &pods).map(|problem| problem.message).unwrap_or_default()
    };
    let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z");
    assert_eq!(told(&[], &[]), "");
    assert!(told(&[event(early)], &[]).contains("exceeded quota"));
    assert!(told(&[event(early), event(late)], &[made(early)]).contains("exceeded quota"), "the last one counts");
    assert_eq!(told(&[event(early)], &[made(late)]), "", "overcome");
}
