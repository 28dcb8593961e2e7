//! The rendered configuration of each tier.

use std::{collections::BTreeMap, fmt::Write};

use k8s_openapi::api::core::v1::ConfigMap;

use super::metadata;
use crate::{
    crd::{Engine, LogFormat, Settings},
    names::Tier,
    validate::Validated,
};

/// File of ZooKeeper's ConfigMap: lines that its image appends to `zoo.cfg`.
pub const ZOOKEEPER_FILE: &str = "zoo.cfg.extra";
/// File of Cassandra's ConfigMap: lines that the agent appends to `cassandra.yaml`.
pub const CASSANDRA_FILE: &str = "cassandra.yaml.extra";

/// The ConfigMap of a tier. Those of ZooKeeper and Cassandra are mounted as files, the replica's is its environment.
pub fn config_map(validated: &Validated, tier: Tier, data: &BTreeMap<String, String>) -> ConfigMap {
    ConfigMap {
        metadata: metadata(validated, validated.identity.tier(tier), tier),
        data: Some(data.clone()),
        ..Default::default()
    }
}

/// The configuration of a tier.
pub fn data(validated: &Validated, tier: Tier) -> BTreeMap<String, String> {
    let spec = &validated.spec;
    match tier {
        Tier::ZooKeeper => file(ZOOKEEPER_FILE, lines(&spec.zookeeper.config, "=")),
        Tier::Cassandra => file(CASSANDRA_FILE, lines(&spec.cassandra.config, ": ")),
        Tier::Replica => environment(validated),
    }
}

fn file(name: &str, content: String) -> BTreeMap<String, String> {
    [(name.to_owned(), content)].into()
}

fn lines(settings: &Settings, separator: &str) -> String {
    settings.iter().fold("# rendered from the ReplicatedDB\n".to_owned(), |mut text, (key, value)| {
        // writing to a String can't fail
        let _ = writeln!(text, "{key}{separator}{value}");
        text
    })
}

fn environment(validated: &Validated) -> BTreeMap<String, String> {
    let (ordering, config) = (&validated.spec.ordering, &validated.spec.replica.config);
    let engine = match ordering.engine {
        Engine::ZnodeLog => "ZnodeLog",
    };
    let log_format = match config.log_format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    [
        ("RDB_ENGINE", engine.to_owned()),
        ("RDB_BATCH_MAX_RECORDS", ordering.batching.max_records.to_string()),
        ("RDB_BATCH_MAX_BYTES", ordering.batching.max_bytes.to_string()),
        ("RDB_BATCHES_IN_FLIGHT", ordering.batching.in_flight.to_string()),
        ("RDB_RESTORE_POINT_INTERVAL", format!("{}s", ordering.restore_points.interval_seconds)),
        ("RDB_RESTORE_POINT_RECORDS", ordering.restore_points.records.to_string()),
        ("RDB_SESSION_TIMEOUT", format!("{}s", config.session_timeout_seconds)),
        ("RDB_LOG_FORMAT", log_format.to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}
