//! I10: a crash at any request to the API server, before or after it was carried out, ends in the same objects.

use std::collections::BTreeMap;

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, ResourceQuota, Secret, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, PostParams},
};
use replicateddb_operator::{crd::ReplicatedDB, reconcile::reconcile};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, context, create},
    layers::{Death, Fuse},
};

/// Objects of a namespace without what differs from run to run.
async fn objects(client: &Client, namespace: &str) -> BTreeMap<String, Value> {
    async fn of<K>(client: &Client, namespace: &str, all: &mut BTreeMap<String, Value>)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + serde::de::DeserializeOwned
            + serde::Serialize
            + Clone
            + std::fmt::Debug,
    {
        for object in Api::<K>::namespaced(client.clone(), namespace).list(&ListParams::default()).await.unwrap() {
            let mut value = serde_json::to_value(&object).unwrap();
            normalise(&mut value, namespace);
            all.insert(format!("{} {}", K::kind(&()), object.name_any()), value);
        }
    }
    let mut all = BTreeMap::new();
    of::<ServiceAccount>(client, namespace, &mut all).await;
    of::<ConfigMap>(client, namespace, &mut all).await;
    of::<Service>(client, namespace, &mut all).await;
    of::<NetworkPolicy>(client, namespace, &mut all).await;
    of::<PodDisruptionBudget>(client, namespace, &mut all).await;
    of::<StatefulSet>(client, namespace, &mut all).await;
    of::<Secret>(client, namespace, &mut all).await;
    all.retain(|name, _| name != "ServiceAccount default" && name != "ConfigMap kube-root-ca.crt");
    all
}

fn normalise(value: &mut Value, namespace: &str) {
    const PASSING: [&str; 9] = [
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "managedFields",
        "generation",
        "status",
        "clusterIP",
        "clusterIPs",
        "data",
    ];
    match value {
        Value::Object(map) => {
            // the content of ConfigMaps is ours; of a Secret it is random
            map.retain(|key, value| {
                !PASSING.contains(&key.as_str())
                    || (key == "data"
                        && ["agent-token", "password", "tls.key"].iter().all(|key| value.get(key).is_none()))
            });
            map.remove("replicateddb.dev/applied"); // it digests the UID of the owner
            map.values_mut().for_each(|value| normalise(value, namespace));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| normalise(item, namespace)),
        Value::String(text) => *text = text.replace(namespace, "NAMESPACE"),
        _ => {}
    }
}

/// A namespace with the resource, in which no pod or claim can be made: what the operator makes is what counts here, and
/// hundreds of stacks of pods would only be slow.
async fn prepare(client: &Client) -> String {
    let namespace = Cluster::shared().namespace("crash").await;
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"},
        "spec": {"hard": {"pods": "0", "persistentvolumeclaims": "0"}},
    });
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), &namespace);
    quotas.create(&PostParams::default(), &serde_json::from_value(quota).unwrap()).await.unwrap();
    create(client, &namespace, "orders", |spec| {
        spec.authentication.enabled = true;
        (spec.tls.enabled, spec.tls.internal) = (true, true);
    })
    .await;
    namespace
}

/// Reconciles until nothing is written any more; the writes of the last pass are none.
async fn converge(namespace: &str) {
    for _ in 0..10 {
        let fuse = Fuse::none();
        let before = fuse.writes();
        let result = reconcile(&context(fuse.client()), namespace, "orders").await;
        // the StatefulSet controller may be at the same object
        if result.is_ok() && fuse.writes() == before {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    panic!("it does not come to rest");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_request_ends_in_the_same_objects() {
    let client = Cluster::shared().client();
    let expected = {
        let namespace = prepare(&client).await;
        converge(&namespace).await;
        objects(&client, &namespace).await
    };
    assert_eq!(expected.len(), 3 + 6 + 4 + 3 + 3 + 3 + 5, "{:?}", expected.keys());
    for death in [Death::Before, Death::After] {
        for requests in 0.. {
            let namespace = prepare(&client).await;
            let fuse = Fuse::after(requests, death);
            let result = reconcile(&context(fuse.client()), &namespace, "orders").await;
            if !fuse.blown() {
                assert!(result.is_ok(), "{result:?}");
                assert!(requests > 30, "a whole reconcile takes more than {requests} requests");
                break;
            }
            converge(&namespace).await;
            let found = objects(&client, &namespace).await;
            for (name, object) in &expected {
                assert_eq!(found.get(name), Some(object), "{name} after a crash {death:?} request {requests}");
            }
            assert_eq!(found.len(), expected.len());
            let rdb: ReplicatedDB = Api::namespaced(client.clone(), &namespace).get("orders").await.unwrap();
            assert_eq!(rdb.status.unwrap().release.unwrap().images.zookeeper, "zookeeper:1");
        }
    }
}
