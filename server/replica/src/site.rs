//! What the core needs of the world around it: the local Cassandra and the store agent beside it. Traits, so that the
//! seeded tests run the whole core over models that crash and fail on demand.

use std::collections::BTreeMap;
use std::future::Future;

use replicateddb_store::api::{Flushed, Manifest, Mark, RestorePoint, Rewind, Rewound, Status, Table};
use replicateddb_store::client::{Store, StoreError};
use tokio::sync::watch;
use uuid::Uuid;

pub use crate::backend::BackendError;
use crate::backend::Endpoint;
pub use crate::backend::outcome::{Failure, Reply};
use crate::lanes::Lanes;
use crate::record::Record;
use crate::replica::TableDigest;

/// What has to be known to execute a record in its place.
#[derive(Debug, Clone)]
pub enum Plan {
    /// Execute it.
    Execute {
        /// What it touches.
        lanes: Lanes,
        /// By the schema at its index, a second copy may reach the same state without showing.
        repeatable: bool,
    },
    /// It fails before it touches anything, on every replica; this is its result.
    Answer(Reply),
}

/// A record's place in the order, as far as executing it depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Write timestamp, µs.
    pub timestamp_us: i64,
    /// Id for a table that the record creates.
    pub table_id: Uuid,
    /// The record fails here, and what it fails with is to be what it fails with on every replica: its condition is Cassandra's to
    /// decide, unless it was decided in this generation.
    pub fails: bool,
}

impl Place {
    /// The second, since 1970, that expiry counts from: the log's, the same on every replica.
    pub fn now_s(&self) -> i32 {
        second_of(self.timestamp_us)
    }
}

/// The second, since 1970, of a write timestamp in µs.
pub fn second_of(timestamp_us: i64) -> i32 {
    i32::try_from(timestamp_us.div_euclid(1_000_000)).unwrap_or(i32::MAX)
}

/// Whether the backend can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Healthy,
    /// It does not, or not now; attempts go on inside.
    Lost {
        /// For people.
        reason: String,
    },
    /// Another JVM answers, for good.
    Gone {
        /// For people.
        reason: String,
    },
}

/// One generation of the local Cassandra. Cheap to clone; all of it dies with the generation.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Finds the lanes of a `Dml` or `Batch` record. Called when every earlier DDL has been applied and no later one.
    fn plan(&self, record: &Record) -> impl Future<Output = Result<Plan, Failure>> + Send;
    /// Executes a `Dml`, `Batch`, `Ddl` or `Truncate` record once.
    fn execute(&self, place: Place, record: &Record) -> impl Future<Output = Result<Reply, Failure>> + Send;
    /// Whether the record at this place may be attempted again whatever its plan says: what it does was decided in an attempt,
    /// and every further one does the same.
    fn is_decided(&self, _place: Place) -> bool {
        false
    }
    /// The record at this place has its result, and is not attempted again. Returns whether its condition was decided in memory.
    fn settle(&self, _place: Place) -> bool {
        false
    }
    /// The schema changed: forget what was prepared.
    fn forget_prepared(&self);
    /// Reads every user table as of the second `now_s` since 1970.
    fn digest(&self, now_s: i32) -> impl Future<Output = Result<BTreeMap<String, TableDigest>, Failure>> + Send;
    /// Whether it can be reached.
    fn health(&self) -> watch::Receiver<Health>;
}

/// Makes backends.
pub trait Connector: Clone + Send + Sync + 'static {
    /// What it makes.
    type Backend: Backend;
    /// `host:port`, for the sessions' relays.
    fn endpoint(&self) -> Endpoint;
    /// Connects to this generation and no other.
    fn connect(&self, generation: u64) -> impl Future<Output = Result<Self::Backend, BackendError>> + Send;
}

/// What a flush leaves to be known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rest {
    /// Builds of indexes and views under way.
    pub builds: Vec<String>,
    /// With which a snapshot may be taken while rows are written, see
    /// [`replicateddb_store::api::Snapshot::memtable_switches`]; `None` if lanes have to be held until it is taken.
    pub memtable_switches: Option<u64>,
}

