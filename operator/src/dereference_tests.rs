//! Which objects are whose.

use super::*;
use serde_json::{Value, json};

fn meta(value: Value) -> ObjectMeta {
    serde_json::from_value(value).unwrap()
}

#[test]
fn members_are_named_and_controlled() {
    let pod = |name: &str, kind: &str, owner: &str, uid: &str| {
        let owner = json!({"apiVersion": "apps/v1", "kind": kind, "name": owner, "uid": uid, "controller": true});
        meta(json!({"name": name, "ownerReferences": [owner]}))
    };
    let set = "orders-cassandra";
    for (expected, pod) in [
        (true, pod("orders-cassandra-0", "StatefulSet", set, "1")),
        (true, meta(json!({"name": "orders-cassandra-0"}))), // between two lives of its StatefulSet
        (false, pod("orders-cassandra-0", "StatefulSet", set, "of an earlier one")),
        (false, pod("orders-cassandra-0", "ReplicaSet", set, "1")),
        (false, pod("orders-cassandra-0", "StatefulSet", "other", "1")),
        (false, pod("orders-cassandra-backup-0", "StatefulSet", set, "1")),
        (false, pod("orders-cassandra-00", "StatefulSet", set, "1")),
        (false, pod("debug", "StatefulSet", set, "1")),
    ] {
        assert_eq!(member(&pod, set, Some("1")), expected, "{pod:?}");
    }
}
