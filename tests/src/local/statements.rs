//! What clients do on a quiet day: statements of all kinds through every replica, and what is refused.

use anyhow::{Result, ensure};
use futures::TryStreamExt;
use replicateddb_local::{Member, Target};
use scylla::statement::{
    Consistency,
    batch::{Batch, BatchType},
};

use super::{Local, REPLICAS, faults::wait_generation, number, refused, text};
use crate::scenario::Scenario;

pub fn scenarios() -> Vec<Scenario<Local>> {
    vec![
        Scenario {
            name: "statements",
            proves: "DDL, writes, batches, prepared statements and paging through every replica",
            run: statements,
        },
        Scenario {
            name: "snapshots",
            proves: "a scan at QUORUM or SERIAL never shows a write without those acknowledged before it",
            run: snapshots,
        },
        Scenario { name: "values", proves: "now(), uuid() and the like become the same value everywhere", run: values },
        Scenario {
            name: "large",
            proves: "values as large as Cassandra takes them are written through every replica at once, and replayed",
            run: large,
        },
        Scenario {
            name: "refusals",
            proves: "what is not right yet is refused with a reason and changes nothing",
            run: refusals,
        },
    ]
}

const KEYSPACE: &str = "WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 3}";

/// DDL, and writes of most kinds, through each replica, read through each.
pub(super) fn statements(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        for replica in 0..REPLICAS {
            let session = local.session(replica, Consistency::Quorum).await?;
            let table = local.table(&format!("s{replica}"), "t");
            local.make_keyspace(&session, &format!("s{replica}")).await?;
            session
                .query_unpaged(
                    format!("CREATE TABLE {table} (p int, c int, v text, s set<int>, PRIMARY KEY (p, c))"),
                    (),
                )
                .await?;
            let insert = session.prepare(format!("INSERT INTO {table} (p, c, v) VALUES (?, ?, ?)")).await?;
            for c in 0..250 {
                session.execute_unpaged(&insert, (replica as i32, c, format!("v{c}"))).await?;
            }
            session
                .query_unpaged(format!("UPDATE {table} SET s = s + {{1, 2}} WHERE p = {replica} AND c = 1"), ())
                .await?;
            session.query_unpaged(format!("DELETE FROM {table} WHERE p = {replica} AND c >= 200"), ()).await?;
            let mut batch = Batch::default();
            batch.append_statement(insert.clone());
            batch.append_statement(format!("UPDATE {table} SET v = 'batched' WHERE p = 7 AND c = 7").as_str());
            session.batch(&batch, ((replica as i32, 1000, "by batch"), ())).await?;
        }
        for reader in 0..REPLICAS {
            let session = local.session(reader, Consistency::Quorum).await?;
            for replica in 0..REPLICAS {
                let table = local.table(&format!("s{replica}"), "t");
                let mut statement = scylla::statement::Statement::new(format!("SELECT c, v FROM {table} WHERE p = ?"));
                statement.set_page_size(60);
                let rows = session.query_iter(statement, (replica as i32,)).await?.rows_stream::<(i32, String)>()?;
                let rows: Vec<_> = rows.try_collect().await?;
                ensure!(rows.len() == 201, "replica-{reader} pages {} rows of s{replica}", rows.len());
                let batched = text(&session, &format!("SELECT v FROM {table} WHERE p = 7 AND c = 7")).await?;
                ensure!(batched.as_deref() == Some("batched"), "{batched:?}");
            }
        }
        anyhow::Ok(())
    })?;
    local.verify()
}

/// Pairs of rows that the scenario `snapshots` writes, one row after the other.
const PAIRS: i32 = 400;

