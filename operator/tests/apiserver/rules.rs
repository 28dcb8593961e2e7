//! The rules of the definition, as the API server enforces them.

use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    discovery::ApiResource,
};
use replicateddb_operator::crd::ReplicatedDB;
use serde_json::{Value, json};

use crate::cluster::Cluster;

fn manifest(name: &str, spec: Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "replicateddb.dev/v1alpha1", "kind": "ReplicatedDB", "metadata": {"name": name}, "spec": spec,
    }))
    .unwrap()
}

/// What the API server says about a manifest; empty when it takes it.
async fn told(api: &Api<DynamicObject>, name: &str, spec: Value) -> String {
    let params = PostParams { dry_run: true, ..Default::default() };
    api.create(&params, &manifest(name, spec)).await.err().map(|error| error.to_string()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_manifest_is_refused_with_the_field_and_the_remedy() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("rules").await;
    let resource = ApiResource::erase::<ReplicatedDB>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client(), &namespace, &resource);
    for fine in [
        json!({}),
        json!({"replicas": 1, "zookeeper": {"size": 1}}),
        json!({"cassandra": {"mode": "Shared"}}),
        json!({"authentication": {"enabled": true, "superuserSecret": {"name": "ops.login"}}}),
        json!({"authentication": {"enabled": false}, "cassandra": {"mode": "Shared"}}),
        json!({"tls": {"enabled": true, "secretName": "orders-tls", "optional": true}}),
        json!({"tls": {"optional": true, "clientCertificates": true}}),
        json!({"cassandra": {"resources": {"limits": {"cpu": 2, "memory": "2Gi"}}, "config": {"concurrent_reads": "8", "write_request_timeout": "25000ms"}}}),
        json!({"replica": {"pod": {"tolerations": [{"key": "db", "operator": "Exists"}], "labels": {"team": "a"}}}}),
    ] {
        assert_eq!(told(&api, "orders", fine.clone()).await, "", "{fine}");
    }
    let long = "a".repeat(41);
    for (name, spec, expected) in [
        (long.as_str(), json!({}), "at most 40 characters"),
        ("1orders", json!({}), "must start with a letter"),
        ("orders", json!({"replicas": 0}), "spec.replicas"),
        ("orders", json!({"replicas": 10}), "spec.replicas"),
        ("orders", json!({"ordering": {"engine": "Chance"}}), "spec.ordering.engine"),
        ("orders", json!({"ordering": {"batching": {"maxBytes": 1}}}), "spec.ordering.batching.maxBytes"),
        ("orders", json!({"ordering": {"restorePoints": {"intervalSeconds": 1}}}), "spec.ordering.restorePoints"),
        ("orders", json!({"zookeeper": {"size": 2}}), "size must be odd"),
        ("orders", json!({"zookeeper": {"size": 9}}), "spec.zookeeper.size"),
        ("orders", json!({"zookeeper": {"config": {"dataDir": "/x"}}}), "only these keys of zoo.cfg"),
        (
            "orders",
            json!({"zookeeper": {"config": {"tickTime": "2000\nserver.1=x"}}}),
            "spec.zookeeper.config.tickTime",
        ),
        ("orders", json!({"cassandra": {"mode": "Sometimes"}}), "spec.cassandra.mode"),
        ("orders", json!({"cassandra": {"config": {"cluster_name": "x"}}}), "only these keys of cassandra.yaml"),
        ("orders", json!({"cassandra": {"resources": {"limits": {"memory": "512Mi"}}}}), "at least 1Gi"),
        ("orders", json!({"cassandra": {"resources": {}}}), "at least 1Gi"),
        ("orders", json!({"cassandra": {"resources": {"limits": {"memory": "2 Gi"}}}}), "spec.cassandra.resources"),
        ("orders", json!({"cassandra": {"storage": {"size": "0"}}}), "size must be more than 0"),
        ("orders", json!({"cassandra": {"storage": {"onDelete": "Burn"}}}), "spec.cassandra.storage.onDelete"),
        ("orders", json!({"replica": {"image": "two words"}}), "spec.replica.image"),
        ("orders", json!({"replica": {"config": {"sessionTimeoutSeconds": 1}}}), "sessionTimeoutSeconds"),
        ("orders", json!({"replica": {"pod": {"labels": {"app.kubernetes.io/name": "x"}}}}), "use another prefix"),
        ("orders", json!({"zookeeper": {"pod": {"annotations": {"replicateddb.dev/x": "x"}}}}), "use another prefix"),
        ("orders", json!({"zookeeper": {"pod": {"annotations": {"two words": "x"}}}}), "for example example.com/team"),
        ("orders", json!({"replica": {"pod": {"labels": {"a/b/c": "x"}}}}), "for example example.com/team"),
        ("orders", json!({"replica": {"pod": {"labels": {"team": "no spaces"}}}}), "spec.replica.pod.labels.team"),
        ("orders", json!({"zookeeper": {"resources": {"limits": {"memory": "128Mi"}}}}), "at least 256Mi"),
        ("orders", json!({"replica": {"resources": {"limits": {"memory": "64Mi"}}}}), "at least 128Mi"),
        (
            "orders",
            json!({"cassandra": {"resources": {"requests": {"memory": "3Gi"}, "limits": {"memory": "2Gi"}}}}),
            "requests.memory must not exceed limits.memory",
        ),
        (
            "orders",
            json!({"replica": {"resources": {"requests": {"cpu": 2}, "limits": {"cpu": "1500m"}}}}),
            "requests.cpu must not exceed limits.cpu",
        ),
        (
            "orders",
            json!({"cassandra": {"config": {"batch_size_fail_threshold": "1MiB"}}}),
            "only these keys of cassandra.yaml",
        ),
        (
            "orders",
            json!({"cassandra": {"config": {"write_request_timeout": "2s"}}}),
            "write_request_timeout must be at least 20s",
        ),
        (
            "orders",
            json!({"cassandra": {"config": {"write_request_timeout": "soon"}}}),
            "write_request_timeout must be at least 20s",
        ),
        ("orders", json!({"zookeeper": {"storage": {"onDelete": "Delete"}}}), "set it to Retain"),
        (
            "orders",
            json!({"authentication": {"enabled": true}, "cassandra": {"mode": "Shared"}}),
            "authentication.enabled can't be true with cassandra.mode: Shared",
        ),
        ("orders", json!({"authentication": {"superuserSecret": {"name": "A/B"}}}), "superuserSecret.name"),
        (
            "orders",
            json!({"tls": {"enabled": true, "clientCertificates": true}}),
            "tls.clientCertificates needs tls.secretName",
        ),
        ("orders", json!({"tls": {"enabled": true, "secretName": "A/B"}}), "tls.secretName"),
        (
            "orders",
            json!({"tls": {"enabled": true, "secretName": "s", "optional": true, "clientCertificates": true}}),
            "tls.optional can't be true with tls.clientCertificates",
        ),
    ] {
        let error = told(&api, name, spec.clone()).await;
        assert!(error.contains(expected), "{spec}: expected {expected:?} in {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_change_is_kept_and_what_can_changes() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("rules").await;
    let api: Api<ReplicatedDB> = Api::namespaced(cluster.client(), &namespace);
    api.create(&PostParams::default(), &ReplicatedDB::new("orders", Default::default())).await.unwrap();
    let update = |spec: Value| {
        let api = api.clone();
        async move {
            let patch = Patch::Merge(json!({"spec": spec}));
            let result = api.patch("orders", &PatchParams::default(), &patch).await;
            result.err().map(|error| error.to_string()).unwrap_or_default()
        }
    };
    for (spec, expected) in [
        (json!({"zookeeper": {"size": 5}}), "create another ReplicatedDB of the wanted size"),
        (json!({"cassandra": {"storage": {"storageClassName": "fast"}}}), "storageClassName can't change"),
        (json!({"zookeeper": {"storage": {"storageClassName": "fast"}}}), "storageClassName can't change"),
        (json!({"ordering": {"engine": "Chance"}}), "spec.ordering.engine"),
        (json!({"cassandra": {"mode": "Shared"}}), "create another ReplicatedDB with the wanted mode"),
        (json!({"zookeeper": {"storage": {"size": "1Gi"}}}), "spec.zookeeper.storage.size can't shrink"),
        (json!({"cassandra": {"storage": {"size": "1Gi"}}}), "spec.cassandra.storage.size can't shrink"),
    ] {
        let error = update(spec.clone()).await;
        assert!(error.contains(expected), "{spec}: {error:?}");
    }
    assert_eq!(
        update(json!({"replicas": 5, "cassandra": {"storage": {"size": "20Gi", "onDelete": "Delete"}}})).await,
        ""
    );
    for enabled in [true, false] {
        assert_eq!(update(json!({"authentication": {"enabled": enabled}})).await, "");
    }
    // back to what the volumes have, which the status tells
    let status = Patch::Merge(json!({"status": {"storage": {"cassandra": "10Gi"}}}));
    api.patch_status("orders", &PatchParams::default(), &status).await.unwrap();
    assert_eq!(update(json!({"cassandra": {"storage": {"size": "10Gi"}}})).await, "");
    assert!(update(json!({"cassandra": {"storage": {"size": "9Gi"}}})).await.contains("can't shrink"));
    // the scale subresource
    let scale = api.get_scale("orders").await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(5));
}
