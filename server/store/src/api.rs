//! What the store agent and its client say to each other: JSON over HTTP.
//!
//! Restore points are read (`GET /v1/restore-points/...`) by the agents of other replicas, who show the token alone.
//! Every other call but `status` is a POST that carries the replica's log and incarnation in the headers [`LOG_HEADER`] and
//! [`INCARNATION_HEADER`] and the shared token as a bearer token. The agent remembers which log its store belongs to and
//! the highest incarnation of that log it has seen, durably. It refuses lower ones (I6), so that a replica that was
//! replaced can no longer rewind, snapshot or mark anything; and every other log, whose numbers mean nothing here.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The HTTP header with the caller's incarnation, a decimal `i64`.
pub const INCARNATION_HEADER: &str = "x-replicateddb-incarnation";

/// The HTTP header with the id of the caller's log, a UUID.
pub const LOG_HEADER: &str = "x-replicateddb-log";

/// Longest id of a restore point, in bytes. Ids consist of `a-z`, `0-9` and `-`.
pub const MAX_RESTORE_POINT_ID: usize = 64;

/// How many committed restore points an agent keeps.
pub const RESTORE_POINTS_KEPT: usize = 2;

/// Largest body of a request, in bytes: a manifest with the replica's whole state in it.
pub const MAX_REQUEST_BODY: usize = 64 << 20;

/// What the Java process is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Jvm {
    /// Not running, and nobody asked it to.
    Stopped,
    /// Started, not yet answering CQL.
    Starting,
    /// Answers CQL, with [`Status::generation`].
    Running,
    /// Ended by itself or did not come up; it stays down until the replica rewinds. A shared one is started again.
    Failed {
        /// What happened, for people.
        detail: String,
    },
}

/// What a clean mark holds for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Held {
    /// For the running JVM of this generation, and no other.
    Generation {
        /// The generation.
        generation: u64,
    },
    /// The JVM was drained and stopped (or the directory was just rewound): the files alone are the state.
    Drained,
}

/// The directory holds exactly the state at `manifest.index`; without a manifest, nothing at all (index 0).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Clean {
    /// The replica's state that belongs to the data; `None` means empty at index 0.
    pub manifest: Option<Manifest>,
    /// What the mark holds for.
    pub held: Held,
}

/// How many files a restore point has, and a digest of their names, sizes and checksums.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// Number of files.
    pub count: u64,
    /// Sum of their sizes.
    pub bytes: u64,
    /// SHA-256, in hex, over the list of (path, size, CRC-32) in the order of paths.
    pub digest: String,
}

/// The replica's side of a restore point or clean mark: the index and what it needs to go on from there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// Every record up to this index is in the data, and no later one.
    pub index: u64,
    /// The replica's own state at that index (position, clock, duplicates, catalogue ...); the agent only keeps it.
    pub replica_state: serde_json::Value,
}

/// What truncations and schema changes leave behind in Cassandra.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    /// Ids of the users' tables, by `keyspace.table`.
    pub tables: std::collections::BTreeMap<String, String>,
    /// Of those that were ever truncated, when, as Cassandra keeps it.
    pub truncated: std::collections::BTreeMap<String, String>,
    /// Cassandra's own version of the schema.
    pub schema_version: Option<String>,
}

/// A [`Mark`] as the agent keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The restore point's id, or `clean` for a clean mark.
    pub id: String,
    /// Counts the agent's manifests; orders restore points.
    pub sequence: u64,
    /// The index and the replica's state.
    #[serde(flatten)]
    pub mark: Mark,
    /// Cassandra's `now()` when this was made, ms since the epoch, rounded up: after a restart nothing may be applied
    /// before Cassandra's clock ([`NowReply`]) has passed it.
    pub cassandra_now_ms: i64,
    /// The agent's clock when this was made, ms since the epoch.
    pub created_ms: i64,
    /// What lies in the tree; empty for a clean mark.
    pub files: Files,
    /// Of a clean mark: what is compared when it is taken away.
    #[serde(default)]
    pub footprint: Option<Footprint>,
}

/// A committed restore point, without the replica's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePoint {
    /// Its id.
    pub id: String,
    /// See [`Manifest::sequence`].
    pub sequence: u64,
    /// See [`Mark::index`].
    pub index: u64,
    /// See [`Manifest::created_ms`].
    pub created_ms: i64,
    /// What lies in its tree.
    pub files: Files,
}

/// A committed restore point that was found to be damaged when the store was to be rewound, or when the agent started. It goes
/// with the next that is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damaged {
    /// Its id.
    pub id: String,
    /// What is wrong with it, for people.
    pub detail: String,
}

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "restore point {} is damaged: {}", self.id, self.detail)
    }
}

/// Reply of `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Born with the volume: a replaced volume has another.
    pub store_id: Uuid,
    /// Number of the last start of the JVM; never reused. 0: never started. Of a shared Cassandra, not with another volume
    /// either.
    pub generation: u64,
    /// What the JVM is doing.
    pub jvm: Jvm,
    /// Its process id, while there is one. It is in a process group of its own.
    pub jvm_pid: Option<u32>,
    /// No valid clean mark: what is in the directory is not known to be the state at any index.
    pub dirty: bool,
    /// The clean mark, if there is a valid one.
    pub clean: Option<Clean>,
    /// Committed restore points, oldest first: the last [`RESTORE_POINTS_KEPT`], and those that another agent is reading.
    pub restore_points: Vec<RestorePoint>,
    /// Those of them that the last rewind found damaged, and further ones that can't even be read.
    #[serde(default)]
    pub damaged: Vec<Damaged>,
    /// Why what the store holds, its restore points included, is not to be used: it is to be built anew.
    #[serde(default)]
    pub distrusted: Option<String>,
    /// Several replicas share this Cassandra: there is no mark, no restore point and no log here, and no call but
    /// `status` is answered.
    #[serde(default)]
    pub shared: bool,
    /// The log that the store belongs to; `None` before the first call.
    #[serde(default)]
    pub log_id: Option<Uuid>,
    /// The highest incarnation of that log that ever called; lower ones are refused.
    pub highest_incarnation: Option<i64>,
    /// A restore point of another store that is being copied.
    #[serde(default)]
    pub installing: Option<Installing>,
    /// The agent is shutting down. It takes no more calls but `mark-clean` and `abort`: a replica that drains and marks
    /// now needs no rewind later.
    pub stopping: bool,
}