/// One writer writes row 2i, then row 2i + 1, through one replica; readers scan through the others meanwhile.
fn snapshots(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let writer = local.session(0, Consistency::Quorum).await?;
        writer.query_unpaged(format!("CREATE KEYSPACE snap {KEYSPACE}"), ()).await?;
        writer.query_unpaged("CREATE TABLE snap.t (id int PRIMARY KEY)", ()).await?;
        let insert = writer.prepare("INSERT INTO snap.t (id) VALUES (?)").await?;
        let written = std::sync::atomic::AtomicBool::new(false);
        let write = async {
            for id in 0..2 * PAIRS {
                writer.execute_unpaged(&insert, (id,)).await?;
            }
            written.store(true, std::sync::atomic::Ordering::Release);
            anyhow::Ok(())
        };
        let read = async |replica, level| {
            let session = local.session(replica, level).await?;
            let mut scans = 0;
            while !written.load(std::sync::atomic::Ordering::Acquire) {
                let rows = session.query_unpaged("SELECT id FROM snap.t", ()).await?.into_rows_result()?;
                let ids = rows.rows::<(i32,)>()?.map(|row| Ok(row?.0));
                let ids: std::collections::BTreeSet<i32> = ids.collect::<Result<_>>()?;
                let torn = ids.iter().find(|id| *id % 2 == 1 && !ids.contains(&(*id - 1)));
                ensure!(torn.is_none(), "replica-{replica} at {level} shows {torn:?} without the row before it");
                scans += 1;
            }
            anyhow::Ok(scans)
        };
        let (_, first, second) = futures::try_join!(write, read(1, Consistency::Quorum), read(2, Consistency::Serial))?;
        ensure!(first > 5 && second > 5, "only {first} and {second} scans ran beside the writes");
        println!("    {first} scans at QUORUM, {second} at SERIAL beside {PAIRS} pairs of writes");
        anyhow::Ok(())
    })
}

/// The bytes of large values: a message has 16 MiB at most.
const LARGE: [usize; 3] = [15 << 20, 11 << 20, 6 << 20];

/// Each through its own replica, all at the same time; then a Cassandra is killed and replays them.
fn large(local: &mut Local) -> Result<()> {
    let value = |replica: usize| (b'a' + replica as u8) as char;
    local.runtime.block_on(async {
        let first = local.session(0, Consistency::Quorum).await?;
        first.query_unpaged(format!("CREATE KEYSPACE large {KEYSPACE}"), ()).await?;
        first.query_unpaged("CREATE TABLE large.t (id int PRIMARY KEY, v text)", ()).await?;
        let write = async |replica: usize| {
            let session = local.session(replica as u8, Consistency::Quorum).await?;
            let text = String::from(value(replica)).repeat(LARGE[replica]);
            session.query_unpaged("INSERT INTO large.t (id, v) VALUES (?, ?)", (replica as i32, text)).await?;
            anyhow::Ok(())
        };
        futures::try_join!(write(0), write(1), write(2))?;
        let beyond = "x".repeat(17 << 20);
        let answer = first.query_unpaged("INSERT INTO large.t (id, v) VALUES (9, ?)", (beyond,)).await;
        ensure!(answer.is_err(), "a value of 17 MiB was accepted");
        anyhow::Ok(())
    })?;
    local.runtime.block_on(async {
        let before = local.status(1).await?["generation"].as_u64();
        local.stack.kill(Member::Cassandra(1), Target::Jvm).await?;
        wait_generation(local, 1, before).await?;
        local.wait_ready().await?;
        for reader in 0..REPLICAS {
            let session = local.session(reader, Consistency::Quorum).await?;
            for (id, bytes) in LARGE.into_iter().enumerate() {
                let read = text(&session, &format!("SELECT v FROM large.t WHERE id = {id}")).await?;
                let whole =
                    read.as_ref().is_some_and(|text| text.len() == bytes && text.chars().all(|c| c == value(id)));
                ensure!(whole, "replica-{reader} reads {:?} bytes of value {id}", read.map(|text| text.len()));
            }
        }
        anyhow::Ok(())
    })?;
    local.verify()
}

