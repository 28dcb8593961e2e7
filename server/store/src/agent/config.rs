//! Renders cassandra.yaml and logback.xml. Pure.

use std::net::IpAddr;

use super::args::{AgentArgs, Profile};
use super::layout::Layout;

/// Settings on which exact replay, the agent or its addressing rests: an extra configuration must not change them.
const PROTECTED: [&str; 31] = [
    "cluster_name",
    "num_tokens",
    "initial_token",
    "auto_bootstrap",
    "partitioner",
    "endpoint_snitch",
    "seed_provider",
    "listen_address",
    "broadcast_address",
    "rpc_address",
    "broadcast_rpc_address",
    "storage_port",
    "native_transport_port",
    "start_native_transport",
    "data_file_directories",
    "local_system_data_file_directory",
    "commitlog_directory",
    "hints_directory",
    "saved_caches_directory",
    "cdc_raw_directory",
    "cdc_enabled",
    "authenticator",
    "authorizer",
    "auto_snapshot",
    "snapshot_before_compaction",
    "counter_cache_size",
    "counter_cache_size_in_mb",
    "autocompaction_on_startup_enabled",
    "hinted_handoff_enabled",
    "disk_failure_policy",
    "commit_failure_policy",
];

/// A top-level setting with the lines that belong to it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    key: String,
    text: String,
}

impl Setting {
    fn new(key: &str, value: &str) -> Self {
        Self { key: key.to_owned(), text: format!("{key}: {value}") }
    }
}

/// Splits a YAML mapping into its top-level settings.
fn parse_extra(text: &str) -> Result<Vec<Setting>, String> {
    let mut settings: Vec<Setting> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let blank = line.trim().is_empty() || line.trim_start().starts_with('#') || line.trim_end() == "---";
        // A list may start in the column of its key.
        if blank || line.starts_with([' ', '\t']) || line.starts_with("- ") {
            match settings.last_mut() {
                Some(last) => last.text.push_str(&format!("\n{line}")),
                None if blank => {}
                None => return Err(format!("line {}: expected `setting: value`", number + 1)),
            }
            continue;
        }
        let key = line.split_once(':').map(|(key, _)| key.trim()).unwrap_or_default();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        {
            return Err(format!("line {}: expected `setting: value`", number + 1));
        }
        if PROTECTED.contains(&key) {
            return Err(format!("line {}: {key} can't be changed: exact replay rests on it", number + 1));
        }
        settings.retain(|setting| setting.key != key);
        settings.push(Setting { key: key.to_owned(), text: line.to_owned() });
    }
    Ok(settings)
}

/// Quotes a YAML string.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Renders cassandra.yaml: a cluster of one, whose only peer is itself on loopback.
///
/// # Errors
/// If the extra configuration is no YAML mapping or changes what it must not; the text says which line.
pub fn cassandra_yaml(args: &AgentArgs, layout: &Layout, extra: &str) -> Result<String, String> {
    let mut settings = identity(args);
    settings.extend(folders(layout));
    settings.extend(semantics());
    if args.profile == Profile::Small {
        settings.extend(small());
    }
    for setting in parse_extra(extra)? {
        settings.retain(|old| old.key != setting.key);
        settings.push(setting);
    }
    let mut text = String::new();
    for setting in settings {
        text.push_str(&setting.text);
        text.push('\n');
    }
    Ok(text)
}

