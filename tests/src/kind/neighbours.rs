//! A second, small database beside the main one: neither disturbs the other; it grows, shrinks, and loses what it needs.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{AVAILABLE_LIMIT, NOTICE_LIMIT, RECOVERY_LIMIT, SMALL, Suite, check_everything};
use crate::{client::Client, database::Database, scenario::Scenario, wait};

/// The main database's writes per second meanwhile.
const RATE: u32 = 50;
/// Rows that a new replica has to replay.
const ROWS: u32 = 300;
/// Writes of the main database that are to be acknowledged in spite of its neighbour.
const WRITES_MEANWHILE: usize = 200;

pub fn scenarios() -> Vec<Scenario<Suite>> {
    vec![
        Scenario {
            name: "two-databases",
            proves: "two databases in one namespace do not see or disturb each other",
            run: two_databases,
        },
        Scenario {
            name: "scale",
            proves: "an added replica replays everything and is equal; one that is taken away leaves the rest alone",
            run: scale,
        },
        Scenario {
            name: "zookeeper-away",
            proves: "ZooKeeper scaled to nothing by hand comes back with the log, and again when its pod is killed",
            run: zookeeper_away,
        },
        Scenario {
            name: "deleted-secret",
            proves: "a deleted Secret is named with the remedy, harms nobody, and heals when it is put back",
            run: deleted_secret,
        },
    ]
}

fn two_databases(suite: &mut Suite) -> Result<()> {
    let (main, _) = suite.main()?;
    let (small, client) = suite.small()?;
    client.write(&main, RATE)?;
    let before = main.pod_uids()?;
    let keyspaces = |host: &str| client.cql(host, "SELECT keyspace_name FROM system_schema.keyspaces");
    let (of_main, of_small) = (keyspaces(&main.service())?, keyspaces(SMALL)?);
    let has = |list: &str, keyspace: &str| list.lines().any(|line| line.trim() == keyspace);
    ensure!(has(&of_main, "demo") && !has(&of_main, "few"), "keyspaces of the main database: {of_main}");
    ensure!(has(&of_small, "few") && !has(&of_small, "demo"), "keyspaces of the small database: {of_small}");
    let zookeeper = small.zookeeper_leader()?;
    small.kill_pod(&zookeeper, RECOVERY_LIMIT, |_| ())?;
    client.wait_for(WRITES_MEANWHILE, NOTICE_LIMIT)?;
    small.wait_settled(RECOVERY_LIMIT, |message| println!("    {SMALL}: {message}"))?;
    insert(client, 1)?;
    ensure!(main.pod_uids()? == before, "pods of the main database were replaced");
    check_everything(&main, client)
}

fn scale(suite: &mut Suite) -> Result<()> {
    let (small, client) = suite.small()?;
    let rows: String = (0..ROWS).map(|i| format!("INSERT INTO few.t (id, v) VALUES ({}, 'v{i}');", 1000 + i)).collect();
    client.cql(SMALL, &rows)?;
    let before = small.pod_uids()?;
    replicas(&small, 2)?;
    let added = small.pods("replica")?.pop().context("no replica")?;
    let replay = small.replica_status(&added)?["replay"].clone();
    println!("    {added}: {replay}");
    ensure!(replay["from"] == 0, "{added} had nothing to begin from: {replay}");
    ensure!(replay["records"].as_u64() >= Some(u64::from(ROWS)), "{added} replayed too little: {replay}");
    let ip = small.pod(&added)?.ip;
    let found = client.cql(&ip, "CONSISTENCY QUORUM; SELECT count(*) FROM few.t WHERE id >= 1000 ALLOW FILTERING")?;
    ensure!(found.lines().any(|line| line.trim() == ROWS.to_string()), "{added} has other rows: {found}");
    println!("{}", small.verify()?);
    replicas(&small, 1)?;
    ensure!(small.pod_uids()? == before, "the pods of before did not stay as they were");
    insert(client, 2)
}

