//! A database with everything on: an elected leader, certificates that the operator makes, TLS inside, a log that is the replicas' alone.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{AVAILABLE_LIMIT, RECOVERY_LIMIT, Suite};
use crate::{client::Client, database::Database, scenario::Scenario};

/// Name of the database.
const NAME: &str = "vault";
/// Where the client keeps the authority's certificate.
const AUTHORITY: &str = "/tmp/vault-authority.pem";
const PUT: &str = "import sys; open(sys.argv[1], 'w').write(sys.argv[2])";

pub fn scenarios() -> Vec<Scenario<Suite>> {
    vec![Scenario {
        name: "secured",
        proves: "two replicas with an elected leader serve with certificates of the operator's, TLS inside and a log of their own; the leader is killed",
        run: secured,
    }]
}

fn secured(suite: &mut Suite) -> Result<()> {
    let (main, client) = suite.main()?;
    let database = Database::new(&main.cluster, NAME);
    let manifest = json!({
        "apiVersion": "replicateddb.dev/v1alpha1", "kind": "ReplicatedDB", "metadata": {"name": NAME},
        "spec": {
            "replicas": 2, "ordering": {"engine": "ZooKeeperLeader"}, "zookeeper": {"size": 1, "restricted": true},
            "tls": {"enabled": true, "internal": true},
        },
    });
    database.cluster.apply(&manifest.to_string())?;
    let result = exercise(&database, client);
    database.cluster.delete(&["rdb", NAME])?;
    result
}

fn exercise(database: &Database, client: &Client) -> Result<()> {
    database.wait_settled(AVAILABLE_LIMIT, |message| println!("    {NAME}: {message}"))?;
    let secret =
        database.object()?["status"]["tlsSecret"].as_str().context("status.tlsSecret says nothing")?.to_owned();
    let path = "go-template={{index .data \"ca.crt\" | base64decode}}";
    let authority = database.cluster.kubectl(&["get", "secret", &secret, "-o", path])?;
    client.exec(&["python3", "-c", PUT, AUTHORITY, &authority])?;
    let error = client.cql(NAME, "SELECT now() FROM system.local").err().context("served without TLS")?;
    ensure!(format!("{error:#}").contains("TLS"), "without TLS: {error:#}");
    let statements = "CREATE KEYSPACE ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 2}; \
                      CREATE TABLE ks.t (id int PRIMARY KEY); INSERT INTO ks.t (id) VALUES (41)";
    with_tls(client, statements)?;
    let pods = database.pods("replica")?;
    ensure!(pods.len() == 2, "{pods:?}");
    database.kill_pod(&pods[0], RECOVERY_LIMIT, |_| ())?;
    with_tls(client, "INSERT INTO ks.t (id) VALUES (42)")?;
    let rows = with_tls(client, "CONSISTENCY QUORUM; SELECT id FROM ks.t")?;
    ensure!(["41", "42"].iter().all(|id| rows.lines().any(|line| line.trim() == *id)), "{rows}");
    // Tools in a replica's pod have its certificate and credentials.
    println!("{}", database.verify()?.trim_end());
    let log = database.cluster.kubectl(&["exec", &pods[1], "--", "replicateddb-server", "log"])?;
    ensure!(log.contains("ks.t"), "the log says nothing of ks.t: {log}");
    Ok(())
}

fn with_tls(client: &Client, statements: &str) -> Result<String> {
    let file = format!("SSL_CERTFILE={AUTHORITY}");
    client.exec(&["env", &file, "cqlsh", "--ssl", NAME, "--no-color", "-e", statements])
}
