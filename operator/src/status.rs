//! The status: a pure function of what was observed and of the status before.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::{
    build::client_endpoint,
    crd::{MemberStatus, ReplicatedDBStatus, StorageStatus},
    names::Tier,
    problem::Problem,
    roll::{Reports, TierView},
    validate::Validated,
};

/// Least time between two writes of the replicas' indexes.
pub const MEMBERS_INTERVAL_SECONDS: i64 = 30;
/// Records a second that an idle database orders by itself (its clock ticks). Slower progress than this is no news, so
/// that an idle database's status is never written (I9).
const IDLE_RECORDS_PER_SECOND: i64 = 10;
/// Longest message.
const MESSAGE_LENGTH_MAX: usize = 1_024;

/// Clients can connect to at least one replica.
pub const AVAILABLE: &str = "Available";
/// The wished state is being brought about.
pub const PROGRESSING: &str = "Progressing";
/// Something is wrong that was well before, or that needs the user.
pub const DEGRADED: &str = "Degraded";
/// This operator has newer images or templates.
pub const UPGRADE_AVAILABLE: &str = "UpgradeAvailable";

/// What the status is made from.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The resource.
    pub validated: &'a Validated,
    /// Its tiers, in rolling order.
    pub tiers: &'a [TierView],
    /// What replicas said.
    pub reports: &'a Reports,
    /// What is wrong, the most important first.
    pub problems: &'a [Problem],
    /// What is waited for, the most important first.
    pub waiting: &'a [String],
    /// Nothing may be made, changed or deleted: nothing of this generation has been done that was not done before.
    pub blocked: bool,
    /// Sizes of the largest volumes.
    pub storage: StorageStatus,
    /// The status before.
    pub before: Option<&'a ReplicatedDBStatus>,
    /// The time of the observation.
    pub now: Timestamp,
}

/// Computes the status.
pub fn status(facts: &Facts<'_>) -> ReplicatedDBStatus {
    let validated = facts.validated;
    let replicas = facts.tiers.iter().find(|view| view.tier == Tier::Replica);
    let (members, members_observed_at) = members(facts);
    ReplicatedDBStatus {
        observed_generation: observed_generation(facts),
        message: Some(cut(message(facts))),
        endpoint: Some(client_endpoint(&validated.identity)),
        superuser_secret: validated.superuser_secret(),
        tls_secret: validated.tls_secret(),
        replicas: replicas.map_or(0, |view| i32::try_from(view.pods.len()).unwrap_or(i32::MAX)),
        ready_replicas: ready_replicas(facts),
        selector: Some(selector(validated)),
        conditions: conditions(facts),
        members,
        members_observed_at,
        release: Some(validated.release.clone()),
        storage: Some(facts.storage.clone()),
    }
}

/// The status after a pass that could not be made: that of before, with what is wrong. It speaks of no other generation
/// than before: nothing of a newer one was done.
pub fn failed(before: ReplicatedDBStatus, generation: i64, problem: &Problem, now: Timestamp) -> ReplicatedDBStatus {
    let holds = |c: &&Condition| c.type_ == DEGRADED && c.status == "True";
    let since = before.conditions.iter().find(holds).map(|c| c.last_transition_time.clone());
    let degraded = Condition {
        type_: DEGRADED.to_owned(),
        status: "True".to_owned(),
        reason: problem.reason.to_string(),
        message: cut(problem.message.clone()),
        observed_generation: Some(generation),
        last_transition_time: since.unwrap_or_else(|| seconds(now)),
    };
    let others = before.conditions.into_iter().filter(|condition| condition.type_ != DEGRADED);
    ReplicatedDBStatus {
        message: Some(cut(problem.message.clone())),
        conditions: others.chain([degraded]).collect(),
        ..before
    }
}

/// The newest generation of which something was done.
fn observed_generation(facts: &Facts<'_>) -> Option<i64> {
    if facts.blocked { facts.before?.observed_generation } else { Some(facts.validated.generation) }
}

fn ready_replicas(facts: &Facts<'_>) -> i32 {
    facts.tiers.iter().find(|view| view.tier == Tier::Replica).map_or(0, TierView::ready)
}

