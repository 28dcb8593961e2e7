//! From a resource to its objects: golden files of whole sets, and properties that hold for any.
//!
//! `UPDATE_GOLDEN=1 cargo test -p replicateddb-operator --test objects` writes the golden files anew. When a pod template
//! in them changes, `TEMPLATE_VERSION` must change with it, or an operator upgrade would restart databases.

#![allow(clippy::unwrap_used)] // a helper that fails fails its test

use std::path::PathBuf;

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::ResourceExt;
use proptest::prelude::*;
use replicateddb_operator::{
    build::{Desired, Running, Template, build},
    compare,
    crd::{Amount, Images, Pull, PullPolicy, ReplicatedDB, ReplicatedDBSpec},
    names::Tier,
    validate::{Defaults, TEMPLATE_VERSION, Validated, validate},
};
use serde_json::{Value, json};

fn defaults() -> Defaults {
    let images =
        Images { zookeeper: "zookeeper:1".into(), cassandra: "cassandra:1".into(), replica: "server:1".into() };
    Defaults { images, namespace: "operators".into(), ..Default::default() }
}

fn resource(spec: Value) -> ReplicatedDB {
    let spec: ReplicatedDBSpec = serde_json::from_value(spec).unwrap();
    let mut rdb = ReplicatedDB::new("orders", spec);
    rdb.metadata.namespace = Some("shop".into());
    rdb.metadata.uid = Some("0f0e0d0c-0000-4000-8000-000000000001".into());
    rdb.metadata.generation = Some(1);
    rdb
}

fn built(spec: Value) -> (Validated, Desired) {
    let validated = validate(&resource(spec), &defaults()).unwrap();
    let desired = build(&validated, &Running::default());
    (validated, desired)
}

/// Every object as YAML, in the order of application.
fn yaml(desired: Desired) -> String {
    let Desired { service_accounts, config_maps, services, network_policies, disruption_budgets, stateful_sets } =
        desired;
    let mut values: Vec<Value> = Vec::new();
    values.extend(service_accounts.iter().map(|o| json!(o)));
    // but for the records of what the StatefulSets show
    values.extend(config_maps.iter().filter(|map| !map.name_any().ends_with("-template")).map(|o| json!(o)));
    values.extend(services.iter().map(|o| json!(o)));
    values.extend(network_policies.iter().map(|o| json!(o)));
    values.extend(disruption_budgets.iter().map(|o| json!(o)));
    values.extend(stateful_sets.iter().map(|o| json!(o)));
    values.iter().map(|value| format!("---\n{}", serde_saphyr::to_string(value).unwrap())).collect()
}

fn golden(name: &str, spec: Value) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let path = folder.join(format!("{name}-v{TEMPLATE_VERSION}.yaml"));
    let now = yaml(built(spec).1);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = before.lines().zip(now.lines()).position(|(a, b)| a != b);
    assert!(
        before == now,
        "{} differs from line {}: if pods would restart, raise TEMPLATE_VERSION; then UPDATE_GOLDEN=1",
        path.display(),
        differs.unwrap_or(before.lines().count().min(now.lines().count())) + 1
    );
}

#[test]
fn the_least_manifest() {
    golden("least", json!({}));
}

#[test]
fn a_full_manifest() {
    golden(
        "full",
        json!({
            "replicas": 5,
            "ordering": {"batching": {"maxRecords": 500, "maxBytes": 65536, "inFlight": 8}, "restorePoints": {"intervalSeconds": 30, "records": 5000}},
            "zookeeper": {"size": 5, "image": "mine/zookeeper:2", "config": {"tickTime": "1000"},
                "storage": {"size": "20Gi", "storageClassName": "fast", "onDelete": "Delete"}},
            "cassandra": {
                "storage": {"onDelete": "Delete"},
                "resources": {"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {"cpu": 4, "memory": "8Gi"}},
                "config": {"concurrent_reads": "64", "concurrent_writes": "64"},
                "pod": {"labels": {"team": "a"}, "annotations": {"scrape": "yes"}, "priorityClassName": "high",
                    "imagePullSecrets": ["registry"],
                    "tolerations": [{"key": "db", "operator": "Exists"}],
                    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}]},
            },
            "replica": {"config": {"sessionTimeoutSeconds": 10, "logFormat": "Text"}, "pod": {"affinity": {}}},
        }),
    );
}

