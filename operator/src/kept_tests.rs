//! Taking over what an earlier resource left, on invented observations.

use super::*;
use crate::{build, crd::TlsSpec, testing, validate::validate};
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

fn judge(validated: &Validated, observed: &Observed) -> Kept {
    super::judge(validated, observed, NOW)
}

fn validated() -> Validated {
    validate(&testing::resource("orders"), &testing::defaults("1")).unwrap()
}

fn claim(tier: &str, ordinal: i32, owner: Option<&str>) -> PersistentVolumeClaim {
    let labels = json!({"app.kubernetes.io/component": tier});
    let owners: Vec<_> = owner.iter().map(|uid| reference(uid)).collect();
    let name = format!("data-orders-{tier}-{ordinal}");
    serde_json::from_value(json!({"metadata": {"name": name, "labels": labels, "ownerReferences": owners}})).unwrap()
}

fn reference(uid: &str) -> Value {
    json!({"apiVersion": "replicateddb.dev/v1alpha1", "kind": "ReplicatedDB", "name": "orders", "uid": uid})
}

/// The Secret as it was made, with its data as the API server keeps them.
fn secret() -> Secret {
    let mut secret = build::secret(&validated(), "");
    secret.data = Some([(TOKEN_KEY.to_owned(), k8s_openapi::ByteString(vec![b'x'; TOKEN_LENGTH_MIN]))].into());
    secret
}

fn observed(secret: Option<Secret>, claims: Vec<PersistentVolumeClaim>) -> Observed {
    Observed { secret, claims, ..Default::default() }
}

fn told(kept: &Kept) -> (Option<Reason>, String) {
    let problem = kept.problems.first();
    (problem.map(|p| p.reason), problem.map(|p| p.message.clone()).unwrap_or_default())
}

#[test]
fn made_once_and_never_again_over_data() {
    assert_eq!(judge(&validated(), &observed(None, vec![])).secret, SecretStep::Create);
    let lost = judge(&validated(), &observed(None, vec![claim("cassandra", 0, None)]));
    let (reason, message) = told(&lost);
    assert!(reason == Some(Reason::SecretLost) && lost.secret == SecretStep::Keep);
    assert!(
        message.contains("app.kubernetes.io/component in (cassandra,replica)"),
        "deletes our pods alone: {message}"
    );
    assert!(message.contains("app.kubernetes.io/managed-by=replicateddb-operator"), "the new one is known: {message}");
    assert_eq!(judge(&validated(), &observed(Some(secret()), vec![claim("zookeeper", 2, None)])), Kept::default());
}

#[test]
fn a_foreign_secret_is_not_taken() {
    let mut foreign = secret();
    foreign.metadata.labels = None;
    let kept = judge(&validated(), &observed(Some(foreign), vec![]));
    assert!(kept.blocked && told(&kept).0 == Some(Reason::NameConflict) && kept.secret == SecretStep::Keep);
}

/// Deleted with `onDelete: Delete` and created again at once: the collector has not come yet.
#[test]
fn what_goes_is_waited_for() {
    let mut going = secret();
    going.metadata.owner_references = serde_json::from_value(json!([reference("earlier")])).unwrap();
    let kept = judge(&validated(), &observed(Some(going), vec![]));
    assert!(kept.blocked && kept.waiting[0].contains("Secret orders-internal of an earlier resource"), "{kept:?}");
    for secret in [None, Some(secret())] {
        let kept = judge(&validated(), &observed(secret, vec![claim("cassandra", 0, Some("earlier"))]));
        assert!(kept.blocked && kept.secret == SecretStep::Keep && kept.problems.is_empty(), "{kept:?}");
        assert!(kept.waiting[0].contains("claim data-orders-cassandra-0 of an earlier resource"), "{kept:?}");
    }
    let ours = validated().identity.uid;
    let kept = judge(&validated(), &observed(Some(secret()), vec![claim("cassandra", 0, Some(&ours))]));
    assert_eq!(kept, Kept::default());
}

