//! Schema statements that were judged by a schema that is another one when their turn comes: nobody executes them. Over a log
//! and stores in memory, in simulated time.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

mod model;

use model::cluster::Cluster;
use replicateddb_cql::response::parse_error;
use replicateddb_replica::record::Values;
use replicateddb_replica::replica::{Outcome, Request, RequestKind, StatementText};

fn create(table: &str) -> Request {
    let statements = vec![StatementText { text: format!("CREATE {table}"), values: Values::none() }];
    Request { kind: RequestKind::Ddl, keyspace: None, statements, flags: 0 }
}

fn is_done(outcome: &Outcome) -> bool {
    outcome.opcode == 8
}

fn tables(cluster: &Cluster) -> Vec<Vec<String>> {
    cluster.stores.iter().map(|store| store.data().tables.into_keys().collect()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_was_judged_by_another_schema_is_executed_nowhere() {
    let cluster = Cluster::new(21);
    for n in 0..3 {
        cluster.start(n);
    }
    cluster.settle_on(0..3).await;
    let (one, other) = (cluster.handle(0).unwrap(), cluster.handle(1).unwrap());
    let first = one.propose_judged(create("t0"), 0).await.unwrap();
    assert!(is_done(&first), "nothing was there");
    assert_eq!(one.schema_index(), first.index);

    // Judged, and then another replica's client comes first.
    let judged = one.schema_index();
    let second = other.propose(create("t1")).await.unwrap();
    assert!(is_done(&second));
    one.barrier().await.unwrap();
    let moved = one.propose_judged(create("t2"), judged).await.unwrap();
    assert!(!is_done(&moved), "t2 was judged without t1");
    let error = parse_error(&moved.body).unwrap();
    assert!(error.message.contains("nothing was done"), "{error:?}");

    // What changes nothing is no other schema: neither the one that was not executed, nor one that ends with an error.
    assert!(!is_done(&one.propose(create("t1")).await.unwrap()));
    assert_eq!(one.schema_index(), second.index);
    assert!(is_done(&one.propose_judged(create("t3"), second.index).await.unwrap()));
    drop((one, other));

    // I1, I10: the same on all replicas, and in a replay from the first record on.
    cluster.settle_on(0..3).await;
    assert_eq!(tables(&cluster), vec![vec!["t0", "t1", "t3"]; 3]);
    cluster.handles[2].lock().unwrap().take();
    cluster.stores[2].lose_volume();
    cluster.start(2);
    cluster.settle_on(0..3).await;
    assert_eq!(tables(&cluster), vec![vec!["t0", "t1", "t3"]; 3]);
}
