//! Pods are replaced by the operator, in order, one at a time, whatever happens to the operator.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use replicateddb_operator::{
    crd::{CassandraMode, ReplicatedDB},
    reconcile::reconcile,
};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, context, create, eventually, images},
    convergence::{Operator, change, holds, settled},
    kubelet::Kubelet,
    layers::{Death, Fuse},
};

async fn uids(client: &Client, namespace: &str) -> BTreeSet<String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    pods.list(&ListParams::default()).await.unwrap().iter().filter_map(ResourceExt::uid).collect()
}

fn everywhere(key: &str, value: Value) -> Value {
    json!({"zookeeper": {key: value}, "cassandra": {key: value}, "replica": {key: value}})
}

/// Each pod went once, in order, and no two of a tier at once.
fn assert_rolled(kubelet: &Kubelet, leader: usize) {
    let world = kubelet.world.lock().unwrap();
    let followers = [2, 1, 0].into_iter().filter(|ordinal| *ordinal != leader);
    let mut expected: Vec<_> = followers.chain([leader]).map(|n| format!("orders-zookeeper-{n}")).collect();
    expected.extend([2, 1, 0].map(|n| format!("orders-cassandra-{n}")));
    expected.extend([2, 1, 0].map(|n| format!("orders-replica-{n}")));
    assert_eq!(world.gone, expected);
    assert!(world.away_max.values().all(|most| *most == 1), "{:?}", world.away_max);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_spec_rolls_all_tiers_in_order() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("roll").await);
    let kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |_| {}).await;
    settled(&client, &namespace, "orders").await;
    change(&client, &namespace, everywhere("pod", json!({"annotations": {"restart": "1"}}))).await;
    settled(&client, &namespace, "orders").await;
    assert_rolled(&kubelet, 1);
    operator.end().await;
}

/// A replica that is replaying holds a roll up; when it serves, the roll goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_roll_waits_for_replicas_to_catch_up() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("roll").await);
    let kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |_| {}).await;
    settled(&client, &namespace, "orders").await;
    kubelet.world.lock().unwrap().replica_state = "replaying".to_owned();
    change(&client, &namespace, json!({"replica": {"image": "server:2"}})).await;
    let api: Api<ReplicatedDB> = Api::namespaced(client.clone(), &namespace);
    eventually("the wait to be told", || async {
        let status = api.get("orders").await.unwrap().status.unwrap();
        status.message.is_some_and(|message| message.contains("replica 0 to serve, it is replaying"))
    })
    .await;
    assert!(kubelet.world.lock().unwrap().gone.is_empty());
    kubelet.world.lock().unwrap().replica_state = "serving".to_owned();
    settled(&client, &namespace, "orders").await;
    assert_eq!(kubelet.world.lock().unwrap().gone.len(), 3);
    operator.end().await;
}

/// A bad image stops the roll at its first pod, the others serve on; the corrected spec heals it.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_image_is_told_and_a_good_one_heals() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("heal").await);
    let kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |_| {}).await;
    settled(&client, &namespace, "orders").await;
    change(&client, &namespace, everywhere("image", json!("typo:bad"))).await;
    eventually("the bad image to be told", || holds(&client, &namespace, "orders", "Degraded", "True")).await;
    let api: Api<ReplicatedDB> = Api::namespaced(client.clone(), &namespace);
    let message = api.get("orders").await.unwrap().status.unwrap().message.unwrap();
    assert!(message.contains("typo:bad") && message.contains("spec.zookeeper.image"), "{message}");
    assert!(holds(&client, &namespace, "orders", "Available", "True").await);
    assert_eq!(kubelet.world.lock().unwrap().gone, ["orders-zookeeper-2"]);
    change(&client, &namespace, everywhere("image", json!("good:1"))).await;
    settled(&client, &namespace, "orders").await;
    operator.end().await;
}

/// The operator is killed in the middle of a roll, without a word; another ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_operator_s_roll_is_ended_by_another() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("kill").await);
    let kubelet = Kubelet::start(client.clone(), &namespace);
    let first = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |_| {}).await;
    settled(&client, &namespace, "orders").await;
    let second = Operator::start(&namespace, "b");
    change(&client, &namespace, everywhere("pod", json!({"annotations": {"restart": "1"}}))).await;
    eventually("the roll to be under way", || async { kubelet.world.lock().unwrap().gone.len() >= 2 }).await;
    first.task.abort();
    settled(&client, &namespace, "orders").await;
    assert_rolled(&kubelet, 1);
    assert!(second.writes() > 0);
    second.end().await;
}

