//! The Secret with the superuser: made once, or the user's own, and what comes of its loss.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Pod, PodTemplateSpec, Secret},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use replicateddb_operator::crd::{OnDelete, ReplicatedDB, ReplicatedDBSpec};
use serde_json::json;

use crate::{
    cluster::{Cluster, create, eventually},
    convergence::{Operator, change, degraded, settled, status},
    kubelet::Kubelet,
};

fn authenticated(spec: &mut ReplicatedDBSpec) {
    spec.authentication.enabled = true;
}

async fn templates(client: &Client, namespace: &str) -> Vec<PodTemplateSpec> {
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    sets.list(&ListParams::default()).await.unwrap().into_iter().map(|set| set.spec.unwrap().template).collect()
}

fn basic_auth(name: &str, username: &str) -> Secret {
    serde_json::from_value(json!({
        "metadata": {"name": name}, "type": "kubernetes.io/basic-auth",
        "stringData": {"username": username, "password": "correct horse battery"},
    }))
    .unwrap()
}

/// Made with the database, kept with its volumes, taken over with them, and lost with them around: told, and not made anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_superuser_is_made_once() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("superuser").await);
    let _kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", authenticated).await;
    settled(&client, &namespace, "orders").await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let mut secret = secrets.get("orders-superuser").await.unwrap();
    let data = secret.data.clone().unwrap();
    assert_eq!(
        (secret.type_.as_deref(), data["username"].0.as_slice()),
        (Some("kubernetes.io/basic-auth"), &b"admin"[..])
    );
    assert!(data["password"].0.len() == 64 && secret.metadata.owner_references.is_none());
    let password = String::from_utf8(data["password"].0.clone()).unwrap();
    let told = status(&client, &namespace).await;
    assert_eq!(told.superuser_secret.as_deref(), Some("orders-superuser"));
    for shown in [json!(told), json!(templates(&client, &namespace).await)] {
        assert!(!shown.to_string().contains(&password), "{shown}");
    }

    let api: Api<ReplicatedDB> = Api::namespaced(client.clone(), &namespace);
    api.delete("orders", &DeleteParams::default()).await.unwrap();
    eventually("everything but the data to go", || async { templates(&client, &namespace).await.is_empty() }).await;
    create(&client, &namespace, "orders", authenticated).await;
    settled(&client, &namespace, "orders").await;
    assert_eq!(secrets.get("orders-superuser").await.unwrap().resource_version(), secret.resource_version());

    let before = templates(&client, &namespace).await;
    secrets.delete("orders-superuser", &DeleteParams::default()).await.unwrap();
    let message = degraded(&client, &namespace, "SecretLost").await;
    assert!(message.contains("Secret orders-superuser is gone") && message.contains("kubectl -n"), "{message}");
    assert!(secrets.get_opt("orders-superuser").await.unwrap().is_none());
    assert_eq!(templates(&client, &namespace).await, before);
    let labels = secret.metadata.labels.take();
    secret.metadata = kube::api::ObjectMeta { name: Some("orders-superuser".into()), labels, ..Default::default() };
    secrets.create(&PostParams::default(), &secret).await.unwrap();
    settled(&client, &namespace, "orders").await;
    operator.end().await;
}

