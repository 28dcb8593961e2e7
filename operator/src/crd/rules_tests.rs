//! Every rule of the definition, evaluated as the API server would.

use super::*;
use crate::testing::resource;

/// Errors of creating `change(default)`.
fn create(change: impl FnOnce(&mut ReplicatedDB)) -> String {
    let mut rdb = resource("orders");
    change(&mut rdb);
    rdb.validate_cel().err().map(|errors| errors.to_string()).unwrap_or_default()
}

/// Errors of updating `before(default)` by `change`.
fn update(before: impl FnOnce(&mut ReplicatedDB), change: impl FnOnce(&mut ReplicatedDB)) -> String {
    let mut old = resource("orders");
    before(&mut old);
    let mut new = old.clone();
    change(&mut new);
    new.validate_cel_update(&old).err().map(|errors| errors.to_string()).unwrap_or_default()
}

fn limits(memory: &str) -> Resources {
    Resources { requests: None, limits: Some(ComputeAmounts { cpu: None, memory: Some(Amount::fixed(memory)) }) }
}

#[test]
fn defaults_are_valid() {
    assert_eq!(create(|_| {}), "");
    assert_eq!(update(|_| {}, |rdb| rdb.spec.replicas = 5), "");
}

#[test]
fn names_leave_room_and_suit_services() {
    let named = |name: &str| create(|rdb| rdb.metadata.name = Some(name.to_owned()));
    assert_eq!(named(&"a".repeat(40)), "");
    assert!(named(&"a".repeat(41)).contains("at most 40 characters"));
    for bad in ["1orders", "or.ders", "orders-"] {
        assert!(named(bad).contains("must start with a letter"), "{bad}");
    }
}

#[test]
fn zookeeper_size_is_odd_and_fixed() {
    let sized = |size| create(|rdb| rdb.spec.zookeeper.size = size);
    assert_eq!(sized(5), "");
    assert!(sized(4).contains("size must be odd"));
    assert!(update(|_| {}, |rdb| rdb.spec.zookeeper.size = 5).contains("size can't change"));
}

#[test]
fn the_mode_is_fixed() {
    let mode = |mode| move |rdb: &mut ReplicatedDB| rdb.spec.cassandra.mode = mode;
    assert_eq!(create(mode(CassandraMode::Shared)), "");
    for (before, after) in
        [(CassandraMode::PerReplica, CassandraMode::Shared), (CassandraMode::Shared, CassandraMode::PerReplica)]
    {
        assert!(update(mode(before), mode(after)).contains("create another ReplicatedDB with the wanted mode"));
    }
}

#[test]
fn the_engine_is_fixed() {
    let engine = |engine| move |rdb: &mut ReplicatedDB| rdb.spec.ordering.engine = engine;
    assert_eq!(create(engine(Engine::ZooKeeperLeader)), "");
    for (before, after) in [(Engine::ZnodeLog, Engine::ZooKeeperLeader), (Engine::ZooKeeperLeader, Engine::ZnodeLog)] {
        assert!(update(engine(before), engine(after)).contains("create another ReplicatedDB with the wanted engine"));
    }
}

#[test]
fn tls_has_a_certificate_and_asks_all_for_theirs_or_for_a_login() {
    let with = |secret: Option<&str>, certificates, optional, login| {
        let secret_name = secret.map(str::to_owned);
        create(move |rdb| {
            rdb.spec.tls =
                TlsSpec { enabled: true, secret_name, client_certificates: certificates, optional, internal: false };
            rdb.spec.authentication.enabled = login;
        })
    };
    assert!(with(None, true, false, false).contains("tls.clientCertificates needs tls.secretName"));
    for optional in [false, true] {
        assert_eq!(with(None, false, optional, false), "", "the operator makes one");
    }
    for (certificates, optional, login) in
        [(false, false, false), (false, true, false), (true, false, false), (true, true, true)]
    {
        assert_eq!(with(Some("orders-tls"), certificates, optional, login), "");
    }
    assert!(
        with(Some("orders-tls"), true, true, false).contains("tls.optional can't be true with tls.clientCertificates")
    );
    let named = |rdb: &mut ReplicatedDB| rdb.spec.tls.secret_name = Some("orders-tls".to_owned());
    assert_eq!(create(named), "", "not switched on");
    assert_eq!(update(named, |rdb| rdb.spec.tls.enabled = true), "");
}

