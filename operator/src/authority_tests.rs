//! An authority and what it signs, with clocks of the tests'.

use super::*;
use k8s_openapi::ByteString;

fn at(day: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + day * DAY).unwrap()
}

fn secret(pair: &Pair, authority: &str) -> Secret {
    let data =
        [(CERTIFICATE_KEY, &pair.certificate), (PRIVATE_KEY_KEY, &pair.key), (AUTHORITIES_KEY, &authority.into())];
    let data = data.map(|(key, value)| (key.to_owned(), ByteString(value.clone().into_bytes())));
    Secret { data: Some(data.into()), ..Default::default() }
}

fn authority(day: i64) -> (Authority, Secret) {
    let pair = make("orders", at(day)).unwrap();
    let secret = secret(&pair, &pair.certificate);
    (Authority::of(&secret).unwrap(), secret)
}

fn issued(authority: &Authority, names: &[String], day: i64) -> Secret {
    secret(&authority.issue(names, at(day)).unwrap(), authority.certificate())
}

fn identity() -> Identity {
    Identity { name: "orders".into(), namespace: "shop".into(), uid: "u".into() }
}

#[test]
fn what_clients_connect_to_is_named() {
    let names = names(&identity(), 2);
    for name in [
        "orders",
        "orders.shop",
        "orders.shop.svc",
        "orders.shop.svc.cluster.local",
        "orders-replica-nodes.shop.svc",
        "orders-replica-1.orders-replica-nodes.shop.svc",
        "localhost",
        "127.0.0.1",
        "::1",
    ] {
        assert!(names.iter().any(|named| named == name), "{name}: {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("replica-2")), "{names:?}");
}

/// A certificate is made for all names, taken by clients that trust the authority, and stays until two thirds of its life are over.
#[test]
fn a_certificate_is_renewed_before_it_ends() {
    let (authority, _) = authority(0);
    let names = names(&identity(), 3);
    assert_eq!(authority.due(None, &names, at(0)), Some(Due::Missing));
    let held = issued(&authority, &names, 0);
    for day in [0, 1, 59] {
        assert_eq!(authority.due(Some(&held), &names, at(day)), None, "day {day}");
    }
    for day in [60, 89] {
        assert_eq!(authority.due(Some(&held), &names, at(day)), Some(Due::Old), "day {day}");
    }
    assert!(matches!(authority.due(Some(&held), &names, at(91)), Some(Due::Refused { .. })), "it has ended");
    assert_eq!(authority.due(Some(&issued(&authority, &names, 60)), &names, at(60)), None);
}

#[test]
fn a_certificate_for_fewer_names_is_made_anew_and_one_for_more_stays() {
    let (authority, _) = authority(0);
    let held = issued(&authority, &names(&identity(), 3), 0);
    assert_eq!(authority.due(Some(&held), &names(&identity(), 2), at(1)), None);
    let Some(Due::Refused { name, .. }) = authority.due(Some(&held), &names(&identity(), 4), at(1)) else {
        panic!("it does not name the fourth");
    };
    assert!(name.starts_with("orders-replica-3."), "{name}");
}

#[test]
fn what_is_damaged_or_of_another_authority_is_made_anew() {
    let (ours, _) = authority(0);
    let (other, _) = authority(0);
    let names = names(&identity(), 1);
    let held = issued(&ours, &names, 0);
    assert_eq!(other.due(Some(&held), &names, at(0)), Some(Due::Damaged), "its ca.crt is another");
    let foreign = secret(&ours.issue(&names, at(0)).unwrap(), other.certificate());
    assert!(matches!(other.due(Some(&foreign), &names, at(0)), Some(Due::Refused { .. })), "it is signed by another");
    let (a, b) = (ours.issue(&names, at(0)).unwrap(), ours.issue(&names, at(0)).unwrap());
    let mixed = Pair { certificate: a.certificate, key: b.key };
    assert_eq!(ours.due(Some(&secret(&mixed, ours.certificate())), &names, at(0)), Some(Due::Damaged));
    for key in [CERTIFICATE_KEY, PRIVATE_KEY_KEY, AUTHORITIES_KEY] {
        let mut held = held.clone();
        held.data.as_mut().unwrap().insert(key.to_owned(), ByteString(b"none".to_vec()));
        assert_eq!(ours.due(Some(&held), &names, at(0)), Some(Due::Damaged), "{key}");
    }
}

/// What an old authority signs ends with it, is not made anew for ever shorter times, and the user is told in time.
#[test]
fn nothing_outlives_the_authority() {
    let (authority, _) = authority(0);
    let names = names(&identity(), 1);
    assert_eq!(authority.ends_soon(at(3_650 - 90)), None);
    assert_eq!(authority.ends_soon(at(3_650 - 89)), Some(at(3_650)));
    let last = issued(&authority, &names, 3_650 - 30);
    for day in [3_650 - 30, 3_650 - 9, 3_650 - 1] {
        assert_eq!(authority.due(Some(&last), &names, at(day)), None, "day {day}");
    }
}

#[test]
fn what_is_no_authority_is_told_and_nothing_of_a_key() {
    let (ours, whole) = authority(0);
    let with = |key: &str, value: &str| {
        let mut changed = whole.clone();
        changed.data.as_mut().unwrap().insert(key.to_owned(), ByteString(value.as_bytes().to_vec()));
        Authority::of(&changed).err()
    };
    assert_eq!(with(CERTIFICATE_KEY, "none"), Some(Unusable::NoCertificate));
    assert_eq!(with(PRIVATE_KEY_KEY, "hunter2"), Some(Unusable::NoKey));
    assert_eq!(with(PRIVATE_KEY_KEY, &make("orders", at(0)).unwrap().key), Some(Unusable::OtherKey));
    let leaf = ours.issue(&["orders".to_owned()], at(0)).unwrap();
    assert_eq!(Authority::of(&secret(&leaf, "")).err(), Some(Unusable::NotAnAuthority));
    assert!(!Unusable::NoKey.to_string().contains("hunter2"));
}