/// The store agent, on behalf of this replica's incarnation. See [`Store`], whose contract this is.
#[allow(missing_docs)]
pub trait Agent: Clone + Send + Sync + 'static {
    fn status(&self) -> impl Future<Output = Result<Status, StoreError>> + Send;
    fn claim(&self) -> impl Future<Output = Result<(), StoreError>> + Send;
    fn flush(&self) -> impl Future<Output = Result<Rest, StoreError>> + Send;
    /// `timestamp_us`: the write time of the last record, which rows are as of where they are read. `memtable_switches`: of
    /// the flush before it, if lanes are free meanwhile.
    fn snapshot(
        &self,
        id: &str,
        generation: u64,
        timestamp_us: i64,
        memtable_switches: Option<u64>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
    fn commit(&self, id: &str, mark: Mark) -> impl Future<Output = Result<(), StoreError>> + Send;
    fn abort(&self, id: &str) -> impl Future<Output = Result<(), StoreError>> + Send;
    fn rewind(&self, to: Rewind) -> impl Future<Output = Result<Rewound, StoreError>> + Send;
    /// Nothing that is here is used any more, durably, until it is emptied by a rewind or replaced by an install.
    fn distrust(&self, reason: &str) -> impl Future<Output = Result<(), StoreError>> + Send;
    fn start(&self) -> impl Future<Output = Result<u64, StoreError>> + Send;
    fn mark_clean(&self, generation: u64, mark: Mark) -> impl Future<Output = Result<(), StoreError>> + Send;
    fn clear_clean(&self) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// For these tables, or for all.
    fn autocompaction(
        &self,
        enabled: bool,
        tables: Option<Vec<Table>>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Where other agents get restore points from this one; empty if there is nothing to get.
    fn source(&self) -> String;
    /// The restore points of the agent at `source` that are not known to be damaged, oldest first.
    fn restore_points_of(&self, source: &str) -> impl Future<Output = Result<Vec<RestorePoint>, StoreError>> + Send;
    /// The manifest of one of them.
    fn manifest_of(&self, source: &str, id: &str) -> impl Future<Output = Result<Manifest, StoreError>> + Send;
    /// Copies one of them; it is the newest here afterwards, and with `replace` the only one.
    fn install(&self, source: &str, id: &str, replace: bool) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Cassandra's clock, ms since 1970.
    fn cassandra_now_ms(&self) -> impl Future<Output = Result<i64, StoreError>> + Send;
}

impl Agent for Store {
    async fn status(&self) -> Result<Status, StoreError> {
        Store::status(self).await
    }

    async fn claim(&self) -> Result<(), StoreError> {
        Store::claim(self).await.map(drop)
    }

    async fn flush(&self) -> Result<Rest, StoreError> {
        let Flushed { builds, memtable_switches } = Store::flush(self).await?;
        Ok(Rest { builds, memtable_switches: Some(memtable_switches) })
    }

    async fn snapshot(&self, id: &str, generation: u64, _: i64, switches: Option<u64>) -> Result<(), StoreError> {
        Store::snapshot(self, id, generation, switches).await.map(drop)
    }

    async fn commit(&self, id: &str, mark: Mark) -> Result<(), StoreError> {
        Store::commit(self, id, mark).await.map(drop)
    }

    async fn abort(&self, id: &str) -> Result<(), StoreError> {
        Store::abort(self, id).await.map(drop)
    }

    async fn rewind(&self, to: Rewind) -> Result<Rewound, StoreError> {
        Store::rewind(self, to).await
    }

    async fn distrust(&self, reason: &str) -> Result<(), StoreError> {
        Store::distrust(self, reason).await.map(drop)
    }

    async fn start(&self) -> Result<u64, StoreError> {
        Store::start(self).await
    }

    async fn mark_clean(&self, generation: u64, mark: Mark) -> Result<(), StoreError> {
        Store::mark_clean(self, generation, mark).await.map(drop)
    }

    async fn clear_clean(&self) -> Result<(), StoreError> {
        Store::clear_clean(self).await.map(drop)
    }

    async fn autocompaction(&self, enabled: bool, tables: Option<Vec<Table>>) -> Result<(), StoreError> {
        Store::autocompaction(self, enabled, tables).await.map(drop)
    }

    fn source(&self) -> String {
        Store::source(self).to_owned()
    }

    async fn restore_points_of(&self, source: &str) -> Result<Vec<RestorePoint>, StoreError> {
        Store::restore_points_of(self, source).await
    }

    async fn manifest_of(&self, source: &str, id: &str) -> Result<Manifest, StoreError> {
        Store::manifest_of(self, source, id).await
    }

    async fn install(&self, source: &str, id: &str, replace: bool) -> Result<(), StoreError> {
        Store::install(self, source, id, replace).await.map(drop)
    }

    async fn cassandra_now_ms(&self) -> Result<i64, StoreError> {
        Store::cassandra_now(self).await.map(|reply| reply.now_ms)
    }
}