fn selector(validated: &Validated) -> String {
    let labels = validated.identity.selector(Tier::Replica);
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// What matters most, in one sentence: what is wrong, else what is waited for, else that all is well.
fn message(facts: &Facts<'_>) -> String {
    if let [first, rest @ ..] = facts.problems {
        return match rest.len() {
            0 => first.message.clone(),
            more => format!("{} (and {more} more)", first.message),
        };
    }
    if let Some(waiting) = facts.waiting.first() {
        return format!("waiting for {waiting}");
    }
    if let Some(missing) = facts.tiers.iter().find_map(|view| missing(view, facts.reports)) {
        return format!("waiting for {missing}");
    }
    match facts.validated.spec.replicas {
        1 => "the replica serves clients".to_owned(),
        n => format!("all {n} replicas serve clients"),
    }
}

/// What a tier still lacks.
fn missing(view: &TierView, reports: &Reports) -> Option<String> {
    let ready = view.ready();
    if ready >= view.size {
        return None;
    }
    let unready = view.pods.iter().find(|pod| !pod.ready || pod.terminating);
    let what = match unready {
        None => "pods to be created".to_owned(),
        Some(pod) if pod.terminating => format!("pod {} to stop and be replaced", pod.name),
        Some(pod) => match reports.replicas.get(&pod.ordinal).filter(|_| view.tier == Tier::Replica) {
            Some(report) => format!("replica {}, which is {}", pod.ordinal, report.state),
            None => format!("pod {} to become ready", pod.name),
        },
    };
    Some(format!("{what} ({ready} of {} {} pods are ready)", view.size, view.tier))
}

fn conditions(facts: &Facts<'_>) -> Vec<Condition> {
    let ready = ready_replicas(facts);
    let wanted = facts.validated.spec.replicas;
    let mut conditions = vec![condition(
        facts,
        AVAILABLE,
        ready > 0,
        if ready > 0 { "ReplicasServing" } else { "NoReplicaServing" },
        format!("{ready} of {wanted} replicas serve clients"),
    )];
    let progress = progress(facts);
    conditions.push(condition(
        facts,
        PROGRESSING,
        progress.is_some(),
        if progress.is_some() { "Reconciling" } else { "Settled" },
        progress.clone().unwrap_or_else(|| "everything is as wished".to_owned()),
    ));
    let degraded = degraded(facts, progress.is_some());
    let (reason, text) = degraded.clone().unwrap_or_else(|| ("AsWished".to_owned(), "nothing is wrong".to_owned()));
    conditions.push(condition(facts, DEGRADED, degraded.is_some(), &reason, text));
    for view in facts.tiers {
        let missing = missing(view, facts.reports);
        let failure = view.pods.iter().find_map(|pod| pod.failure.as_ref()).filter(|_| missing.is_some());
        let reason = failure.map_or_else(
            || if missing.is_some() { "PodsNotReady".to_owned() } else { "PodsReady".to_owned() },
            |failure| failure.reason.to_string(),
        );
        let text = failure
            .map(|failure| failure.message.clone())
            .or_else(|| missing.clone().map(|m| format!("waiting for {m}")));
        let text = text.unwrap_or_else(|| format!("{} of {} pods are ready", view.ready(), view.size));
        conditions.push(condition(facts, view.tier.condition(), missing.is_none(), &reason, text));
    }
    let newer = facts.validated.upgrade_available;
    conditions.push(condition(
        facts,
        UPGRADE_AVAILABLE,
        newer,
        if newer { "OperatorIsNewer" } else { "Current" },
        if newer {
            "this operator has other default images or pod templates; to take them over, restarting the pods one by one: kubectl annotate replicateddb NAME replicateddb.dev/upgrade=NEW-VALUE --overwrite".to_owned()
        } else {
            "images and pod templates are this operator's".to_owned()
        },
    ));
    conditions
}

/// What of the wished state is still being brought about. Pods that are lost later are no progress but a degradation.
fn progress(facts: &Facts<'_>) -> Option<String> {
    let outdated: usize = facts.tiers.iter().map(|view| view.outdated_pods().count()).sum();
    if outdated > 0 {
        return Some(match facts.waiting.first() {
            Some(waiting) => format!("{outdated} pods are to be replaced, waiting for {waiting}"),
            None => format!("{outdated} pods are to be replaced"),
        });
    }
    if facts.blocked {
        return Some(message(facts)); // what exists may be whole, but it is not what is wished
    }
    if facts.tiers.iter().all(TierView::settled) && facts.waiting.is_empty() {
        return None;
    }
    let reached = facts.before.iter().flat_map(|before| &before.conditions).any(|old| {
        old.type_ == PROGRESSING && old.status == "False" && old.observed_generation == Some(facts.validated.generation)
    });
    (!reached || !facts.waiting.is_empty()).then(|| message(facts))
}

fn degraded(facts: &Facts<'_>, progressing: bool) -> Option<(String, String)> {
    if let Some(problem) = facts.problems.first() {
        return Some((problem.reason.to_string(), message(facts)));
    }
    let missing = facts.tiers.iter().find_map(|view| missing(view, facts.reports)).filter(|_| !progressing);
    missing.map(|missing| ("PodsNotReady".to_owned(), format!("waiting for {missing}")))
}

/// A condition; the time of its last change is kept while its status stays the same.
fn condition(facts: &Facts<'_>, type_: &str, holds: bool, reason: &str, message: String) -> Condition {
    let status = if holds { "True" } else { "False" };
    let before = facts.before.iter().flat_map(|before| &before.conditions).find(|old| old.type_ == type_);
    let since = before.filter(|old| old.status == status).map(|old| old.last_transition_time.clone());
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: cut(message),
        observed_generation: Some(facts.validated.generation),
        last_transition_time: since.unwrap_or_else(|| seconds(facts.now)),
    }
}

