//! The clients, each with one request at a time through one replica, and what they write down.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use scylla::{
    client::session::Session,
    errors::ExecutionError,
    response::query_result::QueryResult,
    serialize::row::SerializeRow,
    statement::{
        Consistency,
        batch::{Batch, BatchType},
        prepared::PreparedStatement,
    },
    value::{CqlValue, Row},
};
use tokio::task::JoinHandle;

use super::super::{Local, REPLICAS, load::kind};
use crate::history::{Action, Cell, Level, Operation, Outcome, Value};

/// Rows that are read, written and compared one by one.
const REGISTERS: Cell = 4;
/// Rows that batches write two of, and scans read.
const PAIRS: Cell = 6;
/// Rows that an `IN` reads.
const IN_ROWS: usize = 3;
/// Clients of each replica for rows one by one.
const REGISTER_CLIENTS: u32 = 2;
/// Rows of one writer who counts: it takes the next one when it does not know what became of a write.
const ROWS_OF_WRITER: Cell = 10_000;
/// The levels of linearizable reads.
const STRICT: [Consistency; 6] = [
    Consistency::Quorum,
    Consistency::LocalQuorum,
    Consistency::EachQuorum,
    Consistency::All,
    Consistency::Serial,
    Consistency::LocalSerial,
];
/// The levels of writes, which mean the same.
const WRITES: [Consistency; 3] = [Consistency::One, Consistency::Quorum, Consistency::All];
/// Values of one client: its number and multiples of this.
const MOST_CLIENTS: Value = 64;
/// Pause after an error, so that a client without a server does not spin.
const AFTER_ERROR: Duration = Duration::from_millis(100);
/// Requests of one client, at most: bounds the history of a run that hangs.
const MOST_REQUESTS: usize = 100_000;
/// How often a wait looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What all clients share.
struct Common {
    start: Instant,
    stop: AtomicBool,
    /// Answered requests by replica.
    answered: [AtomicUsize; REPLICAS as usize],
    /// Which row the counting writer of each replica writes now.
    rows: [AtomicU32; REPLICAS as usize],
    tables: Tables,
}

/// Their names.
struct Tables {
    registers: String,
    pairs: String,
    sessions: String,
}

/// Running clients.
pub struct Clients {
    common: Arc<Common>,
    tasks: Vec<JoinHandle<Result<Vec<Operation>>>>,
}

impl Clients {
    /// Makes the tables and starts clients of all kinds through every replica.
    ///
    /// # Errors
    /// When a table can't be made or a replica takes no connection.
    pub async fn start(local: &Local, seed: u64) -> Result<Self> {
        let name = |table| local.table("history", table);
        let tables = Tables { registers: name("registers"), pairs: name("pairs"), sessions: name("sessions") };
        let session = local.session(0, Consistency::Quorum).await?;
        local.make_keyspace(&session, "history").await?;
        for (table, rows) in [(&tables.registers, REGISTERS), (&tables.pairs, PAIRS), (&tables.sessions, 0)] {
            session.query_unpaged(format!("CREATE TABLE {table} (id int PRIMARY KEY, v bigint)"), ()).await?;
            for row in 0..rows {
                session.query_unpaged(format!("INSERT INTO {table} (id, v) VALUES ({row}, 0)"), ()).await?;
            }
        }
        let common = Common {
            start: Instant::now(),
            stop: AtomicBool::default(),
            answered: Default::default(),
            rows: std::array::from_fn(|replica| AtomicU32::new(replica as Cell * ROWS_OF_WRITER)),
            tables,
        };
        let mut clients = Self { common: Arc::new(common), tasks: Vec::new() };
        let mut number = 0;
        for replica in 0..REPLICAS {
            for _ in 0..REGISTER_CLIENTS {
                let client = Client::new(local, &clients.common, replica, number, seed).await?;
                clients.tasks.push(tokio::spawn(registers(client)));
                number += 1;
            }
            let client = Client::new(local, &clients.common, replica, number, seed).await?;
            clients.tasks.push(tokio::spawn(pairs(client)));
            let client = Client::new(local, &clients.common, replica, number + 1, seed).await?;
            clients.tasks.push(tokio::spawn(counting(client)));
            number += 2;
        }
        Ok(clients)
    }

