//! The life of a database: rolls, upgrades of the operator, mistakes that are corrected, drift, removal and return.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::{
    AVAILABLE_LIMIT, NOTICE_LIMIT, OPERATOR_LABEL, OPERATOR_NAMESPACE, RELEASE, ROLL_LIMIT, SECOND_TAG, Suite,
    check_everything, helm_upgrade, install_operator, manifest, second_tag, tag,
};
use crate::{
    database::{Database, TIERS},
    scenario::Scenario,
    wait,
};

/// The writers' rate while pods are rolled.
const RATE: u32 = 50;
/// Writes that are to be acknowledged after a roll: four seconds of them.
const WRITES_AFTER: usize = 200;

pub fn scenarios() -> Vec<Scenario<Suite>> {
    vec![
        Scenario {
            name: "drift",
            proves: "a deleted Service, ConfigMap, StatefulSet or budget comes back; no pod is harmed",
            run: drift,
        },
        Scenario { name: "helm-test", proves: "the chart's own test finds the operator at work", run: helm_test },
        Scenario {
            name: "two-operators",
            proves: "the leading copy of the operator is killed, the other one goes on",
            run: two_operators,
        },
        Scenario {
            name: "operator-upgrade",
            proves: "an upgrade of the operator to other images, and back, restarts no database pod",
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
            proves: "volumes outlive the resource and the operator; a new one of the same name finds its data",
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
    second_tag(&suite.cluster)?;
    let upgraded = upgrade_to(suite, SECOND_TAG, &database);
    // Databases that are made later take their images from the operator's own tag.
    let back = upgrade_to(suite, &tag(), &database);
    upgraded.and(back)?;
    ensure!(database.pod_uids()? == before, "an upgrade of the operator replaced pods of the database");
    Ok(())
}

/// Upgrades the operator to the images of `tag`, and waits until it runs from there and has looked at the database.
fn upgrade_to(suite: &Suite, tag: &str, database: &Database) -> Result<()> {
    let operator = suite.cluster.in_namespace(OPERATOR_NAMESPACE);
    helm_upgrade(&suite.cluster, &[&format!("image.tag={tag}")])?;
    wait::until_true(&format!("every operator pod is of {tag}"), NOTICE_LIMIT, || {
        let pods = operator.get(&["pods", "-l", OPERATOR_LABEL])?;
        let images = pods["items"].as_array().into_iter().flatten().map(|pod| &pod["spec"]["containers"][0]["image"]);
        let images: Vec<_> = images.filter_map(|image| image.as_str()).collect();
        Ok(!images.is_empty() && images.iter().all(|image| image.ends_with(&format!(":{tag}"))))
    })?;
    correct_drift(database)?;
    database.wait_settled(NOTICE_LIMIT, |message| println!("    {message}"))
}

/// Sees that the operator works: something that it owns is taken away, and comes back.
fn correct_drift(database: &Database) -> Result<()> {
    let object = format!("service/{}", database.name);
    database.cluster.kubectl(&["delete", &object])?;
    wait::until_true(&format!("{object} is back"), NOTICE_LIMIT, || {
        Ok(database.cluster.kubectl(&["get", &object]).is_ok())
    })
}

fn two_operators(suite: &mut Suite) -> Result<()> {
    let (database, _) = suite.main()?;
    let operator = suite.cluster.in_namespace(OPERATOR_NAMESPACE);
    let holder = || -> Result<String> {
        let leases = operator.get(&["leases"])?;
        Ok(leases["items"][0]["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
    };
    let (leader, pod) = wait::until("one copy leads and another stands by", NOTICE_LIMIT, || {
        let (leader, pods) = (holder()?, operator.pods(OPERATOR_LABEL)?);
        let pod = pods.iter().find(|pod| leader.contains(*pod)).cloned();
        Ok(pod.filter(|_| pods.len() == 2).map(|pod| (leader, pod)))
    })?;
    let start = Instant::now();
    operator.delete(&["pod", &pod, "--grace-period=0", "--force"])?;
    wait::until_true("another copy leads", NOTICE_LIMIT, || {
        let now = holder()?;
        Ok(!now.is_empty() && now != leader)
    })?;
    println!("    {leader} killed; {} leads after {:.1} s", holder()?, start.elapsed().as_secs_f64());
    correct_drift(&database)?;
    database.wait_settled(NOTICE_LIMIT, |message| println!("    {message}"))
}

fn helm_test(suite: &mut Suite) -> Result<()> {
    suite.main()?;
    let args = ["test", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--timeout", "3m"];
    let report = suite.cluster.tool("helm", &args, None)?;
    ensure!(report.lines().any(|line| line.starts_with("Phase:") && line.ends_with("Succeeded")), "{report}");
    Ok(())
}

fn roll(suite: &mut Suite) -> Result<()> {
    let (database, client) = suite.main()?;
    client.write(&database, RATE)?;
    let before = database.pod_uids()?;
    let labels = r#"{"spec":{"zookeeper":{"pod":{"labels":{"roll":"1"}}},"cassandra":{"pod":{"labels":{"roll":"1"}}},"replica":{"pod":{"labels":{"roll":"1"}}}}}"#;
    database.cluster.kubectl(&["patch", "rdb", &database.name, "--type=merge", "-p", labels])?;
    let mut looks = Looks::default();
    wait::until_true("the first pod of the roll is replaced", NOTICE_LIMIT, || {
        Ok(looks.replaced(&database, &before)? > 0)
    })?;
    let operator = database.cluster.in_namespace(OPERATOR_NAMESPACE);
    operator.delete(&["pods", "-l", OPERATOR_LABEL, "--grace-period=0", "--force"])?;
    wait::until_true("every pod is replaced", ROLL_LIMIT, || Ok(looks.replaced(&database, &before)? == before.len()))?;
    ensure!(looks.bad.is_empty(), "more than one pod of a tier was not Ready: {:?}", looks.bad);
    println!("    {} looks, never more than one pod of a tier not Ready", looks.count);
    client.wait_for(WRITES_AFTER, NOTICE_LIMIT)?;
    database.wait_settled(NOTICE_LIMIT, |message| println!("    {message}"))?;
    check_everything(&database, client)
}

/// What was seen of the pods during a roll.
#[derive(Default)]
struct Looks {
    count: usize,
    /// Looks that found more than one pod of a tier missing or not Ready.
    bad: Vec<String>,
}

impl Looks {
    /// How many of the pods of `before` have a ready successor.
    fn replaced(&mut self, database: &Database, before: &[(String, String)]) -> Result<usize> {
        self.count += 1;
        let mut count = 0;
        for tier in TIERS {
            let now = database.tier(tier)?;
            let ready: Vec<_> = now.into_iter().filter(|(_, pod)| pod.ready).collect();
            let prefix = format!("{}-{tier}-", database.name);
            let all = before.iter().filter(|(name, _)| name.starts_with(&prefix));
            count +=
                all.clone().filter(|(name, old)| ready.iter().any(|(n, pod)| n == name && pod.uid != *old)).count();
            if ready.len() + 1 < all.count() {
                let names: Vec<_> = ready.iter().map(|(name, _)| name.as_str()).collect();
                self.bad.push(format!("of tier {tier} only {names:?} were Ready"));
            }
        }
        Ok(count)
    }
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
    let cluster = suite.cluster.clone();
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
    cluster.tool("helm", &["uninstall", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--wait"], None)?;
    install_operator(&cluster)?;
    database.cluster.apply(&manifest(&database.name, 3, 3))?;
    database.wait_settled(AVAILABLE_LIMIT, |message| println!("    {message}"))?;
    let rows = cql("CONSISTENCY QUORUM; SELECT v FROM stay.t WHERE id = 1")?;
    ensure!(rows.contains("still here"), "{rows}");
    println!("{}", database.verify()?);
    Ok(())
}

fn namespace(suite: &mut Suite) -> Result<()> {
    let (database, _) = suite.main()?;
    (suite.main, suite.small) = (None, None);
    database.cluster.delete_namespace().context("deletion")?;
    Ok(())
}
