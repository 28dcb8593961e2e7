//! Writers that remember what was acknowledged, and the search for it on every replica.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use scylla::{
    client::session::Session,
    errors::{DbError, ExecutionError, RequestAttemptError},
    statement::{Consistency, prepared::PreparedStatement},
};
use tokio::task::JoinHandle;

use super::{Local, REPLICAS};

/// Writers for each replica, each with one request in flight.
const WRITERS: u8 = 4;
/// Pause after an error, so that writers without a server do not spin.
const AFTER_ERROR: Duration = Duration::from_millis(200);

type Key = (String, i64);

#[derive(Default)]
struct Seen {
    acknowledged: BTreeSet<Key>,
    /// How many of these each replica acknowledged.
    through: [usize; REPLICAS as usize],
    unknown: BTreeSet<Key>,
    /// What the driver called the others, and how often.
    errors: BTreeMap<&'static str, usize>,
    longest_wait: Duration,
}

/// One writer: it numbers its rows, so that each is written once, whatever came of the one before.
struct Writer {
    replica: u8,
    client: String,
    session: Arc<Session>,
    insert: PreparedStatement,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
}

impl Writer {
    async fn run(self) -> Result<()> {
        let mut sequence = 0i64;
        while !self.stop.load(Ordering::Relaxed) {
            let begin = Instant::now();
            let row = (&self.client, sequence, format!("{}:{sequence}", self.client));
            let error = self.session.execute_unpaged(&self.insert, row).await.err();
            self.note(sequence, begin.elapsed(), error.as_ref())?;
            if error.is_some() {
                tokio::time::sleep(AFTER_ERROR).await;
            }
            sequence += 1;
        }
        Ok(())
    }

    fn note(&self, sequence: i64, took: Duration, error: Option<&ExecutionError>) -> Result<()> {
        let mut seen = self.seen.lock().map_err(|_| anyhow::anyhow!("another writer panicked"))?;
        seen.longest_wait = seen.longest_wait.max(took);
        let key = (self.client.clone(), sequence);
        if let Some(error) = error {
            *seen.errors.entry(kind(error)).or_default() += 1;
            seen.unknown.insert(key);
        } else {
            seen.through[usize::from(self.replica)] += 1;
            seen.acknowledged.insert(key);
        }
        Ok(())
    }
}

/// What a driver acts on: the server's word for what went wrong, or what the driver itself saw.
pub fn kind(error: &ExecutionError) -> &'static str {
    match error {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, _)) => match error {
            DbError::WriteTimeout { .. } => "WriteTimeout",
            DbError::Unavailable { .. } => "Unavailable",
            DbError::Overloaded => "Overloaded",
            DbError::IsBootstrapping => "IsBootstrapping",
            _ => "another error of the server",
        },
        ExecutionError::LastAttemptError(_) => "broken connection",
        ExecutionError::ConnectionPoolError(_) | ExecutionError::EmptyPlan => "no connection",
        ExecutionError::RequestTimeout(_) => "no answer",
        _ => "another error of the driver",
    }
}

/// Running writers.
pub struct Load {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    tasks: Vec<JoinHandle<Result<()>>>,
    table: String,
}

impl Load {
    /// Creates the table `load.<name>` and starts writers through every replica.
    ///
    /// # Errors
    /// When the table cannot be created or a replica takes no connection.
    pub async fn start(local: &Local, name: &str) -> Result<Self> {
        let table = local.table("load", name);
        let session = local.session(0, Consistency::Quorum).await?;
        local.make_keyspace(&session, "load").await?;
        session
            .query_unpaged(
                format!("CREATE TABLE {table} (client text, seq bigint, value text, PRIMARY KEY (client, seq))"),
                (),
            )
            .await?;
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let mut tasks = Vec::new();
        for replica in 0..REPLICAS {
            let session = Arc::new(local.session(replica, Consistency::One).await?);
            let insert = session.prepare(format!("INSERT INTO {table} (client, seq, value) VALUES (?, ?, ?)")).await?;
            for writer in 0..WRITERS {
                let writer = Writer {
                    replica,
                    client: format!("{replica}-{writer}"),
                    session: session.clone(),
                    insert: insert.clone(),
                    stop: stop.clone(),
                    seen: seen.clone(),
                };
                tasks.push(tokio::spawn(writer.run()));
            }
        }
        Ok(Self { stop, seen, tasks, table })
    }

    /// Writes acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.seen.lock().map_or(0, |seen| seen.acknowledged.len())
    }

    /// Waits until `more` further writes were acknowledged.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub async fn wait_for(&self, more: usize, limit: Duration) -> Result<()> {
        let (start, target) = (Instant::now(), self.acknowledged() + more);
        while self.acknowledged() < target {
            ensure!(
                start.elapsed() < limit,
                "only {} of {target} writes acknowledged after {limit:?}",
                self.acknowledged()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Waits until every replica acknowledged `more` further writes: all of them serve, not just some.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub async fn wait_each(&self, more: usize, limit: Duration) -> Result<()> {
        let through = || self.seen.lock().map_or([0; REPLICAS as usize], |seen| seen.through);
        let (start, before) = (Instant::now(), through());
        while through().iter().zip(before).any(|(now, before)| *now < before + more) {
            ensure!(
                start.elapsed() < limit,
                "each replica was to acknowledge {more} more; after {limit:?} it went from {before:?} to {:?}",
                through()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Stops the writers, and looks on each replica for every acknowledged write (I2) and for rows that nobody wrote.
    ///
    /// # Errors
    /// When a row is missing, foreign or has a wrong value.
    pub async fn finish(self, local: &Local) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.context("a writer panicked")??;
        }
        let seen =
            Arc::try_unwrap(self.seen).ok().and_then(|seen| seen.into_inner().ok()).context("writers are gone")?;
        ensure!(!seen.acknowledged.is_empty(), "no write was acknowledged");
        for replica in 0..REPLICAS {
            let session = local.session(replica, Consistency::Quorum).await?;
            let query = format!("SELECT client, seq, value FROM {}", self.table);
            let mut rows = session.query_iter(query, ()).await?.rows_stream::<(String, i64, String)>()?;
            let mut found = BTreeSet::new();
            while let Some((client, sequence, value)) = rows.try_next().await? {
                ensure!(
                    value == format!("{client}:{sequence}"),
                    "replica-{replica}: {client}/{sequence} has {value:?}"
                );
                found.insert((client, sequence));
            }
            let missing: Vec<_> = seen.acknowledged.difference(&found).take(3).collect();
            ensure!(missing.is_empty(), "replica-{replica} lacks acknowledged writes, for example {missing:?}");
            let foreign = found.iter().find(|key| !seen.acknowledged.contains(*key) && !seen.unknown.contains(*key));
            ensure!(foreign.is_none(), "replica-{replica} has a row that nobody wrote: {foreign:?}");
        }
        println!(
            "    {} acknowledged writes, each on every replica; {} of unknown outcome {:?}; longest wait {:.2} s",
            seen.acknowledged.len(),
            seen.unknown.len(),
            seen.errors,
            seen.longest_wait.as_secs_f64()
        );
        Ok(())
    }
}