/// I10: an operator that dies again and again, each time after other requests, still rolls each pod once and in order.
#[tokio::test(flavor = "multi_thread")]
async fn crashes_in_the_middle_of_a_roll_repeat_nothing() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("crashroll").await);
    let kubelet = Kubelet::start(client.clone(), &namespace);
    create(&client, &namespace, "orders", |_| {}).await;
    let whole = context(cluster.operator());
    eventually("the resource to settle", || async {
        let _ = reconcile(&whole, &namespace, "orders").await;
        holds(&client, &namespace, "orders", "Progressing", "False").await
    })
    .await;
    let before = uids(&client, &namespace).await;
    change(&client, &namespace, everywhere("pod", json!({"annotations": {"restart": "1"}}))).await;
    let mut requests = 0;
    eventually("the roll to end", || {
        requests = (requests + 7) % 41;
        let death = if requests % 2 == 0 { Death::Before } else { Death::After };
        let (dying, namespace, client) =
            (context(Fuse::after(requests, death).client()), namespace.clone(), client.clone());
        async move {
            let _ = reconcile(&dying, &namespace, "orders").await;
            holds(&client, &namespace, "orders", "Progressing", "False").await
        }
    })
    .await;
    assert_rolled(&kubelet, 1);
    assert!(uids(&client, &namespace).await.is_disjoint(&before));
}

/// A new operator with other default images restarts nothing; the annotation asks for them.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_operator_restarts_nothing_until_asked() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("upgrade").await);
    let _kubelet = Kubelet::start(client.clone(), &namespace);
    create(&client, &namespace, "orders", |_| {}).await;
    let (old, mut new) = (context(cluster.operator()), context(cluster.operator()));
    new.defaults.images = images("2");
    let settle = |context| {
        let (client, namespace) = (client.clone(), namespace.clone());
        async move {
            eventually("the resource to settle", || async {
                let _ = reconcile(&context, &namespace, "orders").await;
                holds(&client, &namespace, "orders", "Progressing", "False").await
                    && holds(&client, &namespace, "orders", "Available", "True").await
            })
            .await;
        }
    };
    settle(old).await;
    let before = uids(&client, &namespace).await;
    for _ in 0..3 {
        reconcile(&new, &namespace, "orders").await.unwrap();
    }
    assert_eq!(uids(&client, &namespace).await, before);
    assert!(holds(&client, &namespace, "orders", "UpgradeAvailable", "True").await);
    let api: Api<ReplicatedDB> = Api::namespaced(client.clone(), &namespace);
    let ask = json!({"metadata": {"annotations": {"replicateddb.dev/upgrade": "1"}}});
    api.patch("orders", &PatchParams::default(), &Patch::Merge(ask)).await.unwrap();
    eventually("the upgrade to be done", || async {
        let _ = reconcile(&new, &namespace, "orders").await;
        uids(&client, &namespace).await.is_disjoint(&before)
            && holds(&client, &namespace, "orders", "Progressing", "False").await
    })
    .await;
    assert!(holds(&client, &namespace, "orders", "UpgradeAvailable", "False").await);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let pod = pods.get("orders-cassandra-0").await.unwrap();
    assert_eq!(pod.spec.unwrap().containers[0].image.as_deref(), Some("cassandra:2"));
}

/// One Cassandra for all replicas: it is replaced like others, then they are.
#[tokio::test(flavor = "multi_thread")]
async fn a_shared_cassandra_rolls_too() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("shared").await);
    let kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |spec| {
        spec.cassandra.mode = CassandraMode::Shared;
        spec.zookeeper.size = 1;
        spec.replicas = 2;
    })
    .await;
    settled(&client, &namespace, "orders").await;
    assert_eq!(uids(&client, &namespace).await.len(), 1 + 1 + 2);
    let annotations = json!({"annotations": {"restart": "1"}});
    change(&client, &namespace, json!({"cassandra": {"pod": annotations}, "replica": {"pod": annotations}})).await;
    settled(&client, &namespace, "orders").await;
    let gone = kubelet.world.lock().unwrap().gone.clone();
    assert_eq!(gone, ["orders-cassandra-0", "orders-replica-1", "orders-replica-0"]);
    operator.end().await;
}
