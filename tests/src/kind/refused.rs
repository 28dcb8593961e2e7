//! What the cluster or the resource definition does not give: the message says what is missing and what to do.

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::{NOTICE_LIMIT, Suite, neighbours::message_with};
use crate::{cluster::Cluster, database::Database, scenario::Scenario, wait};

pub fn scenarios() -> Vec<Scenario<Suite>> {
    vec![
        Scenario {
            name: "little-memory",
            proves: "memory that can't do is refused, and memory that no node has is named",
            run: little_memory,
        },
        Scenario {
            name: "no-storage-class",
            proves: "a storage class that is not there is named with what to do; what was begun can be deleted",
            run: no_storage_class,
        },
    ]
}

/// A resource of one replica and one ZooKeeper server, with more on top.
fn resource(name: &str, more: &Value) -> String {
    let mut spec = json!({"replicas": 1, "zookeeper": {"size": 1}});
    merge(&mut spec, more);
    json!({"apiVersion": "replicateddb.dev/v1alpha1", "kind": "ReplicatedDB", "metadata": {"name": name}, "spec": spec})
        .to_string()
}

fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more.clone(),
    }
}

fn little_memory(suite: &mut Suite) -> Result<()> {
    suite.main()?;
    let limit = |tier: &str, memory: &str| json!({tier: {"resources": {"limits": {"memory": memory}}}});
    for (more, words) in [
        (limit("cassandra", "512Mi"), ["resources.limits.memory", "at least 1Gi", "raise it"]),
        (limit("zookeeper", "64Mi"), ["resources.limits.memory", "at least 256Mi", "raise it"]),
        (limit("replica", "16Mi"), ["resources.limits.memory", "at least 128Mi", "raise it"]),
    ] {
        let Err(error) = suite.cluster.apply(&resource("little", &more)) else { bail!("accepted: {more}") };
        let text = format!("{error:#}");
        ensure!(words.iter().all(|word| text.contains(word)), "{more}: {text}");
    }
    let much = json!({"memory": "9Ti"});
    let more = json!({"cassandra": {"resources": {"requests": much, "limits": much}}});
    suite.cluster.apply(&resource("much", &more))?;
    let database = Database::new(&suite.cluster, "much");
    let words = ["no node takes pod much-cassandra-0", "nsufficient memory", "lower spec.cassandra.resources.requests"];
    println!("    {}", message_with(&database, &words)?);
    remove(&suite.cluster, "much")
}

fn no_storage_class(suite: &mut Suite) -> Result<()> {
    suite.main()?;
    let storage = json!({"storage": {"storageClassName": "there-is-none"}});
    let more = json!({"cassandra": storage, "zookeeper": storage});
    suite.cluster.apply(&resource("classless", &more))?;
    let database = Database::new(&suite.cluster, "classless");
    let words = ["there is no storage class \"there-is-none\"", "create it", "storage.storageClassName"];
    println!("    {}", message_with(&database, &words)?);
    ensure!(database.condition("Available")?.as_deref() == Some("False"), "it can't be available");
    remove(&suite.cluster, "classless")
}

/// Deletes a resource with its claims, as the messages say, and sees that nothing of it is left.
fn remove(cluster: &Cluster, name: &str) -> Result<()> {
    let selector = format!("app.kubernetes.io/instance={name}");
    let gone = |kinds: &str| {
        wait::until_true(&format!("nothing of {name} is left of {kinds}"), NOTICE_LIMIT, || {
            let left = cluster.kubectl(&["get", kinds, "-l", &selector, "-o", "name"])?;
            ensure!(left.trim().is_empty(), "{left}");
            Ok(true)
        })
    };
    cluster.delete(&["rdb", name])?;
    // A StatefulSet that is still there makes a claim anew.
    gone("statefulsets,pods")?;
    cluster.delete(&["persistentvolumeclaims,secrets", "-l", &selector])?;
    gone("services,configmaps,persistentvolumeclaims,secrets,poddisruptionbudgets,networkpolicies")
}