/// Roles would be shared past the log. On a Cassandra for each replica it may come and go.
#[test]
fn a_shared_cassandra_has_no_roles() {
    let with = |enabled, mode| {
        move |rdb: &mut ReplicatedDB| {
            rdb.spec.authentication.enabled = enabled;
            rdb.spec.cassandra.mode = mode;
        }
    };
    use CassandraMode::{PerReplica, Shared};
    for (enabled, mode) in [(false, Shared), (true, PerReplica)] {
        assert_eq!(create(with(enabled, mode)), "");
    }
    assert!(create(with(true, Shared)).contains("can't be true with cassandra.mode: Shared"));
    assert!(update(with(false, Shared), with(true, Shared)).contains("can't be true with cassandra.mode: Shared"));
    for (before, after) in [(false, true), (true, false)] {
        assert_eq!(update(with(before, PerReplica), with(after, PerReplica)), "");
    }
}

#[test]
fn memory_has_a_floor() {
    assert!(create(|rdb| rdb.spec.cassandra.resources = limits("1023Mi")).contains("at least 1Gi"));
    assert_eq!(create(|rdb| rdb.spec.cassandra.resources = limits("1Gi")), "");
    assert!(create(|rdb| rdb.spec.cassandra.resources = Resources::default()).contains("at least 1Gi"));
    assert!(create(|rdb| rdb.spec.zookeeper.resources = limits("255Mi")).contains("at least 256Mi"));
    assert!(create(|rdb| rdb.spec.replica.resources = limits("64Mi")).contains("at least 128Mi"));
    assert_eq!(create(|rdb| rdb.spec.replica.resources = Resources::default()), "");
}

#[test]
fn the_log_has_room_for_what_it_must_hold() {
    let bounds = |points, behind_bytes, max_bytes| {
        create(|rdb| {
            rdb.spec.ordering.restore_points.bytes = points;
            rdb.spec.ordering.log = LogBounds { max_bytes, behind_bytes };
        })
    };
    const MIB: i64 = 1 << 20;
    assert_eq!(bounds(Some(25 * MIB), Some(50 * MIB), Some(100 * MIB)), "");
    assert_eq!(bounds(Some(25 * MIB), Some(50 * MIB), None), "");
    assert!(bounds(Some(25 * MIB + 1), None, Some(100 * MIB)).contains("at most a quarter of log.maxBytes"));
    assert!(bounds(None, Some(50 * MIB + 1), Some(100 * MIB)).contains("at most half of maxBytes"));
    assert_eq!(bounds(None, None, Some(192 * MIB)), "");
}

#[test]
fn requests_stay_below_limits() {
    let amounts = |cpu: &str, memory: &str| {
        Some(ComputeAmounts { cpu: Some(Amount::fixed(cpu)), memory: Some(Amount::fixed(memory)) })
    };
    let with =
        |request, limit| create(|rdb| rdb.spec.cassandra.resources = Resources { requests: request, limits: limit });
    assert_eq!(with(amounts("1", "2Gi"), amounts("1000m", "2048Mi")), "");
    assert!(with(amounts("1", "3Gi"), amounts("1", "2Gi")).contains("requests.memory must not exceed"));
    assert!(with(amounts("1500m", "2Gi"), amounts("1", "2Gi")).contains("requests.cpu must not exceed"));
}