#[test]
fn volumes_of_another_layout_are_not_used() {
    let mut single = secret();
    let note = "zookeeper.size=1 cassandra.mode=PerReplica".to_owned();
    single.metadata.annotations = Some([(ANNOTATION_LAYOUT.to_owned(), note)].into());
    let kept = judge(&validated(), &observed(Some(single.clone()), vec![claim("zookeeper", 0, None)]));
    let (reason, message) = told(&kept);
    assert!(kept.blocked && reason == Some(Reason::OtherVolumes));
    assert!(message.contains("zookeeper.size=1") && message.contains("kubectl -n shop delete"), "{message}");
    // without volumes it is only an old note
    assert_eq!(judge(&validated(), &observed(Some(single.clone()), vec![])).secret, SecretStep::Record);
    // without a note the volumes tell, where there are more of them
    single.metadata.annotations = None;
    let of = |last| judge(&validated(), &observed(Some(single.clone()), vec![claim("zookeeper", last, None)]));
    assert!(of(4).blocked && told(&of(4)).1.contains("zookeeper.size=5"));
    assert_eq!(of(2).secret, SecretStep::Record);
}

fn authenticated(named: Option<&str>) -> Validated {
    let mut rdb = testing::resource("orders");
    rdb.spec.authentication.enabled = true;
    rdb.spec.authentication.superuser_secret.name = named.map(str::to_owned);
    validate(&rdb, &testing::defaults("1")).unwrap()
}

/// The superuser's Secret as the API server keeps it.
fn superuser() -> Secret {
    let mut secret = build::superuser(&authenticated(None), "");
    let data = [(USERNAME_KEY, "admin"), (PASSWORD_KEY, "correct horse")];
    secret.data = Some(data.map(|(key, value)| (key.to_owned(), k8s_openapi::ByteString(value.into()))).into());
    secret
}

/// The other Secret, with a note of it.
fn noted() -> Secret {
    let mut noted = secret();
    noted.annotations_mut().extend(notes(&authenticated(None)));
    noted
}

/// What is decided with the Secret of the token, and that of the superuser, over volumes or none.
fn judged(secret: Option<Secret>, superuser: Option<Secret>, volumes: bool) -> Kept {
    let claims = volumes.then(|| claim("cassandra", 0, None)).into_iter().collect();
    judge(&authenticated(None), &Observed { superuser, ..observed(secret, claims) })
}

#[test]
fn a_superuser_is_made_for_a_database_without_one_and_noted() {
    use SecretStep::{Create, Keep, Record};
    for (token, volumes, expected) in [
        (None, false, (Create, Create)),
        (Some(noted()), false, (Create, Keep)), // a crash between the two, or volumes that were given up
        (Some(secret()), true, (Create, Record)), // switched on
    ] {
        let kept = judged(token, None, volumes);
        assert_eq!((kept.superuser, kept.secret), expected);
        assert!(!kept.blocked && kept.problems.is_empty());
    }
    // a crash before it was noted
    assert_eq!(judged(Some(secret()), Some(superuser()), true).secret, Record);
    assert_eq!(judged(Some(noted()), Some(superuser()), true), Kept::default());
    // nobody needs one, or it is somebody's own
    let without = observed(Some(secret()), vec![claim("cassandra", 0, None)]);
    assert_eq!(judge(&validated(), &without), Kept::default());
    let own = Observed { named_superuser: Some(superuser()), ..without };
    let kept = judge(&authenticated(Some("ops")), &own);
    assert_eq!(kept, Kept { secret: Record, ..Kept::default() }, "that there are roles is noted all the same");
}

/// Nothing is made in its place, and no pod replaced by one that could not start.
#[test]
fn a_lost_superuser_is_not_made_anew() {
    for token in [Some(noted()), None] {
        let kept = judged(token, None, true);
        let problem = kept.problems.last().unwrap();
        assert!(kept.blocked && kept.superuser == SecretStep::Keep && problem.reason == Reason::SecretLost, "{kept:?}");
        let message = &problem.message;
        assert!(
            message.contains("create secret generic orders-superuser --type=kubernetes.io/basic-auth"),
            "{message}"
        );
        assert!(
            message.contains("label secret orders-superuser app.kubernetes.io/"),
            "the new one is known: {message}"
        );
    }
}

