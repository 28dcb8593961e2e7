//! One replica as real processes, used through a driver as applications use it.

#![allow(clippy::unwrap_used, reason = "in a test a failure is a panic, in its helpers too")]

mod bed;

use bed::Bed;
use futures::TryStreamExt;
use scylla::{
    client::session::Session,
    errors::{DbError, ExecutionError, RequestAttemptError},
    statement::{
        Consistency, Statement,
        batch::{Batch, BatchType},
    },
    value::Counter,
};

/// Kind of the answer to a question for options.
const SUPPORTED: u8 = 6;

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_from_first_start_to_restart() -> Result<()> {
    from_first_start_to_restart("ZnodeLog").await.map(drop)
}

/// The same where a replica leads: it is alone, and does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_leads_from_first_start_to_restart() -> Result<()> {
    let bed = from_first_start_to_restart("ZooKeeperLeader").await?;
    let leader = bed.status().await.leader.expect("somebody leads");
    assert_eq!(leader.replica, 0);
    assert!(leader.epoch > 1, "it has led before");
    let metrics = reqwest::get(format!("http://{}/metrics", bed.admin())).await?.text().await?;
    for line in [format!("replicateddb_leader_epoch {}", leader.epoch), "replicateddb_leader_leads 1".to_owned()] {
        assert!(metrics.contains(&line), "{metrics}");
    }
    Ok(())
}

async fn from_first_start_to_restart(engine: &'static str) -> Result<Bed> {
    let mut bed = Bed::start(engine).await;
    let session = bed.session(Consistency::Quorum).await;
    statements(&session).await?;
    reads(&bed).await?;
    values_of_functions(&session).await?;
    batches(&session).await?;
    lists_and_counters(&session).await?;
    refusals(&session).await?;
    topology(&bed, &session).await?;
    drop(session);
    tools(&bed);
    zookeeper_away(&mut bed).await?;
    restart(&mut bed).await?;
    Ok(bed)
}

async fn run(session: &Session, text: &str) -> Result<()> {
    session.query_unpaged(text, ()).await.map(drop).map_err(|error| format!("{text}: {error}").into())
}

async fn number(session: &Session, text: &str) -> Result<i64> {
    Ok(session.query_unpaged(text, ()).await?.into_rows_result()?.single_row::<(i64,)>()?.0)
}

async fn statements(session: &Session) -> Result<()> {
    run(session, "CREATE KEYSPACE s WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 3}").await?;
    session.use_keyspace("s", false).await?;
    run(session, "CREATE TABLE t (p int, c int, v text, tags set<text>, l list<int>, PRIMARY KEY (p, c))").await?;
    let insert = session.prepare("INSERT INTO t (p, c, v, l) VALUES (?, ?, ?, ?)").await?;
    for c in 0..300 {
        session.execute_unpaged(&insert, (1, c, format!("v{c}"), vec![c, c])).await?;
    }
    run(session, "UPDATE s.t SET tags = tags + {'a', 'b'} WHERE p = 1 AND c = 7").await?;
    run(session, "DELETE FROM t WHERE p = 1 AND c >= 250").await?;
    run(session, "CREATE TABLE gone (k int PRIMARY KEY)").await?;
    run(session, "INSERT INTO gone (k) VALUES (1)").await?;
    run(session, "TRUNCATE gone").await?;
    assert_eq!(number(session, "SELECT count(*) FROM gone").await?, 0);
    run(session, "DROP TABLE gone").await?;
    run(session, "ALTER TABLE t ADD w int").await?;
    run(session, "UPDATE t SET w = 5 WHERE p = 1 AND c = 1").await
}

/// Pages, levels, and statements prepared and not.
async fn reads(bed: &Bed) -> Result<()> {
    use Consistency::{All, LocalOne, LocalSerial, One, Quorum, Serial};
    for level in [One, LocalOne, Quorum, All, Serial, LocalSerial] {
        let session = bed.session(level).await;
        let mut select = Statement::new("SELECT c, v FROM s.t WHERE p = ?");
        select.set_page_size(60);
        let rows = session.query_iter(select, (1,)).await?.rows_stream::<(i32, String)>()?;
        let rows: Vec<_> = rows.try_collect().await?;
        assert_eq!(rows.len(), 250, "at {level}");
        assert_eq!(rows[249], (249, "v249".to_owned()));
        let prepared = session.prepare("SELECT w, l FROM s.t WHERE p = ? AND c = ?").await?;
        let row = session.execute_unpaged(&prepared, (1, 1)).await?.into_rows_result()?;
        assert_eq!(row.single_row::<(Option<i32>, Vec<i32>)>()?, (Some(5), vec![1, 1]));
    }
    Ok(())
}

