//! What a pod's status says, in the few terms that decisions need. Pure.

use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{ContainerStatus, PersistentVolumeClaim, Pod},
    events::v1::Event,
};
use kube::ResourceExt;

use crate::{
    names::{LABEL_REVISION, Tier, ordinal},
    problem::{Problem, Reason},
};

/// A pod as decisions see it.
#[derive(Clone, Debug, PartialEq)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its ordinal in the StatefulSet.
    pub ordinal: i32,
    /// The revision of the template it was made from.
    pub revision: Option<String>,
    /// Its address, once it has one.
    pub ip: Option<String>,
    /// It passes its readiness probe.
    pub ready: bool,
    /// It is being deleted.
    pub terminating: bool,
    /// What keeps it from running, if that will not go away by itself.
    pub failure: Option<Problem>,
}

/// How long after the end of its grace a pod may still be there before somebody is told.
pub const STOP_PATIENCE_SECONDS: i64 = 60;

/// Reads a pod of a tier at the time `now`; `None` for what is no pod of a StatefulSet.
pub fn view(pod: &Pod, tier: Tier, now: Timestamp) -> Option<PodView> {
    let status = pod.status.as_ref();
    let condition = |name: &str| {
        status.and_then(|status| status.conditions.iter().flatten().find(|condition| condition.type_ == name))
    };
    let name = pod.name_any();
    Some(PodView {
        ordinal: ordinal(&name)?,
        uid: pod.uid()?,
        revision: pod.labels().get(LABEL_REVISION).cloned(),
        ip: status.and_then(|status| status.pod_ip.clone()),
        ready: condition("Ready").is_some_and(|ready| ready.status == "True"),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        failure: stuck(pod, &name, now).or_else(|| failure(pod, tier, &name)),
        name,
    })
}

/// A pod that should have stopped long ago: its node is gone or does not answer. Nobody but the user knows which, and a
/// second pod of the same name must not run beside it.
fn stuck(pod: &Pod, name: &str, now: Timestamp) -> Option<Problem> {
    // the time at which its grace ends
    let due = pod.metadata.deletion_timestamp.as_ref()?.0;
    let late = now.as_second() - due.as_second();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("NODE");
    (late > STOP_PATIENCE_SECONDS).then(|| {
        Problem::new(
            Reason::NodeLost,
            format!(
                "pod {name} should have stopped and node {node} does not tell that it has; bring the node back, or, if it is off for good: kubectl taint nodes {node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
            ),
        )
    })
}

fn failure(pod: &Pod, tier: Tier, name: &str) -> Option<Problem> {
    let status = pod.status.as_ref()?;
    let unschedulable = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    });
    if let Some(condition) = unschedulable {
        let why = condition.message.as_deref().unwrap_or("no reason given");
        return Some(Problem::new(
            Reason::Unschedulable,
            format!(
                "no node takes pod {name}: {why}; add nodes, or lower spec.{}.resources.requests",
                tier.component()
            ),
        ));
    }
    status.container_statuses.iter().flatten().find_map(|container| container_failure(container, tier, name))
}

fn container_failure(container: &ContainerStatus, tier: Tier, name: &str) -> Option<Problem> {
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let now = container.state.as_ref().and_then(|state| state.terminated.as_ref());
    let said = waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or_default();
    let part = tier.component();
    // How it ended, while it is down: what once killed a container that runs again is no failure of today.
    let end = now.or_else(|| last.filter(|_| waiting.is_some()));
    let killed = end.is_some_and(|end| end.reason.as_deref() == Some("OOMKilled"));
    // Its JVM ends with this code when the heap is used up; the heap is sized from the limit.
    let heap = tier == Tier::ZooKeeper && end.is_some_and(|end| end.exit_code == HEAP_EXIT_CODE);
    if !container.ready && (killed || heap) {
        let what = if killed { "needed more memory than its limit and was killed" } else { "ran out of Java heap" };
        return Some(Problem::new(
            Reason::OutOfMemory,
            format!("pod {name} {what}; raise spec.{part}.resources.limits.memory"),
        ));
    }
    match waiting.and_then(|waiting| waiting.reason.as_deref())? {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => Some(Problem::new(
            Reason::ImageUnavailable,
            format!(
                "image {} of pod {name} can't be pulled ({}); correct spec.{part}.image, or name registry credentials in spec.{part}.pod.imagePullSecrets",
                container.image,
                short(said)
            ),
        )),
        reason @ ("CreateContainerConfigError" | "CreateContainerError" | "RunContainerError") => Some(Problem::new(
            Reason::ContainerConfig,
            format!("pod {name} can't start ({reason}: {}); see kubectl describe pod {name}", short(said)),
        )),
        "CrashLoopBackOff" => {
            let code = last.map_or_else(|| "an unknown code".to_owned(), |end| format!("code {}", end.exit_code));
            Some(Problem::new(
                Reason::CrashLoop,
                format!("pod {name} ends with {code} again and again; see kubectl logs --previous {name}"),
            ))
        }
        _ => None,
    }
}

