//! Renders cassandra.yaml and logback.xml. Pure.

use std::net::IpAddr;

use super::args::{AgentArgs, Profile};
use super::extra::{self, Setting};
use super::layout::Layout;

/// Quotes a YAML string.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Renders cassandra.yaml: a cluster of one, whose only peer is itself on loopback.
///
/// # Errors
/// If the extra configuration holds anything but settings that may be given; the text says which line.
pub fn cassandra_yaml(args: &AgentArgs, layout: &Layout, extra: &str) -> Result<String, String> {
    let mut settings = identity(args);
    settings.extend(folders(layout));
    settings.extend(list(&semantics()));
    settings.extend(list(&roles(args.authentication)));
    settings.extend(encryption(args, layout));
    settings.extend(list(&if args.shared { for_sharing() } else { for_restore_points() }));
    settings.extend(list(&refusals()));
    settings.extend(list(&memtables()));
    if args.profile == Profile::Small {
        settings.extend(list(&small()));
    }
    let ours = |key: &str| semantics().into_iter().find(|(known, _)| *known == key).map(|(_, value)| value);
    for setting in extra::parse(extra, ours)? {
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

fn list(pairs: &[(&str, &str)]) -> Vec<Setting> {
    pairs.iter().map(|(key, value)| Setting::new(key, value)).collect()
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
fn semantics() -> Vec<(&'static str, &'static str)> {
    vec![
        // The ordered log is the durable one; unclean stops rewind.
        ("commitlog_sync", "periodic"),
        ("commitlog_sync_period", "10000ms"),
        // After a failed flush the files lack rows that Cassandra takes for written, and a later flush succeeds without
        // them: no restore point may be made of such a state. Its JVM ends, and its data are rewound.
        ("disk_failure_policy", "die"),
        ("commit_failure_policy", "die"),
        // A cached counter gives other results than an uncached one after deletes.
        ("counter_cache_size", "0MiB"),
        // A dropped or truncated table would leave files that no restore point knows.
        ("auto_snapshot", "false"),
        ("snapshot_before_compaction", "false"),
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
        ("batch_size_warn_threshold", "1024KiB"),
        ("unlogged_batch_across_partitions_warn_threshold", "65535"),
        // The id of a prepared statement must not depend on what the connection it came by uses: otherwise one statement
        // has two ids, and the front end and the applier push each other's out.
        ("force_new_prepared_statement_behaviour", "true"),
        ("row_cache_size", "0MiB"),
    ]
}

/// Restore points flush every 100 000 records. So that a memtable is flushed for them alone, and there are few files to
/// compact, it holds as many: in tries, with the rows outside the heap, and up to half of the space in place of a third.
fn memtables() -> [(&'static str, &'static str); 3] {
    [
        ("memtable", "{ configurations: { default: { class_name: TrieMemtable } } }"),
        ("memtable_allocation_type", "offheap_objects"),
        ("memtable_cleanup_threshold", "0.5"),
    ]
}

/// TLS on the CQL port, with the certificate that the agent shows, too: for whoever has one of the same authority.
fn encryption(args: &AgentArgs, layout: &Layout) -> Option<Setting> {
    let path = |path: std::path::PathBuf| quoted(&path.display().to_string());
    args.internal.internal_certificate.as_ref()?;
    Some(Setting::new(
        "client_encryption_options",
        &format!(
            "\n  enabled: true\n  optional: {}\n  require_client_auth: true\n  accepted_protocols: [ TLSv1.3 ]\n  ssl_context_factory: {{ class_name: org.apache.cassandra.security.PEMBasedSslContextFactory }}\n  keystore: {}\n  truststore: {}",
            args.internal.internal_optional,
            path(layout.keystore()),
            path(layout.truststore())
        ),
    ))
}

/// Who may do what.
fn roles(authentication: bool) -> [(&'static str, &'static str); 4] {
    let (authenticator, authorizer) = match authentication {
        true => ("PasswordAuthenticator", "CassandraAuthorizer"),
        false => ("AllowAllAuthenticator", "AllowAllAuthorizer"),
    };
    [
        ("authenticator", authenticator),
        ("authorizer", authorizer),
        ("role_manager", "CassandraRoleManager"),
        ("network_authorizer", "AllowAllNetworkAuthorizer"),
    ]
}

/// Settings for a Cassandra whose restore points are put back.
fn for_restore_points() -> Vec<(&'static str, &'static str)> {
    vec![
        // Compaction purges by wall clock; it runs only while the replica is current, which a shared Cassandra's agent
        // could not tell of several.
        ("autocompaction_on_startup_enabled", "false"),
        ("native_transport_timeout", "60s"),
    ]
}

/// Settings for a Cassandra that several replicas share.
fn for_sharing() -> Vec<(&'static str, &'static str)> {
    // A replica that rebuilds its keyspace waits for as long as a request of its earlier life may lie in the queue.
    vec![("native_transport_timeout", "20s")]
}

/// Settings that decide whether Cassandra refuses a statement, which is then its result on every replica: the same for
/// every size of JVM and every profile. The front end takes messages of up to 16 MiB, as Cassandra does by default. Cassandra's own
/// defaults are written down too, so that another version of it decides alike.
fn refusals() -> Vec<(&'static str, &'static str)> {
    vec![
        // As large as the largest mutation: a batch is bounded where it is proposed.
        ("batch_size_fail_threshold", "16384KiB"),
        ("max_mutation_size", "16384KiB"),
        // At least twice a mutation, or Cassandra does not start.
        ("commitlog_segment_size", "32MiB"),
        // A statement larger than the whole cache is refused; left alone, the cache follows the heap.
        ("prepared_statements_cache_size", "32MiB"),
        // The front end takes bodies of up to 16 MiB; left alone, the last three follow the heap.
        ("native_transport_max_frame_size", "17MiB"),
        ("native_transport_max_message_size", "17MiB"),
        ("native_transport_max_request_data_in_flight", "64MiB"),
        ("native_transport_max_request_data_in_flight_per_ip", "64MiB"),
        ("max_value_size", "256MiB"),
        // A scan would take 256 KiB of direct memory for each file and thread, without a bound: with many files, as after a
        // replay, a digest would end the JVM.
        ("compressed_read_ahead_buffer_size", "0KiB"),
        // A digest reads everything, however much was deleted.
        ("tombstone_failure_threshold", "2147483647"),
        ("read_thresholds_enabled", "false"),
        // Reads may call them. One that does not end fails its read, and does not end the JVM.
        ("user_defined_functions_enabled", "true"),
        ("user_defined_functions_threads_enabled", "true"),
        ("user_function_timeout_policy", "ignore"),
        ("scripted_user_defined_functions_enabled", "false"),
        // What may be created and done.
        ("materialized_views_enabled", "true"),
        ("sasi_indexes_enabled", "true"),
        ("secondary_indexes_enabled", "true"),
        ("default_secondary_index", "legacy_local_table"),
        ("default_secondary_index_enabled", "true"),
        ("transient_replication_enabled", "false"),
        ("drop_compact_storage_enabled", "false"),
        ("dynamic_data_masking_enabled", "false"),
        ("vector_type_enabled", "true"),
        ("use_statements_enabled", "true"),
        ("use_deterministic_table_id", "false"),
        ("user_timestamps_enabled", "true"),
        ("alter_table_enabled", "true"),
        ("drop_truncate_table_enabled", "true"),
        ("drop_keyspace_enabled", "true"),
        ("uncompressed_tables_enabled", "true"),
        ("compact_tables_enabled", "true"),
        ("simplestrategy_enabled", "true"),
        ("read_before_write_list_operations_enabled", "true"),
        ("zero_ttl_on_twcs_enabled", "true"),
        ("partition_denylist_enabled", "false"),
        // Guardrails: those on the disk's or the data's size would differ between replicas.
        ("data_disk_usage_percentage_fail_threshold", "-1"),
        ("keyspaces_fail_threshold", "-1"),
        ("tables_fail_threshold", "-1"),
        ("columns_per_table_fail_threshold", "-1"),
        ("secondary_indexes_per_table_fail_threshold", "-1"),
        ("materialized_views_per_table_fail_threshold", "-1"),
        ("fields_per_udt_fail_threshold", "-1"),
        ("items_per_collection_fail_threshold", "-1"),
        ("vector_dimensions_fail_threshold", "-1"),
        ("partition_tombstones_fail_threshold", "-1"),
        ("partition_keys_in_select_fail_threshold", "-1"),
        ("in_select_cartesian_product_fail_threshold", "-1"),
        ("page_size_fail_threshold", "-1"),
        ("minimum_replication_factor_fail_threshold", "-1"),
        ("maximum_replication_factor_fail_threshold", "-1"),
        ("sai_sstable_indexes_per_query_fail_threshold", "-1"),
        ("sai_string_term_size_fail_threshold", "8KiB"),
        ("sai_frozen_term_size_fail_threshold", "8KiB"),
        ("sai_vector_term_size_fail_threshold", "32KiB"),
    ]
}

/// Settings of a JVM with little memory.
fn small() -> Vec<(&'static str, &'static str)> {
    vec![
        ("memtable_heap_space", "64MiB"),
        ("memtable_offheap_space", "64MiB"),
        ("key_cache_size", "1MiB"),
        ("file_cache_size", "16MiB"),
        // What is read again and again is not decompressed again and again.
        ("file_cache_enabled", "true"),
        ("networking_cache_size", "16MiB"),
        ("index_summary_capacity", "1MiB"),
        ("commitlog_total_space", "128MiB"),
        ("concurrent_reads", "8"),
        ("concurrent_writes", "8"),
        ("concurrent_counter_writes", "4"),
        ("concurrent_materialized_view_writes", "2"),
        ("concurrent_compactors", "1"),
        ("compaction_throughput", "0MiB/s"),
        ("native_transport_max_threads", "16"),
    ]
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
    fn cassandra_speaks_tls_as_its_agent_does() {
        let yaml = |more: &[&str]| {
            let files = ["--internal-certificate", "/i/c", "--internal-key", "/i/k", "--internal-ca", "/i/a"];
            render(&[&files[..], more].concat(), "").unwrap()
        };
        let (strict, optional) = (yaml(&[]), yaml(&["--internal-optional"]));
        assert!(strict.contains("\n  optional: false\n") && optional.contains("\n  optional: true\n"));
        for text in ["require_client_auth: true", "keystore: '/data/agent/conf/internal.pem'"] {
            assert!(strict.contains(text) && optional.contains(text), "{strict}");
        }
        assert!(!render(&[], "").unwrap().contains("client_encryption_options"));
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
    }

    #[test]
    fn clients_log_in_if_they_are_to() {
        let (open, closed) = (render(&[], "").unwrap(), render(&["--authentication"], "").unwrap());
        assert_eq!(value(&open, "authenticator"), Some("AllowAllAuthenticator"));
        assert_eq!(value(&closed, "authenticator"), Some("PasswordAuthenticator"));
        assert_eq!(value(&closed, "authorizer"), Some("CassandraAuthorizer"));
        assert!(render(&[], "authenticator: AllowAllAuthenticator\n").is_err());
    }

    #[test]
    fn a_shared_one_differs_in_little_and_is_reached_from_other_pods() {
        let (own, shared) = (render(&[], "").unwrap(), render(&["--shared"], "").unwrap());
        assert_eq!(value(&shared, "autocompaction_on_startup_enabled"), None);
        assert_eq!(value(&shared, "native_transport_timeout"), Some("20s"));
        assert_eq!(value(&shared, "rpc_address"), Some("0.0.0.0"));
        let differs = ["autocompaction_on_startup_enabled", "native_transport_timeout"];
        let same = |text: &str| {
            text.lines()
                .filter(|line| !differs.iter().any(|key| line.starts_with(key)))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(same(&own), same(&shared));
    }

    /// What a statement answers must not depend on the memory of the machine or on the profile.
    #[test]
    fn what_decides_refusals_is_the_same_everywhere_and_can_not_be_changed() {
        let (small, default) = (render(&["--profile", "small"], "").unwrap(), render(&[], "").unwrap());
        for (key, expected) in refusals() {
            assert_eq!((value(&small, key), value(&default, key)), (Some(expected), Some(expected)), "{key}");
        }
        for (key, _) in refusals().into_iter().chain([("cluster_name", ""), ("counter_cache_size", "")]) {
            let error = render(&[], &format!("concurrent_reads: 4\n{key}: 1\n")).unwrap_err();
            assert!(error.contains(key) && error.contains("line 2"), "{error}");
        }
    }

    #[test]
    fn extra_settings_replace_and_add() {
        let extra = "---\n# comment\nconcurrent_reads: 4\nrange_request_timeout: 45s\n";
        let yaml = render(&["--profile", "small"], extra).unwrap();
        assert_eq!(yaml.matches("concurrent_reads:").count(), 1);
        assert_eq!(value(&yaml, "concurrent_reads"), Some("4"));
        assert_eq!(value(&yaml, "range_request_timeout"), Some("45s"));
        for below in ["range_request_timeout: 29s", "write_request_timeout: 2s", "truncate_request_timeout: 10s"] {
            assert!(render(&[], below).unwrap_err().contains("below"), "{below}");
        }
    }

    #[test]
    fn each_setting_is_written_once() {
        let yaml = render(&["--profile", "small"], "").unwrap();
        let keys: Vec<_> =
            yaml.lines().filter(|line| !line.starts_with(' ')).filter_map(|l| l.split_once(':')).collect();
        let distinct: std::collections::BTreeSet<_> = keys.iter().map(|(key, _)| key).collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn names_are_quoted() {
        let yaml = render(&["--cluster-name", "it's: one"], "").unwrap();
        assert_eq!(value(&yaml, "cluster_name"), Some("'it''s: one'"));
    }
}
