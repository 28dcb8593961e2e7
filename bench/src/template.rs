//! What a plain node is started with: the command line and the configuration of a replica's Cassandra that runs, less what
//! it has for being a replica's. So both sides have the same Java, jars, heap, collector and sizes. Pure, but for reading.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The argument that names the configuration, as a URL.
const CONFIG: &str = "-Dcassandra.config=file://";
/// From a Cassandra's folder to its configuration.
const YAML: &str = "agent/conf/cassandra.yaml";
/// Beginnings and parts of arguments that plain Cassandra has not: management for the store agent, what lets replicas
/// write past Paxos, and a coarser clock for time-outs.
const OMITTED: [(&str, &str); 4] = [
    ("-javaagent:", "jolokia"),
    ("-Dcassandra.enable_nodelocal_queries", ""),
    ("-Dcassandra.approximate_time_precision_ms", ""),
    ("-Dcassandra.replicateddb", ""),
];
/// Settings of cassandra.yaml that a plain node has as the replica's Cassandra has them: the durability of the commit log,
/// sizes, and numbers of threads. All others are Cassandra's defaults: time-outs, hints, the snitch's scores, limits, where and
/// how memtables keep rows.
const KEPT: [&str; 18] = [
    "partitioner",
    "endpoint_snitch",
    "commitlog_sync",
    "commitlog_sync_period",
    "commitlog_segment_size",
    "commitlog_total_space",
    "memtable_heap_space",
    "memtable_offheap_space",
    "key_cache_size",
    "row_cache_size",
    "file_cache_size",
    "networking_cache_size",
    "index_summary_capacity",
    "concurrent_reads",
    "concurrent_writes",
    "concurrent_compactors",
    "compaction_throughput",
    "native_transport_max_threads",
];

/// A Cassandra to start others like.
#[derive(Debug)]
pub struct Template {
    /// Its `java`.
    pub program: PathBuf,
    args: Vec<String>,
    root: String,
    yaml: String,
}

impl Template {
    /// Reads it from a running JVM.
    ///
    /// # Errors
    /// When the process is gone, or is no Cassandra of a local stack.
    pub fn of(pid: i32) -> Result<Self> {
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).context("the Java of a replica's Cassandra")?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).context("its command line")?;
        let args = line.split(|byte| *byte == 0).skip(1).filter(|arg| !arg.is_empty());
        let args: Vec<_> = args.map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
        let root = root_of(&args)?;
        let file = Path::new(&root).join(YAML);
        let yaml = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        Ok(Self { program, args, root, yaml })
    }

    /// The arguments of a plain node whose files lie in `root`.
    #[must_use]
    pub fn args(&self, root: &Path) -> Vec<String> {
        let omitted = |arg: &String| OMITTED.iter().any(|(begin, part)| arg.starts_with(begin) && arg.contains(part));
        let root = root.display().to_string();
        self.args.iter().filter(|arg| !omitted(arg)).map(|arg| arg.replace(&self.root, &root)).collect()
    }

    /// What the JVM was told of memory, collector and compiler.
    #[must_use]
    pub fn flags(&self) -> Vec<&str> {
        let plain = |arg: &&str| arg.starts_with("-X") && !arg.contains('/');
        self.args.iter().map(String::as_str).filter(plain).collect()
    }

    /// The settings that a plain node shares with it, as lines of cassandra.yaml.
    #[must_use]
    pub fn settings(&self) -> String {
        let kept = |line: &&str| line.split_once(':').is_some_and(|(key, _)| KEPT.contains(&key));
        self.yaml.lines().filter(kept).fold(String::new(), |all, line| all + line + "\n")
    }

    /// The configuration files that the arguments name, relative to the node's folder; `yaml` is the text of the first.
    ///
    /// # Errors
    /// When the replica's Cassandra has lost the others.
    pub fn files(&self, yaml: String) -> Result<[(&'static str, String); 2]> {
        let logback = "agent/conf/logback.xml";
        let text = std::fs::read_to_string(Path::new(&self.root).join(logback)).context("reading its logback.xml")?;
        Ok([(YAML, yaml), (logback, text)])
    }
}

fn root_of(args: &[String]) -> Result<String> {
    let config =
        args.iter().find_map(|arg| arg.strip_prefix(CONFIG)).context("it has no configuration: no Cassandra")?;
    let root = config.strip_suffix(YAML).and_then(|root| root.strip_suffix('/')).unwrap_or_default();
    ensure!(root.starts_with('/') && root.len() > 1, "its configuration lies in an unknown place: {config}");
    Ok(root.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template() -> Template {
        let args = [
            "-Xmx512m",
            "-javaagent:/jars/jamm.jar",
            "-javaagent:/jars/jolokia.jar=config=/a/data/agent/conf/jolokia.properties",
            "-Dcassandra.enable_nodelocal_queries=true",
            "-Dcassandra.replicateddb_generation=7",
            "-Dcassandra.config=file:///a/data/agent/conf/cassandra.yaml",
            "-Dcassandra.storagedir=/a/data/cassandra",
        ];
        let args: Vec<_> = args.map(str::to_owned).to_vec();
        let yaml = "commitlog_sync: periodic\nauto_bootstrap: false\nseed_provider: \n  - class_name: X\n\
                    key_cache_size: 1MiB\nwrite_request_timeout: 20s\n";
        Template { program: "/java".into(), root: root_of(&args).unwrap(), args, yaml: yaml.to_owned() }
    }

    #[test]
    fn a_plain_node_lies_elsewhere_and_has_nothing_of_a_replicas() {
        let args = template().args(Path::new("/b"));
        assert_eq!(
            args,
            [
                "-Xmx512m",
                "-javaagent:/jars/jamm.jar",
                "-Dcassandra.config=file:///b/agent/conf/cassandra.yaml",
                "-Dcassandra.storagedir=/b/cassandra",
            ]
        );
    }

    #[test]
    fn sizes_and_durability_are_the_same_and_the_rest_is_cassandras() {
        assert_eq!(template().settings(), "commitlog_sync: periodic\nkey_cache_size: 1MiB\n");
    }

    #[test]
    fn another_program_is_no_template() {
        assert!(root_of(&["-version".to_owned()]).is_err());
        assert!(root_of(&["-Dcassandra.config=file://agent/conf/cassandra.yaml".to_owned()]).is_err());
    }
}