/// Exit code of a JVM with `-XX:+ExitOnOutOfMemoryError`.
const HEAP_EXIT_CODE: i32 = 3;

/// A message of the kubelet, cut to a length that fits a status.
fn short(text: &str) -> String {
    const LENGTH_MAX: usize = 200;
    match text.char_indices().nth(LENGTH_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None if text.is_empty() => "no reason given".to_owned(),
        None => text.to_owned(),
    }
}

/// Why a StatefulSet's pods, or their claims, can't be made. `events` are its failures to do so; of them only those count
/// that are younger than every pod that exists: an older one was overcome.
pub fn creation_problem(set: &str, events: &[Event], members: &[&Pod]) -> Option<Problem> {
    let at = |event: &Event| {
        let series = event.series.as_ref().map(|series| series.last_observed_time.0);
        let last = event.deprecated_last_timestamp.as_ref().map(|time| time.0);
        series.or(last).or_else(|| event.event_time.as_ref().map(|time| time.0))
    };
    let newest = members.iter().filter_map(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0)).max();
    let (_, event) = events.iter().filter_map(|event| Some((at(event)?, event))).max_by_key(|(time, _)| *time)?;
    let failed = at(event)?.as_second();
    newest.is_none_or(|newest| failed >= newest.as_second()).then(|| {
        let why = event.note.as_deref().map_or_else(|| "no reason given".to_owned(), short);
        Problem::new(
            Reason::Refused,
            format!("the pods of StatefulSet {set} can't be made: {why}; correct the namespace's quota or policy, or the spec"),
        )
    })
}

/// How long a claim without a class may be pending before it is called a problem.
pub const CLAIM_PATIENCE_SECONDS: i64 = 5;

/// What keeps a claim from getting a volume, where that is known. `class_known` tells whether its class exists; `None`
/// when that could not be found out.
pub fn claim_problem(
    claim: &PersistentVolumeClaim,
    tier: Tier,
    class_known: Option<bool>,
    now: Timestamp,
) -> Option<Problem> {
    let status = claim.status.as_ref()?;
    let name = claim.name_any();
    let part = tier.component();
    match status.phase.as_deref() {
        Some("Lost") => Some(Problem::new(
            Reason::VolumeMissing,
            format!(
                "claim {name} has lost its volume; restore the PersistentVolume, or delete the claim and its pod to rebuild the data from the others"
            ),
        )),
        Some("Pending") => {
            let since = claim.metadata.creation_timestamp.as_ref()?.0;
            if now.as_second() - since.as_second() < CLAIM_PATIENCE_SECONDS {
                return None;
            }
            match claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()) {
                None => Some(Problem::new(
                    Reason::VolumeMissing,
                    format!(
                        "claim {name} waits for a volume: it names no storage class and the cluster has no default one; mark a class as default, or delete this ReplicatedDB and its claims and name one in spec.{part}.storage.storageClassName"
                    ),
                )),
                Some(class) if class_known == Some(false) => Some(Problem::new(
                    Reason::VolumeMissing,
                    format!(
                        "claim {name} waits for a volume: there is no storage class {class:?}; create it, or delete this ReplicatedDB and its claims and name another in spec.{part}.storage.storageClassName"
                    ),
                )),
                Some(_) => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "pods_tests.rs"]
mod tests;
