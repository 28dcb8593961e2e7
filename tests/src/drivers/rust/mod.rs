//! The Rust driver, as it is without settings: the same checks as the programs in `tests/drivers`, in this process.

mod failover;
mod quickstart;
mod types;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures::{TryStreamExt, future::try_join_all};
use scylla::{
    DeserializeRow,
    client::{session::Session, session_builder::SessionBuilder},
    cluster::metadata::Table,
    errors::{DbError, ExecutionError, PrepareError, RequestAttemptError},
    response::{PagingState, PagingStateResponse, query_result::QueryRowsResult},
    statement::{
        Consistency, SerialConsistency, Statement,
        batch::{Batch, BatchType},
    },
    value::Counter,
};

use super::{Local, ensure_all};

/// The keyspace of the checks.
const KEYSPACE: &str = "drivers_rust";
/// Rows that are paged.
const ROWS: i32 = 10_000;
/// Longest wait for anything that another process brings about.
const LIMIT: Duration = Duration::from_secs(60);
/// Time between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

struct Driver<'a> {
    local: &'a Local,
    contact: IpAddr,
    session: Session,
}

/// Makes all checks with a driver that is told of one replica alone.
///
/// # Errors
/// When one failed, or replicas differ afterwards.
pub fn check(local: &mut Local, contact: u8) -> Result<()> {
    let outcome = local.runtime.block_on(async {
        let outcome = Driver::check(local, contact).await;
        let started = local.start_all().await;
        outcome.and(started)
    });
    outcome?;
    local.verify()
}

/// Fails unless both are equal.
fn expect<T: PartialEq + std::fmt::Debug>(what: &str, expected: T, got: T) -> Result<()> {
    ensure!(expected == got, "{what}: expected {expected:?}, got {got:?}");
    Ok(())
}

