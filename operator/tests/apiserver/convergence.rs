//! From a resource to its objects, and back to them after whatever happens to them.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    discovery::ApiResource,
};
use replicateddb_operator::{
    crd::{ReplicatedDB, ReplicatedDBStatus},
    metrics::Metrics,
    process,
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{Cluster, create, eventually, settings},
    kubelet::Kubelet,
};

/// Looks in a row without a write after which the operator counts as at rest.
const QUIET_LOOKS: u32 = 30;

/// A whole operator in this process.
pub struct Operator {
    pub metrics: Arc<Metrics>,
    pub stop: CancellationToken,
    pub task: JoinHandle<Result<(), process::ProcessError>>,
}

impl Operator {
    pub fn start(namespace: &str, name: &str) -> Self {
        Self::start_with(Cluster::shared().operator_config(), namespace, name)
    }

    pub fn start_with(config: kube::Config, namespace: &str, name: &str) -> Self {
        let (metrics, stop) = (Arc::new(Metrics::default()), CancellationToken::new());
        let run = process::run(config, settings(namespace, name), Arc::clone(&metrics), stop.clone());
        Self { metrics, stop, task: tokio::spawn(run) }
    }

    pub fn writes(&self) -> u64 {
        self.metrics.writes.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// Ends it as SIGTERM does.
    pub async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// Whether a condition of a resource holds, for its newest generation.
pub async fn holds(client: &Client, namespace: &str, name: &str, type_: &str, status: &str) -> bool {
    let api: Api<ReplicatedDB> = Api::namespaced(client.clone(), namespace);
    let Ok(rdb) = api.get(name).await else { return false };
    let generation = rdb.metadata.generation;
    rdb.status.iter().flat_map(|s| &s.conditions).any(|condition| {
        condition.type_ == type_ && condition.status == status && condition.observed_generation == generation
    })
}

/// Waits until a resource is available and at rest.
pub async fn settled(client: &Client, namespace: &str, name: &str) {
    eventually("the resource to settle", || async {
        holds(client, namespace, name, "Available", "True").await
            && holds(client, namespace, name, "Progressing", "False").await
            && holds(client, namespace, name, "Degraded", "False").await
    })
    .await;
}

/// What the status of the resource `orders` says.
pub async fn status(client: &Client, namespace: &str) -> ReplicatedDBStatus {
    let api: Api<ReplicatedDB> = Api::namespaced(client.clone(), namespace);
    api.get("orders").await.unwrap().status.unwrap_or_default()
}

/// Waits until something is wrong with it for that reason; the message.
pub async fn degraded(client: &Client, namespace: &str, reason: &str) -> String {
    eventually(reason, || async {
        let conditions = status(client, namespace).await.conditions;
        conditions.iter().any(|condition| condition.type_ == "Degraded" && condition.reason == reason)
    })
    .await;
    status(client, namespace).await.message.unwrap_or_default()
}

/// Changes the spec of the resource `orders`.
pub async fn change(client: &Client, namespace: &str, spec: Value) {
    let api: Api<ReplicatedDB> = Api::namespaced(client.clone(), namespace);
    api.patch("orders", &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await.unwrap();
}

async fn versions(client: &Client, namespace: &str) -> BTreeSet<String> {
    async fn of<K>(client: &Client, namespace: &str) -> Vec<String>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + serde::de::DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let list = Api::<K>::namespaced(client.clone(), namespace).list(&ListParams::default()).await.unwrap();
        let entry = |object: &K| format!("{} {} {:?}", K::kind(&()), object.name_any(), object.resource_version());
        list.iter().map(entry).collect()
    }
    let mut all = BTreeSet::new();
    all.extend(of::<ReplicatedDB>(client, namespace).await);
    all.extend(of::<StatefulSet>(client, namespace).await);
    all.extend(of::<Service>(client, namespace).await);
    all.extend(of::<ConfigMap>(client, namespace).await);
    all.extend(of::<Secret>(client, namespace).await);
    all.extend(of::<PodDisruptionBudget>(client, namespace).await);
    all.extend(of::<Pod>(client, namespace).await);
    all.extend(of::<PersistentVolumeClaim>(client, namespace).await);
    all
}

/// I9: a minute of rest, with replicas that answer and a log that ticks, without a single write.
#[tokio::test(flavor = "multi_thread")]
async fn no_write_at_rest() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("rest").await);
    let _kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |spec| {
        spec.authentication.enabled = true;
        spec.tls.enabled = true;
    })
    .await;
    settled(&client, &namespace, "orders").await;
    // What is still under way (Events, a last look) comes to its end: no write between some looks in a row.
    let last = Mutex::new((operator.writes(), 0));
    eventually("the last writes before the rest", || async {
        let mut last = last.lock().unwrap();
        *last = if last.0 == operator.writes() { (last.0, last.1 + 1) } else { (operator.writes(), 0) };
        last.1 >= QUIET_LOOKS
    })
    .await;
    let (writes, before) = (operator.writes(), versions(&client, &namespace).await);
    // This is the rest that is watched, not a wait for something.
    tokio::time::sleep(Duration::from_secs(65)).await;
    assert_eq!(operator.writes(), writes);
    assert_eq!(versions(&client, &namespace).await, before);
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_are_deleted_or_changed_come_back() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("drift").await);
    let _kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |_| {}).await;
    settled(&client, &namespace, "orders").await;
    let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &namespace);
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), &namespace);
    services.delete("orders", &DeleteParams::default()).await.unwrap();
    maps.delete("orders-replica", &DeleteParams::default()).await.unwrap();
    sets.delete("orders-cassandra", &DeleteParams::default()).await.unwrap();
    budgets.delete("orders-zookeeper", &DeleteParams::default()).await.unwrap();
    let publish = Patch::Merge(json!({"spec": {"publishNotReadyAddresses": false}}));
    services.patch("orders-zookeeper-nodes", &PatchParams::default(), &publish).await.unwrap();
    // additions that change what ours mean
    let select = Patch::Merge(json!({"spec": {"selector": {"more": "narrow"}}}));
    services.patch("orders-cassandra-nodes", &PatchParams::default(), &select).await.unwrap();
    let setting = Patch::Merge(json!({"data": {"MORE": "1"}}));
    maps.patch("orders-zookeeper", &PatchParams::default(), &setting).await.unwrap();
    eventually("everything to be back", || async {
        let nodes = services.get("orders-zookeeper-nodes").await.unwrap();
        let narrowed = services.get("orders-cassandra-nodes").await.unwrap().spec.unwrap().selector.unwrap();
        let data = maps.get("orders-zookeeper").await.unwrap().data.unwrap();
        services.get("orders").await.is_ok()
            && maps.get("orders-replica").await.is_ok()
            && sets.get("orders-cassandra").await.is_ok_and(|set| set.metadata.deletion_timestamp.is_none())
            && budgets.get("orders-zookeeper").await.is_ok()
            && nodes.spec.unwrap().publish_not_ready_addresses == Some(true)
            && !narrowed.contains_key("more")
            && !data.contains_key("MORE")
    })
    .await;
    settled(&client, &namespace, "orders").await;
    operator.end().await;
}