/// Changes the number of replicas and waits until as many run.
fn replicas(database: &Database, count: usize) -> Result<()> {
    let patch = json!({"spec": {"replicas": count}}).to_string();
    database.cluster.kubectl(&["patch", "rdb", &database.name, "--type=merge", "-p", &patch])?;
    for tier in ["cassandra", "replica"] {
        wait::until_true(&format!("{count} pods of tier {tier}"), AVAILABLE_LIMIT, || {
            Ok(database.pods(tier)?.len() == count)
        })?;
    }
    database.wait_settled(AVAILABLE_LIMIT, |message| println!("    {}: {message}", database.name))
}

fn zookeeper_away(suite: &mut Suite) -> Result<()> {
    let (small, client) = suite.small()?;
    let set = format!("{SMALL}-zookeeper");
    let pod = format!("{set}-0");
    let uid = small.pod(&pod)?.uid;
    small.cluster.kubectl(&["scale", "statefulset", &set, "--replicas=0"])?;
    wait::until_true("the operator takes that back", NOTICE_LIMIT, || {
        Ok(small.cluster.get(&["statefulset", &set])?["spec"]["replicas"] == 1)
    })?;
    small.wait_settled(RECOVERY_LIMIT, |message| println!("    {SMALL}: {message}"))?;
    // The operator may be quicker than the StatefulSet's controller: then the pod never went.
    println!("    {pod} was {}", if small.pod(&pod)?.uid == uid { "not even taken away" } else { "made again" });
    insert(client, 3)?;
    small.kill_pod(&pod, RECOVERY_LIMIT, |_| ())?;
    small.wait_settled(RECOVERY_LIMIT, |message| println!("    {SMALL}: {message}"))?;
    insert(client, 4)?;
    println!("{}", small.verify()?);
    Ok(())
}

fn deleted_secret(suite: &mut Suite) -> Result<()> {
    let (small, client) = suite.small()?;
    let name = format!("{SMALL}-internal");
    let before = small.pod_uids()?;
    let secret = small.cluster.get(&["secret", &name])?;
    small.cluster.kubectl(&["delete", "secret", &name])?;
    let message = message_with(&small, &[&name, "is gone while volumes exist", "restore it from a backup"])?;
    println!("    {SMALL}: {message}");
    ensure!(small.condition("Degraded")?.as_deref() == Some("True"), "a lost Secret degrades the database");
    insert(client, 5)?;
    // As a backup has it: without what the API server gave it.
    let mut backup = secret;
    if let Some(metadata) = backup["metadata"].as_object_mut() {
        metadata.retain(|key, _| ["name", "namespace", "labels", "annotations"].contains(&key.as_str()));
    }
    small.cluster.apply(&backup.to_string())?;
    small.wait_settled(RECOVERY_LIMIT, |message| println!("    {SMALL}: {message}"))?;
    ensure!(small.pod_uids()? == before, "pods were replaced");
    insert(client, 6)
}

/// Waits until the status' message has all of `words`; gives it.
pub fn message_with(database: &Database, words: &[&str]) -> Result<String> {
    wait::until(&format!("{}: a message with {words:?}", database.name), NOTICE_LIMIT, || {
        let message = database.object()?["status"]["message"].as_str().unwrap_or_default().to_owned();
        ensure!(words.iter().all(|word| message.contains(word)), "the message is {message:?}");
        Ok(Some(message))
    })
}

/// Writes row `id` of the small database, and reads it and the first row again.
fn insert(client: &Client, id: u32) -> Result<()> {
    client.cql(SMALL, &format!("INSERT INTO few.t (id, v) VALUES ({id}, 'value {id}')"))?;
    let rows = client.cql(SMALL, &format!("CONSISTENCY QUORUM; SELECT v FROM few.t WHERE id IN (0, {id})"))?;
    ensure!(rows.contains("first") && rows.contains(&format!("value {id}")), "rows are missing: {rows}");
    Ok(())
}