#[test]
fn storage_grows_but_does_not_shrink() {
    type Pick = fn(&mut ReplicatedDBSpec) -> &mut Storage;
    let tiers: [(&str, Pick); 2] =
        [("zookeeper", |spec| &mut spec.zookeeper.storage), ("cassandra", |spec| &mut spec.cassandra.storage)];
    for (name, storage) in tiers {
        let resize = |size: &'static str| update(|_| {}, |rdb| storage(&mut rdb.spec).size = Amount::fixed(size));
        assert_eq!(resize("11Gi"), "");
        assert_eq!(resize("10240Mi"), "", "the same amount, written otherwise");
        assert!(resize("9Gi").contains(&format!("spec.{name}.storage.size can't shrink")), "{name}");
        // A size that could not be reached may be taken back to what the volumes have.
        let back = |to: &'static str| {
            let stuck = |rdb: &mut ReplicatedDB| {
                storage(&mut rdb.spec).size = Amount::fixed("100Gi");
                let sizes = StorageStatus { zookeeper: Some("20Gi".into()), cassandra: Some("20Gi".into()) };
                rdb.status = Some(ReplicatedDBStatus { storage: Some(sizes), ..Default::default() });
            };
            update(stuck, |rdb| storage(&mut rdb.spec).size = Amount::fixed(to))
        };
        assert_eq!(back("20Gi"), "");
        assert!(back("19Gi").contains("can't shrink"), "{name}");
        assert!(create(|rdb| storage(&mut rdb.spec).size = Amount::fixed("0")).contains("size must be more than 0"));
    }
}

/// Cassandra's volumes are worth nothing without the log that they were made from.
#[test]
fn the_log_outlives_what_is_made_from_it() {
    let deleted = |zookeeper, cassandra| {
        create(|rdb| {
            rdb.spec.zookeeper.storage.on_delete = zookeeper;
            rdb.spec.cassandra.storage.on_delete = cassandra;
        })
    };
    use OnDelete::{Delete, Retain};
    for (zookeeper, cassandra) in [(Retain, Retain), (Retain, Delete), (Delete, Delete)] {
        assert_eq!(deleted(zookeeper, cassandra), "");
    }
    assert!(deleted(Delete, Retain).contains("set it to Retain"));
}

#[test]
fn the_storage_class_is_fixed() {
    let class = |name: Option<&str>| {
        let name = name.map(str::to_owned);
        move |rdb: &mut ReplicatedDB| rdb.spec.cassandra.storage.storage_class_name = name
    };
    assert_eq!(update(class(Some("fast")), |_| {}), "");
    for (before, after) in [(Some("fast"), Some("slow")), (None, Some("fast")), (Some("fast"), None)] {
        assert!(update(class(before), class(after)).contains("storageClassName can't change"), "{before:?} {after:?}");
    }
}

#[test]
fn settings_are_those_that_are_allowed() {
    let all = |keys: &[&str]| keys.iter().map(|key| ((*key).to_owned(), "5".to_owned())).collect::<Settings>();
    let allowed = create(|rdb| {
        rdb.spec.zookeeper.config = all(ZOOKEEPER_KEYS);
        rdb.spec.cassandra.config = all(CASSANDRA_KEYS);
        for form in CASSANDRA_FORMS {
            let example = form.words.rsplit(' ').next().unwrap_or_default();
            for key in form.keys {
                rdb.spec.cassandra.config.insert((*key).to_owned(), example.to_owned());
            }
        }
        for (key, seconds) in TIMEOUT_FLOORS {
            rdb.spec.cassandra.config.insert((*key).to_owned(), format!("{seconds}s"));
        }
    });
    assert_eq!(allowed, "");
    for key in [
        "dataDir",
        "server.1",
        "standaloneEnabled",
        "cluster_name",
        "counter_cache_size",
        "commitlog_sync",
        "batch_size_fail_threshold",
        "native_transport_max_frame_size",
        "prepared_statements_cache_size",
        "tombstone_failure_threshold",
    ] {
        let refused = create(|rdb| {
            rdb.spec.zookeeper.config = all(&[key]);
            rdb.spec.cassandra.config = all(&[key]);
        });
        assert!(refused.contains("only these keys of zoo.cfg"), "{key}");
        assert!(refused.contains("only these keys of cassandra.yaml"), "{key}");
    }
}