/// Lost with data around: told, with the remedy, and never made anew. The remedy works.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_secret_is_not_made_anew() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("secret").await);
    let _kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |_| {}).await;
    settled(&client, &namespace, "orders").await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let mut secret = secrets.get("orders-internal").await.unwrap();
    assert!(secret.metadata.owner_references.is_none(), "it stays with the volumes");
    secrets.delete("orders-internal", &DeleteParams::default()).await.unwrap();
    eventually("the loss to be told", || holds(&client, &namespace, "orders", "Degraded", "True")).await;
    let rdb: ReplicatedDB = Api::namespaced(client.clone(), &namespace).get("orders").await.unwrap();
    let message = rdb.status.unwrap().message.unwrap();
    assert!(message.contains("orders-internal") && message.contains("kubectl"), "{message}");
    assert!(secrets.get_opt("orders-internal").await.unwrap().is_none());
    // by its labels it is known
    let labels = secret.metadata.labels.take();
    secret.metadata = kube::api::ObjectMeta { name: Some("orders-internal".into()), labels, ..Default::default() };
    secrets.create(&PostParams::default(), &secret).await.unwrap();
    settled(&client, &namespace, "orders").await;
    operator.end().await;
}

/// Deleted with its volumes kept, and created again: the same Secret, the same claims.
#[tokio::test(flavor = "multi_thread")]
async fn a_resource_created_again_takes_over_what_was_kept() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("again").await);
    let _kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |_| {}).await;
    settled(&client, &namespace, "orders").await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &namespace);
    let uids = || async {
        let list = claims.list(&ListParams::default()).await.unwrap();
        let secret = secrets.get("orders-internal").await.unwrap();
        (list.iter().map(|claim| claim.uid()).collect::<BTreeSet<_>>(), secret.uid())
    };
    let before = uids().await;
    assert_eq!(before.0.len(), 6);
    let api: Api<ReplicatedDB> = Api::namespaced(client.clone(), &namespace);
    api.delete("orders", &DeleteParams::default()).await.unwrap();
    eventually("everything but the data to go", || async {
        sets.list(&ListParams::default()).await.unwrap().items.is_empty()
    })
    .await;
    assert_eq!(uids().await, before);
    create(&client, &namespace, "orders", |_| {}).await;
    settled(&client, &namespace, "orders").await;
    assert_eq!(uids().await, before);
    operator.end().await;
}

