//! Two operators at once: one acts, the other takes over, and nobody writes without the lease.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use replicateddb_operator::{lease, process::ProcessError};
use serde_json::json;

use crate::{
    cluster::{Cluster, create, eventually},
    convergence::{Operator, settled},
    kubelet::Kubelet,
};

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_acts_and_the_other_takes_over_at_once() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("two").await);
    let _kubelet = Kubelet::start(client.clone(), &namespace);
    let first = Operator::start(&namespace, "a");
    let leases: Api<Lease> = Api::namespaced(client.clone(), &namespace);
    let holder = || async { leases.get_opt("operator").await.unwrap()?.spec?.holder_identity };
    eventually("a leader", || async { holder().await.as_deref() == Some("a") }).await;
    let second = Operator::start(&namespace, "b");
    create(&client, &namespace, "orders", |_| {}).await;
    settled(&client, &namespace, "orders").await;
    assert!(first.writes() > 0 && second.writes() == 0);
    let begun = Instant::now();
    first.end().await;
    eventually("the other to lead", || async { holder().await.as_deref() == Some("b") }).await;
    assert!(begun.elapsed() < lease::DURATION, "it was given up, not run out: {:?}", begun.elapsed());
    create(&client, &namespace, "more", |_| {}).await;
    settled(&client, &namespace, "more").await;
    second.end().await;
}

/// The lease is taken away: the process ends, and what it began to do is not written.
#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_leader_ends() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("deposed").await);
    let first = Operator::start(&namespace, "a");
    let leases: Api<Lease> = Api::namespaced(client.clone(), &namespace);
    eventually("a leader", || async { leases.get_opt("operator").await.unwrap().is_some() }).await;
    create(&client, &namespace, "orders", |_| {}).await;
    eventually("it to act", || async { first.writes() > 5 }).await;
    let theft = json!({"spec": {"holderIdentity": "thief"}});
    leases.patch("operator", &PatchParams::default(), &Patch::Merge(theft)).await.unwrap();
    let (metrics, task) = (first.metrics.clone(), first.task);
    let ended = tokio::time::timeout(Duration::from_secs(30), task).await.expect("it ends").unwrap();
    assert!(matches!(ended, Err(ProcessError::LeaseLost)), "{ended:?}");
    assert!(metrics.encode().unwrap().contains("replicateddb_operator_leader 0"));
    let lease = leases.get("operator").await.unwrap();
    assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some("thief"), "what is another's is left alone");
}
