//! What is done about volumes, and what their status says.

use super::*;
use crate::{testing, validate::validate};

fn validated(size: &str) -> Validated {
    let mut rdb = testing::resource("orders");
    rdb.spec.cassandra.storage.size = Amount::fixed(size);
    validate(&rdb, &testing::defaults("1")).unwrap()
}

fn claim(asked: &str, has: Option<&str>, mut status: Value) -> PersistentVolumeClaim {
    if let Some(has) = has {
        status["capacity"] = json!({"storage": has});
    }
    serde_json::from_value(json!({
        "metadata": {"name": "data-orders-cassandra-0", "uid": "u",
            "labels": {"app.kubernetes.io/component": "cassandra"}},
        "spec": {"resources": {"requests": {"storage": asked}}}, "status": status,
    }))
    .unwrap()
}

fn observed(claim: PersistentVolumeClaim) -> Observed {
    Observed { claims: vec![claim], ..Default::default() }
}

/// A growth is taken back to anything above what the volume has; the API server refuses less.
#[test]
fn claims_follow_the_size_both_ways() {
    let asks = |size: &str, asked: &str, has: Option<&str>| {
        let plan = plan(&validated(size), &observed(claim(asked, has, json!({}))));
        plan.grow.first().map(|growth| (growth.size.to_string(), growth.lowers))
    };
    let some = |size: &str, lowers| Some((size.to_owned(), lowers));
    assert_eq!(asks("20Gi", "10Gi", Some("10Gi")), some("20Gi", false));
    assert_eq!(asks("20Gi", "10Gi", None), some("20Gi", false));
    assert_eq!(asks("15Gi", "100Gi", Some("10Gi")), some("15Gi", true));
    assert_eq!(asks("10Gi", "100Gi", Some("10Gi")), None, "not above");
    assert_eq!(asks("10Gi", "100Gi", None), None, "nothing is known");
    assert_eq!(asks("10Gi", "10240Mi", Some("10Gi")), None);
}

#[test]
fn the_status_tells_what_volumes_have() {
    let told = |asked: &str, has: Option<&str>| storage(&observed(claim(asked, has, json!({})))).cassandra;
    assert_eq!(told("100Gi", Some("10Gi")).as_deref(), Some("10Gi"), "what the size may go down to");
    assert_eq!(told("10Gi", None).as_deref(), Some("10Gi"));
}

#[test]
fn a_growth_is_waited_for_and_its_failure_told() {
    let told = |asked: &str, status: Value| resizes(&validated("20Gi"), &observed(claim(asked, Some("10Gi"), status)));
    assert_eq!(told("10Gi", json!({})), (vec![], vec![]));
    let (problems, waiting) =
        told("20Gi", json!({"conditions": [{"type": "FileSystemResizePending", "status": "True"}]}));
    assert!(problems.is_empty() && waiting[0].contains("from 10Gi to 20Gi (FileSystemResizePending)"), "{waiting:?}");
    for failed in [
        json!({"conditions": [{"type": "ControllerResizeError", "status": "True", "message": "no room"}]}),
        json!({"conditions": [{"type": "NodeResizeError", "status": "True", "message": "no room"}]}),
        json!({"allocatedResourceStatuses": {"storage": "ControllerResizeInfeasible"}}),
    ] {
        let (problems, waiting) = told("20Gi", failed.clone());
        let message = &problems[0].message;
        assert!(waiting.is_empty() && problems[0].reason == Reason::ResizeFailed, "{failed}");
        assert!(message.contains("spec.cassandra.storage.size") && message.contains("above 10Gi"), "{message}");
        assert!(message.contains("no room") || message.contains("Infeasible"), "{message}");
    }
}
