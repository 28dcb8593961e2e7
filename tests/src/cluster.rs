//! The Kubernetes cluster of `cluster/up`, reached as users reach it: through `kubectl` and `helm`.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};

/// Longest run of kubectl or helm: above each limit that they are given themselves. One that hangs is killed then.
const TOOL_LIMIT: Duration = Duration::from_secs(300);
/// Time between two looks at whether a tool ended.
const TOOL_POLL: Duration = Duration::from_millis(20);

/// The label of namespaces that these programs made: only these do they delete or put a release into, because with
/// `CLUSTER=existing` the cluster is somebody's own.
const MADE_BY_US: &str = "tests.replicateddb.dev/made";

/// A namespace of the cluster, with the environment that its tools need.
#[derive(Clone)]
pub struct Cluster {
    env: Vec<(String, String)>,
    /// The namespace that commands go to.
    pub namespace: String,
}

/// Everything that a pipe of a child gives, read beside it so that it never blocks on a full pipe.
fn reader(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What could be read counts: a pipe of a killed child may break.
        let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
        bytes
    })
}

/// The checkout that this program was built from; the scripts and the chart are there.
pub fn project() -> PathBuf {
    std::env::var_os("REPLICATEDDB_PROJECT").map_or_else(
        || {
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .parent()
                .expect("this crate lies in a folder of the project")
                .to_owned()
        },
        PathBuf::from,
    )
}

impl Cluster {
    /// The cluster that `cluster/env` names.
    ///
    /// # Errors
    /// When there is none: the message says which command makes one.
    pub fn connect(namespace: &str) -> Result<Self> {
        let output = Command::new(project().join("cluster/env")).output().context("cluster/env")?;
        ensure!(output.status.success(), "{}\nrun: make cluster", String::from_utf8_lossy(&output.stderr));
        let env = exports(&String::from_utf8_lossy(&output.stdout));
        let cluster = Self { env, namespace: namespace.to_owned() };
        let server =
            ["config", "view", "--minify", "-o", "jsonpath={.current-context} at {.clusters[0].cluster.server}"];
        println!("cluster: {}", cluster.kubectl(&server).context("no usable kubeconfig; run: make cluster")?);
        cluster.kubectl(&["version"]).context("the cluster does not answer; run: make cluster")?;
        Ok(cluster)
    }

