//! Cassandra's JMX, over HTTP by the Jolokia agent in the JVM.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::api::{Flushed, Table};
use crate::bounded;

const STORAGE: &str = "org.apache.cassandra.db:type=StorageService";
const COMPACTION: &str = "org.apache.cassandra.db:type=CompactionManager";
const COUNTER_CACHE: &str = "org.apache.cassandra.metrics:type=Cache,scope=CounterCache,name=Capacity";
/// How often memtables were replaced, of all tables together. `ColumnFamilyStore.Flush` counts before it makes the first file
/// of what a memtable held, so none can be there of one that is not counted.
const MEMTABLE_SWITCHES: &str = "org.apache.cassandra.metrics:type=Table,name=MemtableSwitchCount";
/// Longest wait for what touches no data.
const SHORT: Duration = Duration::from_secs(15);
/// Longest wait for a flush of everything; shorter than the replica's for that call.
const FLUSH: Duration = Duration::from_secs(170);
/// Longest wait for a snapshot of everything.
const SNAPSHOT: Duration = Duration::from_secs(60);
/// Longest wait for snapshots to be removed.
const CLEAR: Duration = Duration::from_secs(60);

/// A connection to the JMX of one JVM. Its password is that JVM's alone, so that no other can answer in its place.
#[derive(Debug, Clone)]
pub struct Jolokia {
    http: reqwest::Client,
    url: String,
    user: String,
    password: String,
}

impl Jolokia {
    /// A client of the port on loopback; connects at the first call.
    ///
    /// # Errors
    /// If no HTTP client can be made on this system.
    pub fn new(port: u16, user: &str, password: &str) -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().build().context("can't make an HTTP client")?;
        let url = format!("http://127.0.0.1:{port}/jolokia/");
        Ok(Self { http, url, user: user.to_owned(), password: password.to_owned() })
    }

    /// Every keyspace, the system's too.
    async fn keyspaces(&self) -> Result<Vec<String>> {
        let value = self.read(STORAGE, "Keyspaces").await?;
        serde_json::from_value(value).context("can't understand the list of keyspaces")
    }

    /// Flushes every table, and tells what is under way after that. Two requests in all: the replica may hold its lanes
    /// meanwhile, and each waits for its turn on a busy machine.
    pub async fn flush(&self) -> Result<Flushed> {
        let operation = "forceKeyspaceFlush(java.lang.String,[Ljava.lang.String;)";
        let keyspaces = self.keyspaces().await?;
        let flushes = keyspaces.iter().map(|keyspace| exec_of(STORAGE, operation, &json!([keyspace, []])));
        let questions = [read_of(COMPACTION, "Compactions"), read_of(MEMTABLE_SWITCHES, "Value")];
        let requests: Vec<Value> = flushes.chain(questions).collect();
        let replies = self.post(&Value::from(requests.as_slice()), FLUSH).await.context("flushing")?;
        let values = answers(replies, requests.len()).context("flushing")?;
        let [.., operations, switches] = values.as_slice() else { bail!("flushing: answers are missing") };
        Ok(Flushed { builds: builds(operations), memtable_switches: count(switches)? })
    }

    /// Takes a snapshot of every table, without flushing. Gives how often memtables had been replaced after that.
    pub async fn snapshot(&self, tag: &str) -> Result<u64> {
        let replies = self.post(&json!(snapshot_requests(tag)), SNAPSHOT).await.context("calling takeSnapshot")?;
        let values = answers(replies, 2).context("calling takeSnapshot")?;
        count(&values[1])
    }

    /// Removes the snapshots of this tag; of every tag if it is empty.
    pub async fn clear_snapshot(&self, tag: &str) -> Result<()> {
        let operation = "clearSnapshot(java.util.Map,java.lang.String,[Ljava.lang.String;)";
        self.exec(STORAGE, operation, json!([{}, tag, []]), CLEAR).await?;
        Ok(())
    }

    /// Flushes everything and stops taking writes, for good; fails unless Cassandra says it is drained.
    pub async fn drain(&self, timeout: Duration) -> Result<()> {
        self.exec(STORAGE, "drain()", json!([]), timeout).await?;
        match self.read(STORAGE, "Drained").await? {
            Value::Bool(true) => Ok(()),
            other => bail!("Cassandra is not drained: {other}"),
        }
    }

    /// Turns compaction on or off, for all tables or for some.
    pub async fn autocompaction(&self, enabled: bool, tables: Option<&[Table]>) -> Result<()> {
        let operation = match enabled {
            true => "enableAutoCompaction(java.lang.String,[Ljava.lang.String;)",
            false => "disableAutoCompaction(java.lang.String,[Ljava.lang.String;)",
        };
        let targets: Vec<Value> = match tables {
            None => self.keyspaces().await?.into_iter().map(|keyspace| json!([keyspace, []])).collect(),
            Some(tables) => tables.iter().map(|t| json!([t.keyspace, [t.table]])).collect(),
        };
        for arguments in targets {
            self.exec(STORAGE, operation, arguments, SHORT).await?;
        }
        Ok(())
    }

    /// Bytes of the counter cache.
    pub async fn counter_cache_capacity(&self) -> Result<u64> {
        let value = self.read(COUNTER_CACHE, "Value").await?;
        value.as_u64().ok_or_else(|| anyhow!("can't understand the counter cache's capacity {value}"))
    }

    async fn read(&self, mbean: &str, attribute: &str) -> Result<Value> {
        self.send(&read_of(mbean, attribute), SHORT).await.with_context(|| format!("reading {attribute}"))
    }

    async fn exec(&self, mbean: &str, operation: &str, arguments: Value, timeout: Duration) -> Result<Value> {
        let name = operation.split('(').next().unwrap_or(operation);
        self.send(&exec_of(mbean, operation, &arguments), timeout).await.with_context(|| format!("calling {name}"))
    }

    async fn send(&self, request: &Value, timeout: Duration) -> Result<Value> {
        answer(self.post(request, timeout).await?)
    }

    async fn post(&self, request: &Value, timeout: Duration) -> Result<Value> {
        let response = self
            .http
            .post(&self.url)
            .basic_auth(&self.user, Some(&self.password))
            .timeout(timeout)
            .json(request)
            .send()
            .await?
            .error_for_status()?;
        Ok(bounded::json(response).await?)
    }
}

