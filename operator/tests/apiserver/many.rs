//! A hundred resources under one operator.

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::{
    Api,
    api::{ListParams, ObjectList},
};
use replicateddb_operator::crd::ReplicatedDB;

use crate::{
    cluster::{Cluster, create, eventually},
    convergence::Operator,
};

const RESOURCES: usize = 100;

/// All of them get their objects. There is no kubelet here: a hundred stacks of nine pods are not what is measured.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_resources() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("many").await);
    for number in 0..RESOURCES {
        create(&client, &namespace, &format!("orders-{number}"), |spec| {
            spec.replicas = 1;
            spec.zookeeper.size = 1;
        })
        .await;
    }
    let operator = Operator::start(&namespace, "a");
    let begun = Instant::now();
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &namespace);
    let resources: Api<ReplicatedDB> = Api::namespaced(client.clone(), &namespace);
    eventually("three StatefulSets for each", || async {
        sets.list(&ListParams::default()).await.unwrap().items.len() == 3 * RESOURCES
    })
    .await;
    eventually("a status for each", || async {
        let list: ObjectList<ReplicatedDB> = resources.list(&ListParams::default()).await.unwrap();
        list.iter().all(|rdb| rdb.status.as_ref().is_some_and(|status| status.observed_generation == Some(1)))
    })
    .await;
    println!("{RESOURCES} resources have their objects after {:?}", begun.elapsed());
    // Nothing moves, so writes come to an end.
    let begun = Instant::now();
    loop {
        let writes = operator.writes();
        tokio::time::sleep(Duration::from_secs(10)).await;
        if operator.writes() == writes {
            break;
        }
        assert!(begun.elapsed() < crate::cluster::PATIENCE, "it goes on writing");
    }
    operator.end().await;
}
