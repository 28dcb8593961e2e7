//! The status, computed from invented observations.

use super::*;
use crate::{
    pods::PodView,
    probe::ReplicaReport,
    problem::Reason,
    testing,
    validate::{Validated, validate},
};

fn validated() -> Validated {
    validate(&testing::resource("orders"), &Default::default()).unwrap()
}

fn tiers(ready: i32) -> Vec<TierView> {
    let pod = |tier: Tier, ordinal: i32| PodView {
        name: format!("orders-{}-{ordinal}", tier.component()),
        uid: format!("{tier}{ordinal}"),
        ordinal,
        revision: Some("r".into()),
        ip: None,
        ready: ordinal < ready,
        terminating: false,
        failure: None,
    };
    let view =
        |tier| TierView { tier, size: 3, revision: Some("r".into()), pods: (0..3).map(|n| pod(tier, n)).collect() };
    Tier::ALL.map(view).into()
}

fn reports(index: i64) -> Reports {
    let report =
        ReplicaReport { state: "serving".into(), applied_index: Some(index), lag: Some(0), ..Default::default() };
    Reports { replicas: (0..3).map(|n| (n, report.clone())).collect(), ..Default::default() }
}

struct Case {
    validated: Validated,
    tiers: Vec<TierView>,
    reports: Reports,
    problems: Vec<Problem>,
    waiting: Vec<String>,
    blocked: bool,
    before: Option<ReplicatedDBStatus>,
    second: i64,
}

impl Case {
    fn well() -> Self {
        Self {
            validated: validated(),
            tiers: tiers(3),
            reports: reports(100),
            problems: vec![],
            waiting: vec![],
            blocked: false,
            before: None,
            second: 1_000,
        }
    }

    fn status(&self) -> ReplicatedDBStatus {
        status(&Facts {
            validated: &self.validated,
            tiers: &self.tiers,
            reports: &self.reports,
            problems: &self.problems,
            waiting: &self.waiting,
            blocked: self.blocked,
            storage: StorageStatus::default(),
            before: self.before.as_ref(),
            now: Timestamp::from_second(self.second).unwrap(),
        })
    }

    /// The same later, after its own status was written.
    fn later(mut self, seconds: i64) -> Self {
        self.before = Some(self.status());
        self.second += seconds;
        self
    }
}

fn holds(status: &ReplicatedDBStatus, type_: &str) -> (bool, String) {
    let condition = status.conditions.iter().find(|c| c.type_ == type_).unwrap();
    (condition.status == "True", condition.reason.clone())
}

#[test]
fn all_is_well() {
    let status = Case::well().status();
    assert_eq!(status.message.as_deref(), Some("all 3 replicas serve clients"));
    assert_eq!(status.endpoint.as_deref(), Some("orders.shop.svc:9042"));
    assert_eq!((status.replicas, status.ready_replicas, status.observed_generation), (3, 3, Some(1)));
    for (type_, expected) in [
        (AVAILABLE, true),
        (PROGRESSING, false),
        (DEGRADED, false),
        ("ZooKeeperReady", true),
        ("CassandraReady", true),
        ("ReplicasReady", true),
        (UPGRADE_AVAILABLE, false),
    ] {
        assert_eq!(holds(&status, type_).0, expected, "{type_}");
    }
}

/// A new generation of which nothing is done yet, on a database that is whole: it is not there, and once it may be, the time
/// until the first pod of it is made is no rest either.
#[test]
fn what_may_not_be_done_is_not_done() {
    let mut case = Case::well().later(60);
    case.validated.generation = 2;
    case.blocked = true;
    case.problems = vec![Problem::new(Reason::SecretMissing, "Secret ops does not exist; make it")];
    let told = case.status();
    assert_eq!(
        (told.observed_generation, told.message.as_deref()),
        (Some(1), Some("Secret ops does not exist; make it"))
    );
    assert_eq!([AVAILABLE, PROGRESSING, DEGRADED].map(|type_| holds(&told, type_).0), [true, true, true]);
    let mut case = case.later(60);
    (case.blocked, case.problems) = (false, vec![]);
    case.tiers[2].revision = None;
    let told = case.status();
    assert_eq!(
        (told.observed_generation, holds(&told, PROGRESSING).0, holds(&told, DEGRADED).0),
        (Some(2), true, false)
    );
}

/// I9: what is computed again from the same is the same, at any later time, idle ticks of the log included.
#[test]
fn rest_writes_nothing() {
    let mut case = Case::well().later(3_600);
    assert_eq!(Some(case.status()), case.before);
    case.reports = reports(100 + 3_600);
    assert_eq!(Some(case.status()), case.before, "a tick a second is no news");
}

