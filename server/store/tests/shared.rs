//! A Cassandra that several replicas share: kept up, and nobody's.

#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod common;

use common::{Bed, lines, lives, mark, run, signal_pid};
use nix::sys::signal::Signal::{SIGKILL, SIGTERM};
use replicateddb_store::api::{Code, Jvm, Rewind, Status};
use replicateddb_store::client::StoreError;
use replicateddb_store::generation;

const KEYSPACE: &str =
    "CREATE KEYSPACE replica_0 WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}";
const ROWS: &str = "SELECT JSON k FROM replica_0.t";

fn refused<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    let error = result.unwrap_err();
    assert_eq!(error.code(), Some(Code::SharedMode));
    assert!(error.to_string().contains("shared mode") && error.to_string().contains("--keyspace"), "{error}");
}

async fn running_after(bed: &Bed, generation: u64) -> Status {
    bed.until("Cassandra was started again", |status| status.jvm == Jvm::Running && status.generation > generation)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_cassandra_is_kept_up_and_is_nobodys() {
    let mut bed = Bed::new().await;
    bed.start_agent_with(&["--shared"]);
    let first = bed.running().await;
    assert!(first.shared && first.clean.is_none() && first.log_id.is_none(), "{first:?}");
    assert!(reqwest::get(bed.url("/readyz")).await.unwrap().status().is_success());
    assert!(reqwest::get(bed.url("/livez")).await.unwrap().status().is_success());
    let session = bed.cql().await;
    let shown = lines(&session, generation::QUERY).await;
    assert_eq!(generation::parse(shown[0].as_bytes()), Some(first.generation));
    let compaction = "SELECT value FROM system_views.settings WHERE name = 'autocompaction_on_startup_enabled'";
    assert_eq!(lines(&session, compaction).await, ["true"]);

    let store = bed.store(10);
    refused(store.claim().await);
    refused(store.start().await);
    refused(store.rewind(Rewind::Empty).await);
    refused(store.flush().await);
    refused(store.snapshot("a", first.generation, None).await);
    refused(store.commit("a", mark(1)).await);
    refused(store.abort("a").await);
    refused(store.mark_clean(first.generation, mark(1)).await);
    refused(store.clear_clean().await);
    refused(store.autocompaction(false, None).await);
    refused(store.cassandra_now().await);
    assert_eq!(store.status().await.unwrap(), first);

    run(&session, &[KEYSPACE, "CREATE TABLE replica_0.t (k int PRIMARY KEY)"]).await;
    run(&session, &["INSERT INTO replica_0.t (k) VALUES (1)"]).await;
    drop(session);
    signal_pid(first.jvm_pid.unwrap(), SIGKILL);
    let second = running_after(&bed, first.generation).await;
    // Periodic commit log: the row may be gone, the table is not.
    run(&bed.cql().await, &["INSERT INTO replica_0.t (k) VALUES (1)"]).await;

    bed.signal_agent(SIGTERM);
    assert!(bed.agent_ended().await.success());
    assert!(!lives(second.jvm_pid.unwrap()));
    assert!(bed.whole_log().contains("DRAINED"), "{}", bed.log());

    // Its data are not another mode's.
    bed.start_agent();
    assert!(!bed.agent_ended().await.success());
    assert!(bed.whole_log().contains("made for a shared Cassandra"), "{}", bed.log());

    // What was drained is there, also when the agent itself is killed afterwards.
    bed.start_agent_with(&["--shared"]);
    let third = running_after(&bed, second.generation).await;
    assert_eq!(lines(&bed.cql().await, ROWS).await, ["{\"k\": 1}"]);
    bed.kill_agent().await;
    bed.start_agent_with(&["--shared"]);
    running_after(&bed, third.generation).await;
    assert_eq!(lines(&bed.cql().await, ROWS).await, ["{\"k\": 1}"]);
}