    /// Waits until each of these replicas answered `more` further requests.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub async fn wait_each(&self, replicas: &[u8], more: usize, limit: Duration) -> Result<()> {
        let answered = || -> Vec<usize> {
            let of = |replica: &u8| self.common.answered.get(usize::from(*replica));
            replicas.iter().filter_map(of).map(|count| count.load(Ordering::Relaxed)).collect()
        };
        let (start, before) = (Instant::now(), answered());
        while answered().iter().zip(&before).any(|(now, before)| *now < before + more) {
            let ended = self.tasks.iter().filter(|task| task.is_finished()).count();
            ensure!(ended == 0, "{ended} clients have ended by themselves");
            ensure!(
                start.elapsed() < limit,
                "replicas {replicas:?} were to answer {more} more requests each; after {limit:?} they went from \
                 {before:?} to {:?}",
                answered()
            );
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Stops the clients; gives all that they have written down.
    ///
    /// # Errors
    /// When one has met an answer that makes no sense.
    pub async fn finish(self) -> Result<Vec<Operation>> {
        self.common.stop.store(true, Ordering::Relaxed);
        let mut history = Vec::new();
        for task in self.tasks {
            history.extend(task.await.context("a client panicked")??);
        }
        Ok(history)
    }
}

/// One client.
struct Client {
    common: Arc<Common>,
    session: Session,
    replica: u8,
    number: u32,
    values: Value,
    random: StdRng,
    told: Vec<Operation>,
}

impl Client {
    async fn new(local: &Local, common: &Arc<Common>, replica: u8, number: u32, seed: u64) -> Result<Self> {
        let session = local.session(replica, Consistency::One).await?;
        let random = StdRng::seed_from_u64(seed.wrapping_add(u64::from(number)));
        Ok(Self { common: common.clone(), session, replica, number, values: 0, random, told: Vec::new() })
    }

    fn goes_on(&self) -> bool {
        !self.common.stop.load(Ordering::Relaxed) && self.told.len() < MOST_REQUESTS
    }

