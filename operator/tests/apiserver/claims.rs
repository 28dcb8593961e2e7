//! Volumes grow, with pods in any state; a class that can't is told of; deletion does what was said.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, Pod, Secret},
    storage::v1::StorageClass,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use replicateddb_operator::crd::{OnDelete, ReplicatedDB};
use serde_json::json;

use crate::{
    cluster::{Cluster, create, eventually},
    convergence::{Operator, holds, settled},
    kubelet::Kubelet,
};

async fn class(client: &Client, name: &str, expands: bool) {
    let class: StorageClass = serde_json::from_value(json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
        "provisioner": "tests", "allowVolumeExpansion": expands,
    }))
    .unwrap();
    let params = PatchParams::apply("tests").force();
    Api::<StorageClass>::all(client.clone()).patch(name, &params, &Patch::Apply(&class)).await.unwrap();
}

async fn resize(client: &Client, namespace: &str, size: &str) {
    let api: Api<ReplicatedDB> = Api::namespaced(client.clone(), namespace);
    let patch = json!({"spec": {"cassandra": {"storage": {"size": size}}}});
    api.patch("orders", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

async fn sizes(client: &Client, namespace: &str, tier: &str) -> Vec<String> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let query = ListParams::default().labels(&format!("app.kubernetes.io/component={tier}"));
    let size = |claim: &PersistentVolumeClaim| {
        claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage").map(|q| q.0.clone())
    };
    claims.list(&query).await.unwrap().iter().filter_map(size).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_grow_under_the_same_pods() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("grow").await);
    class(&client, "elastic", true).await;
    let kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |spec| spec.cassandra.storage.storage_class_name = Some("elastic".into()))
        .await;
    settled(&client, &namespace, "orders").await;
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &namespace);
    let before = sets.get("orders-cassandra").await.unwrap().uid();
    resize(&client, &namespace, "20Gi").await;
    eventually("the StatefulSet to come back", || async {
        sets.get_opt("orders-cassandra").await.unwrap().is_some_and(|set| set.uid() != before)
    })
    .await;
    settled(&client, &namespace, "orders").await;
    assert_eq!(sizes(&client, &namespace, "cassandra").await, ["20Gi"; 3]);
    assert_eq!(sizes(&client, &namespace, "zookeeper").await, ["10Gi"; 3]);
    assert!(kubelet.world.lock().unwrap().gone.is_empty(), "no pod went");
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let owner = pods.get("orders-cassandra-0").await.unwrap().owner_references()[0].uid.clone();
    assert_eq!(Some(owner), sets.get("orders-cassandra").await.unwrap().uid(), "the new StatefulSet has the pods");
    operator.end().await;
}

/// A full volume keeps pods from being ready; that must not keep the volume from growing.
#[tokio::test(flavor = "multi_thread")]
async fn volumes_grow_while_nothing_is_ready() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("full").await);
    class(&client, "elastic", true).await;
    let _kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |spec| {
        spec.cassandra.storage.storage_class_name = Some("elastic".into());
        spec.cassandra.image = Some("typo:bad".into());
    })
    .await;
    eventually("the claims", || async { sizes(&client, &namespace, "cassandra").await.len() == 3 }).await;
    resize(&client, &namespace, "20Gi").await;
    eventually("the claims to grow", || async { sizes(&client, &namespace, "cassandra").await == ["20Gi"; 3] }).await;
    operator.end().await;
}

