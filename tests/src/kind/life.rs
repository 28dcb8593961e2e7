//! The life of a database: rolls, upgrades of the operator, mistakes that are corrected, drift, removal and return.

use anyhow::{Context, Result, ensure};

use super::{
    AVAILABLE_LIMIT, NOTICE_LIMIT, OPERATOR_NAMESPACE, ROLL_LIMIT, Suite, check_everything, helm_upgrade, manifest,
};
use crate::{database::Database, scenario::Scenario, wait};

/// The writers' rate while pods are rolled.
const RATE: u32 = 50;

pub fn scenarios() -> Vec<Scenario<Suite>> {
    vec![
        Scenario {
            name: "drift",
            proves: "a deleted Service, ConfigMap, StatefulSet or budget comes back; no pod is harmed",
            run: drift,
        },
        Scenario {
            name: "operator-upgrade",
            proves: "an upgrade of the operator restarts no database pod",
            run: operator_upgrade,
        },
        Scenario {
            name: "roll",
            proves: "a changed spec rolls one pod at a time under load, the operator killed in the middle",
            run: roll,
        },
        Scenario {
            name: "bad-image",
            proves: "an image that cannot be pulled is named in the status and heals when corrected",
            run: bad_image,
        },
        Scenario {
            name: "reinstall",
            proves: "volumes outlive the resource, and a new one of the same name finds its data",
            run: reinstall,
        },
        Scenario { name: "namespace", proves: "a namespace is deleted with everything in it", run: namespace },
    ]
}

fn drift(suite: &mut Suite) -> Result<()> {
    let (database, _) = suite.main()?;
    let before = database.pod_uids()?;
    let name = &database.name;
    let objects = [
        format!("service/{name}"),
        format!("configmap/{name}-zookeeper"),
        format!("statefulset/{name}-replica"),
        format!("pdb/{name}-cassandra"),
    ];
    for object in &objects {
        database.cluster.kubectl(&["delete", object, "--cascade=orphan"])?;
        wait::until_true(&format!("{object} is back"), NOTICE_LIMIT, || {
            Ok(database.cluster.kubectl(&["get", object]).is_ok())
        })?;
    }
    database.wait_settled(NOTICE_LIMIT, |message| println!("    {message}"))?;
    ensure!(database.pod_uids()? == before, "pods were replaced: {before:?} {:?}", database.pod_uids()?);
    Ok(())
}

fn operator_upgrade(suite: &mut Suite) -> Result<()> {
    let (database, _) = suite.main()?;
    let before = database.pod_uids()?;
    let operator = suite.cluster.in_namespace(OPERATOR_NAMESPACE);
    let pods = operator.pods("app.kubernetes.io/name=replicateddb-operator")?;
    helm_upgrade(&suite.cluster, &["podAnnotations.upgraded=again"])?;
    wait::until_true("the operator's pods were replaced", NOTICE_LIMIT, || {
        let now = operator.pods("app.kubernetes.io/name=replicateddb-operator")?;
        Ok(!now.is_empty() && now.iter().all(|pod| !pods.contains(pod)))
    })?;
    database.wait_settled(NOTICE_LIMIT, |message| println!("    {message}"))?;
    ensure!(database.pod_uids()? == before, "the upgrade replaced pods");
    Ok(())
}

fn roll(suite: &mut Suite) -> Result<()> {
    let (database, client) = suite.main()?;
    client.write(&database, RATE)?;
    let before = database.pod_uids()?;
    let labels = r#"{"spec":{"zookeeper":{"pod":{"labels":{"roll":"1"}}},"cassandra":{"pod":{"labels":{"roll":"1"}}},"replica":{"pod":{"labels":{"roll":"1"}}}}}"#;
    database.cluster.kubectl(&["patch", "rdb", &database.name, "--type=merge", "-p", labels])?;
    wait::until_true("the first pod of the roll is replaced", NOTICE_LIMIT, || Ok(replaced(&database, &before)? > 0))?;
    let operator = database.cluster.in_namespace(OPERATOR_NAMESPACE);
    operator.delete(&["pods", "-l", "app.kubernetes.io/name=replicateddb-operator", "--grace-period=0", "--force"])?;
    wait::until_true("every pod is replaced", ROLL_LIMIT, || Ok(replaced(&database, &before)? == before.len()))?;
    database.wait_settled(NOTICE_LIMIT, |message| println!("    {message}"))?;
    check_everything(&database, client)
}

/// How many of the pods of `before` have a ready successor.
fn replaced(database: &Database, before: &[(String, String)]) -> Result<usize> {
    let mut count = 0;
    for (pod, uid) in before {
        count += usize::from(database.pod(pod).is_ok_and(|now| now.uid != *uid && now.ready));
    }
    Ok(count)
}

fn bad_image(suite: &mut Suite) -> Result<()> {
    let (database, _) = suite.main()?;
    let set = |image: &str| format!(r#"{{"spec":{{"replica":{{"image":{image}}}}}}}"#);
    let name = database.name.clone();
    let patch = |image: &str| database.cluster.kubectl(&["patch", "rdb", &name, "--type=merge", "-p", &set(image)]);
    patch(r#""localhost/replicateddb/server:there-is-none""#)?;
    wait::until_true("the status names the image", NOTICE_LIMIT, || {
        Ok(database.object()?["status"]["message"].as_str().unwrap_or_default().contains("there-is-none"))
    })?;
    println!("    {}", database.object()?["status"]["message"]);
    let ready = database.pods("replica")?.iter().filter(|pod| database.pod(pod).is_ok_and(|p| p.ready)).count();
    ensure!(ready >= 2, "a bad image may cost one replica at most; ready: {ready}");
    patch("null")?;
    database.wait_settled(AVAILABLE_LIMIT, |message| println!("    {message}"))
}

fn reinstall(suite: &mut Suite) -> Result<()> {
    let (database, client) = suite.main()?;
    let service = database.service();
    let cql = |statement: &str| client.exec(&["cqlsh", &service, "-e", statement]);
    cql(
        "CREATE KEYSPACE IF NOT EXISTS stay WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}; \
         CREATE TABLE IF NOT EXISTS stay.t (id int PRIMARY KEY, v text); INSERT INTO stay.t (id, v) VALUES (1, 'still here')",
    )?;
    database.cluster.delete(&["rdb", &database.name])?;
    let selector = format!("app.kubernetes.io/instance={}", database.name);
    wait::until_true("the pods are gone", AVAILABLE_LIMIT, || Ok(database.cluster.pods(&selector)?.is_empty()))?;
    let claims = database.cluster.get(&["pvc"])?["items"].as_array().map_or(0, Vec::len);
    ensure!(claims >= 6, "volumes of ZooKeeper and Cassandra are retained; there are {claims}");
    database.cluster.apply(&manifest(&database.name, 3, 3))?;
    database.wait_settled(AVAILABLE_LIMIT, |message| println!("    {message}"))?;
    let rows = cql("CONSISTENCY QUORUM; SELECT v FROM stay.t WHERE id = 1")?;
    ensure!(rows.contains("still here"), "{rows}");
    println!("{}", database.verify()?);
    Ok(())
}

fn namespace(suite: &mut Suite) -> Result<()> {
    let (database, _) = suite.main()?;
    suite.main = None;
    database.cluster.delete_namespace().context("deletion")?;
    Ok(())
}