fn values(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let session = local.session(1, Consistency::Quorum).await?;
        session.query_unpaged(format!("CREATE KEYSPACE nondet {KEYSPACE}"), ()).await?;
        session
            .query_unpaged("CREATE TABLE nondet.t (id int PRIMARY KEY, a timeuuid, b uuid, c timestamp)", ())
            .await?;
        session
            .query_unpaged("INSERT INTO nondet.t (id, a, b, c) VALUES (1, now(), uuid(), toTimestamp(now()))", ())
            .await?;
        let prepared = session.prepare("UPDATE nondet.t SET a = now(), c = currentTimestamp() WHERE id = ?").await?;
        session.execute_unpaged(&prepared, (2,)).await?;
        anyhow::Ok(())
    })?;
    local.verify()
}

/// Words of the reason for a logged batch of counters; Cassandra's own.
const LOGGED_COUNTERS: &str = "Cannot include a counter statement in a logged batch";

/// Statements that are refused, and words of the reason.
const REFUSED: [(&str, &str); 9] = [
    ("CREATE TRIGGER x ON no.t USING 'y'", "triggers are not supported"),
    ("INSERT INTO no.t (id, v) VALUES (1, no.f('x')) IF NOT EXISTS", "no.f is no function of Cassandra's own"),
    ("UPDATE no.t SET l[5] = 1 WHERE id = 1", "list"),
    (
        "CREATE ROLE r WITH LOGIN = true AND PASSWORD = 'secret'",
        "there are roles and permissions only where clients log in",
    ),
    ("INSERT INTO system.local (key) VALUES ('local')", "belongs to Cassandra"),
    ("INSERT INTO no.nothing (id) VALUES (1)", "table nothing does not exist"),
    ("INSERT INTO nowhere.t (id) VALUES (1)", "keyspace nowhere does not exist"),
    ("INSERT INTO no.t (id, v VALUES", "syntax"),
    ("BEGIN BATCH UPDATE no.n SET c = c + 1 WHERE id = 1; APPLY BATCH", LOGGED_COUNTERS),
];

fn refusals(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let session = local.session(2, Consistency::Quorum).await?;
        session.query_unpaged(format!("CREATE KEYSPACE no {KEYSPACE}"), ()).await?;
        session.query_unpaged("CREATE TABLE no.t (id int PRIMARY KEY, v text, l list<int>)", ()).await?;
        session.query_unpaged("CREATE TABLE no.n (id int PRIMARY KEY, c counter)", ()).await?;
        let before = number(&session, "SELECT count(*) FROM no.t").await?;
        for (statement, why) in REFUSED {
            let reason = refused(&session, statement).await?;
            println!("    {statement}\n      -> {reason}");
            ensure!(reason.contains(why), "the reason does not say {why:?}: {reason}");
        }
        for (kind, taken) in [(BatchType::Logged, false), (BatchType::Unlogged, true), (BatchType::Counter, true)] {
            let mut counters = Batch::new(kind);
            counters.append_statement("UPDATE no.n SET c = c + 1 WHERE id = 2");
            let answer = session.batch(&counters, ((),)).await.map(drop).map_err(|error| error.to_string());
            let expected = answer.as_ref().map_or_else(|error| !taken && error.contains(LOGGED_COUNTERS), |()| taken);
            ensure!(expected, "a batch of counters that is {kind:?}: {answer:?}");
        }
        ensure!(
            number(&session, "SELECT CAST(c AS bigint) FROM no.n WHERE id = 2").await? == 2,
            "two batches of counters, each once"
        );
        ensure!(number(&session, "SELECT count(*) FROM no.t").await? == before, "a refused statement left a row");
        for asked in ["SELECT now() FROM system.local", "SELECT toTimestamp(now()), release_version FROM system.local"]
        {
            let rows = session.query_unpaged(asked, ()).await?.into_rows_result()?.rows_num();
            ensure!(rows == 1, "health checks ask {asked}: {rows} rows");
        }
        session.query_unpaged("INSERT INTO no.t (id, v) VALUES (3, 'the session goes on')", ()).await?;
        anyhow::Ok(())
    })?;
    local.verify()
}