/// An object of somebody else with a name that we need is left alone, and told of.
#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_others_is_not_touched() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("foreign").await);
    let _kubelet = Kubelet::start(client.clone(), &namespace);
    let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
    let theirs: Service = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "orders"}, "spec": {"ports": [{"port": 80}]},
    }))
    .unwrap();
    services.create(&PostParams::default(), &theirs).await.unwrap();
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |_| {}).await;
    eventually("the conflict to be told", || holds(&client, &namespace, "orders", "Degraded", "True")).await;
    let service = services.get("orders").await.unwrap();
    assert!(service.labels().is_empty() && service.spec.unwrap().ports.unwrap()[0].port == 80);
    services.delete("orders", &DeleteParams::default()).await.unwrap();
    settled(&client, &namespace, "orders").await;
    operator.end().await;
}

/// A resource that this operator can't read, as one of a later version could be, stops no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_resource_stops_no_other() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("bad").await);
    let resource = ApiResource::erase::<ReplicatedDB>(&());
    let raw: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
    // the schema lets this number through and the type does not: more than an i64 of bytes
    let bad = json!({
        "apiVersion": "replicateddb.dev/v1alpha1", "kind": "ReplicatedDB", "metadata": {"name": "bad"},
        "spec": {"cassandra": {"storage": {"size": "99999999999999999999999E"}}},
    });
    raw.create(&PostParams::default(), &serde_json::from_value(bad).unwrap()).await.unwrap();
    let _kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |_| {}).await;
    settled(&client, &namespace, "orders").await;
    assert!(operator.metrics.encode().unwrap().contains("undecodable_total 1"));
    let status = raw.get("bad").await.unwrap().data["status"].clone();
    assert!(status["message"].as_str().unwrap().contains("can't read the resource"), "{status}");
    assert_eq!(status["conditions"][0]["reason"], "InvalidSpec");
    // one that has gone leaves no figures behind
    assert!(operator.metrics.encode().unwrap().contains("name=\"orders\""));
    Api::<ReplicatedDB>::namespaced(client.clone(), &namespace)
        .delete("orders", &DeleteParams::default())
        .await
        .unwrap();
    eventually("the figures to be forgotten", || async {
        !operator.metrics.encode().unwrap().contains("name=\"orders\"")
    })
    .await;
    operator.end().await;
}

/// From three to one and back: no budget for a single pod, the Cassandra leaves after its replica, claims stay.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_go_and_come() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("scale").await);
    let _kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |_| {}).await;
    settled(&client, &namespace, "orders").await;
    let api: Api<ReplicatedDB> = Api::namespaced(client.clone(), &namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), &namespace);
    let scale = |replicas: i32| {
        let (api, patch) = (api.clone(), Patch::Merge(json!({"spec": {"replicas": replicas}})));
        async move { api.patch("orders", &PatchParams::default(), &patch).await.unwrap() }
    };
    let count = |component: &'static str| {
        let (pods, query) =
            (pods.clone(), ListParams::default().labels(&format!("app.kubernetes.io/component={component}")));
        async move { pods.list(&query).await.unwrap().items.len() }
    };
    scale(1).await;
    eventually("one of each", || async { count("replica").await == 1 && count("cassandra").await == 1 }).await;
    settled(&client, &namespace, "orders").await;
    let names: Vec<_> = budgets.list(&ListParams::default()).await.unwrap().iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["orders-zookeeper"]);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
    assert_eq!(claims.list(&ListParams::default()).await.unwrap().items.len(), 6);
    scale(3).await;
    settled(&client, &namespace, "orders").await;
    assert_eq!((count("replica").await, count("cassandra").await), (3, 3));
    operator.end().await;
}
