//! The Secret with the certificate that clients are shown: the user's own, looked at before any pod hangs on it; or one that the
//! operator makes, and keeps from ending.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use replicateddb_operator::{
    authority::{Authority, names},
    crd::ReplicatedDB,
    names::Identity,
};
use serde_json::json;

use crate::{
    cluster::{Cluster, create, eventually},
    convergence::{Operator, change, degraded, settled, status},
    kubelet::Kubelet,
};

/// On a database that runs: no pod is replaced before there is a certificate, then the replicas alone; another certificate replaces
/// none; one that is lost is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_looked_at_before_pods_hang_on_it() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("tls").await);
    let kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |_| ()).await;
    settled(&client, &namespace, "orders").await;
    let gone = || std::mem::take(&mut kubelet.world.lock().unwrap().gone);
    change(&client, &namespace, json!({"tls": {"enabled": true, "secretName": "shown"}})).await;
    let message = degraded(&client, &namespace, "SecretMissing").await;
    assert!(message.contains("Secret shown, which spec.tls.secretName names, does not exist"), "{message}");
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let secret: Secret = serde_json::from_value(json!({
        "metadata": {"name": "shown"}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": "-----BEGIN CERTIFICATE-----", "tls.key": "of no use"},
    }))
    .unwrap();
    secrets.create(&PostParams::default(), &secret).await.unwrap();
    let message = degraded(&client, &namespace, "SecretInvalid").await;
    assert!(message.contains("no PEM private key") && !message.contains("of no use"), "{message}");
    assert!(gone().is_empty(), "no pod has been replaced");

    let put = async |key: &str| {
        let patch = Patch::Merge(json!({"stringData": {"tls.key": key}}));
        secrets.patch("shown", &PatchParams::default(), &patch).await.unwrap()
    };
    let ours = put("-----BEGIN PRIVATE KEY-----").await;
    settled(&client, &namespace, "orders").await;
    assert_eq!(gone(), [2, 1, 0].map(|n| format!("orders-replica-{n}")));
    let now = secrets.get("shown").await.unwrap();
    assert_eq!((now.resource_version(), now.owner_references().len()), (ours.resource_version(), 0), "read alone");
    put("-----BEGIN EC PRIVATE KEY-----").await;
    settled(&client, &namespace, "orders").await;
    assert!(gone().is_empty(), "they read it while they run");
    secrets.delete("shown", &Default::default()).await.unwrap();
    degraded(&client, &namespace, "SecretMissing").await;
    assert!(gone().is_empty(), "those that run have read it");
    operator.end().await;
}

fn identity(namespace: &str) -> Identity {
    Identity { name: "orders".to_owned(), namespace: namespace.to_owned(), uid: String::new() }
}

/// Whether a client that trusts the authority takes the certificate, for all names of so many replicas.
fn good(authority: &Secret, certificate: &Secret, namespace: &str, replicas: i32) -> bool {
    let names = names(&identity(namespace), replicas);
    Authority::of(authority).unwrap().due(Some(certificate), &names, Timestamp::now()).is_none()
}