async fn values_of_functions(session: &Session) -> Result<()> {
    run(session, "CREATE TABLE f (k int PRIMARY KEY, a timeuuid, b uuid, d date)").await?;
    run(session, "INSERT INTO f (k, a, b, d) VALUES (1, now(), uuid(), current_date())").await?;
    let prepared = session.prepare("UPDATE f SET a = now(), b = uuid() WHERE k = ?").await?;
    for k in 2..5 {
        session.execute_unpaged(&prepared, (k,)).await?;
    }
    let rows = session.query_unpaged("SELECT b FROM f", ()).await?.into_rows_result()?;
    let values: std::collections::BTreeSet<_> =
        rows.rows::<(uuid::Uuid,)>()?.map(|row| row.map(|row| row.0)).collect::<Result<_, _>>()?;
    assert_eq!(values.len(), 4, "each call has a value of its own");
    Ok(())
}

async fn batches(session: &Session) -> Result<()> {
    let insert = session.prepare("INSERT INTO t (p, c, v) VALUES (?, ?, ?)").await?;
    let mut batch = Batch::default();
    batch.append_statement(insert);
    batch.append_statement("UPDATE s.t SET v = 'text' WHERE p = 9 AND c = 2");
    session.batch(&batch, ((9, 1, "prepared"), ())).await?;
    run(session, "BEGIN BATCH INSERT INTO t (p, c) VALUES (9, 3); INSERT INTO t (p, c) VALUES (9, 4); APPLY BATCH")
        .await?;
    assert_eq!(number(session, "SELECT count(*) FROM t WHERE p = 9").await?, 4);
    Ok(())
}

async fn lists_and_counters(session: &Session) -> Result<()> {
    run(session, "CREATE TABLE lists (k int PRIMARY KEY, l list<int>)").await?;
    let append = session.prepare("UPDATE lists SET l = l + ? WHERE k = 1").await?;
    for element in 0..5 {
        session.execute_unpaged(&append, (vec![element],)).await?;
    }
    for text in [
        "UPDATE lists SET l = [9, 8] + l WHERE k = 1",
        "UPDATE lists SET l[2] = 7 WHERE k = 1",
        "DELETE l[3] FROM lists WHERE k = 1",
        "UPDATE lists SET l = l - [4] WHERE k = 1",
    ] {
        run(session, text).await?;
    }
    let rows = session.query_unpaged("SELECT l FROM lists WHERE k = 1", ()).await?.into_rows_result()?;
    assert_eq!(rows.single_row::<(Vec<i32>,)>()?.0, [9, 8, 7, 2, 3]);

    run(session, "CREATE TABLE counts (k int PRIMARY KEY, n counter)").await?;
    let add = session.prepare("UPDATE counts SET n = n + ? WHERE k = ?").await?;
    for by in [Counter(5), Counter(-2)] {
        session.execute_unpaged(&add, (by, 1)).await?;
    }
    let mut batch = Batch::new(BatchType::Counter);
    batch.append_statement(add.clone());
    batch.append_statement("UPDATE counts SET n = n - 1 WHERE k = 1");
    session.batch(&batch, ((Counter(10), 2), ())).await?;
    run(session, "BEGIN COUNTER BATCH UPDATE counts SET n += 4 WHERE k = 2; APPLY BATCH").await?;
    for (k, want) in [(1, 2), (2, 14)] {
        let rows = session.query_unpaged("SELECT n FROM counts WHERE k = ?", (k,)).await?.into_rows_result()?;
        assert_eq!(rows.single_row::<(Counter,)>()?.0, Counter(want));
    }
    Ok(())
}

async fn refusals(session: &Session) -> Result<()> {
    let before = number(session, "SELECT count(*) FROM s.t").await?;
    for text in [
        "INSERT INTO t (p, c) VALUES (5, s.f(5)) IF NOT EXISTS",
        "UPDATE t SET v = 'x' WHERE p = 5 IF v = 'y'",
        "CREATE TRIGGER x ON t USING 'y'",
        "UPDATE t SET l[100] = 1 WHERE p = 1 AND c = 1",
        "UPDATE counts USING TTL 60 SET n = n + 1 WHERE k = 1",
        "CREATE ROLE r",
        "INSERT INTO system.local (key) VALUES ('x')",
        "INSERT INTO nothing (k) VALUES (1)",
        "INSERT INTO t (p, c, v VALUES",
        "gibberish",
    ] {
        let error = session.query_unpaged(text, ()).await.err().ok_or_else(|| format!("accepted: {text}"))?;
        let ExecutionError::LastAttemptError(RequestAttemptError::DbError(code, message)) = error else {
            return Err(format!("{text}: {error:?}").into());
        };
        assert!(matches!(code, DbError::Invalid | DbError::SyntaxError), "{text}: {code:?} {message}");
    }
    assert_eq!(number(session, "SELECT count(*) FROM s.t").await?, before, "a refused statement left a row");
    Ok(())
}