fn read_of(mbean: &str, attribute: &str) -> Value {
    json!({ "type": "read", "mbean": mbean, "attribute": attribute })
}

fn exec_of(mbean: &str, operation: &str, arguments: &Value) -> Value {
    json!({ "type": "exec", "mbean": mbean, "operation": operation, "arguments": arguments })
}

/// Taking a snapshot, and the count after it: carried out one after the other. A count of before it would miss a memtable that
/// is replaced, and linked, in between.
fn snapshot_requests(tag: &str) -> [Value; 2] {
    let operation = "takeSnapshot(java.lang.String,java.util.Map,[Ljava.lang.String;)";
    let take = exec_of(STORAGE, operation, &json!([tag, { "skipFlush": "true" }, []]));
    [take, read_of(MEMTABLE_SWITCHES, "Value")]
}

/// The values in Jolokia's replies to so many requests that were sent together, or the first error: the others are carried
/// out all the same.
fn answers(replies: Value, count: usize) -> Result<Vec<Value>> {
    match replies {
        Value::Array(replies) if replies.len() == count => replies.into_iter().map(answer).collect(),
        // What is refused as a whole gets one reply.
        other => answer(other).and_then(|_| bail!("Cassandra did not answer each of {count} requests")),
    }
}

/// The value in Jolokia's reply, or its error: failures come with HTTP status 200.
fn answer(mut reply: Value) -> Result<Value> {
    match reply.get("status").and_then(Value::as_u64) {
        Some(200) => Ok(reply.get_mut("value").map(Value::take).unwrap_or_default()),
        _ => {
            let error = reply.get("error").and_then(Value::as_str).unwrap_or("no reason given");
            Err(anyhow!("Cassandra refused: {error}"))
        }
    }
}

/// A count of Cassandra's metrics.
fn count(value: &Value) -> Result<u64> {
    value.as_u64().ok_or_else(|| anyhow!("can't understand Cassandra's count of memtables {value}"))
}

/// Names the builds among Cassandra's running operations.
fn builds(operations: &Value) -> Vec<String> {
    let text = |operation: &Value, key| operation.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let operations = operations.as_array().map(Vec::as_slice).unwrap_or_default();
    operations
        .iter()
        .filter(|operation| text(operation, "taskType").to_ascii_lowercase().contains("build"))
        .map(|o| format!("{} of {}.{}", text(o, "taskType"), text(o, "keyspace"), text(o, "columnfamily")))
        .collect()
}

/// Whether an error is a time-out: Cassandra may still be at it.
pub fn is_timeout(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_with_status_200_are_failures() {
        assert_eq!(answer(json!({ "status": 200, "value": [1] })).unwrap(), json!([1]));
        assert_eq!(answer(json!({ "status": 200 })).unwrap(), Value::Null);
        let error = answer(json!({ "status": 500, "error": "disk full" })).unwrap_err();
        assert!(error.to_string().contains("disk full"));
        assert!(answer(json!("what")).is_err());
    }

    #[test]
    fn requests_sent_together_fail_if_one_does_or_one_is_missing() {
        let (fine, failed) = (json!({ "status": 200, "value": 1 }), json!({ "status": 500, "error": "disk full" }));
        assert_eq!(answers(json!([fine, fine]), 2).unwrap(), [json!(1), json!(1)]);
        for replies in [json!([fine, failed]), json!([failed, fine]), failed.clone()] {
            assert!(answers(replies, 2).unwrap_err().to_string().contains("disk full"));
        }
        for replies in [json!([fine]), json!([fine, fine, fine]), fine.clone(), json!(null)] {
            assert!(answers(replies, 2).is_err());
        }
    }

    #[test]
    fn memtables_are_counted_after_the_snapshot() {
        let [first, second] = snapshot_requests("a");
        assert!(first["operation"].as_str().unwrap().starts_with("takeSnapshot("), "{first}");
        assert_eq!((&second["type"], &second["mbean"]), (&json!("read"), &json!(MEMTABLE_SWITCHES)), "{second}");
    }

    #[test]
    fn a_count_is_a_number() {
        assert_eq!(count(&json!(7)).unwrap(), 7);
        for other in [Value::Null, json!("7"), json!(-1)] {
            assert!(count(&other).is_err());
        }
    }

    #[test]
    fn builds_are_told_from_compactions() {
        let operations = json!([
            { "taskType": "Compaction", "keyspace": "k", "columnfamily": "t" },
            { "taskType": "Secondary index build", "keyspace": "k", "columnfamily": "t" },
            { "taskType": "View build", "keyspace": "k", "columnfamily": "v" },
        ]);
        assert_eq!(builds(&operations), ["Secondary index build of k.t", "View build of k.v"]);
        assert!(builds(&Value::Null).is_empty());
    }
}