/// A growth that does not come about is told of, and can be taken back to anything above what the volumes have.
#[tokio::test(flavor = "multi_thread")]
async fn a_growth_that_fails_is_taken_back() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("back").await);
    class(&client, "elastic", true).await;
    let kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |spec| spec.cassandra.storage.storage_class_name = Some("elastic".into()))
        .await;
    settled(&client, &namespace, "orders").await;
    kubelet.world.lock().unwrap().resizes = false;
    resize(&client, &namespace, "100Gi").await;
    let api: Api<ReplicatedDB> = Api::namespaced(client.clone(), &namespace);
    let told = |text: &'static str| {
        let api = api.clone();
        async move { api.get("orders").await.unwrap().status.unwrap().message.unwrap().contains(text) }
    };
    eventually("the growth to be waited for", || told("to grow from 10Gi to 100Gi")).await;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
    let failed =
        json!({"status": {"conditions": [{"type": "ControllerResizeError", "status": "True", "message": "no room"}]}});
    claims.patch_status("data-orders-cassandra-0", &PatchParams::default(), &Patch::Merge(failed)).await.unwrap();
    eventually("the failure to be told", || told("can't grow from 10Gi to 100Gi: no room")).await;
    // what is below the size that was asked for, and not below what the volumes have
    resize(&client, &namespace, "15Gi").await;
    eventually("less to be asked for", || async { sizes(&client, &namespace, "cassandra").await == ["15Gi"; 3] }).await;
    kubelet.world.lock().unwrap().resizes = true;
    settled(&client, &namespace, "orders").await;
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_that_can_not_expand_is_told_of() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("rigid").await);
    class(&client, "rigid", false).await;
    let _kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |spec| spec.cassandra.storage.storage_class_name = Some("rigid".into()))
        .await;
    settled(&client, &namespace, "orders").await;
    resize(&client, &namespace, "20Gi").await;
    eventually("the limit to be told", || holds(&client, &namespace, "orders", "Degraded", "True")).await;
    let api: Api<ReplicatedDB> = Api::namespaced(client.clone(), &namespace);
    let message = api.get("orders").await.unwrap().status.unwrap().message.unwrap();
    assert!(message.contains("can't grow to 20Gi") && message.contains("spec.cassandra.storage.size"), "{message}");
    // which holds nothing else up
    let patch = json!({"spec": {"cassandra": {"image": "cassandra:2"}}});
    api.patch("orders", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    eventually("the new image", || async {
        let list = pods.list(&ListParams::default().labels("app.kubernetes.io/component=cassandra")).await.unwrap();
        let image = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.clone();
        list.items.len() == 3 && list.iter().all(|pod| image(pod).as_deref() == Some("cassandra:2"))
    })
    .await;
    resize(&client, &namespace, "10Gi").await;
    settled(&client, &namespace, "orders").await;
    operator.end().await;
}

/// `Delete` takes the volumes and the Secret along; changed to `Retain` in time, they stay.
#[tokio::test(flavor = "multi_thread")]
async fn volumes_go_only_when_that_was_said() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("ondelete").await);
    let _kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |spec| {
        spec.cassandra.storage.on_delete = OnDelete::Delete;
        spec.zookeeper.storage.on_delete = OnDelete::Delete;
    })
    .await;
    settled(&client, &namespace, "orders").await;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let owned = || async {
        let list = claims.list(&ListParams::default()).await.unwrap();
        list.iter().filter(|claim| claim.owner_references().iter().any(|owner| owner.kind == "ReplicatedDB")).count()
    };
    let secret_owned = || async { !secrets.get("orders-internal").await.unwrap().owner_references().is_empty() };
    eventually("all to be owned", || async { owned().await == 6 && secret_owned().await }).await;
    let api: Api<ReplicatedDB> = Api::namespaced(client.clone(), &namespace);
    let retain = json!({"spec": {"zookeeper": {"storage": {"onDelete": "Retain"}}}});
    api.patch("orders", &PatchParams::default(), &Patch::Merge(retain)).await.unwrap();
    eventually("some to be given up", || async { owned().await == 3 && !secret_owned().await }).await;
    api.delete("orders", &DeleteParams::default()).await.unwrap();
    eventually("what was said to go", || async {
        sizes(&client, &namespace, "cassandra").await.is_empty() || {
            // no controller takes the finalizer off here that protects claims of pods
            let list =
                claims.list(&ListParams::default().labels("app.kubernetes.io/component=cassandra")).await.unwrap();
            list.iter().all(|claim| claim.metadata.deletion_timestamp.is_some())
        }
    })
    .await;
    let kept = claims.list(&ListParams::default().labels("app.kubernetes.io/component=zookeeper")).await.unwrap();
    assert!(kept.items.len() == 3 && kept.iter().all(|claim| claim.metadata.deletion_timestamp.is_none()));
    assert!(secrets.get("orders-internal").await.is_ok());
    operator.end().await;
}