async fn topology(bed: &Bed, session: &Session) -> Result<()> {
    let local = "SELECT rpc_address, rpc_port, host_id, schema_version FROM system.local WHERE key = 'local'";
    let row = session.query_unpaged(local, ()).await?.into_rows_result()?;
    let (address, port, _, version) = row.single_row::<(std::net::IpAddr, i32, uuid::Uuid, uuid::Uuid)>()?;
    assert_eq!((address, port), (bed.cql().ip(), i32::from(bed.cql().port())));
    assert_eq!(version, bed.status().await.schema_version);
    assert_eq!(number(session, "SELECT count(*) FROM system.peers_v2").await?, 0);
    Ok(())
}

fn tools(bed: &Bed) {
    let admin = bed.admin().to_string();
    let verify = ["verify", "--replica", &admin];
    let refused = bed.tool(&verify);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("--internal-certificate"), "{text}");
    let internal = bed.internal();
    let verified = bed.tool(&verify.into_iter().chain(internal.iter().map(String::as_str)).collect::<Vec<_>>());
    let text = String::from_utf8_lossy(&verified.stdout);
    assert!(verified.status.success(), "{text}{}", String::from_utf8_lossy(&verified.stderr));
    assert!(text.contains("s.t "), "{text}");
    assert_ne!(bed.cassandra_in_plain(), Some(SUPPORTED), "Cassandra answers without TLS");
    let (connect, [flag, token]) = (bed.zookeeper.connect(), bed.token());
    let log = ["log", "--zookeeper", &connect];
    let refused = bed.tool(&log);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("ZooKeeper refuses access"), "{text}");
    let logged = bed.tool(&[&log[..], &[&flag, &token]].concat());
    let text = String::from_utf8_lossy(&logged.stdout);
    assert!(logged.status.success(), "{}", String::from_utf8_lossy(&logged.stderr));
    assert!(text.contains("ALTER TABLE t ADD w int") && text.contains("'v249'"), "{text}");
    assert!(!text.contains("s.f(5)"), "a refused statement is in the order");
    assert!(!text.contains("now()"), "a function is in the order instead of its value");
}

/// Writes fail in bounded time while the order can't be reached, and go on by themselves when it is back.
async fn zookeeper_away(bed: &mut Bed) -> Result<()> {
    let session = bed.session(Consistency::One).await;
    bed.zookeeper.kill();
    let asked = std::time::Instant::now();
    let error = session.query_unpaged("INSERT INTO s.t (p, c) VALUES (20, 1)", ()).await;
    assert!(error.is_err(), "acknowledged without the order");
    assert!(asked.elapsed().as_secs() < 60, "no answer for {:?}", asked.elapsed());
    assert_eq!(number(&session, "SELECT count(*) FROM s.t WHERE p = 9").await?, 4, "reads at ONE go on");
    bed.zookeeper.resume()?;
    let deadline = std::time::Instant::now() + bed::PATIENCE;
    while let Err(error) = session.query_unpaged("INSERT INTO s.t (p, c) VALUES (20, 2)", ()).await {
        assert!(std::time::Instant::now() < deadline, "{error}\n{}", bed.logs());
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    Ok(())
}

/// A graceful stop needs no rewind, and everything is there after it.
async fn restart(bed: &mut Bed) -> Result<()> {
    let session = bed.session(Consistency::Quorum).await;
    let before = number(&session, "SELECT count(*) FROM s.t").await?;
    drop(session);
    assert!(bed.stop_replica().await, "{}", bed.logs());
    bed.start_replica().await;
    let replay = bed.status().await.replay.expect("it has recovered");
    assert!(!replay.rewound, "{replay:?}\n{}", bed.logs());
    let session = bed.session(Consistency::Quorum).await;
    assert_eq!(number(&session, "SELECT count(*) FROM s.t").await?, before);
    Ok(())
}
