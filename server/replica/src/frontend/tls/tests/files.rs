//! Files at start and while they are replaced.

use tokio::time::{pause, resume, sleep};

use super::*;
use crate::{
    frontend::{
        limits::{TLS_SETTLE, TLS_START_PAUSE, TLS_START_TRIES},
        tls::keep::complaint,
    },
    tls::files::Validity,
};

#[tokio::test]
async fn new_files_are_for_new_connections_and_bad_ones_for_none() {
    let place = Place::new();
    let (bed, tls, mut keeper) = place.serve(None, false).await;
    let connector = place.connector(&TLS13, None);
    let mut open = secure(&bed, &connector).await.unwrap();
    open.start().await;
    let first = shown(&bed, &connector).await;
    let second = place.authority.issue(false);
    place.put(&second);
    assert_eq!(shown(&bed, &connector).await, first, "not looked at yet");
    keeper.look().await;
    let current = shown(&bed, &connector).await;
    assert_ne!(current, first);
    assert_eq!(open.query(SELECT, Consistency::One).await.opcode, Opcode::Result, "what is open goes on");
    let other = place.authority.issue(false);
    let half = |text: &str| text[..text.len() / 2].to_owned();
    for (certificate, key) in [
        (other.certificate.clone(), second.key.clone()),
        (half(&other.certificate), other.key.clone()),
        (other.certificate.clone(), half(&other.key)),
        ("garbage".to_owned(), "garbage".to_owned()),
        (other.certificate.clone(), String::new()),
    ] {
        place.put(&Pair { certificate, key });
        keeper.look().await;
        assert_eq!((shown(&bed, &connector).await, tls.metrics.files_unusable.get()), (current.clone(), 1));
    }
    std::fs::remove_file(place.path("k.pem")).unwrap();
    keeper.look().await;
    assert_eq!((shown(&bed, &connector).await, tls.metrics.files_unusable.get()), (current.clone(), 1));
    place.put(&other);
    keeper.look().await;
    assert_eq!(tls.metrics.files_unusable.get(), 0);
    assert_ne!(shown(&bed, &connector).await, current);
}

#[tokio::test]
async fn an_expired_certificate_is_complained_of_and_used() {
    let place = Place::new();
    place.put(&place.authority.issue(true));
    let (_bed, tls, mut keeper) = place.serve(None, false).await;
    // 2000-12-31, midnight.
    assert_eq!(tls.metrics.certificate_expiry.get(), 978_220_800);
    let good = place.authority.issue(false);
    place.put(&good);
    keeper.look().await;
    assert!(tls.metrics.certificate_expiry.get() > 4_000_000_000);
    // One that is between it and its authority.
    place.write("c.pem", &(good.certificate + &place.authority.issue(true).certificate));
    keeper.look().await;
    assert_eq!((tls.metrics.certificate_expiry.get(), tls.metrics.files_unusable.get()), (978_220_800, 0));
    let validity = Validity { not_before: 946_684_800, not_after: 978_220_800 };
    let expired = complaint(validity, 978_220_801).unwrap();
    assert!(expired.contains("has expired at 2000-12-31T00:00:00Z"), "{expired}");
    let early = complaint(validity, 946_684_799).unwrap();
    assert!(early.contains("not valid before 2000-01-01T00:00:00Z"), "{early}");
    assert_eq!((complaint(validity, 946_684_800), complaint(validity, 978_220_800)), (None, None));
}

#[tokio::test]
async fn what_can_not_be_used_at_start_is_named() {
    let place = Place::new();
    let (tls, _keeper) = place.open(None, false).await;
    let said = format!("{tls:?}");
    assert!(said.contains("c.pem") && !said.contains("ServerConfig"), "{said}");
    let files = Files::new(&place.path("c.pem"), &place.path("k.pem"), Some(&place.path("a.pem")));
    let refused = async |what: &str| {
        let error = Tls::open(files.clone(), false).await.err().expect("an error").to_string();
        assert!(error.contains(what), "{error}");
    };
    refused("--tls-client-ca").await;
    place.write("a.pem", &place.authority.pem());
    place.write("k.pem", &place.authority.issue(false).key);
    refused("is not the key of --tls-certificate").await;
    place.write("c.pem", "");
    refused("holds no certificate").await;
}

/// The clock goes on by itself whenever all wait, so that what is written comes between two looks.
#[tokio::test]
async fn a_chain_that_is_being_written_is_not_taken_before_its_end() {
    let place = Place::new();
    let (bed, tls, mut keeper) = place.serve(None, false).await;
    let connector = place.connector(&TLS13, None);
    let (first, second) = (shown(&bed, &connector).await, place.authority.issue(false));
    place.put(&second);
    let rest = async {
        sleep(TLS_SETTLE / 2).await;
        place.write("c.pem", &(second.certificate + &place.authority.pem()));
    };
    pause();
    tokio::join!(keeper.look(), rest);
    resume();
    assert_eq!((shown(&bed, &connector).await, tls.metrics.files_unusable.get()), (first.clone(), 0));
    keeper.look().await;
    assert_ne!(shown(&bed, &connector).await, first);
}

#[tokio::test(start_paused = true)]
async fn a_start_while_files_are_replaced_waits_for_the_rest_of_them() {
    let place = Place::new();
    let files = Files::new(&place.path("c.pem"), &place.path("k.pem"), None);
    let pair = place.authority.issue(false);
    place.write("k.pem", &pair.key);
    let rest = async {
        sleep(TLS_START_PAUSE / 2).await;
        place.write("c.pem", &pair.certificate);
    };
    let (opened, ()) = tokio::join!(Tls::open(files.clone(), false), rest);
    assert!(opened.is_ok());
    // Without an end.
    let begin = tokio::time::Instant::now();
    let endless = async {
        for n in 0.. {
            place.write("k.pem", &n.to_string());
            sleep(TLS_START_PAUSE / 2).await;
        }
    };
    let error = tokio::select! {
        opened = Tls::open(files, false) => opened.err().expect("an error"),
        () = endless => unreachable!("it has no end"),
    };
    assert!(error.to_string().contains("--tls-key"), "{error}");
    assert!(
        begin.elapsed() <= TLS_START_PAUSE * (u32::try_from(TLS_START_TRIES).unwrap() + 1),
        "{:?}",
        begin.elapsed()
    );
}

#[tokio::test]
async fn clients_of_an_authority_that_was_taken_out_come_in_no_more() {
    let (place, old, new) = (Place::new(), Authority::new("old"), Authority::new("new"));
    let (bed, tls, mut keeper) = place.serve(Some(&old), false).await;
    let of = |authority: &Authority| {
        let pair = authority.issue(false);
        [&TLS12, &TLS13].map(|version| place.connector(version, Some(&pair)))
    };
    // They were here before, and may have something to go on with.
    let (before, after) = (of(&old), of(&new));
    for connector in &before {
        assert!(is_served(&bed, connector).await);
    }
    place.write("a.pem", &new.pem());
    keeper.look().await;
    for connector in &before {
        assert!(!is_served(&bed, connector).await);
    }
    until(|| tls.metrics.failures(Failure::BadCertificate) == 2).await;
    for connector in &after {
        assert!(is_served(&bed, connector).await);
    }
}