/// What had logins keeps them, by what is noted beside the volumes, and where that is lost by what runs.
#[test]
fn volumes_with_roles_are_known() {
    let without = observed(Some(secret()), vec![]);
    assert!(!has_logins(&validated(), &without) && has_logins(&authenticated(None), &without));
    assert!(has_logins(&validated(), &observed(Some(noted()), vec![])));
    let running = |enabled: Validated| Observed {
        stateful_sets: build::build(&enabled, &Default::default()).stateful_sets,
        ..observed(None, vec![])
    };
    assert!(
        !has_logins(&validated(), &running(validated())) && has_logins(&validated(), &running(authenticated(None)))
    );
}

/// The role that agents log in as has its password from the token: another one would shut them out for good.
#[test]
fn a_lost_token_comes_from_where_it_still_is_where_agents_log_in() {
    let kept = judged(None, Some(superuser()), true);
    let (reason, message) = told(&kept);
    assert!(reason == Some(Reason::SecretLost) && !message.contains("openssl"), "{message}");
    assert!(message.contains("$(kubectl -n shop exec orders-replica-0 -- cat /secrets/agent-token)"), "{message}");
    assert!(message.contains("label secret orders-internal app.kubernetes.io/"), "{message}");
}

#[test]
fn a_superuser_that_can_not_be_used_changes_nothing() {
    let mut foreign = superuser();
    foreign.metadata.labels = None;
    let kept = judged(Some(noted()), Some(foreign), true);
    assert!(kept.blocked && told(&kept).0 == Some(Reason::NameConflict));
    assert!(told(&kept).1.contains("set spec.authentication.superuserSecret.name to orders-superuser"), "{kept:?}");
    let mut going = superuser();
    going.metadata.owner_references = serde_json::from_value(json!([reference("earlier")])).unwrap();
    let kept = judged(None, Some(going), false);
    assert!(kept.blocked && kept.waiting[0].contains("Secret orders-superuser of an earlier resource"), "{kept:?}");
    let mut empty = superuser();
    empty.data = None;
    let kept = judged(Some(noted()), Some(empty.clone()), true);
    assert!(kept.blocked && told(&kept).0 == Some(Reason::SecretInvalid) && told(&kept).1.contains("no key username"));
    for (named, reason, words) in [
        (None, Reason::SecretMissing, "kubectl -n shop create secret generic ops"),
        (Some(empty), Reason::SecretInvalid, "Secret ops has no key username"),
    ] {
        let observed = Observed { named_superuser: named, ..observed(Some(secret()), vec![]) };
        let kept = judge(&authenticated(Some("ops")), &observed);
        assert!(kept.blocked && told(&kept).0 == Some(reason) && told(&kept).1.contains(words), "{kept:?}");
    }
}

#[test]
fn a_certificate_that_can_not_be_used_changes_nothing() {
    let with = |certificates| {
        let mut rdb = testing::resource("orders");
        rdb.spec.tls = TlsSpec {
            enabled: true,
            secret_name: Some("shown".to_owned()),
            client_certificates: certificates,
            optional: false,
            internal: false,
        };
        validate(&rdb, &testing::defaults("1")).unwrap()
    };
    let pair = |keys: &[(&str, &str)]| {
        let data: serde_json::Map<_, _> = keys.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let mut secret: Secret = serde_json::from_value(json!({"metadata": {"name": "shown"}})).unwrap();
        let bytes = |value: &serde_json::Value| k8s_openapi::ByteString(value.as_str().unwrap_or_default().into());
        secret.data = Some(data.iter().map(|(key, value)| (key.clone(), bytes(value))).collect());
        secret
    };
    let (certificate, key) = ("-----BEGIN CERTIFICATE-----", "-----BEGIN PRIVATE KEY-----");
    let whole = pair(&[("tls.crt", certificate), ("tls.key", key)]);
    for (certificates, found, reason, words) in [
        (false, None, Reason::SecretMissing, "Secret shown, which spec.tls.secretName names, does not exist"),
        (false, Some(pair(&[("tls.crt", certificate)])), Reason::SecretInvalid, "Secret shown has no key tls.key"),
        (true, Some(whole.clone()), Reason::SecretInvalid, "Secret shown has no key ca.crt"),
    ] {
        let kept = judge(&with(certificates), &Observed { tls: found, ..observed(Some(noted()), vec![]) });
        assert!(kept.blocked && told(&kept).0 == Some(reason) && told(&kept).1.contains(words), "{kept:?}");
        assert!(told(&kept).1.contains("kubectl -n shop"), "{kept:?}");
    }
    let kept = judge(&with(false), &Observed { tls: Some(whole), ..observed(Some(noted()), vec![]) });
    assert!(!kept.blocked && kept.problems.is_empty(), "{kept:?}");
}