/// A time-out below the agent's own, or one that Cassandra and the rule could read differently.
#[test]
fn timeouts_have_a_floor() {
    let with =
        |key: &str, value: &str| create(|rdb| drop(rdb.spec.cassandra.config.insert(key.to_owned(), value.to_owned())));
    for (key, seconds) in TIMEOUT_FLOORS {
        for fine in [format!("{seconds}s"), format!("{}ms", seconds * 1_000), "2m".to_owned()] {
            assert_eq!(with(key, &fine), "", "{key}: {fine}");
        }
        for bad in [format!("{}s", seconds - 1), "5".to_owned(), "1d".to_owned(), "1ms".to_owned()] {
            assert!(with(key, &bad).contains(&format!("{key} must be at least {seconds}s")), "{key}: {bad}");
        }
    }
}

/// Each key has a form or a floor: a value that the store agent refuses would keep the pod from starting.
#[test]
fn values_have_the_form_of_their_key() {
    for key in CASSANDRA_KEYS {
        let formed = CASSANDRA_FORMS.iter().any(|form| form.keys.contains(key));
        assert!(formed || TIMEOUT_FLOORS.iter().any(|(timed, _)| timed == key), "{key}");
    }
    for form in CASSANDRA_FORMS {
        for key in form.keys {
            for bad in ["64 MiB", "many", "1.5", "64M"] {
                let refused = create(|rdb| drop(rdb.spec.cassandra.config.insert((*key).to_owned(), bad.to_owned())));
                assert!(refused.contains(&format!("must be {}", form.words)), "{key}: {bad}: {refused}");
            }
        }
    }
}

#[test]
fn our_own_labels_are_ours() {
    let label = |key: &str| create(|rdb| drop(rdb.spec.replica.pod.labels.insert(key.to_owned(), "x".into())));
    assert_eq!(label("team"), "");
    for key in ["app.kubernetes.io/instance", "replicateddb.dev/config"] {
        assert!(label(key).contains("use another prefix"), "{key}");
        let annotated = create(|rdb| drop(rdb.spec.cassandra.pod.annotations.insert(key.to_owned(), "x".into())));
        assert!(annotated.contains("use another prefix"), "{key}");
    }
}

#[test]
fn keys_are_those_that_kubernetes_takes() {
    let keyed = |key: &str| create(|rdb| drop(rdb.spec.replica.pod.annotations.insert(key.to_owned(), "x".into())));
    for fine in ["team", "example.com/team", "a-b_c.D", &"a".repeat(63)] {
        assert_eq!(keyed(fine), "", "{fine}");
    }
    for bad in ["", "two words", "-team", "a/b/c", "Example.com/team", "/team", &"a".repeat(64)] {
        assert!(keyed(bad).contains("for example example.com/team"), "{bad}");
    }
}

/// A rule without a test here, or a message that does not tell what to do, is found.
#[test]
fn every_rule_has_a_message_with_a_remedy() {
    fn rules(node: &serde_json::Value, found: &mut Vec<(String, String)>) {
        match node {
            serde_json::Value::Object(map) => {
                for rule in map.get("x-kubernetes-validations").and_then(|v| v.as_array()).into_iter().flatten() {
                    let text = |key: &str| rule.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
                    found.push((text("rule"), text("message")));
                }
                map.values().for_each(|value| rules(value, found));
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| rules(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    rules(&serde_json::to_value(definition().unwrap()).unwrap(), &mut found);
    assert_eq!(found.len(), 50, "a rule was added or taken away: test it here, then change the number");
    let remedies = [
        "choose",
        "set it",
        "keep it",
        "put it back",
        "raise",
        "lower",
        "create another",
        "remove",
        "use another",
        "add or take",
        "for example",
    ];
    for (rule, message) in found {
        assert!(remedies.iter().any(|remedy| message.contains(remedy)), "{rule}: {message:?} names no remedy");
    }
}
