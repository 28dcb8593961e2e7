//! Replicas that were replaced or are gone, and the linearizable reads of the others.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

mod model;

use std::collections::BTreeSet;
use std::time::Duration;

use model::cluster::Cluster;
use model::replaced::{OFFSETS, quick_read, slow_read};

const LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// I4. `tests/mutations.rs` shows that either notices the mistake that it is for.
#[test]
fn what_a_replaced_replica_shows_last_is_seen_by_all_later() {
    assert!(OFFSETS.filter(|at| quick_read(*at)).count() > 0, "it never shows anything: not the case in point");
    assert_eq!(OFFSETS.filter(|at| slow_read(*at)).count(), 0, "it was replaced long before");
}

/// Reads until they no longer go through the log.
async fn until_asked(cluster: &Cluster) {
    let (before, handle) = (cluster.asked(), cluster.handle(0).unwrap());
    let asking = async {
        while cluster.asked() == before {
            handle.barrier().await.unwrap();
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(LIMIT, asking).await.expect("reads go through the log");
}

/// One that is gone, and has not said so, is asked in vain no longer than it takes to be sure; I6: if it was only away, it
/// begins anew.
#[tokio::test(start_paused = true)]
async fn who_is_gone_is_asked_no_longer() {
    for is_away in [false, true] {
        let cluster = Cluster::new(3);
        for n in 0..3 {
            cluster.start(n);
        }
        cluster.settle_on(0..3).await;
        until_asked(&cluster).await;
        let life = cluster.life(2).unwrap();
        let (gone, mut old) = (tokio::time::Instant::now(), None);
        match is_away {
            true => {
                old = cluster.handle(2);
                cluster.cut_off(2);
            }
            false => drop(cluster.handles[2].lock().unwrap().take()),
        }
        let ended = async {
            while cluster.log.living().contains(&life) {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(LIMIT, ended).await.expect("it is taken for gone");
        // Fifteen seconds from its last sign of life.
        assert!(gone.elapsed() > Duration::from_secs(13), "in haste: {:?}", gone.elapsed());
        until_asked(&cluster).await;
        if let Some(handle) = old {
            cluster.log.cut_off(BTreeSet::new());
            assert!(handle.finished().await.contains("took it for gone"));
        }
        cluster.start(2);
        cluster.settle_on(0..3).await;
        until_asked(&cluster).await;
    }
}