#[test]
fn a_single_replica() {
    golden("single", json!({"replicas": 1, "zookeeper": {"size": 1}}));
    let (_, desired) = built(json!({"replicas": 1, "zookeeper": {"size": 1}}));
    assert!(desired.disruption_budgets.is_empty(), "a budget would block every drain");
}

/// One Cassandra for all: the smallest installation.
#[test]
fn a_shared_cassandra() {
    golden("shared", json!({"cassandra": {"mode": "Shared"}, "zookeeper": {"size": 1}}));
    let (validated, desired) = built(json!({"replicas": 5, "cassandra": {"mode": "Shared"}}));
    let sizes: Vec<_> = desired.stateful_sets.iter().map(|set| set.spec.as_ref().unwrap().replicas).collect();
    assert_eq!(sizes, [Some(3), Some(1), Some(5)]);
    let name = validated.identity.tier(Tier::Cassandra);
    assert!(desired.disruption_budgets.iter().all(|budget| budget.name_any() != name));
    let replica = &desired.stateful_sets[2].spec.as_ref().unwrap().template.spec.as_ref().unwrap();
    let environment: Vec<_> = replica.containers[0].env.iter().flatten().map(|variable| &variable.name).collect();
    assert!(environment.iter().all(|name| !name.starts_with("RDB_AGENT")), "{environment:?}");
    assert!(!json!(replica).to_string().contains("orders-internal"), "it has no use for the token");
}

/// Clients log in: the superuser is in a Secret that the operator makes.
#[test]
fn authentication() {
    golden("authentication", json!({"authentication": {"enabled": true}}));
    let open = built(json!({})).1;
    let (validated, closed) = built(json!({"authentication": {"enabled": true}}));
    let tiers = |desired: &Desired| desired.stateful_sets.iter().map(|set| json!(set)).collect::<Vec<_>>();
    assert_eq!(tiers(&open)[0], tiers(&closed)[0], "ZooKeeper's pods stay");
    let unlike = |closed: &Desired| tiers(&open).iter().zip(tiers(closed)).filter(|(a, b)| **a != *b).count();
    assert_eq!(unlike(&closed), 2);
    // a name of a Secret that nobody needs changes nothing
    let unused = built(json!({"authentication": {"superuserSecret": {"name": "ops"}}})).1;
    assert_eq!(unlike(&unused), 0);
    assert_eq!(validated.superuser_secret().as_deref(), Some("orders-superuser"));
}

/// Replicas ask for logins once every Cassandra does, and Cassandras for ever, for the roles in their volumes; all else changes at
/// once.
#[test]
fn authentication_comes_to_cassandra_first_and_stays_there() {
    let tier = |spec: Value, running: &Running, tier: usize| {
        json!(build(&built(spec).0, running).stateful_sets[tier].spec.as_ref().unwrap().template)
    };
    let spec = |enabled: bool| json!({"authentication": {"enabled": enabled}, "replica": {"image": "r:2"}});
    let (settled, rolling) = (Running::default(), Running { open_stores: true, ..Default::default() });
    assert_eq!(tier(spec(true), &rolling, 2), tier(spec(false), &settled, 2));
    assert_eq!(tier(spec(true), &rolling, 1), tier(spec(true), &settled, 1));
    let rolling = Running { logins: true, ..Default::default() };
    assert_eq!(tier(spec(false), &rolling, 1), tier(spec(true), &settled, 1));
    assert_eq!(tier(spec(false), &rolling, 2), tier(spec(false), &settled, 2));
}

