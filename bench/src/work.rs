//! The work loads: which statement, at which level, and when its answer counts as right.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use scylla::{
    client::session::Session,
    response::query_result::QueryResult,
    statement::{Consistency, SerialConsistency, prepared::PreparedStatement},
    value::Row,
};

/// Length of a value, bytes.
pub const VALUE_BYTES: usize = 100;
/// Rows that are there to be read.
pub const ROWS: i64 = 5_000;
/// Most requests in flight.
pub const MAX_IN_FLIGHT: usize = 1024;
/// A step between keys that are read one after another: prime, so that every row has its turn.
const STRIDE: i64 = 2_654_435_761;

/// Keyspace and tables; the same text for both sides.
pub const SCHEMA: [&str; 5] = [
    "CREATE KEYSPACE bench WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 3}",
    "CREATE TABLE bench.inserted (k bigint PRIMARY KEY, v text)",
    "CREATE TABLE bench.claimed (k bigint PRIMARY KEY, v text)",
    "CREATE TABLE bench.compared (k bigint PRIMARY KEY, v bigint)",
    "CREATE TABLE bench.present (k bigint PRIMARY KEY, v text)",
];
/// Fills the rows that are read.
pub const FILL: &str = "INSERT INTO bench.present (k, v) VALUES (?, ?)";
/// Makes a row to compare and set.
pub const BEGIN: &str = "INSERT INTO bench.compared (k, v) VALUES (?, ?)";
/// What a row to compare and set holds.
pub const HELD: &str = "SELECT v FROM bench.compared WHERE k = ?";

/// One kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum Work {
    /// New rows.
    Insert,
    /// New rows, on the condition that they are new.
    InsertIfNotExists,
    /// Each worker advances a row of its own from the value it has.
    CompareAndSet,
    /// One row at `ONE`.
    ReadOne,
    /// One row at `QUORUM`.
    ReadQuorum,
    /// One row at `SERIAL`.
    ReadSerial,
}

impl Work {
    /// Its name, for people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Insert => "insert, `QUORUM`",
            Self::InsertIfNotExists => "insert `IF NOT EXISTS`",
            Self::CompareAndSet => "update `IF v = ?`",
            Self::ReadOne => "read, `ONE`",
            Self::ReadQuorum => "read, `QUORUM`",
            Self::ReadSerial => "read, `SERIAL`",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Insert => "INSERT INTO bench.inserted (k, v) VALUES (?, ?)",
            Self::InsertIfNotExists => "INSERT INTO bench.claimed (k, v) VALUES (?, ?) IF NOT EXISTS",
            Self::CompareAndSet => "UPDATE bench.compared SET v = ? WHERE k = ? IF v = ?",
            Self::ReadOne | Self::ReadQuorum | Self::ReadSerial => "SELECT v FROM bench.present WHERE k = ?",
        }
    }

    fn level(self) -> Consistency {
        match self {
            Self::ReadOne => Consistency::One,
            Self::ReadSerial => Consistency::Serial,
            Self::Insert | Self::InsertIfNotExists | Self::CompareAndSet | Self::ReadQuorum => Consistency::Quorum,
        }
    }
}

/// What was acknowledged of one kind of write.
#[derive(Debug, Default)]
pub struct Written {
    /// Attempts so far; also the next key of inserts.
    pub tried: AtomicI64,
    /// Acknowledged as done.
    pub acknowledged: AtomicI64,
}

/// Makes requests of one side, and remembers what was acknowledged.
#[derive(Debug)]
pub struct Requests {
    /// The session of that side.
    pub session: Arc<Session>,
    statements: HashMap<Work, PreparedStatement>,
    held: PreparedStatement,
    value: String,
    /// Of `inserted`.
    pub inserted: Written,
    /// Of `claimed`.
    pub claimed: Written,
    /// Of `compared`.
    pub compared: Written,
    /// What each worker's row to compare and set holds.
    values: Vec<AtomicI64>,
    reads: AtomicI64,
}

impl Requests {
    /// Prepares every statement; the tables must be there, and a row to compare and set for each of so many workers.
    ///
    /// # Errors
    /// When one can't be prepared.
    pub async fn prepare(session: Arc<Session>, workers: usize) -> Result<Self> {
        let mut statements = HashMap::new();
        for work in Work::value_variants() {
            let mut statement = session.prepare(work.text()).await.with_context(|| work.text())?;
            statement.set_consistency(work.level());
            statement.set_serial_consistency(Some(SerialConsistency::Serial));
            statements.insert(*work, statement);
        }
        let mut held = session.prepare(HELD).await.context(HELD)?;
        held.set_consistency(Consistency::Serial);
        let values = (0..workers).map(|_| AtomicI64::new(0)).collect();
        let (inserted, claimed, compared) = Default::default();
        let (value, reads) = ("x".repeat(VALUE_BYTES), AtomicI64::new(0));
        Ok(Self { session, statements, held, value, inserted, claimed, compared, values, reads })
    }

    /// How many workers there can be: each has a row of its own to compare and set.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.values.len()
    }

    /// Makes one request for the worker of that number, below [`Requests::workers`].
    ///
    /// # Errors
    /// When the server answers with an error or not in time, or its answer is not the right one.
    pub async fn one(&self, work: Work, worker: usize) -> Result<()> {
        let statement = self.statements.get(&work).context("a statement that was not prepared")?;
        match work {
            Work::Insert => {
                let key = self.inserted.tried.fetch_add(1, Relaxed);
                self.session.execute_unpaged(statement, (key, &self.value)).await?;
                self.inserted.acknowledged.fetch_add(1, Relaxed);
            }
            Work::InsertIfNotExists => {
                let key = self.claimed.tried.fetch_add(1, Relaxed);
                applied(self.session.execute_unpaged(statement, (key, &self.value)).await?)?;
                self.claimed.acknowledged.fetch_add(1, Relaxed);
            }
            Work::CompareAndSet => {
                if let Err(error) = self.advance(statement, worker).await {
                    self.look(worker).await.context("after a conditional update that failed")?;
                    return Err(error);
                }
            }
            Work::ReadOne | Work::ReadQuorum | Work::ReadSerial => {
                let key = self.reads.fetch_add(1, Relaxed).wrapping_mul(STRIDE).rem_euclid(ROWS);
                let result = self.session.execute_unpaged(statement, (key,)).await?.into_rows_result()?;
                let (value,) = result.single_row::<(&str,)>().context("a row that was written is not there")?;
                ensure!(value.len() == VALUE_BYTES, "a wrong value");
            }
        }
        Ok(())
    }

    async fn advance(&self, statement: &PreparedStatement, worker: usize) -> Result<()> {
        self.compared.tried.fetch_add(1, Relaxed);
        let (key, value) = (worker as i64, self.values[worker].load(Relaxed));
        applied(self.session.execute_unpaged(statement, (value + 1, key, value)).await?)?;
        self.values[worker].store(value + 1, Relaxed);
        self.compared.acknowledged.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Reads what the worker's row holds, linearizably, and goes on from there.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn look(&self, worker: usize) -> Result<i64> {
        let result = self.session.execute_unpaged(&self.held, (worker as i64,)).await?.into_rows_result()?;
        let (value,) = result.single_row::<(i64,)>().context("a row to compare and set is not there")?;
        self.values[worker].store(value, Relaxed);
        Ok(value)
    }
}

fn applied(result: QueryResult) -> Result<()> {
    let row: Row = result.into_rows_result()?.first_row()?;
    let answer = row.columns.first().cloned().flatten().and_then(|value| value.as_boolean());
    ensure!(answer == Some(true), "a conditional write was not applied");
    Ok(())
}
