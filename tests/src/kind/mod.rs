//! The suite on a Kubernetes cluster: what a user does there, and the bad days, with the real operator, chart and images.

mod bad_input;
mod life;
mod logins;
mod neighbours;
mod recovery;
mod refused;
mod secured;
mod shared;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    client::Client,
    cluster::{Cluster, project},
    database::Database,
    scenario::{self, Scenario, failure_dir},
};

/// Where the chart is installed.
pub const OPERATOR_NAMESPACE: &str = "replicateddb-system";
/// The chart's release.
pub const RELEASE: &str = "replicateddb";
/// Selects the operator's pods.
const OPERATOR_LABEL: &str = "app.kubernetes.io/name=replicateddb-operator";
/// Another tag of the operator's image, to upgrade to.
const SECOND_TAG: &str = "upgraded";
/// The namespace of the suite's main database.
const NAMESPACE: &str = "suite";
/// The suite's main database.
const NAME: &str = "main";

/// The database beside it.
const SMALL: &str = "small";

/// From apply to Available and settled, images loaded, on two busy cores.
const AVAILABLE_LIMIT: Duration = Duration::from_secs(420);
/// From a pod's deletion to its successor's readiness.
const RECOVERY_LIMIT: Duration = Duration::from_secs(240);
/// From a change that rolls all tiers to the end of the roll.
const ROLL_LIMIT: Duration = Duration::from_secs(900);

/// How long the operator may take to notice and correct something, or the writers to go on.
const NOTICE_LIMIT: Duration = Duration::from_secs(120);

/// What scenarios share: the cluster, the main database and its client pod, and a small database beside it. The first
/// scenario that needs a database starts it, so that any scenario can run alone.
pub struct Suite {
    cluster: Cluster,
    main: Option<(Database, Client)>,
    small: Option<Database>,
}