#[test]
fn indexes_are_written_at_most_every_30_seconds() {
    let mut case = Case::well().later(29);
    case.reports = reports(1_000_000);
    assert_eq!(case.status().members[0].applied_index, Some(100));
    case.second += 1;
    let status = case.status();
    assert_eq!(status.members[0].applied_index, Some(1_000_000));
    assert_eq!(status.members_observed_at, Some(Time(Timestamp::from_second(1_030).unwrap())));
}

#[test]
fn a_changed_state_is_told_at_once() {
    let mut case = Case::well().later(1);
    case.reports.replicas.remove(&1);
    assert_eq!(case.status().members[1].state, "unknown");
    case.reports
        .replicas
        .insert(1, ReplicaReport { state: "replaying".into(), detail: "5 of 9".into(), ..Default::default() });
    let member = case.status().members[1].clone();
    assert_eq!((member.state.as_str(), member.detail.as_deref()), ("replaying", Some("5 of 9")));
}

#[test]
fn creating_is_progress_and_no_degradation() {
    let mut case = Case::well();
    case.tiers = tiers(0);
    let status = case.status();
    assert_eq!(holds(&status, AVAILABLE), (false, "NoReplicaServing".into()));
    assert_eq!((holds(&status, PROGRESSING).0, holds(&status, DEGRADED).0), (true, false));
    assert_eq!(
        status.message.as_deref(),
        Some("waiting for pod orders-zookeeper-0 to become ready (0 of 3 ZooKeeper pods are ready)")
    );
}

#[test]
fn a_pod_lost_later_is_a_degradation_and_no_progress() {
    let mut case = Case::well().later(60);
    case.tiers[2].pods[1].ready = false;
    let status = case.status();
    assert_eq!((holds(&status, PROGRESSING).0, holds(&status, DEGRADED)), (false, (true, "PodsNotReady".into())));
    assert!(holds(&status, AVAILABLE).0);
    // and stays one until it is back
    let mut case = case.later(60);
    assert_eq!((holds(&case.status(), PROGRESSING).0, holds(&case.status(), DEGRADED).0), (false, true));
    case.tiers = tiers(3);
    assert!(!holds(&case.status(), DEGRADED).0);
}

#[test]
fn a_roll_is_progress() {
    let mut case = Case::well().later(60);
    case.tiers[0].revision = Some("newer".into());
    case.waiting = vec!["pod x to stop".into()];
    let status = case.status();
    assert_eq!((holds(&status, PROGRESSING).0, holds(&status, DEGRADED).0), (true, false));
    assert_eq!(status.message.as_deref(), Some("waiting for pod x to stop"));
}

#[test]
fn problems_come_first() {
    let mut case = Case::well();
    case.tiers[1].pods[0].ready = false;
    let problem = |text: &str| Problem::new(Reason::ImageUnavailable, text);
    case.problems = vec![problem("no image"), problem("no other")];
    let status = case.status();
    assert_eq!(holds(&status, DEGRADED), (true, "ImageUnavailable".into()));
    assert_eq!(status.message.as_deref(), Some("no image (and 1 more)"));
}

#[test]
fn the_time_of_a_transition_is_that_of_the_change() {
    let since = |status: &ReplicatedDBStatus, type_: &str| {
        status.conditions.iter().find(|c| c.type_ == type_).unwrap().last_transition_time.0.as_second()
    };
    let mut case = Case::well().later(500);
    case.tiers = tiers(0);
    let status = case.status();
    assert_eq!((since(&status, AVAILABLE), since(&status, UPGRADE_AVAILABLE)), (1_500, 1_000));
}

/// A pass that could not be made changes what is wrong and nothing else; told again, it is the same.
#[test]
fn a_pass_that_failed_is_told() {
    let well = ReplicatedDBStatus { observed_generation: Some(3), ready_replicas: 2, ..Default::default() };
    let problem = Problem::new(Reason::Refused, "exceeded quota");
    let later = |seconds| Timestamp::from_second(seconds).unwrap();
    let told = failed(well.clone(), 4, &problem, later(100));
    assert_eq!((told.observed_generation, told.ready_replicas), (Some(3), 2));
    assert_eq!(told.message.as_deref(), Some("exceeded quota"));
    let condition = told.conditions.iter().find(|condition| condition.type_ == DEGRADED).unwrap();
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("True", "Refused"));
    assert_eq!(failed(told.clone(), 4, &problem, later(200)), told, "nothing to write");
}
