//! A store that takes over a restore point of another one: whole, checked, and whatever crashes meanwhile (I10).

#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod common;

use common::data::{TABLES, fill, restore_point};
use common::{Bed, dump, run};
use replicateddb_store::agent::faults;
use replicateddb_store::api::{Code, Rewind, Status};

/// The index of the restore point that is taken over.
const INDEX: u64 = 41;

/// A Cassandra with something of every kind in it and a restore point of that; what it looks like then.
async fn giver() -> (Bed, String) {
    let mut giver = Bed::new().await;
    giver.start_agent();
    giver.running().await;
    let session = giver.cql().await;
    fill(&session).await;
    restore_point(&giver.store(1), "given", INDEX).await;
    let state = dump(&session, &TABLES).await;
    // Of no interest to whoever takes the restore point.
    run(&session, &["INSERT INTO ks.plain (k, c, v) VALUES (1, 1, 'later')", "TRUNCATE ks2.other"]).await;
    (giver, state)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_point_of_another_store_comes_whole_or_not_at_all() {
    let (giver, state) = giver().await;
    let source = giver.url("");
    let mut taker = Bed::beside();
    taker.start_agent();
    taker.running().await;
    let taken = taker.store(2);
    let missing = taken.install(&source, "missing", false).await.unwrap_err();
    assert_eq!(missing.code(), Some(Code::Failed), "{missing}");
    assert!(missing.to_string().contains("no restore point missing"), "{missing}");
    assert!(taken.status().await.unwrap().restore_points.is_empty());

    // One byte of one file: it is noticed, named, and nothing of it is used.
    let damaged = giver.path("agent/restore-points/given/data");
    let victim = first_file(&damaged.join("ks")).unwrap();
    let whole = std::fs::read(&victim).unwrap();
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    // The tree's files are links of Cassandra's own: another file takes its place.
    replace(&victim, &changed);
    let error = taken.install(&source, "given", false).await.unwrap_err().to_string();
    assert!(error.contains("checksum") && error.contains(victim.file_name().unwrap().to_str().unwrap()), "{error}");
    assert!(taken.status().await.unwrap().restore_points.is_empty());
    replace(&victim, &whole);

    for fault in faults::INSTALL {
        taker.kill_agent().await;
        taker.start_agent_that_crashes_at(fault);
        taker.until("the agent answers", |_| true).await;
        assert!(taker.store(2).install(&source, "given", false).await.is_err(), "{fault}");
        taker.agent_ended().await;
        taker.start_agent();
        let status = taker.until("the agent answers", |_| true).await;
        let ids: Vec<_> = status.restore_points.iter().map(|point| point.id.as_str()).collect();
        assert_eq!(ids, if fault == "install-manifest-renamed" { vec!["given"] } else { vec![] }, "{fault}");
    }
    let taken = taker.store(2);
    taken.install(&source, "given", false).await.unwrap();
    let rewound = taken.rewind(Rewind::Latest).await.unwrap();
    assert_eq!(rewound.manifest.unwrap().mark.index, INDEX);
    assert_eq!(dump(&taker.cql().await, &TABLES).await, state);
    assert!(!taker.path("agent/staging").exists());

    // It is a Cassandra like any other: it makes restore points of its own and comes back to them.
    let session = taker.cql().await;
    run(&session, &["INSERT INTO ks.plain (k, c, v) VALUES (900, 1, 'here')"]).await;
    restore_point(&taken, "own", INDEX + 1).await;
    let own = dump(&session, &TABLES).await;
    drop(session);
    taken.rewind(Rewind::Latest).await.unwrap();
    assert_eq!(dump(&taker.cql().await, &TABLES).await, own);

    restore_point(&giver.store(1), "again", INDEX + 2).await;
    replaced(&mut taker, &source, "again").await;
}

/// In place of all that are there, for a store that can't be trusted: until then nothing of it is used.
async fn replaced(taker: &mut Bed, source: &str, id: &str) {
    let ids = |status: &Status| status.restore_points.iter().map(|point| point.id.clone()).collect::<Vec<_>>();
    taker.store(2).distrust("it differs").await.unwrap();
    taker.kill_agent().await;
    taker.start_agent_that_crashes_at(faults::REPLACE);
    let status = taker.until("the agent answers", |_| true).await;
    assert_eq!((status.distrusted.as_deref(), status.clean.is_none()), (Some("it differs"), true));
    assert!(ids(&status).len() == 2 && taker.store(2).restore_points_of(&taker.url("")).await.unwrap().is_empty());
    for call in [taker.store(2).rewind(Rewind::Latest).await.err(), taker.store(2).start().await.err()] {
        assert!(matches!(call.unwrap().code(), Some(Code::Distrusted | Code::Dirty)));
    }
    assert!(taker.store(2).install(source, id, true).await.is_err());
    taker.agent_ended().await;
    taker.start_agent();
    let status = taker.until("the agent answers", |_| true).await;
    assert_eq!((status.distrusted.as_deref(), ids(&status)), (Some("it differs"), vec![id.to_owned()]));
    taker.store(2).install(source, id, true).await.unwrap();
    let status = taker.store(2).status().await.unwrap();
    assert_eq!((status.distrusted.as_deref(), ids(&status)), (None, vec![id.to_owned()]));
    assert_eq!(taker.store(2).rewind(Rewind::Latest).await.unwrap().manifest.unwrap().id, id);

    taker.store(2).distrust("it differs again").await.unwrap();
    assert_eq!(taker.store(2).rewind(Rewind::Empty).await.unwrap().manifest, None);
    let status = taker.store(2).status().await.unwrap();
    assert!(status.distrusted.is_none() && status.restore_points.is_empty());
}

/// Some file with rows below a folder.
fn first_file(folder: &std::path::Path) -> Option<std::path::PathBuf> {
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries.into_iter().find_map(|path| match path.is_dir() {
        true => first_file(&path),
        false => path.to_str().unwrap().ends_with("Data.db").then_some(path),
    })
}

fn replace(path: &std::path::Path, content: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, content).unwrap();
}
