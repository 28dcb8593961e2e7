//! The Secret with the certificate that clients are shown: the user's own, looked at before any pod hangs on it.

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{
    cluster::{Cluster, create},
    convergence::{Operator, change, degraded, settled},
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
