//! `cassandra.mode: Shared`, as the example has it: one Cassandra, a keyspace for each replica.

use anyhow::{Context, Result, ensure};

use super::{AVAILABLE_LIMIT, RECOVERY_LIMIT, Suite};
use crate::{client::Client, cluster, database::Database, scenario::Scenario, wait};

/// Name of the database in the example.
const NAME: &str = "dev";
/// Rows written through each replica.
const ROWS: usize = 40;

pub fn scenarios() -> Vec<Scenario<Suite>> {
    vec![Scenario {
        name: "shared-cassandra",
        proves: "replicas that share one Cassandra order and equal each other's writes, and rebuild after a kill",
        run: shared,
    }]
}

fn shared(suite: &mut Suite) -> Result<()> {
    let (main, client) = suite.main()?;
    let database = Database::new(&main.cluster, NAME);
    let example = cluster::project().join("examples/shared.yaml");
    database.cluster.apply(&std::fs::read_to_string(&example).with_context(|| example.display().to_string())?)?;
    let result = exercise(&database, client);
    database.cluster.delete(&["rdb", NAME])?;
    result
}

fn exercise(database: &Database, client: &Client) -> Result<()> {
    database.wait_settled(AVAILABLE_LIMIT, |message| println!("    {NAME}: {message}"))?;
    ensure!(database.pods("cassandra")?.len() == 1, "not one Cassandra: {:?}", database.pods("cassandra")?);
    let replicas = database.pods("replica")?;
    let hosts = || replicas.iter().map(|pod| Ok(database.pod(pod)?.ip)).collect::<Result<Vec<_>>>();
    client.cql(&hosts()?[0], "CREATE TABLE t (id int PRIMARY KEY, v text)")?;
    for (n, host) in hosts()?.iter().enumerate() {
        let rows: String =
            (0..ROWS).map(|i| format!("INSERT INTO t (id, v) VALUES ({}, 'v{i}');", n * ROWS + i)).collect();
        client.cql(host, &rows)?;
    }
    found(client, &hosts()?, replicas.len() * ROWS)?;
    let refused = client.cql(&hosts()?[1], "SELECT * FROM replica_0.t");
    let text = refused.err().map(|error| format!("{error:#}")).context("a replica showed another one's keyspace")?;
    ensure!(text.contains("confined to the keyspace replica_1"), "{text}");

    let killed = replicas.last().context("no replica")?;
    database.kill_pod(killed, RECOVERY_LIMIT, |_| ())?;
    database.kill_processes(database.pods("cassandra")?.first().context("no Cassandra")?)?;
    wait::until_true("every replica builds its data anew", RECOVERY_LIMIT, || {
        Ok(replicas
            .iter()
            .all(|pod| database.replica_status(pod).is_ok_and(|status| status["replay"]["rewound"] == true)))
    })?;
    database.wait_settled(RECOVERY_LIMIT, |message| println!("    {NAME}: {message}"))?;
    found(client, &hosts()?, replicas.len() * ROWS)?;
    println!("{}", database.verify()?);
    Ok(())
}

fn found(client: &Client, hosts: &[String], rows: usize) -> Result<()> {
    for (n, host) in hosts.iter().enumerate() {
        // cqlsh itself wants to know the keyspace of what it prints.
        let text = client.cql(host, &format!("USE replica_{n}; CONSISTENCY QUORUM; SELECT count(*) FROM t"))?;
        ensure!(text.lines().any(|line| line.trim() == rows.to_string()), "not {rows} rows on {host}: {text}");
    }
    Ok(())
}
