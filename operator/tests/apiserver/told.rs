//! What is wrong is told: in the status, and by Events on transitions.

use std::collections::BTreeSet;

use k8s_openapi::api::{core::v1::ResourceQuota, events::v1::Event};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use replicateddb_operator::crd::ReplicatedDB;
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, create, eventually},
    convergence::{Operator, holds, settled},
    kubelet::Kubelet,
};

/// Type and reason of the Events of the resource.
async fn told(client: &Client, namespace: &str) -> BTreeSet<(String, String)> {
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let query = ListParams::default().fields("regarding.kind=ReplicatedDB,regarding.name=orders");
    let list = events.list(&query).await.unwrap();
    list.into_iter().map(|event| (event.type_.unwrap_or_default(), event.reason.unwrap_or_default())).collect()
}

async fn quota(client: &Client, namespace: &str, hard: Value) {
    // no controller counts here
    let used: Value = hard.as_object().unwrap().keys().map(|key| (key.clone(), json!("0"))).collect();
    let status = Patch::Merge(json!({"status": {"hard": hard, "used": used}}));
    let quota =
        json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": hard}});
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), namespace);
    quotas.create(&PostParams::default(), &serde_json::from_value(quota).unwrap()).await.unwrap();
    quotas.patch_status("none", &PatchParams::default(), &status).await.unwrap();
}

async fn message(client: &Client, namespace: &str) -> String {
    let api: Api<ReplicatedDB> = Api::namespaced(client.clone(), namespace);
    api.get("orders").await.unwrap().status.and_then(|status| status.message).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn transitions_are_events() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("events").await);
    let _kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |_| {}).await;
    settled(&client, &namespace, "orders").await;
    let event = |type_: &str, reason: &str| (type_.to_owned(), reason.to_owned());
    eventually("the way up to be told", || async {
        let told = told(&client, &namespace).await;
        told.contains(&event("Normal", "Available")) && told.contains(&event("Normal", "NotProgressing"))
    })
    .await;
    assert!(told(&client, &namespace).await.iter().all(|(type_, _)| type_ == "Normal"));
    let api: Api<ReplicatedDB> = Api::namespaced(client.clone(), &namespace);
    let bad = json!({"spec": {"zookeeper": {"image": "typo:bad"}}});
    api.patch("orders", &PatchParams::default(), &Patch::Merge(bad)).await.unwrap();
    eventually("the failure to be told", || async {
        let told = told(&client, &namespace).await;
        told.contains(&event("Warning", "Degraded")) && told.contains(&event("Normal", "ReplacingPod"))
    })
    .await;
    operator.end().await;
}

/// Nobody but the StatefulSet controller knows why pods can't be made.
#[tokio::test(flavor = "multi_thread")]
async fn pods_that_a_quota_refuses_are_told() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("quota").await);
    quota(&client, &namespace, json!({"pods": "0"})).await;
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |_| {}).await;
    eventually("the quota to be told", || async {
        let message = message(&client, &namespace).await;
        message.contains("can't be made") && message.contains("exceeded quota")
    })
    .await;
    assert!(holds(&client, &namespace, "orders", "Degraded", "True").await);
    operator.end().await;
}

/// What is refused before anything could be made is told too, and costs nothing of what was recorded.
#[tokio::test(flavor = "multi_thread")]
async fn an_early_refusal_is_told() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("early").await);
    quota(&client, &namespace, json!({"count/secrets": "0"})).await;
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |_| {}).await;
    eventually("the refusal to be told", || async {
        message(&client, &namespace).await.contains("exceeded quota")
            && holds(&client, &namespace, "orders", "Degraded", "True").await
    })
    .await;
    let api: Api<ReplicatedDB> = Api::namespaced(client.clone(), &namespace);
    let status = api.get("orders").await.unwrap().status.unwrap();
    assert_eq!(status.release.unwrap().images.zookeeper, "zookeeper:1");
    assert_eq!(status.observed_generation, None, "nothing of it was done");
    operator.end().await;
}