/// How far the copy of another store's restore point is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installing {
    /// Its id.
    pub id: String,
    /// Bytes of the files that are here.
    pub done_bytes: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
}

/// `install`: copies a restore point of another store, which becomes the newest here. Nothing is put back by it:
/// that is a `rewind`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Install {
    /// The other store's agent, an `http` URL. It must take the same token.
    pub source: String,
    /// The id of its restore point.
    pub id: String,
    /// The restore points that are here go.
    #[serde(default)]
    pub replace: bool,
}

/// `distrust`: from now on nothing that the store holds is used, after whatever crash, until it is emptied by a `rewind` or
/// replaced by an `install`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distrust {
    /// For people.
    pub reason: String,
}

/// Reply of `claim`, `clear-clean` and other calls without a result of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Number of the last start of the JVM.
    pub generation: u64,
}

/// Reply of `flush`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flushed {
    /// Builds of indexes and views under way, as Cassandra names them. A restore point should wait until it is empty.
    pub builds: Vec<String>,
    /// How often memtables had been replaced by then, as Cassandra counts: see [`Snapshot::memtable_switches`].
    pub memtable_switches: u64,
}

/// `snapshot`: hard-links every file of every keyspace (the system's too) into an uncommitted tree, without flushing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// A new id: `a-z`, `0-9`, `-`, at most [`MAX_RESTORE_POINT_ID`] bytes.
    pub id: String,
    /// The generation the caller talks CQL to; refused if it is not the running one.
    pub generation: u64,
    /// What the last flush has answered, if rows are written meanwhile: the snapshot is refused if a memtable was replaced
    /// since, for then it may hold some of those rows. As long as none is, what is written after the flush is in memory
    /// alone. No table may be dropped meanwhile: its share of the count would go with it.
    pub memtable_switches: Option<u64>,
}

/// `commit`: makes the tree of the snapshot `id` a restore point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// The id of the snapshot.
    pub id: String,
    /// What the data stands for.
    pub mark: Mark,
}

/// `abort`: the tree of `id` is deleted, and `id` can never be snapshot or committed again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abort {
    /// The id of the snapshot.
    pub id: String,
}

/// Where a rewind goes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "to", rename_all = "snake_case")]
pub enum Rewind {
    /// To the newest restore point that is whole; to the empty state at index 0 if there never was one.
    #[default]
    Latest,
    /// To this restore point.
    RestorePoint {
        /// Its id.
        id: String,
    },
    /// To the empty state at index 0; deletes the restore points. The one call that another log may make: the store is
    /// the caller's from then on.
    Empty,
}

/// Reply of `rewind`: the directory holds exactly the manifest's state and the JVM was started on it.
/// There is no clean mark afterwards: the next unclean end rewinds again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rewound {
    /// The generation that was started.
    pub generation: u64,
    /// The restore point's manifest; `None` means empty at index 0.
    pub manifest: Option<Manifest>,
}

/// `mark-clean`: the replica applied everything up to the mark's index, nothing is in flight, and it will clear the
/// mark before it applies anything else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MarkClean {
    /// The generation that the replica drained into; refused if it is not the running one.
    pub generation: u64,
    /// What the data stands for.
    pub mark: Mark,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its keyspace, as Cassandra keeps it (case as is, no quotes).
    pub keyspace: String,
    /// Its name, as Cassandra keeps it.
    pub table: String,
}

/// `autocompaction`: on or off. A start of the JVM has it off, but a table created or altered later has it on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Autocompaction {
    /// On or off.
    pub enabled: bool,
    /// Which tables; `None` is every table of every keyspace, the system's too.
    pub tables: Option<Vec<Table>>,
}

/// Reply of `cassandra-now`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NowReply {
    /// Cassandra's `now()`, ms since the epoch, rounded down.
    pub now_ms: i64,
    /// The generation that answered.
    pub generation: u64,
}

/// Why a call was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// No token, or a wrong one.
    Unauthorized,
    /// The request can't be understood or breaks a bound.
    BadRequest,
    /// A higher incarnation of the replica has called before: the caller must stop.
    StaleIncarnation,
    /// The store belongs to another log than the caller: only people can tell which of the two is to be kept.
    OtherLog,
    /// The agent's Cassandra is shared by several replicas: it takes no calls of any of them.
    SharedMode,
    /// The directory is neither clean nor rewound.
    Dirty,
    /// What the store holds is not to be used: it has to be emptied or replaced.
    Distrusted,
    /// The JVM is not running, or not in the state that the call needs.
    WrongState,
    /// Another generation is running than the caller believes.
    WrongGeneration,
    /// No such snapshot or restore point, or it was aborted.
    UnknownRestorePoint,
    /// A memtable was replaced between the flush and the end of the snapshot: it may hold what was written meanwhile.
    MemtableSwitched,
    /// Every restore point is damaged.
    Damaged,
    /// The agent is shutting down.
    Stopping,
    /// Cassandra did not answer in time.
    Timeout,
    /// Anything else: the disk, the JVM.
    Failed,
}

/// Body of every reply that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs.
    pub code: Code,
    /// For people.
    pub message: String,
}