/// Waits until a condition holds.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !condition().await? {
        ensure!(begin.elapsed() < LIMIT, "{what}: not so within {LIMIT:?}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// A statement at this level.
fn at(level: Consistency, text: &str) -> Statement {
    let mut statement = Statement::new(text);
    statement.set_consistency(level);
    statement
}

async fn open(host: IpAddr) -> Result<Session> {
    SessionBuilder::new().known_node(host.to_string()).build().await.with_context(|| format!("a session with {host}"))
}

impl<'a> Driver<'a> {
    async fn check(local: &'a Local, contact: u8) -> Result<()> {
        let contact = local.address(contact);
        let session = open(contact).await?;
        let replication = "{'class': 'SimpleStrategy', 'replication_factor': 3}";
        session.query_unpaged(format!("CREATE KEYSPACE {KEYSPACE} WITH replication = {replication}"), ()).await?;
        session.use_keyspace(KEYSPACE, false).await?;
        let driver = Driver { local, contact, session };
        let mut done = Vec::new();
        for name in super::CHECKS {
            let begin = Instant::now();
            let seen = driver.one_check(name).await.with_context(|| name.to_owned())?;
            println!("    ok {name}: {seen} ({:.1} s)", begin.elapsed().as_secs_f64());
            done.push(name.to_owned());
        }
        ensure_all(&done)
    }

    async fn one_check(&self, name: &str) -> Result<String> {
        match name {
            "quickstart" => self.quickstart().await,
            "connect" => self.connect().await,
            "schema" => self.schema().await,
            "statements" => self.statements().await,
            "types" => types::check(&self.session).await,
            "batches" => self.batches().await,
            "paging" => self.paging().await,
            "conditions" => self.conditions().await,
            "counters" => self.counters().await,
            "ttl" => self.ttl().await,
            "consistency" => self.consistency().await,
            "errors" => self.errors().await,
            "events" => self.events().await,
            "failover" => self.failover().await,
            _ => bail!("no such check"),
        }
    }

    async fn execute(&self, text: &str) -> Result<()> {
        self.session.query_unpaged(text, ()).await.with_context(|| text.to_owned())?;
        Ok(())
    }

    async fn rows(&self, statement: impl Into<Statement>) -> Result<QueryRowsResult> {
        Ok(self.session.query_unpaged(statement, ()).await?.into_rows_result()?)
    }

    /// The number that is a result's one value.
    async fn number(&self, statement: impl Into<Statement>) -> Result<i64> {
        Ok(self.rows(statement).await?.single_row::<(i64,)>()?.0)
    }

    /// A table as the driver's metadata has it.
    fn table(&self, name: &str) -> Option<Table> {
        self.session.get_cluster_state().get_keyspace(KEYSPACE)?.tables.get(name).cloned()
    }

    async fn quickstart(&self) -> Result<String> {
        let item = quickstart::quickstart(&self.contact.to_string()).await.map_err(anyhow::Error::from_boxed)?;
        expect("the item", "tea".to_owned(), item)?;
        Ok("the snippet of the documentation".into())
    }

    /// Replicas that the driver has connections with.
    fn up(&self) -> BTreeSet<IpAddr> {
        let state = self.session.get_cluster_state();
        state.get_nodes_info().iter().filter(|node| node.is_connected()).map(|node| node.address.ip()).collect()
    }

    async fn connect(&self) -> Result<String> {
        let all: BTreeSet<IpAddr> = self.local.addresses().into_iter().collect();
        until("all replicas are known and up", async || Ok(self.up() == all)).await?;
        let (version,) = self.rows("SELECT release_version FROM system.local").await?.single_row::<(String,)>()?;
        Ok(format!("{} replicas, Cassandra {version}", all.len()))
    }

    async fn schema(&self) -> Result<String> {
        self.execute("CREATE TABLE seen (a int, b text, c frozen<list<int>>, PRIMARY KEY (a, b))").await?;
        self.session.await_schema_agreement().await?;
        let table = self.table("seen").context("the table is not in the metadata")?;
        let columns: BTreeSet<_> = table.columns.keys().map(String::as_str).collect();
        expect("columns", BTreeSet::from(["a", "b", "c"]), columns)?;
        expect("the keys", (vec!["a".to_owned()], vec!["b".to_owned()]), (table.partition_key, table.clustering_key))?;
        self.execute("CREATE INDEX seen_b ON seen (b)").await?;
        self.execute("ALTER TABLE seen ADD d uuid").await?;
        expect("an added column", Some(true), self.table("seen").map(|table| table.columns.contains_key("d")))?;
        self.execute("DROP TABLE seen").await?;
        expect("a dropped table is there", false, self.table("seen").is_some())?;
        Ok("created, indexed, altered and dropped as the metadata shows".into())
    }

    async fn statements(&self) -> Result<String> {
        self.execute("CREATE TABLE statements (k int PRIMARY KEY, v text)").await?;
        self.execute("INSERT INTO statements (k, v) VALUES (1, 'simple')").await?;
        let text = "INSERT INTO statements (k, v) VALUES (?, ?)";
        self.session.query_unpaged(text, (2, "it's")).await?;
        let insert = self.session.prepare(text).await?;
        self.session.execute_unpaged(&insert, (3, "prepared")).await?;
        let named = self.session.prepare("UPDATE statements SET v = :v WHERE k = 4").await?;
        self.session.execute_unpaged(&named, BTreeMap::from([("v", "named")])).await?;
        self.session.execute_unpaged(&insert, (5, None::<&str>)).await?;
        let partly = self.session.prepare("UPDATE statements SET v = ? WHERE k = ?").await?;
        self.session.execute_unpaged(&partly, (scylla::value::Unset, 1)).await?; // stays as it is
        let result = self.rows("SELECT k, v FROM statements").await?;
        let rows: BTreeMap<i32, Option<String>> = result.rows::<(i32, Option<String>)>()?.collect::<Result<_, _>>()?;
        let expected = [(1, Some("simple")), (2, Some("it's")), (3, Some("prepared")), (4, Some("named")), (5, None)];
        expect("rows", BTreeMap::from(expected.map(|(k, v)| (k, v.map(str::to_owned)))), rows)?;
        self.widened().await?;
        try_join_all((100..300).map(|k| self.session.execute_unpaged(&insert, (k, "many")))).await?;
        expect("concurrent writes", 205, self.number("SELECT count(*) FROM statements").await?)?;
        Ok("simple, prepared, named, unset, null, 200 at once".into())
    }

    /// A statement that was prepared before a column was added.
    async fn widened(&self) -> Result<()> {
        type Row = (i32, Option<String>, Option<i32>);
        let select = self.session.prepare("SELECT * FROM statements WHERE k = ?").await?;
        let row = self.session.execute_unpaged(&select, (3,)).await?.into_rows_result()?;
        let prepared = Some("prepared".to_owned());
        expect("a prepared read", (3, prepared.clone()), row.single_row::<(i32, Option<String>)>()?)?;
        self.execute("ALTER TABLE statements ADD w int").await?;
        let again = self.session.prepare("SELECT * FROM statements WHERE k = ?").await?;
        let row = self.session.execute_unpaged(&again, (3,)).await?.into_rows_result()?;
        expect("the same statement when a column was added", (3, prepared, None), row.single_row::<Row>()?)
    }

    async fn batches(&self) -> Result<String> {
        self.execute("CREATE TABLE batched (k int, c int, v text, PRIMARY KEY (k, c))").await?;
        self.execute("CREATE TABLE counted (k int PRIMARY KEY, n counter)").await?;
        let insert = self.session.prepare("INSERT INTO batched (k, c, v) VALUES (?, ?, 'prepared')").await?;
        for (k, kind) in [(1, BatchType::Logged), (2, BatchType::Unlogged)] {
            let mut batch = Batch::new(kind);
            (0..20).for_each(|_| batch.append_statement(insert.clone()));
            batch.append_statement("INSERT INTO batched (k, c, v) VALUES (?, ?, 'simple')");
            self.session.batch(&batch, (0..=20).map(|c| (k, c)).collect::<Vec<_>>()).await?;
            let count = format!("SELECT count(*) FROM batched WHERE k = {k}");
            expect("rows of a batch", 21, self.number(count).await?)?;
        }
        let count = self.session.prepare("UPDATE counted SET n = n + ? WHERE k = ?").await?;
        let mut batch = Batch::new(BatchType::Counter);
        (0..5).for_each(|_| batch.append_statement(count.clone()));
        self.session.batch(&batch, (0..5).map(|k| (Counter(i64::from(k) + 1), k % 2)).collect::<Vec<_>>()).await?;
        for (k, expected) in [(0, 9), (1, 6)] {
            let (n,) = self.rows(format!("SELECT n FROM counted WHERE k = {k}")).await?.single_row::<(Counter,)>()?;
            expect("a counter of a batch", expected, n.0)?;
        }
        Ok("logged, unlogged, counter".into())
    }

    async fn paging(&self) -> Result<String> {
        self.execute("CREATE TABLE paged (k int, c int, PRIMARY KEY (k, c))").await?;
        let insert = self.session.prepare("INSERT INTO paged (k, c) VALUES (?, ?)").await?;
        for k in 0..ROWS / 100 {
            let mut batch = Batch::new(BatchType::Unlogged);
            (0..100).for_each(|_| batch.append_statement(insert.clone()));
            self.session.batch(&batch, (0..100).map(|c| (k, k * 100 + c)).collect::<Vec<_>>()).await?;
        }
        let pages = self.session.query_iter("SELECT c FROM paged", ()).await?;
        let seen: BTreeSet<i32> = pages.rows_stream::<(i32,)>()?.map_ok(|row| row.0).try_collect().await?;
        expect("rows of pages of the default size", ROWS as usize, seen.len())?;
        let small = at(Consistency::Quorum, "SELECT c FROM paged").with_page_size(700);
        let (mut state, mut pages, mut rows) = (PagingState::start(), 0, 0);
        loop {
            // as a web page does, from what it has kept
            let (page, next) = self.session.query_single_page(small.clone(), (), state).await?;
            (pages, rows) = (pages + 1, rows + page.into_rows_result()?.rows_num());
            match next {
                PagingStateResponse::HasMorePages { state: next } => state = next,
                PagingStateResponse::NoMorePages => break,
            }
        }
        expect("rows by paging states", ROWS as usize, rows)?;
        Ok(format!("{ROWS} rows, also in {pages} pages from their states"))
    }

    async fn conditions(&self) -> Result<String> {
        #[derive(DeserializeRow, Debug, PartialEq)]
        struct Row {
            #[scylla(rename = "[applied]")]
            applied: bool,
            k: Option<i32>,
            v: Option<String>,
            w: Option<i32>,
        }
        self.execute("CREATE TABLE conditional (k int PRIMARY KEY, v text, w int)").await?;
        let text = "INSERT INTO conditional (k, v, w) VALUES (?, ?, ?) IF NOT EXISTS";
        let insert = self.session.prepare(text).await?;
        let applied = self.session.execute_unpaged(&insert, (1, "first", 1)).await?.into_rows_result()?;
        expect("applied", (true,), applied.single_row::<(bool,)>()?)?;
        let not = self.session.execute_unpaged(&insert, (1, "second", 2)).await?.into_rows_result()?;
        let there = Row { applied: false, k: Some(1), v: Some("first".into()), w: Some(1) };
        expect("not applied", there, not.single_row::<Row>()?)?;
        let update = self.session.prepare("UPDATE conditional SET v = ? WHERE k = ? IF w = ?").await?;
        let not = self.session.execute_unpaged(&update, ("x", 1, 5)).await?.into_rows_result()?;
        expect("condition that does not hold", (false, 1), not.single_row::<(bool, i32)>()?)?;
        let applied = self.session.execute_unpaged(&update, ("third", 1, 1)).await?.into_rows_result()?;
        expect("condition that holds", (true,), applied.single_row::<(bool,)>()?)?;
        let not = self.rows("DELETE FROM conditional WHERE k = 9 IF EXISTS").await?;
        expect("nothing there", (false,), not.single_row::<(bool,)>()?)?;
        let row = self.rows("SELECT v, w FROM conditional WHERE k = 1").await?.single_row::<(String, i32)>()?;
        expect("the row", ("third".to_owned(), 1), row)?;
        Ok("applied, and not applied with the row that is there".into())
    }

    async fn counters(&self) -> Result<String> {
        self.execute("CREATE TABLE counters (k text PRIMARY KEY, n counter)").await?;
        let add = self.session.prepare("UPDATE counters SET n = n + ? WHERE k = ?").await?;
        try_join_all((0..=100).map(|n| self.session.execute_unpaged(&add, (Counter(n), "a")))).await?;
        self.execute("UPDATE counters SET n = n - 50 WHERE k = 'a'").await?;
        let (n,) = self.rows("SELECT n FROM counters WHERE k = 'a'").await?.single_row::<(Counter,)>()?;
        expect("the counter", 5000, n.0)?;
        Ok("102 changes, each once".into())
    }

    async fn ttl(&self) -> Result<String> {
        self.execute("CREATE TABLE expiring (k int PRIMARY KEY, v text)").await?;
        let insert = self.session.prepare("INSERT INTO expiring (k, v) VALUES (?, ?) USING TTL ?").await?;
        self.session.execute_unpaged(&insert, (1, "short", 2)).await?;
        self.session.execute_unpaged(&insert, (2, "long", 1000)).await?;
        let (left,) = self.rows("SELECT ttl(v) FROM expiring WHERE k = 2").await?.single_row::<(i32,)>()?;
        ensure!(900 < left && left <= 1000, "expected at most 1000 seconds left, got {left}");
        let gone = async || Ok(self.rows("SELECT v FROM expiring WHERE k = 1").await?.rows_num() == 0);
        until("the end of a row", gone).await?;
        let (v,) = self.rows("SELECT v FROM expiring WHERE k = 2").await?.single_row::<(String,)>()?;
        expect("the other row", "long".to_owned(), v)?;
        Ok("a row has ended, another says when".into())
    }

    async fn consistency(&self) -> Result<String> {
        use Consistency::{All, LocalOne, LocalQuorum, LocalSerial, One, Quorum, Serial};
        self.execute("CREATE TABLE levels (k int PRIMARY KEY, v int)").await?;
        let read = async |level| {
            let select = at(level, "SELECT v FROM levels WHERE k = 1");
            anyhow::Ok(self.rows(select).await?.single_row::<(i32,)>()?.0)
        };
        for (number, level) in (0..).zip([One, Quorum, All, LocalOne, LocalQuorum]) {
            let insert = at(level, "INSERT INTO levels (k, v) VALUES (1, ?)");
            self.session.query_unpaged(insert, (number,)).await?;
            for level in [Quorum, Serial, LocalSerial] {
                expect(&format!("read at {level}"), number, read(level).await?)?;
            }
            until("read at ONE", async || Ok(read(One).await? == number)).await?;
        }
        let mut conditional = Statement::new("UPDATE levels SET v = 9 WHERE k = 1 IF v = 4");
        conditional.set_serial_consistency(Some(SerialConsistency::LocalSerial));
        expect("a conditional write", (true,), self.rows(conditional).await?.single_row::<(bool,)>()?)?;
        let refused = at(Serial, "INSERT INTO levels (k, v) VALUES (1, 0)");
        self.refused(refused, |error| matches!(error, DbError::Invalid)).await?;
        Ok("five levels of writes, four of reads".into())
    }

    /// The text of the server's error, which must be of a kind.
    async fn refused(&self, statement: impl Into<Statement>, kind: impl Fn(&DbError) -> bool) -> Result<String> {
        match self.session.query_unpaged(statement, ()).await {
            Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, text))) if kind(&error) => {
                Ok(text)
            }
            Err(error) => bail!("another error than expected: {error:?}"),
            Ok(_) => bail!("an error was expected"),
        }
    }

    async fn errors(&self) -> Result<String> {
        let text = self.refused("SELEC * FROM nothing", |error| matches!(error, DbError::SyntaxError)).await?;
        ensure!(text.contains("no viable alternative"), "{text}");
        let text = self.refused("SELECT * FROM nothing", |error| matches!(error, DbError::Invalid)).await?;
        ensure!(text.contains("table nothing does not exist"), "{text}");
        let error = self.session.prepare("INSERT INTO nothing (k) VALUES (?)").await.err();
        ensure!(matches!(error, Some(PrepareError::AllAttemptsFailed { .. })), "preparing: {error:?}");
        self.execute("CREATE TABLE there (k int PRIMARY KEY)").await?;
        let there = |error: &DbError| matches!(error, DbError::AlreadyExists { keyspace, table } if keyspace == KEYSPACE && table == "there");
        self.refused("CREATE TABLE there (k int PRIMARY KEY)", there).await?;
        Ok("syntax, invalid and already-exists errors by the driver's own types".into())
    }

    /// This driver is told of schema changes and does nothing with that: it looks every minute, or when it is asked to.
    async fn events(&self) -> Result<String> {
        let host = self.local.addresses().into_iter().find(|host| *host != self.contact);
        let other = open(host.context("no other replica")?).await?;
        other.query_unpaged(format!("CREATE TABLE {KEYSPACE}.elsewhere (k int PRIMARY KEY)"), ()).await?;
        self.session.refresh_metadata().await?;
        ensure!(self.table("elsewhere").is_some(), "the table of another session is not in the refreshed metadata");
        Ok("another session's table is in the metadata when it is refreshed; this driver ignores the event".into())
    }
}