fn identity(args: &AgentArgs) -> Vec<Setting> {
    let storage = args.storage_address();
    let seeds = format!(
        "\n  - class_name: org.apache.cassandra.locator.SimpleSeedProvider\n    parameters: [ {{ seeds: \"{storage}:{}\" }} ]",
        args.storage_port
    );
    let mut settings = vec![
        Setting::new("cluster_name", &quoted(&args.cluster_name)),
        // One token, the same everywhere: restore points of one replica fit every other.
        Setting::new("num_tokens", "1"),
        Setting::new("initial_token", "0"),
        Setting::new("auto_bootstrap", "false"),
        Setting::new("partitioner", "org.apache.cassandra.dht.Murmur3Partitioner"),
        Setting::new("endpoint_snitch", "SimpleSnitch"),
        Setting::new("seed_provider", &seeds),
        Setting::new("listen_address", &storage.to_string()),
        Setting::new("rpc_address", &args.cql_listen_address.to_string()),
        Setting::new("storage_port", &args.storage_port.to_string()),
        Setting::new("native_transport_port", &args.cql_port.to_string()),
    ];
    let broadcast = match (args.broadcast_address, args.cql_listen_address) {
        (Some(address), _) => Some(address),
        // Cassandra insists on one when it listens on all addresses.
        (None, IpAddr::V4(address)) if address.is_unspecified() => Some(storage),
        (None, IpAddr::V6(address)) if address.is_unspecified() => Some(storage),
        _ => None,
    };
    if let Some(address) = broadcast {
        settings.push(Setting::new("broadcast_rpc_address", &address.to_string()));
    }
    settings
}

fn folders(layout: &Layout) -> Vec<Setting> {
    let path = |path: std::path::PathBuf| quoted(&path.display().to_string());
    let [hints, saved_caches, cdc_raw] = layout.others();
    vec![
        Setting::new("data_file_directories", &format!("[ {} ]", path(layout.data()))),
        Setting::new("commitlog_directory", &path(layout.commitlog())),
        Setting::new("hints_directory", &path(hints)),
        Setting::new("saved_caches_directory", &path(saved_caches)),
        Setting::new("cdc_raw_directory", &path(cdc_raw)),
    ]
}

/// Settings that decide what a record does, or how long it may take.
fn semantics() -> Vec<Setting> {
    let pairs = [
        // The ordered log is the durable one; unclean stops rewind.
        ("commitlog_sync", "periodic"),
        ("commitlog_sync_period", "10000ms"),
        // After a failed flush the files lack rows that Cassandra takes for written, and a later flush succeeds without
        // them: no restore point may be made of such a state. Its JVM ends, and its data are rewound.
        ("disk_failure_policy", "die"),
        ("commit_failure_policy", "die"),
        // A cached counter gives other results than an uncached one after deletes.
        ("counter_cache_size", "0MiB"),
        // Compaction purges by wall clock; it runs only while the replica is current.
        ("autocompaction_on_startup_enabled", "false"),
        // A dropped or truncated table would leave files that no restore point knows.
        ("auto_snapshot", "false"),
        ("snapshot_before_compaction", "false"),
        ("authenticator", "AllowAllAuthenticator"),
        ("authorizer", "AllowAllAuthorizer"),
        // Their code could give another value on each replica, or never end.
        ("user_defined_functions_enabled", "false"),
        ("scripted_user_defined_functions_enabled", "false"),
        ("materialized_views_enabled", "true"),
        ("sasi_indexes_enabled", "true"),
        ("hinted_handoff_enabled", "false"),
        ("dynamic_snitch", "false"),
        ("default_keyspace_rf", "1"),
        // A time-out is no result of a record, only a wait; the applier would have to rewind after some of them.
        ("write_request_timeout", "20s"),
        ("counter_write_request_timeout", "20s"),
        ("read_request_timeout", "20s"),
        ("range_request_timeout", "30s"),
        ("cas_contention_timeout", "10s"),
        ("request_timeout", "30s"),
        ("truncate_request_timeout", "60s"),
        ("native_transport_timeout", "60s"),
        // Batches are bounded where they are proposed; every batch is an unlogged one here.
        ("batch_size_warn_threshold", "1024KiB"),
        ("batch_size_fail_threshold", "8192KiB"),
        ("unlogged_batch_across_partitions_warn_threshold", "65535"),
        ("memtable_allocation_type", "heap_buffers"),
        ("row_cache_size", "0MiB"),
    ];
    pairs.map(|(key, value)| Setting::new(key, value)).to_vec()
}

