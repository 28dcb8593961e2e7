//! What all pods of a database that run at a time must agree on is switched on and off in two steps.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{Api, ResourceExt, api::ListParams};
use replicateddb_operator::{
    authority::{Authority, PEER},
    build::{INTERNAL_CERTIFICATE, INTERNAL_OPTIONAL, ZOOKEEPER_OPEN, ZOOKEEPER_TOKEN, is_told},
};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, create, eventually},
    convergence::{Operator, change, settled, status},
    kubelet::Kubelet,
};

/// Switches something on and off on a database of two replicas. Each pod of the tiers that it is about is replaced twice when it is
/// switched on: all are told the first variable then, and none the second one. `off`: how often each is replaced when it is switched
/// off, and whether all are told of it then, or none.
async fn on_and_off(
    namespace: &str,
    spec: fn(bool) -> Value,
    tiers: &[&str],
    variables: [&str; 2],
    off: (usize, [bool; 2]),
) {
    let cluster = Cluster::shared();
    let client = cluster.client();
    let kubelet = Kubelet::start(client.clone(), namespace);
    let operator = Operator::start(namespace, "a");
    create(&client, namespace, "orders", |spec| spec.replicas = 2).await;
    settled(&client, namespace, "orders").await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let told = async |variable: &str| {
        let told = |pod: &&Pod| pod.spec.as_ref().is_some_and(|pod| is_told(pod, variable));
        pods.list(&ListParams::default()).await.unwrap().items.iter().filter(told).count()
    };
    let all: Vec<_> = tiers.iter().flat_map(|tier| [1, 0].map(|n| format!("orders-{tier}-{n}"))).collect();
    for (on, (times, expected)) in [(true, (2, [true, false])), (false, off)] {
        change(&client, namespace, spec(on)).await;
        eventually("the last step to be done", || async {
            kubelet.world.lock().unwrap().gone.len() == times * all.len()
        })
        .await;
        settled(&client, namespace, "orders").await;
        assert_eq!(std::mem::take(&mut kubelet.world.lock().unwrap().gone), vec![all.clone(); times].concat());
        let expected = expected.map(|told| if told { all.len() } else { 0 });
        assert_eq!([told(variables[0]).await, told(variables[1]).await], expected);
    }
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_inside() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("inside").await);
    let spec = |on| json!({"tls": {"internal": on}});
    let variables = [INTERNAL_CERTIFICATE, INTERNAL_OPTIONAL];
    on_and_off(&namespace, spec, &["cassandra", "replica"], variables, (2, [false; 2])).await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let (authority, peers) =
        (secrets.get("orders-authority").await.unwrap(), secrets.get("orders-peers").await.unwrap());
    let authority = Authority::of(&authority).unwrap();
    assert_eq!(authority.due(Some(&peers), &[PEER.to_owned()], Timestamp::now()), None);
    assert_eq!(status(&client, &namespace).await.tls_secret, None, "clients use none");
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_the_log_is() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("restricted").await);
    let spec = |on| json!({"zookeeper": {"restricted": on}});
    // what others were kept from may still be closed to them: replicas go on logging in
    on_and_off(&namespace, spec, &["replica"], [ZOOKEEPER_TOKEN, ZOOKEEPER_OPEN], (1, [true; 2])).await;
    let secret = Api::<Secret>::namespaced(client, &namespace).get("orders-internal").await.unwrap();
    let noted = secret.annotations().get("replicateddb.dev/restricted").map(String::as_str);
    assert_eq!(noted, Some("true"), "its token is not to be lost");
}