    /// A value that nobody has written, larger than all that this client has.
    fn value(&mut self) -> Value {
        self.values += 1;
        self.values * MOST_CLIENTS + Value::from(self.number)
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> Result<T> {
        all.choose(&mut self.random).copied().context("nothing to choose from")
    }

    fn now(&self) -> u64 {
        self.common.start.elapsed().as_micros() as u64
    }

    /// The statement at this level.
    fn at(statement: &PreparedStatement, level: Consistency) -> PreparedStatement {
        let mut statement = statement.clone();
        statement.set_consistency(level);
        statement
    }

    async fn execute(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<QueryResult, ExecutionError> {
        self.session.execute_unpaged(statement, values).await
    }

    /// Writes down a request: what was asked and what became of it. A read without an answer says nothing.
    async fn note(&mut self, object: String, begin: u64, action: Action, error: Option<ExecutionError>) {
        let end = self.now();
        let outcome = match error.as_ref().map(kind) {
            None => Outcome::Done,
            // By these the product says that it has written nothing; and without a connection nothing was sent.
            Some("Unavailable" | "Overloaded" | "IsBootstrapping" | "no connection") => Outcome::Failed,
            Some(_) => Outcome::Unknown,
        };
        let (client, replica) = (self.number, self.replica);
        let level = Level::Strict;
        self.told.push(Operation { object, client, replica, level, begin, end, action, outcome });
        self.count(error.is_none()).await;
    }

    async fn note_read(&mut self, object: String, level: Consistency, begin: u64, rows: Option<Vec<(Cell, Value)>>) {
        let end = self.now();
        let answered = rows.is_some();
        let level = if level == Consistency::One { Level::One } else { Level::Strict };
        if let Some(rows) = rows {
            let (client, replica, outcome) = (self.number, self.replica, Outcome::Done);
            let action = Action::Read(rows);
            self.told.push(Operation { object, client, replica, level, begin, end, action, outcome });
        }
        self.count(answered).await;
    }

    async fn count(&self, answered: bool) {
        if !answered {
            tokio::time::sleep(AFTER_ERROR).await;
        } else if let Some(count) = self.common.answered.get(usize::from(self.replica)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reads one row; 0 when it is not there.
    async fn read(&mut self, object: String, select: &PreparedStatement, level: Consistency, row: Cell) -> Result<()> {
        let begin = self.now();
        let answer = self.execute(&Self::at(select, level), (row as i32,)).await;
        let rows = answer.ok().map(rows_of).transpose()?;
        let value = rows.map(|rows| vec![rows.first().copied().unwrap_or((row, 0))]);
        self.note_read(object, level, begin, value).await;
        Ok(())
    }

    /// Writes one row with a new value; whether it is known what became of it.
    async fn write(&mut self, object: String, update: &PreparedStatement, row: Cell) -> Result<bool> {
        let (level, value) = (self.one_of(&WRITES)?, self.value());
        let begin = self.now();
        let error = self.execute(&Self::at(update, level), (value as i64, row as i32)).await.err();
        self.note(object, begin, Action::Write(vec![(row, value)]), error).await;
        Ok(self.told.last().is_some_and(|operation| operation.outcome != Outcome::Unknown))
    }

    async fn swap(&mut self, object: String, swap: &PreparedStatement, row: Cell, from: Value) -> Result<()> {
        let to = self.value();
        let begin = self.now();
        let answer = self.execute(swap, (to as i64, row as i32, from as i64)).await;
        let (found, error) = match answer {
            Ok(result) => (found(result)?, None),
            Err(error) => (None, Some(error)),
        };
        self.note(object, begin, Action::Swap { cell: row, from, to, found }, error).await;
        Ok(())
    }

    /// What this client knows of a row, from its last answer.
    fn known(&self, object: &str) -> Value {
        let last = self.told.iter().rev().take(100).find(|told| told.object == object && told.outcome == Outcome::Done);
        match last.map(|operation| &operation.action) {
            Some(Action::Read(cells) | Action::Write(cells)) => cells.first().map_or(0, |(_, value)| *value),
            Some(Action::Swap { to, found, .. }) => found.unwrap_or(*to),
            None => 0,
        }
    }
}

/// Rows of `id` and `v`.
fn rows_of(result: QueryResult) -> Result<Vec<(Cell, Value)>> {
    let rows = result.into_rows_result()?;
    let rows = rows.rows::<(i32, Option<i64>)>()?;
    rows.map(|row| row.map(|(id, v)| (id as Cell, v.unwrap_or(0) as Value)).map_err(Into::into)).collect()
}

/// What a conditional write met instead; none if it was executed.
fn found(result: QueryResult) -> Result<Option<Value>> {
    let rows = result.into_rows_result()?;
    let row = rows.first_row::<Row>()?;
    match (row.columns.first(), row.columns.last()) {
        (Some(Some(CqlValue::Boolean(true))), _) => Ok(None),
        (_, Some(Some(CqlValue::BigInt(there)))) => Ok(Some(*there as Value)),
        _ => bail!("{row:?}"),
    }
}

/// Rows one by one: writes, conditional writes, linearizable reads. Each row is an object.
async fn registers(mut client: Client) -> Result<Vec<Operation>> {
    let table = client.common.tables.registers.clone();
    let select = client.session.prepare(format!("SELECT id, v FROM {table} WHERE id = ?")).await?;
    let update = client.session.prepare(format!("UPDATE {table} SET v = ? WHERE id = ?")).await?;
    let swap = client.session.prepare(format!("UPDATE {table} SET v = ? WHERE id = ? IF v = ?")).await?;
    while client.goes_on() {
        let row = client.random.random_range(0..REGISTERS);
        let object = format!("register {row}");
        match client.random.random_range(0..3) {
            0 => _ = client.write(object, &update, row).await?,
            1 => {
                let from = client.known(&object);
                client.swap(object, &swap, row, from).await?;
            }
            _ => {
                let level = client.one_of(&STRICT)?;
                client.read(object, &select, level, row).await?;
            }
        }
    }
    Ok(client.told)
}

/// Batches of two rows, and scans and `IN` reads of several: one object.
async fn pairs(mut client: Client) -> Result<Vec<Operation>> {
    let table = client.common.tables.pairs.clone();
    let scan = client.session.prepare(format!("SELECT id, v FROM {table}")).await?;
    let some = client.session.prepare(format!("SELECT id, v FROM {table} WHERE id IN ?")).await?;
    let update = client.session.prepare(format!("UPDATE {table} SET v = ? WHERE id = ?")).await?;
    let all: Vec<i32> = (0..PAIRS as i32).collect();
    while client.goes_on() {
        let chosen: Vec<i32> = all.choose_multiple(&mut client.random, IN_ROWS).copied().collect();
        let level = client.one_of(&STRICT)?;
        let object = "pairs".to_owned();
        let choice = client.random.random_range(0..4);
        if choice < 2 {
            let kind = client.one_of(&[BatchType::Unlogged, BatchType::Logged])?;
            let value = client.value();
            let mut batch = Batch::new(kind);
            let pair: Vec<i32> = chosen.into_iter().take(2).collect();
            pair.iter().for_each(|_| batch.append_statement(update.clone()));
            let values: Vec<(i64, i32)> = pair.iter().map(|row| (value as i64, *row)).collect();
            let begin = client.now();
            let error = client.session.batch(&batch, values).await.err();
            let written = pair.into_iter().map(|row| (row as Cell, value)).collect();
            client.note(object, begin, Action::Write(written), error).await;
        } else {
            let begin = client.now();
            let answer = match choice {
                2 => client.execute(&Client::at(&scan, level), ()).await,
                _ => client.execute(&Client::at(&some, level), (chosen,)).await,
            };
            let rows = answer.ok().map(rows_of).transpose()?;
            client.note_read(object, level, begin, rows).await;
        }
    }
    Ok(client.told)
}

/// Counts up in a row of its own and reads it, and those of the others, at `ONE`. Each row is an object.
async fn counting(mut client: Client) -> Result<Vec<Operation>> {
    let table = client.common.tables.sessions.clone();
    let select = client.session.prepare(format!("SELECT id, v FROM {table} WHERE id = ?")).await?;
    let update = client.session.prepare(format!("UPDATE {table} SET v = ? WHERE id = ?")).await?;
    let object = |row| format!("counted {row}");
    let row_of = |client: &Client, replica: u8| {
        client.common.rows.get(usize::from(replica)).map_or(0, |row| row.load(Ordering::Relaxed))
    };
    while client.goes_on() {
        let own = row_of(&client, client.replica);
        if !client.write(object(own), &update, own).await?
            && let Some(row) = client.common.rows.get(usize::from(client.replica))
        {
            row.fetch_add(1, Ordering::Relaxed);
        }
        for replica in 0..REPLICAS {
            let row = row_of(&client, replica);
            client.read(object(row), &select, Consistency::One, row).await?;
        }
    }
    Ok(client.told)
}