/// Made with the database, of an authority that stays; made anew in time and for more replicas, and no pod is replaced for it; at
/// rest nothing is written.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_made_and_renewed() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("made").await);
    let kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |spec| spec.tls.enabled = true).await;
    settled(&client, &namespace, "orders").await;
    assert_eq!(status(&client, &namespace).await.tls_secret.as_deref(), Some("orders-certificate"));
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let (authority, first) =
        (secrets.get("orders-authority").await.unwrap(), secrets.get("orders-certificate").await.unwrap());
    let ca = &authority.data.as_ref().unwrap()["tls.crt"];
    assert_eq!(&first.data.as_ref().unwrap()["ca.crt"], ca, "users find it there");
    assert!(good(&authority, &first, &namespace, 3) && !good(&authority, &first, &namespace, 4));
    assert!(authority.metadata.owner_references.is_none() && first.metadata.owner_references.is_none());
    let shown = json!(status(&client, &namespace).await).to_string();
    assert!(!shown.contains("PRIVATE KEY"), "{shown}");
    let gone = || std::mem::take(&mut kubelet.world.lock().unwrap().gone);

    let version = async || secrets.get("orders-certificate").await.unwrap().resource_version();
    // another name that it does not have
    change(&client, &namespace, json!({"replicas": 4})).await;
    settled(&client, &namespace, "orders").await;
    let second = secrets.get("orders-certificate").await.unwrap();
    assert!(second.resource_version() != first.resource_version() && good(&authority, &second, &namespace, 4));
    // one of which two thirds are over: found by a look
    let old = Authority::of(&authority).unwrap();
    let old =
        old.issue(&names(&identity(&namespace), 4), Timestamp::now() - SignedDuration::from_hours(24 * 61)).unwrap();
    let patch = Patch::Merge(json!({"stringData": {"tls.crt": old.certificate, "tls.key": old.key}}));
    let put = secrets.patch("orders-certificate", &PatchParams::default(), &patch).await.unwrap();
    assert!(!good(&authority, &put, &namespace, 4));
    eventually("it to be renewed", || async { version().await != put.resource_version() }).await;
    assert!(good(&authority, &secrets.get("orders-certificate").await.unwrap(), &namespace, 4));
    // one that is gone
    secrets.delete("orders-certificate", &DeleteParams::default()).await.unwrap();
    eventually("it to be made again", || async { secrets.get("orders-certificate").await.is_ok() }).await;
    assert!(gone().is_empty(), "replicas read it while they run");

    // what rests is not written again: a change of something else goes by without a new certificate
    let before = (version().await, secrets.get("orders-authority").await.unwrap().resource_version());
    change(&client, &namespace, json!({"replica": {"config": {"logFormat": "Json"}}})).await;
    settled(&client, &namespace, "orders").await;
    let after = (version().await, secrets.get("orders-authority").await.unwrap().resource_version());
    assert_eq!(before, after);
    operator.end().await;
}

/// Clients trust the authority: it outlives the resource with the volumes, and what is lost is made anew only when that is asked
/// for.
#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_made_once() {
    let cluster = Cluster::shared();
    let (client, namespace) = (cluster.client(), cluster.namespace("trusted").await);
    let _kubelet = Kubelet::start(client.clone(), &namespace);
    let operator = Operator::start(&namespace, "a");
    create(&client, &namespace, "orders", |spec| spec.tls.enabled = true).await;
    settled(&client, &namespace, "orders").await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let version = async |name: &str| secrets.get(name).await.unwrap().resource_version();
    let before = (version("orders-authority").await, version("orders-certificate").await);
    let api: Api<ReplicatedDB> = Api::namespaced(client.clone(), &namespace);
    api.delete("orders", &DeleteParams::default()).await.unwrap();
    create(&client, &namespace, "orders", |spec| spec.tls.enabled = true).await;
    settled(&client, &namespace, "orders").await;
    assert_eq!((version("orders-authority").await, version("orders-certificate").await), before);

    secrets.delete("orders-authority", &DeleteParams::default()).await.unwrap();
    change(&client, &namespace, json!({"replica": {"config": {"logFormat": "Json"}}})).await;
    let message = degraded(&client, &namespace, "SecretLost").await;
    assert!(message.contains("orders-authority") && message.contains("replicateddb.dev/authority-"), "{message}");
    assert!(secrets.get_opt("orders-authority").await.unwrap().is_none());
    assert_eq!(version("orders-certificate").await, before.1);
    // the remedy
    let asked = Patch::Merge(json!({"metadata": {"annotations": {"replicateddb.dev/authority": null}}}));
    secrets.patch("orders-internal", &PatchParams::default(), &asked).await.unwrap();
    settled(&client, &namespace, "orders").await;
    let (authority, certificate) =
        (secrets.get("orders-authority").await.unwrap(), secrets.get("orders-certificate").await.unwrap());
    assert!(good(&authority, &certificate, &namespace, 3), "signed by the new one");
    operator.end().await;
}
