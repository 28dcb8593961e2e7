//! A database whose clients log in, and then use TLS: the Secret that the operator makes, a password that is changed there, and a
//! certificate of the user's.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use replicateddb_local::Authority;
use serde_json::{Value, json};

use super::{AVAILABLE_LIMIT, RECOVERY_LIMIT, Suite};
use crate::{client::Client, database::Database, scenario::Scenario, wait};

/// Name of the database.
const NAME: &str = "guarded";
/// The Secret with the certificate that clients are shown.
const CERTIFICATE: &str = "guarded-tls";
/// The superuser that the operator makes.
const ADMIN: &str = "admin";
/// From a changed Secret to the changed password: the kubelet looks at Secrets once in a minute or two, the replica at the file
/// every ten seconds.
const CHANGE_LIMIT: Duration = Duration::from_secs(240);

pub fn scenarios() -> Vec<Scenario<Suite>> {
    vec![Scenario {
        name: "logins",
        proves: "clients log in as the superuser of the operator's Secret and as roles; a password is changed in the Secret; TLS is switched on",
        run: logins,
    }]
}

fn logins(suite: &mut Suite) -> Result<()> {
    let (main, client) = suite.main()?;
    let database = Database::new(&main.cluster, NAME);
    let spec = json!({"replicas": 1, "zookeeper": {"size": 1}, "authentication": {"enabled": true}});
    let manifest = json!({
        "apiVersion": "replicateddb.dev/v1alpha1", "kind": "ReplicatedDB", "metadata": {"name": NAME}, "spec": spec,
    });
    database.cluster.apply(&manifest.to_string())?;
    let result = exercise(&database, client);
    database.cluster.delete(&["rdb", NAME])?;
    result
}

fn exercise(database: &Database, client: &Client) -> Result<()> {
    database.wait_settled(AVAILABLE_LIMIT, |message| println!("    {NAME}: {message}"))?;
    let made = password(database)?;
    ensure!(made.len() >= 16, "the operator's password is short");
    refused(client, None, "nobody")?;
    refused(client, Some((ADMIN, "wrong")), "a wrong password")?;
    let statements = "CREATE KEYSPACE ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}; \
                      CREATE TABLE ks.t (id int PRIMARY KEY); INSERT INTO ks.t (id) VALUES (41); \
                      CREATE ROLE reader WITH PASSWORD = 'of the reader' AND LOGIN = true; GRANT SELECT ON ks.t TO reader";
    as_user(client, (ADMIN, &made), statements)?;
    let reader = (("reader", "of the reader"), "INSERT INTO ks.t (id) VALUES (42)");
    let error = as_user(client, reader.0, reader.1).err().context("a reader wrote")?;
    ensure!(format!("{error:#}").contains("no MODIFY permission"), "{error:#}");

    let changed = "changed by its owner";
    let patch = json!({"stringData": {"password": changed}}).to_string();
    database.cluster.kubectl(&["patch", "secret", &secret(), "-p", &patch])?;
    wait::until_true("the changed password is the superuser's", CHANGE_LIMIT, || {
        Ok(as_user(client, (ADMIN, changed), "SELECT id FROM ks.t").is_ok())
    })?;
    refused(client, Some((ADMIN, &made)), "the password of before")?;

    let [replica] = &database.pods("replica")?[..] else { anyhow::bail!("not one replica") };
    database.kill_pod(replica, RECOVERY_LIMIT, |_| ())?;
    for user in [(ADMIN, changed), reader.0] {
        let rows = as_user(client, user, "CONSISTENCY QUORUM; SELECT id FROM ks.t")?;
        ensure!(rows.lines().any(|line| line.trim() == "41"), "as {}: {rows}", user.0);
    }
    let key = encrypted(database, client, (ADMIN, changed))?;
    // What is shown of the database has no password, and no key.
    let shown = database.cluster.kubectl(&["get", "rdb,configmap,event,statefulset,pod", "-o", "json"])?;
    let of_key = key.lines().nth(1).context("a key of one line")?;
    for secret in [made.as_str(), changed, of_key] {
        ensure!(!shown.contains(secret), "a secret is shown");
    }
    Ok(())
}

/// TLS is switched on while the database runs: clients with it are served, others are told. The certificate's key.
fn encrypted(database: &Database, client: &Client, (user, password): (&str, &str)) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::make(&folder.path().join("authority"))?;
    let pair = authority.issue(vec![NAME.to_owned()])?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": CERTIFICATE}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": pair.certificate, "tls.key": pair.key},
    });
    database.cluster.apply(&secret.to_string())?;
    let patch = json!({"spec": {"tls": {"enabled": true, "secretName": CERTIFICATE}}}).to_string();
    database.cluster.kubectl(&["patch", "rdb", NAME, "--type=merge", "-p", &patch])?;
    database.wait_settled(RECOVERY_LIMIT, |message| println!("    {NAME}: {message}"))?;
    let error = as_user(client, (user, password), "SELECT id FROM ks.t").err().context("served without TLS")?;
    ensure!(format!("{error:#}").contains("TLS"), "without TLS: {error:#}");
    let trusted = std::fs::read_to_string(authority.certificate())?;
    let program = "import sys; open('/tmp/authority.pem', 'w').write(sys.argv[1])";
    client.exec(&["python3", "-c", program, &trusted])?;
    let with_tls = ["env", "SSL_CERTFILE=/tmp/authority.pem", "cqlsh", "--ssl", NAME, "--no-color"];
    let rows = client.exec(&[&with_tls[..], &["-u", user, "-p", password, "-e", "SELECT id FROM ks.t"]].concat())?;
    ensure!(rows.lines().any(|line| line.trim() == "41"), "with TLS: {rows}");
    database.cluster.delete(&["secret", CERTIFICATE])?;
    Ok(pair.key)
}

fn secret() -> String {
    format!("{NAME}-superuser")
}

/// The superuser's password, as a user reads it.
fn password(database: &Database) -> Result<String> {
    let path = "go-template={{.data.password | base64decode}}";
    let password = database.cluster.kubectl(&["get", "secret", &secret(), "-o", path])?;
    let user: Value = database.cluster.get(&["secret", &secret()])?;
    ensure!(user["type"] == "kubernetes.io/basic-auth", "{}", user["type"]);
    Ok(password)
}

fn as_user(client: &Client, (user, password): (&str, &str), statements: &str) -> Result<String> {
    client.exec(&["cqlsh", NAME, "--no-color", "-u", user, "-p", password, "-e", statements])
}

/// Whoever comes like that is not let in, for that reason.
fn refused(client: &Client, user: Option<(&str, &str)>, who: &str) -> Result<()> {
    let statements = "SELECT now() FROM system.local";
    let answer = match user {
        Some(user) => as_user(client, user, statements),
        None => client.cql(NAME, statements),
    };
    let error = answer.err().with_context(|| format!("{who} was let in"))?;
    let error = format!("{error:#}");
    ensure!(error.contains("AuthenticationFailed") || error.contains("Bad credentials"), "{who}: {error}");
    Ok(())
}
