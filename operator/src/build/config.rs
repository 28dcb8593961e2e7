//! The rendered configuration of each tier.

use std::{collections::BTreeMap, fmt::Write};

use k8s_openapi::api::core::v1::ConfigMap;

use super::metadata;
use crate::{
    crd::{Engine, LogFormat, Settings, ZooKeeperSpec},
    names::Tier,
    validate::Validated,
};

/// Above this memory limit ZooKeeper's heap is three quarters of it, below it is less by a fixed amount; MiB.
const LARGE_ZOOKEEPER_MIB: u128 = 512;
/// What its JVM needs besides the heap in small containers, MiB.
const JVM_MIB: u128 = 112;
/// Bytes of the log that are safe in so much heap: numerator and denominator.
const LOG_SHARE: (u128, u128) = (3, 8);

/// Where a replica keeps what it has read of the log.
const STATE_LOG_DIR: &str = "/tmp/state-log";

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
        Engine::ZooKeeperLeader => "ZooKeeperLeader",
    };
    // In the pod's own folder, which outlasts the process and not the pod.
    let state_log = matches!(ordering.engine, Engine::ZooKeeperLeader)
        .then(|| ("RDB_STATE_LOG".to_owned(), STATE_LOG_DIR.to_owned()));
    let log_format = match config.log_format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    let bounds = [
        ("RDB_RESTORE_POINT_BYTES", ordering.restore_points.bytes),
        ("RDB_LOG_BEHIND_BYTES", ordering.log.behind_bytes),
        ("RDB_LOG_MAX_BYTES", log_max_bytes(validated)),
    ];
    let bounds = bounds.into_iter().filter_map(|(key, bytes)| Some((key.to_owned(), bytes?.to_string())));
    let settings = [
        ("RDB_ENGINE", engine.to_owned()),
        ("RDB_BATCH_MAX_RECORDS", ordering.batching.max_records.to_string()),
        ("RDB_BATCH_MAX_BYTES", ordering.batching.max_bytes.to_string()),
        ("RDB_BATCHES_IN_FLIGHT", ordering.batching.in_flight.to_string()),
        ("RDB_RESTORE_POINT_INTERVAL", format!("{}s", ordering.restore_points.interval_seconds)),
        ("RDB_RESTORE_POINT_RECORDS", ordering.restore_points.records.to_string()),
        ("RDB_SESSION_TIMEOUT", format!("{}s", config.session_timeout_seconds)),
        ("RDB_LOG_FORMAT", log_format.to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value));
    settings.into_iter().chain(bounds).chain(state_log).collect()
}

/// What the log may hold, bytes: as wished, or what suits ZooKeeper's heap. `None` where the replica's own default does: that
/// is for ZooKeeper's own.
pub fn log_max_bytes(validated: &Validated) -> Option<i64> {
    let memory = |zookeeper: &ZooKeeperSpec| zookeeper.resources.limits.as_ref()?.memory.as_ref()?.milli().ok();
    let (spec, usual) = (&validated.spec, ZooKeeperSpec::default());
    let memory = memory(&spec.zookeeper).filter(|milli| Some(*milli) != memory(&usual));
    spec.ordering.log.max_bytes.or_else(|| {
        let heap = heap_mib(memory? / 1000 / MIB);
        i64::try_from(heap * MIB * LOG_SHARE.0 / LOG_SHARE.1).ok()
    })
}

const MIB: u128 = 1 << 20;

/// ZooKeeper's heap under a memory limit, MiB, as `images/zookeeper/bin/start` sets it. Limits that the resource allows.
fn heap_mib(limit: u128) -> u128 {
    if limit < LARGE_ZOOKEEPER_MIB { limit.saturating_sub(JVM_MIB) } else { limit * 3 / 4 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crd::{Amount, ComputeAmounts, LogBounds, ReplicatedDB, Resources},
        testing,
        validate::validate,
    };

    #[test]
    fn the_log_fits_zookeepers_heap() {
        let of = |memory: &str, wished| {
            let mut rdb = testing::resource("orders");
            let limits = Some(ComputeAmounts { cpu: None, memory: Some(Amount::fixed(memory)) });
            rdb.spec.zookeeper.resources = Resources { requests: None, limits };
            rdb.spec.ordering.log.max_bytes = wished;
            let validated = validate(&rdb, &testing::defaults("1")).expect("valid");
            data(&validated, Tier::Replica).get("RDB_LOG_MAX_BYTES").cloned()
        };
        let mib = |mib: u64| Some((mib << 20).to_string());
        for (memory, wished, expected) in [
            ("256Mi", None, mib(54)),
            ("384Mi", None, None),
            ("0.375Gi", None, None),
            ("512Mi", None, mib(144)),
            ("2Gi", None, mib(576)),
            ("2Gi", Some(100 << 20), mib(100)),
            ("384Mi", Some(100 << 20), mib(100)),
        ] {
            assert_eq!(of(memory, wished), expected, "{memory} {wished:?}");
        }
    }

    #[test]
    fn the_engine_is_passed_on() {
        let mut rdb = testing::resource("orders");
        let of = |rdb: &ReplicatedDB| {
            let data = data(&validate(rdb, &testing::defaults("1")).expect("valid"), Tier::Replica);
            ["RDB_ENGINE", "RDB_STATE_LOG"].map(|key| data.get(key).cloned())
        };
        assert_eq!(of(&rdb), [Some("ZnodeLog".to_owned()), None]);
        rdb.spec.ordering.engine = Engine::ZooKeeperLeader;
        assert_eq!(of(&rdb), [Some("ZooKeeperLeader".to_owned()), Some(STATE_LOG_DIR.to_owned())]);
    }

    #[test]
    fn bounds_are_passed_on_where_they_are_set() {
        let mut rdb = testing::resource("orders");
        let keys = ["RDB_RESTORE_POINT_BYTES", "RDB_LOG_BEHIND_BYTES", "RDB_LOG_MAX_BYTES"];
        let bounds = |rdb: &ReplicatedDB| {
            let data = data(&validate(rdb, &testing::defaults("1")).expect("valid"), Tier::Replica);
            keys.map(|key| data.get(key).cloned())
        };
        assert_eq!(bounds(&rdb), [None, None, None]);
        rdb.spec.ordering.restore_points.bytes = Some(1);
        rdb.spec.ordering.log = LogBounds { behind_bytes: Some(2), max_bytes: Some(3) };
        assert_eq!(bounds(&rdb), ["1", "2", "3"].map(|bytes| Some(bytes.to_owned())));
    }
}
