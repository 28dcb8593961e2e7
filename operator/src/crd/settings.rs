//! Settings that are handed through to ZooKeeper and Cassandra by name.
//!
//! A list of what is allowed, not of what is forbidden: the operator owns everything that identity, durability and the
//! equality of replicas hang on, and a key nobody has thought about must not slip past that.

use std::{borrow::Cow, collections::BTreeMap};

use schemars::Schema;
use schemars::json_schema;
use serde_json::json;

/// Settings by name.
pub type Settings = BTreeMap<String, String>;

/// Most settings of one section.
const SETTINGS_MAX: usize = 32;
/// Longest value of a setting.
const VALUE_LENGTH_MAX: usize = 128;
/// One line that YAML and Java properties read as a plain scalar.
const VALUE_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9_.:/%+ -]*$";

/// Keys of `zoo.cfg` that `spec.zookeeper.config` may set.
pub const ZOOKEEPER_KEYS: &[&str] = &[
    "autopurge.purgeInterval",
    "autopurge.snapRetainCount",
    "cnxTimeout",
    "commitLogCount",
    "fsync.warningthresholdms",
    "globalOutstandingLimit",
    "initLimit",
    "maxClientCnxns",
    "maxResponseCacheSize",
    "maxSessionTimeout",
    "minSessionTimeout",
    "preAllocSize",
    "snapCount",
    "syncLimit",
    "tickTime",
];

/// Keys of `cassandra.yaml` that `spec.cassandra.config` may set: sizes, limits and speeds, nothing that changes what a
/// statement does or where data lies. A limit above which Cassandra refuses a statement as invalid is none of them: the
/// refusal is recorded as the statement's result, which has to be the same on every replica, also in the middle of a roll.
pub const CASSANDRA_KEYS: &[&str] = &[
    "column_index_size",
    "compaction_throughput",
    "concurrent_compactors",
    "concurrent_materialized_view_writes",
    "concurrent_reads",
    "concurrent_writes",
    "file_cache_size",
    "key_cache_size",
    "memtable_cleanup_threshold",
    "memtable_flush_writers",
    "memtable_heap_space",
    "memtable_offheap_space",
    "native_transport_max_threads",
    "range_request_timeout",
    "read_request_timeout",
    "request_timeout",
    "sstable_preemptive_open_interval",
    "tombstone_warn_threshold",
    "truncate_request_timeout",
    "write_request_timeout",
];

/// Time-outs of Cassandra and the seconds that they have at least: the store agent's own. A shorter one would end a
/// record that only takes its time, and cost a rewind.
pub const TIMEOUT_FLOORS: &[(&str, u32)] = &[
    ("range_request_timeout", 30),
    ("read_request_timeout", 20),
    ("request_timeout", 30),
    ("truncate_request_timeout", 60),
    ("write_request_timeout", 20),
];

/// A time that Cassandra and CEL read alike.
const TIMEOUT_PATTERN: &str = "^[0-9]{1,8}(ms|s|m|h)$";

/// The form of the values of some keys.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// In words, with an example.
    pub words: &'static str,
    pattern: &'static str,
    /// The keys whose values have it.
    pub keys: &'static [&'static str],
}

/// The forms of the values of `spec.cassandra.config`: the store agent's, which would refuse another when the pod starts.
pub const CASSANDRA_FORMS: &[Form] = &[
    Form {
        words: "a size such as 64MiB",
        pattern: "^[0-9]{1,9}(B|KiB|MiB|GiB)$",
        keys: &[
            "column_index_size",
            "file_cache_size",
            "key_cache_size",
            "memtable_heap_space",
            "memtable_offheap_space",
            "sstable_preemptive_open_interval",
        ],
    },
    Form { words: "a rate such as 16MiB/s", pattern: "^[0-9]{1,9}(B|KiB|MiB)/s$", keys: &["compaction_throughput"] },
    Form {
        words: "a number between 0 and 1 such as 0.5",
        pattern: r"^0\.[0-9]{0,6}[1-9]$",
        keys: &["memtable_cleanup_threshold"],
    },
    Form {
        words: "a whole number such as 16",
        pattern: "^[0-9]{1,9}$",
        keys: &[
            "concurrent_compactors",
            "concurrent_materialized_view_writes",
            "concurrent_reads",
            "concurrent_writes",
            "memtable_flush_writers",
            "native_transport_max_threads",
            "tombstone_warn_threshold",
        ],
    },
];

fn quoted(keys: &[&str]) -> String {
    keys.iter().map(|key| format!("'{key}'")).collect::<Vec<_>>().join(", ")
}

fn schema(file: &str, keys: &[&str], floors: &[(&str, u32)], forms: &[Form]) -> Schema {
    let list = quoted(keys);
    let message: Cow<'_, str> = format!(
        "only these keys of {file} may be set, the operator owns the others; remove what is not among: {}",
        keys.join(", ")
    )
    .into();
    let mut rules = vec![json!({"rule": format!("self.all(key, key in [{list}])"), "message": message})];
    rules.extend(floors.iter().map(|(key, seconds)| {
        json!({
            "rule": format!("!('{key}' in self) || (self['{key}'].matches('{TIMEOUT_PATTERN}') && duration(self['{key}']) >= duration('{seconds}s'))"),
            "message": format!("{key} must be at least {seconds}s, for example {seconds}s: a shorter one ends records that only take their time; raise it or leave it out"),
        })
    }));
    rules.extend(forms.iter().map(|Form { words, pattern, keys }| {
        json!({
            "rule": format!("self.all(key, !(key in [{}]) || self[key].matches(r'{pattern}'))", quoted(keys)),
            "message": format!("{} must be {words}: set it like that", keys.join(", ")),
        })
    }));
    json_schema!({
        "type": "object",
        "maxProperties": SETTINGS_MAX,
        "additionalProperties": {"type": "string", "maxLength": VALUE_LENGTH_MAX, "pattern": VALUE_PATTERN},
        "x-kubernetes-validations": rules,
    })
}

pub(super) fn zookeeper_schema(_: &mut schemars::SchemaGenerator) -> Schema {
    schema("zoo.cfg", ZOOKEEPER_KEYS, &[], &[])
}

pub(super) fn cassandra_schema(_: &mut schemars::SchemaGenerator) -> Schema {
    schema("cassandra.yaml", CASSANDRA_KEYS, TIMEOUT_FLOORS, CASSANDRA_FORMS)
}