/// Every scenario, in the order in which they run.
fn scenarios() -> Vec<Scenario<Suite>> {
    [
        bad_input::scenarios(),
        refused::scenarios(),
        recovery::scenarios(),
        neighbours::scenarios(),
        shared::scenarios(),
        logins::scenarios(),
        secured::scenarios(),
        life::scenarios(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Runs the suite, or the scenarios named.
///
/// # Errors
/// When there is no cluster or a scenario failed.
pub fn run(only: &[String]) -> Result<()> {
    let cluster = Cluster::connect(NAMESPACE)?;
    if let Err(error) = install_operator(&cluster) {
        let kept = keep_logs(&cluster, "install").unwrap_or_else(|error| format!("could not be kept: {error:#}"));
        return Err(error.context(format!("the operator cannot be installed; logs: {kept}; again: make test-kind")));
    }
    let mut context = Suite { cluster: cluster.clone(), main: None, small: None };
    let result =
        scenario::run("kind", &scenarios(), only, &mut context, |context, name| keep_logs(&context.cluster, name));
    cluster.delete_namespace()?;
    result
}

/// Copies what there is to look into, of the namespace and of the operator's, below the failures folder; gives the place.
///
/// # Errors
/// When a file cannot be written.
pub fn keep_logs(cluster: &Cluster, name: &str) -> Result<String> {
    let dir = failure_dir("kind", name)?;
    cluster.keep_logs(&dir)?;
    cluster.in_namespace(OPERATOR_NAMESPACE).keep_logs(&dir.join("operator"))?;
    Ok(dir.display().to_string())
}

impl Suite {
    /// The main database, running and written to before, and its client pod.
    fn main(&mut self) -> Result<(Database, &Client)> {
        if self.main.is_none() {
            self.cluster.fresh_namespace()?;
            let database = Database::new(&self.cluster, NAME);
            self.cluster.apply(&manifest(NAME, 3, 3))?;
            database.wait_settled(AVAILABLE_LIMIT, |message| println!("    {message}"))?;
            let client = Client::start(&self.cluster, &image("client"))?;
            self.main = Some((database, client));
        }
        let (database, client) = self.main.as_ref().context("the main database was started above")?;
        Ok((database.clone(), client))
    }

    /// A database of one replica and one ZooKeeper server in the namespace of the main one, with a table and a row; and
    /// the client pod.
    fn small(&mut self) -> Result<(Database, &Client)> {
        self.main()?;
        let (_, client) = self.main.as_ref().context("the main database was started above")?;
        if self.small.is_none() {
            let database = Database::new(&self.cluster, SMALL);
            self.cluster.apply(&manifest(SMALL, 1, 1))?;
            database.wait_settled(AVAILABLE_LIMIT, |message| println!("    {SMALL}: {message}"))?;
            client.cql(
                SMALL,
                "CREATE KEYSPACE few WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}; \
                 CREATE TABLE few.t (id int PRIMARY KEY, v text); INSERT INTO few.t (id, v) VALUES (0, 'first')",
            )?;
            self.small = Some(database);
        }
        Ok((self.small.clone().context("the small database was started above")?, client))
    }
}

/// The name of one of the product's images, as `cluster/load-images` loads them.
pub fn image(name: &str) -> String {
    format!("{}/replicateddb/{name}:{}", registry(), tag())
}

fn registry() -> String {
    setting("REGISTRY", "localhost")
}

fn tag() -> String {
    setting("TAG", "dev")
}

/// An environment variable; empty counts as not given, as in the scripts.
fn setting(name: &str, default: &str) -> String {
    std::env::var(name).ok().filter(|value| !value.is_empty()).unwrap_or_else(|| default.into())
}

/// Installs or upgrades the chart with the images of this build, and waits until the operator is available.
///
/// # Errors
/// When the operator is installed by somebody else, Helm fails or the operator does not become available.
pub fn install_operator(cluster: &Cluster) -> Result<()> {
    refuse_foreign_releases(cluster)?;
    cluster.in_namespace(OPERATOR_NAMESPACE).ensure_namespace()?;
    helm_upgrade(cluster, &[])
}

/// Fails when the chart is installed elsewhere than these programs do: two operators would look after one database, and
/// an upgrade of somebody's own would be a surprise.
fn refuse_foreign_releases(cluster: &Cluster) -> Result<()> {
    let releases: Value =
        serde_json::from_str(&cluster.tool("helm", &["list", "--all", "--all-namespaces", "-o", "json"], None)?)?;
    for release in releases.as_array().into_iter().flatten() {
        let (name, namespace) = (&release["name"], &release["namespace"]);
        let ours = name == RELEASE && namespace == OPERATOR_NAMESPACE;
        let chart = release["chart"].as_str().unwrap_or_default();
        ensure!(
            ours || !chart.starts_with("replicateddb-operator-"),
            "the operator is installed already, as release {name} in namespace {namespace}: uninstall it, or use another \
             cluster (make cluster)"
        );
    }
    Ok(())
}

/// Gives the operator's image another tag, where the cluster's nodes find it.
fn second_tag(cluster: &Cluster) -> Result<()> {
    let image = format!("{}/replicateddb/operator:{SECOND_TAG}", registry());
    cluster.tool("docker", &["tag", &self::image("operator"), &image], None)?;
    if setting("CLUSTER", "auto") == "existing" {
        cluster.tool("docker", &["push", "--quiet", &image], None)?;
    } else {
        let script = project().join("cluster/load-images");
        cluster.tool(script.to_str().context("the path of the checkout is no text")?, &[&image], None)?;
    }
    Ok(())
}

/// `helm upgrade --install` of the chart with further settings.
fn helm_upgrade(cluster: &Cluster, settings: &[&str]) -> Result<()> {
    let (registry, tag) = (format!("image.registry={}", registry()), format!("image.tag={}", tag()));
    let mut args =
        vec!["upgrade", "--install", RELEASE, "charts/replicateddb-operator", "--namespace", OPERATOR_NAMESPACE];
    args.extend(["--wait", "--timeout", "3m", "--set", &registry, "--set", &tag]);
    for setting in settings {
        args.extend(["--set", setting]);
    }
    cluster.tool("helm", &args, None).map(drop)
}

/// A small database: `replicas` replicas with their Cassandras, `zookeepers` ZooKeeper servers.
fn manifest(name: &str, replicas: u32, zookeepers: u32) -> String {
    json!({
        "apiVersion": "replicateddb.dev/v1alpha1", "kind": "ReplicatedDB", "metadata": {"name": name},
        "spec": {"replicas": replicas, "zookeeper": {"size": zookeepers}},
    })
    .to_string()
}

/// Every acknowledged write on every replica, and equal digests at one index.
fn check_everything(database: &Database, client: &Client) -> Result<()> {
    let acknowledged = client.stop()?.len();
    for pod in database.pods("replica")? {
        client
            .check(&database.pod(&pod)?.ip)
            .with_context(|| format!("{acknowledged} acknowledged writes on {pod}"))?;
    }
    println!("    {acknowledged} acknowledged writes, all found on every replica");
    println!("{}", database.verify()?);
    Ok(())
}
