//! What an earlier resource of the same name left, or somebody else has put there.

use std::collections::BTreeSet;

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, Secret},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use replicateddb_operator::crd::{OnDelete, ReplicatedDB, ReplicatedDBSpec};
use serde_json::json;

use crate::{
    cluster::{Cluster, create, eventually},
    convergence::{Operator, holds, settled},
    kubelet::Kubelet,
};

async fn message(client: &Client, namespace: &str) -> String {
    let api: Api<ReplicatedDB> = Api::namespaced(client.clone(), namespace);
    api.get("orders").await.unwrap().status.and_then(|status| status.message).unwrap_or_default()
}

async fn sets(client: &Client, namespace: &str) -> usize {
    Api::<StatefulSet>::namespaced(client.clone(), namespace).list(&ListParams::default()).await.unwrap().items.len()
}

async fn delete(client: &Client, namespace: &str) {
    let api: Api<ReplicatedDB> = Api::namespaced(client.clone(), namespace);
    api.delete("orders", &DeleteParams::default()).await.unwrap();
}

fn deleted_with_it(spec: &mut ReplicatedDBSpec) {
    spec.cassandra.storage.on_delete = OnDelete::Delete;
    spec.zookeeper.storage.on_delete = OnDelete::Delete;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_secret_is_left_alone() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("foreign").await);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let token = "x".repeat(64);
    let theirs = json!({"metadata": {"name": "orders-internal"}, "stringData": {"agent-token": token}});
    let theirs = secrets.create(&PostParams::default(), &serde_json::from_value(theirs).unwrap()).await.unwrap();
    let _kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", deleted_with_it).await;
    eventually("the conflict to be told", || holds(&client, &namespace, "orders", "Degraded", "True")).await;
    assert!(message(&client, &namespace).await.contains("belongs to somebody else"));
    assert_eq!(sets(&client, &namespace).await, 0, "nothing uses it");
    let now = secrets.get("orders-internal").await.unwrap();
    assert_eq!(now.resource_version(), theirs.resource_version());
    secrets.delete("orders-internal", &DeleteParams::default()).await.unwrap();
    settled(&client, &namespace, "orders").await;
    operator.end().await;
}

/// Deleted with its volumes and created again at once: the new one waits for them to be gone and has its own.
#[tokio::test(flavor = "multi_thread")]
async fn created_again_before_all_is_gone() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("quick").await);
    let _kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", deleted_with_it).await;
    settled(&client, &namespace, "orders").await;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
    let owners = || async {
        let list = claims.list(&ListParams::default()).await.unwrap();
        let owner = |claim: &PersistentVolumeClaim| claim.owner_references().first().map(|owner| owner.uid.clone());
        (list.items.len(), list.iter().filter_map(owner).collect::<BTreeSet<_>>())
    };
    eventually("the claims to be owned", || async { owners().await.1.len() == 1 }).await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let before = secrets.get("orders-internal").await.unwrap().uid();
    delete(&client, &namespace).await;
    let rdb = create(&client, &namespace, "orders", deleted_with_it).await;
    settled(&client, &namespace, "orders").await;
    eventually("the claims to be the new one's", || async { owners().await == (6, [rdb.uid().unwrap()].into()) }).await;
    assert_ne!(secrets.get("orders-internal").await.unwrap().uid(), before);
    operator.end().await;
}

/// An ensemble of another size over the volumes that were kept could agree on an empty log.
#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_another_ensemble_are_not_used() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("size").await);
    let _kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |spec| spec.zookeeper.size = 1).await;
    settled(&client, &namespace, "orders").await;
    delete(&client, &namespace).await;
    eventually("everything but the data to go", || async { sets(&client, &namespace).await == 0 }).await;
    create(&client, &namespace, "orders", |_| {}).await;
    eventually("the difference to be told", || holds(&client, &namespace, "orders", "Degraded", "True")).await;
    let told = message(&client, &namespace).await;
    assert!(told.contains("zookeeper.size=1") && told.contains("kubectl"), "{told}");
    assert_eq!(sets(&client, &namespace).await, 0);
    delete(&client, &namespace).await;
    create(&client, &namespace, "orders", |spec| spec.zookeeper.size = 1).await;
    settled(&client, &namespace, "orders").await;
    operator.end().await;
}

/// Where the cluster checks who names owners, the operator as installed by default can't arrange `Delete`, and says what can.
#[tokio::test(flavor = "multi_thread")]
async fn owners_that_may_not_be_named_are_told() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("owners").await);
    let _kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start_with(cluster.plain_operator_config(), &namespace, "a");
    create(&client, &namespace, "orders", |spec| spec.cassandra.storage.on_delete = OnDelete::Delete).await;
    eventually("the refusal to be told", || async {
        message(&client, &namespace).await.contains("rbac.ownVolumes=true")
    })
    .await;
    eventually("it to serve all the same", || holds(&client, &namespace, "orders", "Available", "True")).await;
    operator.end().await;
}
