//! One `ReplicatedDB` on the cluster: applying it, waiting for it, its replicas' states, and whether they are equal.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{cluster::Cluster, digests, wait};

/// CQL port of a replica.
pub const CQL_PORT: u16 = 9042;
/// Administration port of a replica.
pub const ADMIN_PORT: u16 = 9470;

/// A `ReplicatedDB` by name.
#[derive(Clone)]
pub struct Database {
    /// Where it runs.
    pub cluster: Cluster,
    /// Its name.
    pub name: String,
}

/// The tiers of a database, as in the label `app.kubernetes.io/component`.
pub const TIERS: [&str; 3] = ["zookeeper", "cassandra", "replica"];

impl Database {
    /// Names a database; nothing is created.
    pub fn new(cluster: &Cluster, name: &str) -> Self {
        Self { cluster: cluster.clone(), name: name.to_owned() }
    }

    /// Host name of the client Service, for pods of the same namespace.
    pub fn service(&self) -> String {
        self.name.clone()
    }

    /// The object as the API server has it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn object(&self) -> Result<Value> {
        self.cluster.get(&["rdb", &self.name])
    }

    /// The status of a condition of the latest generation: `True`, `False`, `Unknown`; `None` when it is not there yet.
    ///
    /// # Errors
    /// When the object cannot be read.
    pub fn condition(&self, kind: &str) -> Result<Option<String>> {
        let object = self.object()?;
        let generation = object["metadata"]["generation"].as_i64();
        if object["status"]["observedGeneration"].as_i64() != generation {
            return Ok(None);
        }
        let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        Ok(conditions.into_iter().find(|c| c["type"] == kind).and_then(|c| c["status"].as_str().map(str::to_owned)))
    }

    /// Waits until Available is true, Progressing and Degraded are false for the latest generation and every pod is
    /// Ready, telling `note` each new message of the status.
    ///
    /// # Errors
    /// When `limit` has passed.
    pub fn wait_settled(&self, limit: Duration, mut note: impl FnMut(&str)) -> Result<()> {
        let mut last = String::new();
        wait::until_true(&format!("{} is available and settled", self.name), limit, || {
            let message = self.object()?["status"]["message"].as_str().unwrap_or_default().to_owned();
            if message != last {
                note(&message);
                last = message;
            }
            let is = |kind, want| Ok::<_, anyhow::Error>(self.condition(kind)?.as_deref() == Some(want));
            // Available means that somebody serves; settled, that everybody does.
            Ok(is("Available", "True")?
                && is("Progressing", "False")?
                && is("Degraded", "False")?
                && self.all_ready()?)
        })
        .with_context(|| format!("last status: {last}"))
    }

    /// Whether every pod is Ready: the status lags behind the pods a little.
    fn all_ready(&self) -> Result<bool> {
        for tier in TIERS {
            if self.tier(tier)?.iter().any(|(_, pod)| !pod.ready) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Pods of one tier as they are now, in the order of their names.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn tier(&self, tier: &str) -> Result<Vec<(String, Pod)>> {
        let selector = format!("app.kubernetes.io/instance={},app.kubernetes.io/component={tier}", self.name);
        let list = self.cluster.get(&["pods", "-l", &selector])?;
        let named = |object: &Value| Some((object["metadata"]["name"].as_str()?.to_owned(), Pod::of(object)));
        let mut pods: Vec<_> = list["items"].as_array().into_iter().flatten().filter_map(named).collect();
        pods.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(pods)
    }

    /// Names of the pods of one tier, in order.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn pods(&self, tier: &str) -> Result<Vec<String>> {
        Ok(self.tier(tier)?.into_iter().map(|(name, _)| name).collect())
    }

    /// UID, address and readiness of a pod.
    ///
    /// # Errors
    /// When there is no such pod.
    pub fn pod(&self, pod: &str) -> Result<Pod> {
        Ok(Pod::of(&self.cluster.get(&["pod", pod])?))
    }

    /// The state that a replica reports of itself (`/status`).
    ///
    /// # Errors
    /// When it does not answer.
    pub fn replica_status(&self, pod: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.cluster.http_get(pod, ADMIN_PORT, "status")?)?)
    }

    /// Deletes a pod, its processes killed a second later whatever they are doing, and waits until its successor is
    /// Ready. Calls `watch` at every look.
    ///
    /// # Errors
    /// When the successor is not Ready after `limit`.
    pub fn kill_pod(&self, pod: &str, limit: Duration, mut watch: impl FnMut(&Self)) -> Result<()> {
        let before = self.pod(pod)?.uid;
        self.cluster.kubectl(&["delete", "pod", pod, "--grace-period=1", "--wait=false"])?;
        wait::until_true(&format!("the successor of {pod} is ready"), limit, || {
            watch(self);
            let now = self.pod(pod)?;
            Ok(now.uid != before && now.ready)
        })
    }

    /// Kills every process of a pod but its first, with no time to do anything.
    ///
    /// # Errors
    /// When the pod can't be reached.
    pub fn kill_processes(&self, pod: &str) -> Result<()> {
        self.cluster.kubectl(&["exec", pod, "--", "sh", "-c", "kill -9 -1"]).map(drop)
    }

    /// The name of the ZooKeeper pod that leads the ensemble.
    ///
    /// # Errors
    /// When none says so.
    pub fn zookeeper_leader(&self) -> Result<String> {
        for pod in self.pods("zookeeper")? {
            let answer = self.cluster.http_get(&pod, 8080, "commands/monitor").unwrap_or_default();
            let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
            if matches!(answer["server_state"].as_str(), Some("leader" | "standalone")) {
                return Ok(pod);
            }
        }
        anyhow::bail!("no ZooKeeper server of {} leads", self.name)
    }

    /// The command, for `kubectl`, that compares digests of every table, write times included, at one index of the log
    /// on all replicas.
    ///
    /// # Errors
    /// When the replicas cannot be listed.
    pub fn verify_command(&self) -> Result<Vec<String>> {
        let pods = self.tier("replica")?;
        let (first, _) = pods.first().context("no replica pods")?;
        let mut command = vec![
            "exec".to_owned(),
            first.clone(),
            "--".into(),
            "replicateddb-server".into(),
            "verify".into(),
            "--report-only".into(),
        ];
        for (_, pod) in &pods {
            command.extend(["--replica".to_owned(), format!("{}:{ADMIN_PORT}", pod.ip)]);
        }
        Ok(command)
    }

    /// Runs [`Database::verify_command`]; gives the tool's table.
    ///
    /// # Errors
    /// When replicas differ, one does not answer, or there is no table to compare.
    pub fn verify(&self) -> Result<String> {
        let command = self.verify_command()?;
        let report = self.cluster.kubectl(&command.iter().map(String::as_str).collect::<Vec<_>>())?;
        digests::ensure_compared(&report)?;
        Ok(report)
    }

    /// Every pod of the database with its UID, to see later which of them were replaced.
    ///
    /// # Errors
    /// When pods cannot be listed.
    pub fn pod_uids(&self) -> Result<Vec<(String, String)>> {
        let mut uids = Vec::new();
        for tier in TIERS {
            uids.extend(self.tier(tier)?.into_iter().map(|(name, pod)| (name, pod.uid)));
        }
        ensure!(!uids.is_empty(), "{} has no pods", self.name);
        Ok(uids)
    }
}

/// What the tests look at in a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Changes when the pod is replaced.
    pub uid: String,
    /// Empty until it has one.
    pub ip: String,
    /// Ready and not being deleted.
    pub ready: bool,
}

impl Pod {
    fn of(object: &Value) -> Self {
        let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        let ready = conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        Self {
            uid: object["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
            ip: object["status"]["podIP"].as_str().unwrap_or_default().to_owned(),
            ready: ready && object["metadata"]["deletionTimestamp"].is_null(),
        }
    }
}
