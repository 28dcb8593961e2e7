//! One of the two sides: its processes, its session, and slices of load on it.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use replicateddb_local::Recorded;
use replicateddb_tests::load::{Loaded, Window, closed_loop, session};
use scylla::{client::session::Session, serialize::value::SerializeValue, statement::Consistency};
use tokio::task::JoinSet;

use crate::work::{BEGIN, FILL, ROWS, Requests, SCHEMA, VALUE_BYTES, Work};

/// Longest wait for an answer, on both sides.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(20);
/// Pause after a slice in which what was left undone still counts as its CPU: replicas that did not answer catch up, files
/// are written.
pub const SETTLE: Duration = Duration::from_millis(500);
/// How long all nodes may take until they know each other.
const JOINED_LIMIT: Duration = Duration::from_secs(60);
/// Requests in flight while tables are filled.
const FILLERS: i64 = 32;
const POLL: Duration = Duration::from_millis(500);

/// One side.
pub struct Side {
    /// Its name, for people.
    pub name: &'static str,
    /// Its requests and what became of them.
    pub requests: Arc<Requests>,
    processes: Vec<Recorded>,
}

impl Side {
    /// Connects, makes tables and fills them, with a row to compare and set for each of so many workers; all nodes are asked
    /// to confirm.
    ///
    /// # Errors
    /// When a statement fails, or not all nodes of the side take part in time.
    pub async fn set_up(
        name: &'static str,
        servers: &[SocketAddr],
        processes: Vec<Recorded>,
        workers: usize,
    ) -> Result<Self> {
        let session = Arc::new(session(servers, Consistency::LocalQuorum, REQUEST_LIMIT).await.context(name)?);
        for text in SCHEMA {
            session.query_unpaged(text, ()).await.with_context(|| format!("{name}: {text}"))?;
        }
        joined(&session).await.context(name)?;
        fill(&session, FILL, ROWS, "x".repeat(VALUE_BYTES)).await.with_context(|| format!("{name}: {FILL}"))?;
        fill(&session, BEGIN, workers as i64, 0_i64).await.with_context(|| format!("{name}: {BEGIN}"))?;
        let requests = Arc::new(Requests::prepare(session, workers).await.context(name)?);
        Ok(Self { name, requests, processes })
    }

    /// Loads it for so long with so many requests in flight, then pauses for [`SETTLE`].
    ///
    /// # Errors
    /// When a worker panics. Requests that fail are counted.
    pub async fn load(&self, work: Work, in_flight: usize, length: Duration) -> Result<Loaded> {
        let from = Instant::now();
        let requests = self.requests.clone();
        let request = move |worker| {
            let requests = requests.clone();
            async move { requests.one(work, worker).await }
        };
        let loaded = closed_loop(in_flight, Window { from, until: from + length }, request).await?;
        tokio::time::sleep(SETTLE).await;
        Ok(loaded)
    }

    /// CPU seconds that all its processes have used.
    ///
    /// # Errors
    /// When one of them has ended: then nothing that was measured since is worth anything.
    pub fn cpu(&self) -> Result<f64> {
        let used = |process: &Recorded| {
            process.cpu_seconds().with_context(|| format!("{}: process {} has ended", self.name, process.pid))
        };
        self.processes.iter().map(used).sum()
    }
}

/// Waits until a write that every node must confirm succeeds.
async fn joined(session: &Session) -> Result<()> {
    let mut first = session.prepare(BEGIN).await?;
    first.set_consistency(Consistency::All);
    let deadline = Instant::now() + JOINED_LIMIT;
    while let Err(error) = session.execute_unpaged(&first, (0_i64, 0_i64)).await {
        ensure!(Instant::now() < deadline, "not all nodes take part: {error}");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Writes `value` to so many rows.
async fn fill<V>(session: &Arc<Session>, text: &str, rows: i64, value: V) -> Result<()>
where
    V: SerializeValue + Clone + Send + Sync + 'static,
{
    let mut statement = session.prepare(text).await?;
    statement.set_consistency(Consistency::All);
    let mut fillers = JoinSet::new();
    for first in 0..FILLERS {
        let (session, statement, value) = (session.clone(), statement.clone(), value.clone());
        fillers.spawn(async move {
            for key in (first..rows).step_by(FILLERS as usize) {
                session.execute_unpaged(&statement, (key, &value)).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(filled) = fillers.join_next().await {
        filled??;
    }
    Ok(())
}