fn with_tls() -> Validated {
    let mut rdb = testing::resource("orders");
    rdb.spec.tls.enabled = true;
    validate(&rdb, &testing::defaults("1")).unwrap()
}

/// A Secret as the API server keeps it.
fn stored(mut secret: Secret) -> Secret {
    let data = secret.string_data.take().unwrap_or_default();
    secret.data = Some(data.into_iter().map(|(k, v)| (k, k8s_openapi::ByteString(v.into_bytes()))).collect());
    secret
}

/// An authority and what it has signed for the resource, as they are kept, and the other Secret with the note of it.
fn signed() -> Observed {
    let pair = crate::authority::make("orders", NOW).unwrap();
    let authority = stored(build::authority(&with_tls(), &pair));
    let names = Purpose::Clients.names(&with_tls().identity, 3);
    let issued = Authority::of(&authority).unwrap().issue(&names, NOW).unwrap();
    let certificate = Some(stored(build::certificate(&with_tls(), Purpose::Clients, &issued, &pair.certificate)));
    let mut noted = secret();
    noted.annotations_mut().extend(notes(&with_tls()));
    let observed = observed(Some(noted), vec![claim("cassandra", 0, None)]);
    Observed { authority: Some(authority), certificate, ..observed }
}

#[test]
fn an_authority_is_made_for_a_database_without_one_and_noted() {
    let made = Kept {
        authority: SecretStep::Create,
        certificates: vec![(Purpose::Clients, Due::Missing)],
        secret: SecretStep::Create,
        ..Kept::default()
    };
    assert_eq!(judge(&with_tls(), &observed(None, vec![])), made);
    // switched on
    let on = judge(&with_tls(), &observed(Some(secret()), vec![claim("cassandra", 0, None)]));
    assert_eq!(on, Kept { secret: SecretStep::Record, ..made.clone() });
    assert_eq!(judge(&with_tls(), &signed()), Kept::default());
    // a crash before it was noted, and one before the certificate was made
    let mut unnoted = signed();
    unnoted.secret = Some(secret());
    assert_eq!(judge(&with_tls(), &unnoted), Kept { secret: SecretStep::Record, ..Kept::default() });
    let without = Observed { certificate: None, ..signed() };
    assert_eq!(
        judge(&with_tls(), &without),
        Kept { certificates: vec![(Purpose::Clients, Due::Missing)], ..Kept::default() }
    );
    // nobody needs one
    assert_eq!(judge(&validated(), &Observed { authority: None, certificate: None, ..signed() }), Kept::default());
}

/// Clients trust it: it is not made anew unless that is asked for; the database goes on as long as it has a certificate.
#[test]
fn a_lost_authority_is_not_made_anew() {
    for (certificate, blocked) in [(signed().certificate, false), (None, true)] {
        let kept = judge(&with_tls(), &Observed { authority: None, certificate, ..signed() });
        let (reason, message) = told(&kept);
        assert!(reason == Some(Reason::SecretLost) && kept.authority == SecretStep::Keep && kept.blocked == blocked);
        assert!(message.contains("Secret orders-authority is gone"), "{message}");
        assert!(message.contains("annotate secret orders-internal replicateddb.dev/authority-"), "{message}");
    }
    // as the remedy has it
    let asked = Observed { authority: None, secret: Some(secret()), ..signed() };
    let kept = judge(&with_tls(), &asked);
    assert!(kept.authority == SecretStep::Create && kept.secret == SecretStep::Record && !kept.blocked, "{kept:?}");
}

