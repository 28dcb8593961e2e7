//! The client pod: it writes from inside the cluster, records every acknowledged write and finds each again.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{cluster::Cluster, database::Database, wait};

/// The program that runs in the pod.
const PROGRAM: &str = include_str!("../client/load.py");
/// Where the pod records acknowledged writes.
const RECORD: &str = "/tmp/acknowledged";
/// How long the driver may take to connect and to begin.
const BEGIN_LIMIT: Duration = Duration::from_secs(60);
/// How long the last writes may take after they were told to stop.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// A running client pod in a database's namespace.
pub struct Client {
    cluster: Cluster,
    pod: String,
}

/// One acknowledged write: when (milliseconds since the epoch) and how long it took (microseconds).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ack {
    /// Milliseconds since the epoch, by the client's clock.
    pub at_ms: u64,
    /// From the driver's call to its return, in microseconds.
    pub latency_us: u64,
}

impl Client {
    /// Starts the pod from the client image, and waits until it runs.
    ///
    /// # Errors
    /// When the pod does not run in time.
    pub fn start(cluster: &Cluster, image: &str) -> Result<Self> {
        let pod = "client".to_owned();
        let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "client"}, "data": {"load.py": PROGRAM}});
        cluster.apply(&config.to_string())?;
        cluster.apply(&manifest(&pod, image).to_string())?;
        cluster.kubectl(&["wait", "--for=condition=Ready", "pod", &pod, "--timeout=120s"])?;
        Ok(Self { cluster: cluster.clone(), pod })
    }

    /// Runs a command in the pod.
    ///
    /// # Errors
    /// When it fails; the message has its standard error.
    pub fn exec(&self, command: &[&str]) -> Result<String> {
        self.cluster.kubectl(&[&["exec", &self.pod, "--"], command].concat())
    }

    /// Executes statements by cqlsh through `host`; gives what it prints.
    ///
    /// # Errors
    /// When one fails; the message has the server's.
    pub fn cql(&self, host: &str, statements: &str) -> Result<String> {
        self.exec(&["cqlsh", host, "--no-color", "-e", statements])
    }

    /// Creates the keyspace and the table, then writes `rate` rows a second through all replicas until [`Client::stop`].
    ///
    /// # Errors
    /// When the first write is not acknowledged in time.
    pub fn write(&self, database: &Database, rate: u32) -> Result<()> {
        let service = database.service();
        self.exec(&["python3", "/client/load.py", "schema", &service])?;
        self.exec(&["rm", "-f", &format!("{RECORD}.stop"), &format!("{RECORD}.done")])?;
        let before = self.acknowledged()?.len();
        let command = format!("nohup python3 /client/load.py write {RECORD} {rate} {service} > /tmp/load.log 2>&1 &");
        self.exec(&["sh", "-c", &command])?;
        wait::until_true("the first acknowledged write", BEGIN_LIMIT, || Ok(self.acknowledged()?.len() > before))
            .with_context(|| self.exec(&["tail", "-n", "20", "/tmp/load.log"]).unwrap_or_default())
    }

    /// Waits until `more` further writes were acknowledged.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub fn wait_for(&self, more: usize, limit: Duration) -> Result<()> {
        let before = self.acknowledged()?.len();
        wait::until_true(&format!("{more} more acknowledged writes than {before}"), limit, || {
            Ok(self.acknowledged()?.len() >= before + more)
        })
    }

    /// Every write acknowledged so far.
    ///
    /// # Errors
    /// When the pod does not answer.
    pub fn acknowledged(&self) -> Result<Vec<Ack>> {
        Ok(acks(&self.exec(&["sh", "-c", &format!("cat {RECORD} 2>/dev/null || true")])?))
    }

    /// Stops the writers and waits until their last writes are answered; gives all acknowledged writes.
    ///
    /// # Errors
    /// When they do not stop in time.
    pub fn stop(&self) -> Result<Vec<Ack>> {
        self.exec(&["touch", &format!("{RECORD}.stop")])?;
        wait::until_true("the writers' end", STOP_LIMIT, || {
            Ok(self.exec(&["sh", "-c", &format!("test -e {RECORD}.done && echo yes || true")])?.contains("yes"))
        })?;
        self.acknowledged()
    }

    /// What went wrong for the writers, by the driver's words: the error's kind and how often.
    ///
    /// # Errors
    /// When the pod does not answer.
    pub fn errors(&self) -> Result<HashMap<String, usize>> {
        let text = self.exec(&["sh", "-c", &format!("cat {RECORD}.unknown 2>/dev/null || true")])?;
        let mut kinds = HashMap::new();
        for kind in text.lines().filter_map(|line| line.split_whitespace().nth(3)) {
            *kinds.entry(kind.to_owned()).or_insert(0) += 1;
        }
        Ok(kinds)
    }

    /// Reads every row from the replica at `host` alone and compares with what was acknowledged.
    ///
    /// # Errors
    /// When an acknowledged row is missing, a row is there that nobody wrote, or a value is wrong.
    pub fn check(&self, host: &str) -> Result<Value> {
        let text = self.exec(&["python3", "/client/load.py", "check", RECORD, host])?;
        let result: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        ensure!(result["acknowledged"].as_u64() > Some(0), "nothing was written: {text}");
        Ok(result)
    }
}

fn acks(text: &str) -> Vec<Ack> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let at_ms = fields.next()?.parse().ok()?;
            Some(Ack { at_ms, latency_us: fields.nth(2)?.parse().ok()? })
        })
        .collect()
}

fn manifest(pod: &str, image: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod, "labels": {"app": "replicateddb-client"}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 10001, "runAsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "client", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "infinity"],
                "env": [{"name": "HOME", "value": "/tmp"}],
                "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
                "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
                "volumeMounts": [{"name": "client", "mountPath": "/client"}, {"name": "tmp", "mountPath": "/tmp"}],
            }],
            "volumes": [{"name": "client", "configMap": {"name": "client"}}, {"name": "tmp", "emptyDir": {}}],
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_written_last_line_is_no_acknowledgement() {
        assert_eq!(acks("1700 a-0 0 900\n1701 a-1"), [Ack { at_ms: 1700, latency_us: 900 }]);
    }
}