/// The replicas as they describe themselves: those of before, unless there is news.
fn members(facts: &Facts<'_>) -> (Vec<MemberStatus>, Option<Time>) {
    let replicas = facts.tiers.iter().find(|view| view.tier == Tier::Replica);
    let now: Vec<_> = replicas
        .iter()
        .flat_map(|view| &view.pods)
        .map(|pod| match facts.reports.replicas.get(&pod.ordinal) {
            None => MemberStatus { id: pod.ordinal, state: "unknown".to_owned(), ..Default::default() },
            Some(report) => MemberStatus {
                id: pod.ordinal,
                state: report.state.clone(),
                applied_index: report.applied_index,
                lag: report.lag,
                detail: (report.state != "serving" && !report.detail.is_empty()).then(|| report.detail.clone()),
            },
        })
        .collect();
    if let Some((members, at)) =
        facts.before.and_then(|before| Some((&before.members, before.members_observed_at.as_ref()?)))
        && !news(members, &now, facts.now.as_second() - at.0.as_second())
    {
        return (members.clone(), Some(at.clone()));
    }
    (now, Some(seconds(facts.now)))
}

/// Whether what replicas say now is worth a write `elapsed` seconds after what they said before.
fn news(before: &[MemberStatus], now: &[MemberStatus], elapsed: i64) -> bool {
    let states = |members: &[MemberStatus]| members.iter().map(|m| (m.id, m.state.clone())).collect::<Vec<_>>();
    if states(before) != states(now) {
        return true;
    }
    if elapsed < MEMBERS_INTERVAL_SECONDS {
        return false;
    }
    let idle = elapsed.saturating_mul(IDLE_RECORDS_PER_SECOND);
    let far = |a: Option<i64>, b: Option<i64>| match (a, b) {
        (Some(a), Some(b)) => a.abs_diff(b) > idle.unsigned_abs(),
        (a, b) => a.is_some() != b.is_some(),
    };
    before.iter().zip(now).any(|(before, now)| {
        far(before.applied_index, now.applied_index) || far(before.lag, now.lag) || before.detail != now.detail
    })
}

/// Times in a status have whole seconds, as the API server keeps them.
fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MESSAGE_LENGTH_MAX) {
        text.truncate(end);
    }
    text
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