#[test]
fn an_authority_that_can_not_be_used_is_told() {
    let mut empty = signed().authority.unwrap();
    empty.data = None;
    for (certificate, blocked) in [(signed().certificate, false), (None, true)] {
        let kept = judge(&with_tls(), &Observed { authority: Some(empty.clone()), certificate, ..signed() });
        assert!(told(&kept).0 == Some(Reason::SecretInvalid) && kept.blocked == blocked, "{kept:?}");
        assert!(told(&kept).1.contains("Secret orders-authority has no tls.crt"), "{kept:?}");
    }
    for foreign in ["authority", "certificate"] {
        let mut observed = signed();
        let secret = if foreign == "authority" { &mut observed.authority } else { &mut observed.certificate };
        secret.as_mut().unwrap().metadata.labels = None;
        let kept = judge(&with_tls(), &observed);
        assert!(kept.blocked && told(&kept).0 == Some(Reason::NameConflict), "{kept:?}");
        let remedy = told(&kept).1.contains("set spec.tls.secretName to orders-certificate");
        assert_eq!(remedy, foreign == "certificate", "{kept:?}");
    }
    let late = Timestamp::constant(NOW.as_second() + 3_600 * 24 * 3_600, 0);
    let kept = super::judge(&with_tls(), &signed(), late);
    assert!(!kept.blocked && told(&kept).0 == Some(Reason::AuthorityEnds), "{kept:?}");
    assert!(!kept.certificates.is_empty(), "until then it signs");
}

/// What clients are to connect to and the certificate does not name.
#[test]
fn more_replicas_need_another_certificate() {
    let mut rdb = testing::resource("orders");
    (rdb.spec.tls.enabled, rdb.spec.replicas) = (true, 5);
    let kept = judge(&validate(&rdb, &testing::defaults("1")).unwrap(), &signed());
    let due = &kept.certificates[..];
    assert!(matches!(due, [(Purpose::Clients, Due::Refused { name, .. })] if name.contains("replica-3")), "{kept:?}");
    assert_eq!((kept.authority, kept.secret), (SecretStep::Keep, SecretStep::Keep));
}

/// Replicas and agents have a certificate of the same authority, whoever made the one that clients are shown.
#[test]
fn what_is_shown_inside_is_signed_by_the_authority() {
    let mut rdb = testing::resource("orders");
    (rdb.spec.tls.enabled, rdb.spec.tls.internal) = (true, true);
    let both = validate(&rdb, &testing::defaults("1")).unwrap();
    let missing = |purposes: &[Purpose]| purposes.iter().map(|purpose| (*purpose, Due::Missing)).collect::<Vec<_>>();
    let none = observed(None, vec![]);
    let kept = judge(&both, &none);
    assert_eq!(kept.certificates, missing(&[Purpose::Clients, Purpose::Peers]));
    assert_eq!(judge(&both, &signed()).certificates, missing(&[Purpose::Peers]), "switched on");
    rdb.spec.tls.enabled = false;
    let inside = validate(&rdb, &testing::defaults("1")).unwrap();
    assert_eq!(judge(&inside, &none).certificates, missing(&[Purpose::Peers]));
    let observed = signed();
    let whole = Authority::of(observed.authority.as_ref().unwrap()).unwrap();
    let issued = whole.issue(&Purpose::Peers.names(&inside.identity, 3), NOW).unwrap();
    let peers = Some(stored(build::certificate(&inside, Purpose::Peers, &issued, whole.certificate())));
    assert_eq!(judge(&inside, &Observed { peers, ..observed }), Kept::default());
}

/// What replicas keep in ZooKeeper is theirs by the token: another one would shut them out.
#[test]
fn a_lost_token_is_not_replaced_where_the_log_hangs_on_it() {
    let mut rdb = testing::resource("orders");
    rdb.spec.zookeeper.restricted = true;
    let restricted = validate(&rdb, &testing::defaults("1")).unwrap();
    assert_eq!(notes(&restricted).get(ANNOTATION_RESTRICTED).map(String::as_str), Some("true"));
    let claims = || vec![claim("zookeeper", 0, None)];
    assert!(!told(&judge(&restricted, &observed(None, claims()))).1.contains("openssl"));
    // also once it is switched off, by what is noted, and by what runs
    let mut short = secret();
    short.data = None;
    short.annotations_mut().extend(notes(&restricted));
    assert!(!told(&judge(&validated(), &observed(Some(short), claims()))).1.contains("openssl"));
    let stateful_sets = build::build(&restricted, &Default::default()).stateful_sets;
    let running = Observed { stateful_sets, ..observed(None, claims()) };
    assert!(!told(&judge(&validated(), &running)).1.contains("openssl"));
    assert!(told(&judge(&validated(), &observed(None, claims()))).1.contains("openssl"));
}

