//! Events: what a user sees in `kubectl describe`, on transitions only.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

use crate::{
    crd::{ReplicatedDB, ReplicatedDBStatus},
    names::MANAGED_BY,
    problem::Problem,
    roll::Replacement,
    status::{AVAILABLE, DEGRADED, PROGRESSING},
};

/// Longest note that the API server takes.
const NOTE_LENGTH_MAX: usize = 1_000;

/// Publishes Events. One that can't be published is logged and otherwise of no consequence.
#[derive(Clone)]
pub struct Announcer {
    recorder: Recorder,
}

impl Announcer {
    /// An announcer in the name of the operator's copy `pod`.
    pub fn new(client: Client, pod: &str) -> Self {
        let reporter = Reporter { controller: MANAGED_BY.to_owned(), instance: Some(pod.to_owned()) };
        Self { recorder: Recorder::new(client, reporter) }
    }

    /// Tells of the conditions that have changed between the status of `rdb` and `now`.
    pub async fn transitions(&self, rdb: &ReplicatedDB, now: &ReplicatedDBStatus) {
        for type_ in [AVAILABLE, PROGRESSING, DEGRADED] {
            let find = |status: &ReplicatedDBStatus| {
                status.conditions.iter().find(|c| c.type_ == type_).map(|c| (c.status.clone(), c.reason.clone()))
            };
            let before = rdb.status.as_ref().and_then(find);
            let Some(condition) = now.conditions.iter().find(|c| c.type_ == type_) else { continue };
            let holds = condition.status == "True";
            if before == Some((condition.status.clone(), condition.reason.clone())) || (before.is_none() && !holds) {
                continue;
            }
            let bad = if type_ == DEGRADED { holds } else { type_ == AVAILABLE && !holds };
            let reason = if holds { type_.to_owned() } else { format!("Not{type_}") };
            self.publish(&rdb.object_ref(&()), bad, &reason, "Reconcile", &condition.message).await;
        }
    }

    /// Tells of a pod that is replaced.
    pub async fn replaced(&self, rdb: &ReplicatedDB, replacement: &Replacement) {
        let note = format!("replacing {} pod {}: {}", replacement.tier, replacement.name, replacement.why);
        self.publish(&rdb.object_ref(&()), false, "ReplacingPod", "ReplacePod", &note).await;
    }

    /// Tells of a problem of a resource that can't be read.
    pub async fn problem(&self, resource: &ObjectReference, problem: &Problem) {
        self.publish(resource, true, &problem.reason.to_string(), "Validate", &problem.message).await;
    }

    async fn publish(&self, resource: &ObjectReference, bad: bool, reason: &str, action: &str, note: &str) {
        let event = Event {
            type_: if bad { EventType::Warning } else { EventType::Normal },
            reason: reason.to_owned(),
            note: Some(note.chars().take(NOTE_LENGTH_MAX).collect()),
            action: action.to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, resource).await {
            tracing::warn!(reason, error = %error, "can't publish an event");
        }
    }
}