/// The same with a Secret of the user's: nothing but its name differs, and that replaces replicas alone.
#[test]
fn authentication_with_a_secret_of_ones_own() {
    let spec = json!({"authentication": {"enabled": true, "superuserSecret": {"name": "ops"}}});
    golden("authentication-own", spec.clone());
    let text = |spec| yaml(built(spec).1);
    let without = |text: String| {
        let lines = text.lines().filter(|line| !line.contains("replicateddb.dev/inputs"));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    let made = without(text(json!({"authentication": {"enabled": true}})));
    assert_eq!(without(text(spec)), made.replace("orders-superuser", "ops"));
}

/// Clients use TLS: replicas read a Secret of the user's, and nobody else changes.
#[test]
fn tls() {
    let spec = |optional: bool| {
        json!({"tls": {"enabled": true, "secretName": "orders-tls", "clientCertificates": true, "optional": optional},
            "authentication": {"enabled": optional}})
    };
    golden("tls", spec(false));
    let tiers = |spec| built(spec).1.stateful_sets.iter().map(|set| json!(set)).collect::<Vec<_>>();
    let (open, closed) = (tiers(json!({})), tiers(spec(false)));
    assert_eq!(open[..2], closed[..2], "ZooKeeper's and Cassandra's pods stay");
    assert!(open[2] != closed[2] && !closed[2].to_string().contains("RDB_TLS_OPTIONAL"));
    assert!(tiers(spec(true))[2].to_string().contains("RDB_TLS_OPTIONAL"));
    assert_eq!(open, tiers(json!({"tls": {"secretName": "orders-tls", "optional": true}})), "not switched on");
    let shared = |tls: Value| tiers(json!({"cassandra": {"mode": "Shared"}, "tls": tls}))[2].to_string();
    assert!(shared(json!({"enabled": true, "secretName": "orders-tls"})).contains("/tls/tls.crt"));
}

/// With a certificate that the operator makes nothing differs but the name of the Secret; how many there are to be named replaces
/// no pod.
#[test]
fn tls_with_a_certificate_that_is_made() {
    golden("tls-made", json!({"tls": {"enabled": true}}));
    let replica = |spec: Value| json!(built(spec).1.stateful_sets[2].spec.as_ref().unwrap().template).to_string();
    let named = replica(json!({"tls": {"enabled": true, "secretName": "mine"}}));
    assert_eq!(replica(json!({"tls": {"enabled": true}})), named.replace("mine", "orders-certificate"));
    assert_eq!(replica(json!({"tls": {"enabled": true}})), replica(json!({"tls": {"enabled": true}, "replicas": 5})));
}

/// Replicas and agents speak TLS with each other at last; any two pods that run at a time understand each other.
#[test]
fn tls_inside_comes_and_goes_in_two_steps() {
    let spec = |internal: bool| json!({"tls": {"internal": internal}});
    golden("tls-internal", spec(true));
    let pods = |internal: bool, plain_inside: bool, tls_inside: bool| {
        let running = Running { plain_inside, tls_inside, ..Default::default() };
        let sets = build(&built(spec(internal)).0, &running).stateful_sets;
        sets.iter().map(|set| json!(set.spec.as_ref().unwrap().template)).collect::<Vec<_>>()
    };
    let (plain, tls) = (pods(false, false, false), pods(true, false, false));
    let both = pods(true, true, false);
    for tier in [1, 2] {
        let told = [&plain, &both, &tls].map(|pods| {
            let text = pods[tier].to_string();
            (text.contains("RDB_INTERNAL_CERTIFICATE"), text.contains("RDB_INTERNAL_OPTIONAL"))
        });
        assert_eq!(told, [(false, false), (true, true), (true, false)]);
    }
    assert!(plain[0] == tls[0] && plain[0] == both[0], "ZooKeeper's pods stay");
    // on: all know it, and then nobody takes anything else; off: the other way round
    for (internal, plain_inside, tls_inside, expected) in [
        (true, true, false, &both),
        (true, false, false, &tls),
        (true, false, true, &tls),
        (true, true, true, &both),
        (false, false, true, &both),
        (false, true, true, &both),
        (false, false, false, &plain),
        (false, true, false, &plain),
    ] {
        assert_eq!(&pods(internal, plain_inside, tls_inside), expected, "{internal} {plain_inside} {tls_inside}");
    }
}

/// Replicas keep others from what they have in ZooKeeper at last, and any two that run at a time work on one log.
#[test]
fn the_log_is_closed_and_opened_in_two_steps() {
    let spec = |restricted: bool| json!({"zookeeper": {"restricted": restricted}});
    golden("restricted", spec(true));
    let replica = |restricted: bool, log_unclaimed: bool, log_closed: bool| {
        let running = Running { log_unclaimed, log_closed, ..Default::default() };
        let text = json!(build(&built(spec(restricted)).0, &running).stateful_sets[2]).to_string();
        (text.contains("RDB_ZOOKEEPER_TOKEN_FILE"), text.contains("RDB_ZOOKEEPER_OPEN"))
    };
    for (restricted, unclaimed, closed, expected) in [
        (true, true, false, (true, true)),
        (true, false, false, (true, false)),
        (true, false, true, (true, false)),
        (false, false, true, (true, true)),
        (false, true, true, (true, true)),
        (false, false, false, (false, false)),
        (false, true, false, (false, false)),
    ] {
        assert_eq!(replica(restricted, unclaimed, closed), expected, "{restricted} {unclaimed} {closed}");
    }
    let tiers = |restricted| built(spec(restricted)).1.stateful_sets.iter().map(|set| json!(set)).collect::<Vec<_>>();
    assert_eq!(tiers(true)[..2], tiers(false)[..2], "ZooKeeper's and Cassandra's pods stay");
    let shared = built(json!({"cassandra": {"mode": "Shared"}, "zookeeper": {"restricted": true}})).1;
    assert!(json!(shared.stateful_sets[2]).to_string().contains("orders-internal"), "they have the token");
}

/// Three of each, with the memory they ask for, fit in 6 GiB.
#[test]
fn the_defaults_fit_a_small_machine() {
    let (_, desired) = built(json!({}));
    let milli: u128 = desired
        .stateful_sets
        .iter()
        .map(|set| {
            let spec = set.spec.as_ref().unwrap();
            let requests =
                spec.template.spec.as_ref().unwrap().containers[0].resources.clone().unwrap().requests.unwrap();
            let memory: Amount = serde_json::from_value(json!(requests["memory"])).unwrap();
            memory.milli().unwrap() * u128::try_from(spec.replicas.unwrap()).unwrap()
        })
        .sum();
    assert!(milli <= 6 * 1_000 * (1 << 30), "{} MiB", milli / 1_000 / (1 << 20));
}

/// What an older operator started keeps its template and its configuration under a newer one, but for what its user
/// changes; also when the StatefulSet was deleted.
#[test]
fn held_templates() {
    let (validated, desired) = built(json!({}));
    let mut running = Running::default();
    for tier in Tier::ALL {
        let record = Template::before(&validated.identity, tier, &desired.config_maps, None);
        let mut template = record.unwrap();
        template.pod.spec.as_mut().unwrap().termination_grace_period_seconds = Some(7); // as an older version wrote it
        template.config.insert("older".into(), "1".into());
        running.templates.insert(tier, template);
    }
    let grace = |validated: &Validated| {
        let desired = build(validated, &running);
        let grace = |set: &StatefulSet| {
            set.spec.as_ref().unwrap().template.spec.as_ref().unwrap().termination_grace_period_seconds.unwrap()
        };
        let held = |tier: &Tier| {
            let name = validated.identity.tier(*tier);
            let map = desired.config_maps.iter().find(|map| map.name_any() == name).unwrap();
            map.data.as_ref().unwrap().contains_key("older")
        };
        let graces: Vec<_> = desired.stateful_sets.iter().map(grace).collect();
        for (tier, grace) in Tier::ALL.iter().zip(&graces) {
            assert_eq!(held(tier), *grace == 7, "a template and its configuration are of one version");
        }
        graces
    };
    let held = Validated { hold_templates: true, ..validated.clone() };
    assert_eq!(grace(&held), [7, 7, 7]);
    assert_eq!(grace(&validated), [30, 120, 90]);
    let mut changed = held.clone();
    changed.spec.cassandra.config.insert("concurrent_reads".into(), "8".into());
    assert_eq!(grace(&changed), [7, 120, 7], "only the tier that its user changed");
    // a later version digests wishes otherwise: the status tells that they are the same
    for template in running.templates.values_mut() {
        template.inputs = "0:otherwise".into();
    }
    let grace = |validated: &Validated| build(validated, &running).stateful_sets.remove(1).spec.unwrap().template;
    let seen = Validated { seen: true, ..held.clone() };
    assert_eq!(grace(&seen), running.templates[&Tier::Cassandra].pod);
    assert_ne!(grace(&Validated { seen: false, ..held }), running.templates[&Tier::Cassandra].pod);
}

/// What exists without a record, as somebody may have deleted it, is held as it is found.
#[test]
fn a_lost_record_is_read_from_what_exists() {
    let (validated, desired) = built(json!({}));
    let maps: Vec<_> =
        desired.config_maps.iter().filter(|map| !map.name_any().ends_with("-template")).cloned().collect();
    for (tier, set) in Tier::ALL.into_iter().zip(&desired.stateful_sets) {
        let found = Template::before(&validated.identity, tier, &maps, Some(set));
        assert_eq!(found, Template::before(&validated.identity, tier, &desired.config_maps, None));
        assert!(found.is_some());
    }
}

/// Secrets and policy of the operator's images are theirs alone.
#[test]
fn default_images_are_pulled_as_the_operator_says() {
    let rdb = resource(json!({"replica": {"image": "mine:1", "pod": {"imagePullSecrets": ["own"]}},
        "cassandra": {"pod": {"imagePullSecrets": ["own", "registry"]}}}));
    let pull = Pull { policy: PullPolicy::Always, secrets: vec!["registry".into()] };
    let validated = validate(&rdb, &Defaults { pull, ..defaults() }).unwrap();
    let pulled = |set: &StatefulSet| {
        let pod = set.spec.clone().unwrap().template.spec.unwrap();
        let secrets: Vec<_> = pod.image_pull_secrets.into_iter().flatten().map(|secret| secret.name).collect();
        (secrets.join(","), pod.containers[0].image_pull_policy.clone().unwrap())
    };
    let found: Vec<_> = build(&validated, &Running::default()).stateful_sets.iter().map(pulled).collect();
    let expected = [("registry", "Always"), ("registry,own", "Always"), ("own", "IfNotPresent")];
    assert_eq!(found, expected.map(|(secrets, policy)| (secrets.to_owned(), policy.to_owned())));
}

/// A size that can't be had holds nothing else up: what exists keeps the size that it has.
#[test]
fn a_stateful_set_keeps_its_size() {
    let (_, desired) = built(json!({}));
    let running =
        Running { stateful_sets: Tier::ALL.into_iter().zip(desired.stateful_sets).collect(), ..Default::default() };
    let (validated, _) = built(json!({"cassandra": {"storage": {"size": "20Gi"}, "image": "c:2"}}));
    let size = |running: &Running| {
        let set = build(&validated, running).stateful_sets.remove(1);
        json!(set).pointer("/spec/volumeClaimTemplates/0/spec/resources/requests/storage").cloned()
    };
    assert_eq!(size(&running), Some(json!("10Gi")));
    assert_eq!(size(&Running::default()), Some(json!("20Gi")), "made anew");
}

/// A Cassandra outlives the replica that drains into it.
#[test]
fn cassandra_leaves_after_its_replica() {
    let (validated, _) = built(json!({"replicas": 1}));
    let running = Running { cassandra_pods_min: 3, ..Default::default() };
    let sizes: Vec<_> =
        build(&validated, &running).stateful_sets.iter().map(|set| set.spec.as_ref().unwrap().replicas).collect();
    assert_eq!(sizes, [Some(3), Some(3), Some(1)]);
}

/// What a StatefulSet can never change.
fn immutables(set: &StatefulSet) -> Value {
    let spec = json!(set.spec);
    let claims = json!(set.spec.as_ref().unwrap().volume_claim_templates);
    let storage = claims.pointer("/0/spec/storageClassName").cloned();
    json!([
        spec["selector"],
        spec["serviceName"],
        spec["podManagementPolicy"],
        claims.pointer("/0/metadata"),
        storage,
        spec["volumeClaimTemplates"][0]["spec"]["accessModes"]
    ])
}

fn specs() -> impl Strategy<Value = Value> {
    let amounts =
        (1u32..64, 1u32..8).prop_map(|(memory, cpu)| json!({"limits": {"memory": format!("{memory}Gi"), "cpu": cpu}}));
    let words = prop::collection::btree_map("[a-z]{1,10}", "[a-z0-9]{0,10}", 0..4);
    (1..=9i32, amounts, words, prop::option::of("[a-z]{1,20}:[0-9]"), 1u32..10_000, any::<bool>()).prop_map(
        |(replicas, resources, words, image, records, text)| {
            let mut tier = json!({"resources": resources, "pod": {"labels": words, "annotations": words}});
            if let Some(image) = image {
                tier["image"] = json!(image);
            }
            let mut replica = tier.clone();
            replica["config"] = json!({"logFormat": if text { "Text" } else { "Json" }});
            json!({
                "replicas": replicas, "zookeeper": tier, "cassandra": tier, "replica": replica,
                "ordering": {"batching": {"maxRecords": records}},
            })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No change of the spec touches what a StatefulSet can't change; the same spec always gives the same objects, which
    /// satisfy themselves.
    #[test]
    fn immutables_are_stable(spec in specs(), other in specs()) {
        let (_, a) = built(spec.clone());
        let (_, b) = built(other);
        for (a, b) in a.stateful_sets.iter().zip(&b.stateful_sets) {
            prop_assert_eq!(immutables(a), immutables(b));
        }
        let (_, again) = built(spec);
        prop_assert_eq!(&a, &again);
        for set in &a.stateful_sets {
            let mut wanted = json!(set);
            compare::stamp(&mut wanted);
            prop_assert!(compare::satisfied(&wanted, &wanted));
            prop_assert!(!compare::satisfied(&wanted, &json!(set)), "the stamp is looked for");
        }
    }

    /// The rules of the restricted Pod Security level, and the operator's own labels, whatever the user adds.
    #[test]
    fn pods_are_restricted_and_labelled(spec in specs()) {
        for (tier, set) in Tier::ALL.into_iter().zip(built(spec).1.stateful_sets) {
            let template = set.spec.as_ref().unwrap().template.clone();
            let selector = set.spec.as_ref().unwrap().selector.match_labels.clone().unwrap();
            let labels = template.metadata.unwrap().labels.unwrap();
            prop_assert!(selector.iter().all(|(key, value)| labels.get(key) == Some(value)));
            let pod = template.spec.unwrap();
            let security = pod.security_context.unwrap();
            prop_assert_eq!(security.run_as_non_root, Some(true));
            prop_assert_eq!(security.seccomp_profile.unwrap().type_, "RuntimeDefault");
            prop_assert_eq!(pod.automount_service_account_token, Some(false));
            for container in &pod.containers {
                let security = container.security_context.clone().unwrap();
                prop_assert_eq!(security.allow_privilege_escalation, Some(false));
                prop_assert_eq!(security.read_only_root_filesystem, Some(true));
                prop_assert_eq!(security.capabilities.unwrap().drop, Some(vec!["ALL".to_owned()]));
                prop_assert!(container.env.iter().flatten().all(|variable| variable.value.as_deref() != Some("")));
            }
            prop_assert_eq!(set.name_any(), format!("orders-{}", tier.component()));
        }
    }
}