/// An earlier resource kept others away, and is gone with its pods, or its pods are: replicas that don't log in could never start.
#[test]
fn what_was_restricted_is_logged_in_to() {
    let mut rdb = testing::resource("orders");
    rdb.spec.zookeeper.restricted = true;
    let restricted = validate(&rdb, &testing::defaults("1")).unwrap();
    let told = |secret: Secret| {
        let log_closed = was_restricted(&observed(Some(secret), vec![claim("zookeeper", 0, None)]));
        let running = build::Running { log_closed, ..Default::default() };
        let sets = build::build(&validated(), &running).stateful_sets;
        let pods: Vec<_> = sets.iter().filter_map(|set| set.spec.as_ref()?.template.spec.as_ref()).collect();
        [ZOOKEEPER_TOKEN, build::ZOOKEEPER_OPEN].map(|variable| pods.iter().any(|pod| is_told(pod, variable)))
    };
    let mut noted = secret();
    noted.annotations_mut().extend(notes(&restricted));
    assert_eq!((told(noted), told(secret())), ([true; 2], [false; 2]));
}

/// The last pods that show it must be understood until they are replaced.
#[test]
fn what_is_shown_inside_is_looked_after_while_pods_show_it() {
    let mut rdb = testing::resource("orders");
    rdb.spec.tls.internal = true;
    let inside = validate(&rdb, &testing::defaults("1")).unwrap();
    let sets = build::build(&inside, &Default::default()).stateful_sets;
    let name = inside.identity.tier(Tier::Replica);
    let set = sets.into_iter().find(|set| set.name_any() == name).unwrap();
    let template = set.spec.unwrap().template;
    let pod = k8s_openapi::api::core::v1::Pod {
        metadata: ObjectMeta { name: Some(format!("{name}-0")), ..template.metadata.unwrap() },
        spec: template.spec,
        ..Default::default()
    };
    let off = Observed { peers: None, ..signed() };
    assert_eq!(judge(&validated(), &off).certificates, []);
    let showing = Observed { pods: vec![pod], ..off };
    assert_eq!(judge(&validated(), &showing).certificates, [(Purpose::Peers, Due::Missing)]);
}

/// Whatever was made would be refused again: what is in use stays, and nothing is written again and again.
#[test]
fn an_authority_whose_certificates_nobody_takes_signs_none() {
    let day = |day: i64| Timestamp::constant(NOW.as_second() + day * 24 * 3_600, 0);
    let ended = super::judge(&with_tls(), &signed(), day(3_651));
    assert!(ended.certificates.is_empty() && !ended.blocked, "{ended:?}");
    assert!(told(&ended).0 == Some(Reason::SecretInvalid), "{ended:?}");
    assert!(told(&ended).1.contains("Secret orders-certificate is left as it is"), "{ended:?}");
    let without = super::judge(&with_tls(), &Observed { certificate: None, ..signed() }, day(3_651));
    assert!(without.certificates.is_empty() && without.blocked, "no pod could start: {without:?}");
    // one that is held to other names
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let permitted_subtrees = vec![rcgen::GeneralSubtree::DnsName("example.com".to_owned())];
    params.name_constraints = Some(rcgen::NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    let pair = crate::authority::Pair { certificate, key: key.serialize_pem() };
    let authority = Some(stored(build::authority(&with_tls(), &pair)));
    let held = judge(&with_tls(), &Observed { authority, ..signed() });
    assert!(held.certificates.is_empty() && told(&held).0 == Some(Reason::SecretInvalid), "{held:?}");
}