    /// The same cluster, another namespace.
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self { env: self.env.clone(), namespace: namespace.to_owned() }
    }

    /// The environment variables with which the tools find this cluster, as shell exports.
    pub fn exports(&self) -> String {
        self.env.iter().map(|(name, value)| format!("export {name}='{value}'\n")).collect()
    }

    /// Runs a tool with the cluster's environment and gives its standard output.
    ///
    /// # Errors
    /// When it fails; the message has its standard error.
    pub fn tool(&self, program: &str, args: &[&str], input: Option<&str>) -> Result<String> {
        let command = format!("{program} {}", args.join(" "));
        let mut child = Command::new(program)
            .args(args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(project())
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{program} cannot be started"))?;
        let (stdout, stderr) = (reader(child.stdout.take()), reader(child.stderr.take()));
        if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
            // A tool that ended early says why on its standard error.
            let _ = stdin.write_all(text.as_bytes());
        }
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if start.elapsed() > TOOL_LIMIT {
                child.kill()?;
                child.wait()?;
                bail!("{command}: killed after {} s without an end", TOOL_LIMIT.as_secs());
            }
            std::thread::sleep(TOOL_POLL);
        };
        let output = |reader: JoinHandle<Vec<u8>>| reader.join().map_err(|_| anyhow!("{command}: its output is lost"));
        let (stdout, stderr) = (output(stdout)?, output(stderr)?);
        ensure!(status.success(), "{command}: {}", String::from_utf8_lossy(&stderr).trim());
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    /// `kubectl` in this namespace.
    ///
    /// # Errors
    /// As [`Cluster::tool`].
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        // Streams and waits have limits of their own; the flag would cut them.
        let bounded = !matches!(args.first(), Some(&("exec" | "wait" | "delete" | "logs")));
        let limit: &[&str] = if bounded { &["--request-timeout=60s"] } else { &[] };
        self.tool("kubectl", &[&["--namespace", &self.namespace], limit, args].concat(), None)
    }

    /// `kubectl get ... -o json`.
    ///
    /// # Errors
    /// As [`Cluster::tool`].
    pub fn get(&self, args: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get"], args, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).context("kubectl's JSON")
    }

    /// Applies a manifest in this namespace.
    ///
    /// # Errors
    /// As [`Cluster::tool`]; a manifest that breaks a rule gives the API server's message.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.tool(
            "kubectl",
            &["--namespace", &self.namespace, "--request-timeout=60s", "apply", "-f", "-"],
            Some(manifest),
        )
    }

    /// Deletes something and waits until it is gone; nothing to delete is fine.
    ///
    /// # Errors
    /// As [`Cluster::tool`].
    pub fn delete(&self, args: &[&str]) -> Result<()> {
        self.kubectl(&[&["delete", "--ignore-not-found", "--timeout=180s"], args].concat()).map(drop)
    }

    /// An HTTP GET to a pod's port through the API server.
    ///
    /// # Errors
    /// When the pod does not answer with a success.
    pub fn http_get(&self, pod: &str, port: u16, path: &str) -> Result<String> {
        self.kubectl(&[
            "get",
            "--raw",
            &format!("/api/v1/namespaces/{}/pods/{pod}:{port}/proxy/{path}", self.namespace),
        ])
    }

    /// Names of the pods with these labels.
    ///
    /// # Errors
    /// As [`Cluster::tool`].
    pub fn pods(&self, selector: &str) -> Result<Vec<String>> {
        let list = self.get(&["pods", "-l", selector])?;
        let names = list["items"].as_array().into_iter().flatten();
        Ok(names.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect())
    }

    /// Makes this namespace anew, with the `restricted` Pod Security level enforced, so that every pod of the product
    /// proves that it needs no more. One that is there is deleted first, if these programs made it.
    ///
    /// # Errors
    /// When there is a namespace of this name that somebody else made, or as [`Cluster::tool`].
    pub fn fresh_namespace(&self) -> Result<()> {
        self.delete_namespace()?;
        self.make_namespace("restricted")
    }

    /// Makes this namespace unless it is there already.
    ///
    /// # Errors
    /// When there is a namespace of this name that somebody else made, or as [`Cluster::tool`].
    pub fn ensure_namespace(&self) -> Result<()> {
        if self.namespace_is_there()? { Ok(()) } else { self.make_namespace("restricted") }
    }

    /// Deletes this namespace with everything in it and waits until it is gone; none is fine.
    ///
    /// # Errors
    /// When somebody else made it, or as [`Cluster::tool`].
    pub fn delete_namespace(&self) -> Result<()> {
        if self.namespace_is_there()? { self.delete(&["namespace", &self.namespace]) } else { Ok(()) }
    }

    fn make_namespace(&self, level: &str) -> Result<()> {
        let labels = json!({"pod-security.kubernetes.io/enforce": level, MADE_BY_US: "true"});
        let manifest =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": labels}});
        self.tool("kubectl", &["--request-timeout=60s", "create", "-f", "-"], Some(&manifest.to_string())).map(drop)
    }

    /// Whether this namespace exists and is ours; one that is somebody else's is an error.
    fn namespace_is_there(&self) -> Result<bool> {
        let name = &self.namespace;
        let text = self.kubectl(&["get", "namespace", name, "--ignore-not-found", "-o", "json"])?;
        if text.trim().is_empty() {
            return Ok(false);
        }
        let found: Value = serde_json::from_str(&text).context("kubectl's JSON")?;
        ensure!(
            found["metadata"]["labels"][MADE_BY_US] == "true",
            "the namespace {name} was not made by this program, so nothing in it is touched. Delete it, or, if nothing in \
             it is needed, hand it over: kubectl label namespace {name} {MADE_BY_US}=true"
        );
        Ok(true)
    }

    /// Writes what one needs to look into a failure in this namespace into `dir`: objects, events and every log.
    ///
    /// # Errors
    /// When a file cannot be written; a log that cannot be had is left out.
    pub fn keep_logs(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir)?;
        let save = |name: &str, args: &[&str]| -> Result<()> {
            let text = self.kubectl(args).unwrap_or_else(|error| format!("{error:#}"));
            std::fs::write(dir.join(name), text).with_context(|| name.to_owned())
        };
        save("objects.txt", &["get", "rdb,statefulsets,pods,services,pvc,configmaps,pdb", "-o", "wide"])?;
        save("resource.yaml", &["get", "rdb", "-o", "yaml"])?;
        save("pods.txt", &["describe", "pods"])?;
        save("events.txt", &["get", "events", "--sort-by=.lastTimestamp"])?;
        for pod in self.pods("").unwrap_or_default() {
            save(&format!("{pod}.log"), &["logs", &pod, "--all-containers", "--tail=3000"])?;
            if let Ok(previous) = self.kubectl(&["logs", &pod, "--all-containers", "--previous", "--tail=3000"]) {
                std::fs::write(dir.join(format!("{pod}.previous.log")), previous)?;
            }
        }
        Ok(())
    }
}

/// The variables of a list of `export NAME=VALUE` lines; quotes around a value are dropped, `$PATH` is resolved.
fn exports(text: &str) -> Vec<(String, String)> {
    let path = std::env::var("PATH").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("export ")?.split_once('='))
        .map(|(name, value)| {
            let value = value.trim_matches(|c| c == '"' || c == '\'');
            (name.to_owned(), value.replace("${PATH}", &path).replace("$PATH", &path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_fails_tells_why_and_one_that_talks_much_is_read() {
        let cluster = Cluster { env: Vec::new(), namespace: "none".into() };
        let error = cluster.tool("sh", &["-c", "echo because >&2; exit 3"], Some("unread")).unwrap_err();
        assert!(error.to_string().ends_with(": because"), "{error}");
        let much = cluster.tool("sh", &["-c", "head -c 300000 /dev/zero | tr '\\0' x"], None).unwrap();
        assert_eq!(much.len(), 300_000);
    }

    #[test]
    fn exports_are_read_with_and_without_quotes() {
        let found = exports("export KUBECONFIG=\"/a/b\"\n# note\nexport X='1'\nexport Y=2\n");
        let want = [("KUBECONFIG", "/a/b"), ("X", "1"), ("Y", "2")];
        assert_eq!(found, want.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