/// Settings of a JVM with little memory.
fn small() -> Vec<Setting> {
    let pairs = [
        ("memtable_heap_space", "64MiB"),
        ("memtable_offheap_space", "64MiB"),
        ("key_cache_size", "1MiB"),
        ("file_cache_size", "16MiB"),
        ("networking_cache_size", "16MiB"),
        ("index_summary_capacity", "1MiB"),
        ("commitlog_total_space", "128MiB"),
        ("commitlog_segment_size", "16MiB"),
        ("concurrent_reads", "8"),
        ("concurrent_writes", "8"),
        ("concurrent_counter_writes", "4"),
        ("concurrent_materialized_view_writes", "2"),
        ("concurrent_compactors", "1"),
        ("compaction_throughput", "0MiB/s"),
        ("native_transport_max_threads", "16"),
    ];
    pairs.map(|(key, value)| Setting::new(key, value)).to_vec()
}

/// Logging to standard output alone: the container's, or the local stack's file.
pub const LOGBACK_XML: &str = r#"<configuration>
<appender name="OUT" class="ch.qos.logback.core.ConsoleAppender">
<encoder><pattern>%d{HH:mm:ss.SSS} %-5level [%thread] %logger{0} %msg%n%ex{12}</pattern></encoder>
</appender>
<root level="INFO"><appender-ref ref="OUT"/></root>
</configuration>
"#;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: AgentArgs,
    }

    fn args(extra: &[&str]) -> AgentArgs {
        let base = ["agent", "--token-file", "/t"];
        Cli::parse_from(base.iter().chain(extra)).args
    }

    fn render(flags: &[&str], extra: &str) -> Result<String, String> {
        cassandra_yaml(&args(flags), &Layout::new(Path::new("/data")), extra)
    }

    fn value<'a>(yaml: &'a str, key: &str) -> Option<&'a str> {
        yaml.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
    }

    #[test]
    fn a_pod_listens_on_all_addresses_and_a_local_one_on_its_own() {
        let pod = render(&[], "").unwrap();
        assert_eq!(value(&pod, "listen_address"), Some("127.0.0.1"));
        assert_eq!(value(&pod, "rpc_address"), Some("0.0.0.0"));
        assert_eq!(value(&pod, "broadcast_rpc_address"), Some("127.0.0.1"));
        assert!(pod.contains("seeds: \"127.0.0.1:7000\""));
        let local = render(&["--cql-listen-address", "127.0.0.3"], "").unwrap();
        assert_eq!(value(&local, "listen_address"), Some("127.0.0.3"));
        assert_eq!(value(&local, "rpc_address"), Some("127.0.0.3"));
        assert_eq!(value(&local, "broadcast_rpc_address"), None);
        let told = render(&["--broadcast-address", "10.0.0.9"], "").unwrap();
        assert_eq!(value(&told, "broadcast_rpc_address"), Some("10.0.0.9"));
    }

    #[test]
    fn what_replay_rests_on_is_there_and_stays() {
        let yaml = render(&[], "").unwrap();
        for (key, expected) in [
            ("counter_cache_size", "0MiB"),
            ("commitlog_sync", "periodic"),
            ("autocompaction_on_startup_enabled", "false"),
            ("auto_snapshot", "false"),
            ("data_file_directories", "[ '/data/cassandra/data' ]"),
        ] {
            assert_eq!(value(&yaml, key), Some(expected));
        }
        for key in PROTECTED {
            let error = render(&[], &format!("concurrent_reads: 4\n{key}: 1\n")).unwrap_err();
            assert!(error.contains(key) && error.contains("line 2"), "{error}");
        }
    }

    #[test]
    fn extra_settings_replace_and_add() {
        let extra =
            "---\n# comment\nconcurrent_reads: 4\nmemtable:\n  configurations:\n    default: { inherits: trie }\n";
        let yaml = render(&["--profile", "small"], extra).unwrap();
        assert_eq!(yaml.matches("concurrent_reads:").count(), 1);
        assert_eq!(value(&yaml, "concurrent_reads"), Some("4"));
        assert!(yaml.contains("memtable:\n  configurations:\n    default"));
        for bad in ["  indented: 1", "no colon", "UPPER: 1", "{a: 1}", "'auto_snapshot': true", "\"auto_snapshot\": 1"]
        {
            assert!(render(&[], bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_quoted() {
        let yaml = render(&["--cluster-name", "it's: one"], "").unwrap();
        assert_eq!(value(&yaml, "cluster_name"), Some("'it''s: one'"));
    }
}
