//! Manifests that break a rule, and what is refused over CQL: the message names the field or the statement and the remedy.

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::{NAME, Suite};
use crate::scenario::Scenario;

pub fn scenarios() -> Vec<Scenario<Suite>> {
    vec![
        Scenario {
            name: "manifests",
            proves: "a manifest that breaks a rule is refused with the field and the remedy",
            run: manifests,
        },
        Scenario {
            name: "clients",
            proves: "cqlsh and the Python driver do DDL, writes and reads through any replica",
            run: clients,
        },
        Scenario { name: "refusals", proves: "what is not right yet is refused and never executed", run: refusals },
    ]
}

fn resource(spec: Value) -> String {
    json!({"apiVersion": "replicateddb.dev/v1alpha1", "kind": "ReplicatedDB", "metadata": {"name": "bad"}, "spec": spec}).to_string()
}

fn manifests(suite: &mut Suite) -> Result<()> {
    let (database, _) = suite.main()?;
    let cluster = &database.cluster;
    for (spec, words) in [
        (json!({"replicas": 3, "zookeeper": {"size": 2}}), vec!["zookeeper", "odd"]),
        (json!({"replicas": 0}), vec!["replicas"]),
        (json!({"replicas": 3, "ordering": {"engine": "Paper"}}), vec!["engine", "ZnodeLog"]),
    ] {
        let Err(error) = cluster.apply(&resource(spec.clone())) else { bail!("accepted: {spec}") };
        let text = format!("{error:#}").to_lowercase();
        ensure!(words.iter().all(|word| text.contains(&word.to_lowercase())), "{spec}: {text}");
    }
    let patches = [
        (json!({"spec": {"cassandra": {"storage": {"size": "1Mi"}}}}), ["storage.size", "shrink"]),
        (json!({"spec": {"zookeeper": {"size": 5}}}), ["zookeeper.size", "copy the data"]),
    ];
    for (patch, words) in patches {
        let patch = patch.to_string();
        let Err(error) = cluster.kubectl(&["patch", "rdb", NAME, "--type=merge", "-p", &patch]) else {
            bail!("accepted: {patch}")
        };
        let text = format!("{error:#}").to_lowercase();
        ensure!(words.iter().all(|word| text.contains(word)), "{patch}: {text}");
    }
    Ok(())
}

fn clients(suite: &mut Suite) -> Result<()> {
    let (database, client) = suite.main()?;
    let cql = |host: &str, statement: &str| client.exec(&["cqlsh", host, "--no-color", "-e", statement]);
    let service = database.service();
    cql(
        &service,
        "CREATE KEYSPACE IF NOT EXISTS k WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 3}",
    )?;
    cql(&service, "CREATE TABLE IF NOT EXISTS k.t (id int PRIMARY KEY, v text, tags set<text>)")?;
    for (i, pod) in database.pods("replica")?.iter().enumerate() {
        let host = database.pod(pod)?.ip;
        cql(&host, &format!("INSERT INTO k.t (id, v, tags) VALUES ({i}, 'by {pod}', {{'a', 'b'}})"))?;
    }
    cql(&service, "BEGIN BATCH UPDATE k.t SET v = 'changed' WHERE id = 0; DELETE FROM k.t WHERE id = 1; APPLY BATCH")?;
    for pod in database.pods("replica")? {
        let host = database.pod(&pod)?.ip;
        let rows = cql(&host, "CONSISTENCY QUORUM; SELECT id, v, tags FROM k.t")?;
        ensure!(rows.contains("changed") && rows.contains("by ") && rows.contains("(2 rows)"), "{pod}: {rows}");
        ensure!(cql(&host, "DESCRIBE TABLE k.t")?.contains("PRIMARY KEY"), "DESCRIBE on {pod}");
    }
    Ok(())
}

fn refusals(suite: &mut Suite) -> Result<()> {
    let (database, client) = suite.main()?;
    let service = database.service();
    let setup = "CREATE KEYSPACE IF NOT EXISTS r WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}; \
                 CREATE TABLE IF NOT EXISTS r.t (id int PRIMARY KEY, v text)";
    client.exec(&["cqlsh", &service, "-e", setup])?;
    for (statement, why) in [
        ("CREATE TRIGGER x ON r.t USING 'y'", "triggers are not supported"),
        ("INSERT INTO r.t (id, v) VALUES (1, r.f('x'))", "r.f is no function of Cassandra's own"),
        ("CREATE ROLE someone WITH LOGIN = true", "there are roles and permissions only where clients log in"),
        ("INSERT INTO r.nothing (id) VALUES (1)", "does not exist"),
        ("INSERT INTO r.t (id, v VALUES", "Syntax"),
    ] {
        let Err(error) = client.exec(&["cqlsh", &service, "-e", statement]) else { bail!("accepted: {statement}") };
        let text = format!("{error:#}");
        println!("    {statement}\n      -> {}", text.lines().find(|l| l.contains("<stdin>")).unwrap_or_default());
        // What was executed is part of the text: the reason comes after it.
        let reason = text.split_once(statement).map_or(text.as_str(), |(_, reason)| reason);
        ensure!(reason.contains(why), "the reason does not say {why:?}: {text}");
    }
    let rows = client.exec(&["cqlsh", &service, "-e", "CONSISTENCY QUORUM; SELECT count(*) FROM r.t"])?;
    ensure!(rows.lines().any(|line| line.trim() == "0"), "a refused statement left something behind: {rows}");
    Ok(())
}