/// On a database that runs: nothing changes before the Secret that is named can be used, it is never written, and
/// clients need not log in once that is switched off.
#[tokio::test(flavor = "multi_thread")]
async fn a_superuser_of_ones_own_is_read_alone() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("own").await);
    let kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |spec| {
        spec.cassandra.storage.on_delete = OnDelete::Delete;
        spec.zookeeper.storage.on_delete = OnDelete::Delete;
    })
    .await;
    settled(&client, &namespace, "orders").await;
    let open = templates(&client, &namespace).await;
    change(&client, &namespace, json!({"authentication": {"enabled": true, "superuserSecret": {"name": "ops"}}})).await;
    let message = degraded(&client, &namespace, "SecretMissing").await;
    assert!(message.contains("Secret ops, which spec.authentication.superuserSecret names"), "{message}");
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    secrets.create(&PostParams::default(), &basic_auth("ops", "cassandra")).await.unwrap();
    let message = degraded(&client, &namespace, "SecretInvalid").await;
    assert!(message.contains("choose another") && !message.contains("battery"), "{message}");
    assert_eq!(templates(&client, &namespace).await, open);
    assert!(kubelet.world.lock().unwrap().gone.is_empty(), "no pod has been replaced");

    let name = Patch::Merge(json!({"stringData": {"username": "ops"}}));
    let ours = secrets.patch("ops", &PatchParams::default(), &name).await.unwrap();
    settled(&client, &namespace, "orders").await;
    let gone = || std::mem::take(&mut kubelet.world.lock().unwrap().gone);
    let all_of = |component: &str| [2, 1, 0].map(|n| format!("orders-{component}-{n}"));
    assert_eq!(gone(), [all_of("cassandra"), all_of("replica")].concat(), "those that ask for logins first");
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let all = json!(pods.list(&ListParams::default()).await.unwrap().items).to_string();
    let count = |text: &str| all.matches(text).count();
    assert_eq!((count(r#""name":"RDB_AUTHENTICATION""#), count("/superuser/password")), (3, 3));
    let now = secrets.get("ops").await.unwrap();
    assert_eq!((now.resource_version(), now.owner_references().len()), (ours.resource_version(), 0));
    assert!(secrets.get_opt("orders-superuser").await.unwrap().is_none(), "none is made besides");
    assert_eq!(status(&client, &namespace).await.superuser_secret.as_deref(), Some("ops"));

    change(&client, &namespace, json!({"authentication": {"enabled": false}})).await;
    settled(&client, &namespace, "orders").await;
    assert_eq!(gone(), all_of("replica"), "no Cassandra starts without logins over roles");
    assert_eq!(status(&client, &namespace).await.superuser_secret, None);
    // nor one of a later resource that takes the volumes over
    let noted = secrets.get("orders-internal").await.unwrap();
    assert_eq!(noted.annotations().get("replicateddb.dev/logins").map(String::as_str), Some("true"));
    operator.end().await;
}

/// A Secret that happens to have the name is not taken for ours, and no pod gets it.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_superuser_is_left_alone() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("theirs").await);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let theirs = secrets.create(&PostParams::default(), &basic_auth("orders-superuser", "them")).await.unwrap();
    let _kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", authenticated).await;
    let message = degraded(&client, &namespace, "NameConflict").await;
    assert!(message.contains("superuserSecret.name to orders-superuser"), "{message}");
    assert!(templates(&client, &namespace).await.is_empty());
    // unless it is meant
    change(&client, &namespace, json!({"authentication": {"superuserSecret": {"name": "orders-superuser"}}})).await;
    settled(&client, &namespace, "orders").await;
    assert_eq!(secrets.get("orders-superuser").await.unwrap().resource_version(), theirs.resource_version());
    operator.end().await;
}

/// It goes with the volumes where these go.
#[tokio::test(flavor = "multi_thread")]
async fn a_superuser_goes_with_the_volumes() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("goes").await);
    let _kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |spec| {
        authenticated(spec);
        spec.cassandra.storage.on_delete = OnDelete::Delete;
        spec.zookeeper.storage.on_delete = OnDelete::Delete;
    })
    .await;
    settled(&client, &namespace, "orders").await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let owned = |name: &'static str| {
        let secrets = secrets.clone();
        async move { secrets.get(name).await.is_ok_and(|secret| secret.owner_references().len() == 1) }
    };
    eventually("both Secrets to be owned", || async {
        owned("orders-superuser").await && owned("orders-internal").await
    })
    .await;
    // also while nobody needs it
    change(
        &client,
        &namespace,
        json!({"authentication": {"enabled": false}, "cassandra": {"storage": {"onDelete": "Retain"}},
        "zookeeper": {"storage": {"onDelete": "Retain"}}}),
    )
    .await;
    eventually("neither to be owned", || async { !owned("orders-superuser").await && !owned("orders-internal").await })
        .await;
    settled(&client, &namespace, "orders").await;
    operator.end().await;
}
