//! The public face of a replica's core: [`ReplicaHandle`] and the types that sessions and the admin server use.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use replicateddb_ordering::{Leadership, OrderedLog};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::backend::Endpoint;
use crate::barrier::{Barriers, through_log};
use crate::command::{Command, Rebuild};
use crate::config::Config;
use crate::frontier::Standing;
use crate::lanes::Lanes;
use crate::metrics::Metrics;
use crate::premise::judged_at;
use crate::propose::{Proposer, proposer};
use crate::reads::{Early, Hold};
use crate::record::Record;
use crate::shared::Shared;
use crate::site::{Agent, Connector};
use crate::supervise::Supervisor;

pub use crate::record::{RecordKind as RequestKind, StatementText, Values};

/// One client request to be put in the global order and executed by every replica.
///
/// The caller has already refused what may not be replicated and replaced calls of non-deterministic functions
/// by values (the core executes what it is given, the same on every replica).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What the request is; decides how it is executed. `Barrier`, `Tick` and `Digest` carry no statements.
    pub kind: RequestKind,
    /// The session's keyspace (as set by USE, unquoted), for unqualified names.
    pub keyspace: Option<String>,
    /// `Dml`, `Ddl`, `Truncate`: exactly one statement; `Batch`: one or more, executed as one unlogged batch.
    pub statements: Vec<StatementText>,
    /// Protocol flags worth keeping, see [`crate::record::flags`]; 0 when none.
    pub flags: u32,
}

/// What executing a request on this replica's own Cassandra answered, to be relayed to the proposing client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The record's place in the global order.
    pub index: u64,
    /// Envelope flags of the answer (warnings 0x08, ...), which say how `body` starts.
    pub flags: u8,
    /// Opcode byte of the answer: 0x08 RESULT or 0x00 ERROR (native protocol v4).
    pub opcode: u8,
    /// The raw body of the answer.
    pub body: Bytes,
}

/// Why a request was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// A bounded queue is full; nothing was written. Answer OVERLOADED.
    #[error("too many requests are waiting")]
    Overloaded,
    /// The log holds as much as its servers have memory for; nothing was written. Answer OVERLOADED.
    #[error(
        "the ordered log holds {} of at most {} MiB, which its servers keep in memory; nothing was written. Try again: its \
         beginning is given up as replicas make restore points. If that lasts, /status of the replicas says what keeps it, and \
         --log-max-bytes may be raised together with ZooKeeper's memory",
        held.div_ceil(1 << 20),
        limit.div_ceil(1 << 20)
    )]
    LogFull {
        /// What it holds, bytes.
        held: u64,
        /// What it may hold, bytes.
        limit: u64,
    },
    /// The request can't be ordered at this size; nothing was written. Answer INVALID.
    #[error("a request of {size} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// Encoded size, bytes.
        size: usize,
        /// Largest encoded size allowed, bytes.
        limit: usize,
    },
    /// The bounded wait passed (the ordered log can't be reached, or the local Cassandra is behind).
    #[error("{reason}")]
    Unavailable {
        /// For people.
        reason: String,
        /// True: the request may take effect yet (at most once). False: it never will.
        maybe_written: bool,
    },
    /// This replica does not serve clients now (recovering, stopping, fenced).
    #[error("not serving: {reason}")]
    NotServing {
        /// For people.
        reason: String,
        /// True: the request may take effect yet (at most once). False: it never will.
        maybe_written: bool,
    },
}

/// Whether clients may be answered (I5). Sessions close whenever this changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serving {
    /// Not caught up, stopping or broken.
    No {
        /// For people.
        reason: String,
    },
    /// Caught up: relay to this backend, and only to this generation of it.
    Yes {
        /// The Cassandra generation that recovery ended with; pass it to `backend::connect`.
        generation: u64,
        /// The local Cassandra's CQL port.
        backend: Endpoint,
    },
}

/// The schema's version as shown to drivers: a function of the log and the last applied DDL.
pub type SchemaVersion = Uuid;

/// An applied schema change, in the terms of the protocol's SCHEMA_CHANGE event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaEvent {
    /// Index of the DDL record.
    pub index: u64,
    /// Body of the RESULT SchemaChange after its kind (int 5): also exactly the body of the EVENT after its type string.
    pub body: Bytes,
}

/// Where the replica is in its life, as shown by `/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Connecting to its store agent.
    Starting,
    /// Bringing its store to exactly one index (rewind, start of Cassandra).
    Recovering,
    /// Applying what the log has beyond the recovered index.
    Replaying,
    /// Caught up; clients are served.
    Serving,
    /// Stopping gracefully.
    Stopping,
    /// Stopped for a reason that only an operator or a new process can lift.
    Failed,
}

/// Progress or result of the last replay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// Index of the recovered state: the first replayed record has this plus one.
    pub from: u64,
    /// Last index replayed so far (or in total, once serving).
    pub to: u64,
    /// `to - from`.
    pub records: u64,
    /// Index of the restore point that the store was rewound to, if one was used.
    pub restore_point: Option<u64>,
    /// True when the store was rewound (unclean end), false after a clean stop.
    pub rewound: bool,
    /// Seconds from the start of recovery until now, or until clients were served.
    pub seconds: f64,
}

/// A replica's state for people and probes; serialises to the `/status` document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Replica id (ordinal).
    pub id: u32,
    /// This process's incarnation in the log.
    pub incarnation: String,
    /// Phase of life.
    pub state: Phase,
    /// One line for people.
    pub detail: String,
    /// Name of the ordering engine.
    pub engine: String,
    /// Who leads, where the engine has a leader and somebody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<Leadership>,
    /// All records up to this index are applied here.
    pub applied_index: u64,
    /// Highest index known to be committed, if known.
    pub log_end: Option<u64>,
    /// `log_end - applied_index`, if known.
    pub lag: Option<u64>,
    /// The last replay.
    pub replay: Option<Replay>,
    /// Generation of the Cassandra that is applied to.
    pub generation: Option<u64>,
    /// Index of the newest committed restore point.
    pub restore_point_index: Option<u64>,
    /// Position of the first entry that the log still has, as last seen.
    #[serde(default)]
    pub log_first: Option<String>,
    /// Position from which on this replica's restore points need the log, as made known to the others.
    #[serde(default)]
    pub log_needs: Option<String>,
    /// Schema version shown to drivers.
    pub schema_version: Uuid,
    /// What is not as it should be, for people; empty when all is well.
    pub conditions: Vec<String>,
}

/// Digest of one table at an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDigest {
    /// Rows read.
    pub rows: u64,
    /// Hex SHA-256 over cells and write times.
    pub sha256: String,
}

/// Digests of every user table at one index of the log (I1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Index of the digest record; also its id for [`ReplicaHandle::digest_at`].
    pub index: u64,
    /// By `keyspace.table`.
    pub tables: BTreeMap<String, TableDigest>,
    /// Why there is none, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

impl Digest {
    /// None, and why.
    pub fn failed(index: u64, reason: impl Into<String>) -> Self {
        Self { index, tables: BTreeMap::new(), failed: Some(reason.into()) }
    }
}

fn record_of(Request { kind, keyspace, statements, flags }: Request) -> Record {
    Record { flags, keyspace, statements, ..Record::bare(kind) }
}

/// Requests to the applier that may wait.
const COMMANDS: usize = 16;
/// How long whoever has a store built anew waits until its agent knows.
const REBUILD_WAIT: Duration = Duration::from_secs(15);
/// How long a read waits for its lanes.
const HOLD_WAIT: Duration = Duration::from_secs(10);

/// A running replica. Cheap to clone; the replica runs until [`ReplicaHandle::stop`], a failure that nothing here can
/// help ([`ReplicaHandle::finished`]), or until the last handle is dropped, which is as good as a crash.
#[derive(Clone)]
pub struct ReplicaHandle {
    shared: Arc<Shared>,
    proposer: Proposer,
    barriers: Barriers,
    commands: mpsc::Sender<Command>,
    leadership: Arc<dyn Fn() -> Option<Leadership> + Send + Sync>,
    stop: CancellationToken,
    _task: Arc<AbortOnDropHandle<()>>,
}

impl ReplicaHandle {
    /// Starts a replica: recovers its store, replays the log, then serves. Returns at once.
    ///
    /// `log` is opened for this replica (a new incarnation); `agent` speaks for the same incarnation.
    pub fn start<L: OrderedLog, A: Agent, C: Connector>(
        config: Config,
        log: L,
        agent: A,
        connector: C,
        metrics: Metrics,
    ) -> Self {
        let (id, limits, clock) = (config.replica, config.limits.clone(), config.clock.clone());
        let shared = Arc::new(Shared::new(config, log.incarnation().0, metrics.clone()));
        let (unresolved, room) = (shared.unresolved.clone(), shared.log_room.clone());
        let (proposer, proposing) = proposer(log.clone(), id, limits, unresolved, room, metrics, clock);
        let (barriers, barrier_task) = Barriers::new(shared.clone(), log.clone(), proposer.clone());
        let (sender, commands) = mpsc::channel(COMMANDS);
        let led = log.clone();
        let leadership = Arc::new(move || led.leadership());
        let stop = CancellationToken::new();
        let supervisor = Supervisor {
            shared: shared.clone(),
            log,
            agent,
            connector,
            proposer: proposer.clone(),
            commands,
            stop: stop.clone(),
        };
        let living = AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::select! {
                biased;
                reason = supervisor.run(proposing.run()) => reason,
                reason = barrier_task => reason,
            }
        }));
        let watched = shared.clone();
        let task = tokio::spawn(async move {
            match living.await {
                Ok(reason) => tracing::info!(%reason, "the replica has ended"),
                // A broken invariant: stop serving at once rather than go on wrongly.
                Err(error) => watched.fail(&format!("a broken invariant: {error}")),
            }
        });
        Self {
            shared,
            proposer,
            barriers,
            commands: sender,
            leadership,
            stop,
            _task: Arc::new(AbortOnDropHandle::new(task)),
        }
    }

    /// Whether clients may be answered, and by which backend (I5). Sessions close whenever it changes.
    pub fn serving(&self) -> watch::Receiver<Serving> {
        self.shared.serving.subscribe()
    }

    /// Orders a request; completes when it is applied here. Bounded by [`crate::propose::Limits`]' waits. A session
    /// that drops the future before the request was proposed takes it back.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(&self, request: Request) -> Result<Outcome, ProposeError> {
        self.propose_record(record_of(request)).await
    }

    /// The same for a schema statement that was judged at the schema of this [index](Self::schema_index): at another one it is
    /// not executed, and its outcome says so (`crate::premise`).
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose_judged(&self, request: Request, schema: u64) -> Result<Outcome, ProposeError> {
        self.propose_record(judged_at(record_of(request), schema)).await
    }

    async fn propose_record(&self, record: Record) -> Result<Outcome, ProposeError> {
        self.check_serving()?;
        self.proposer.propose(record).await
    }

    fn check_serving(&self) -> Result<(), ProposeError> {
        match &*self.shared.serving.borrow() {
            Serving::Yes { .. } => Ok(()),
            Serving::No { reason } => Err(ProposeError::NotServing { reason: reason.clone(), maybe_written: false }),
        }
    }

    /// Completes when everything acknowledged anywhere before the call is applied here (I4); gives the barrier's
    /// index. Shared with all readers that wait; bounded in time.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn barrier(&self) -> Result<u64, ProposeError> {
        self.check_serving()?;
        self.barriers.pass().await
    }

    /// For a read of one partition that may begin before its barrier has passed, because nothing was found to wait for by the
    /// last one: what is applied here now. It is good for the client if that covers the barrier.
    pub fn early(&self) -> Option<Early> {
        self.check_serving().ok()?;
        self.barriers.are_quiet().then(|| Early::at(self.shared.applied()))
    }

    /// Holds lanes for a read, as soon as the records that are in them now have executed: until the hold is dropped,
    /// no record changes what is read there. Bounded in time.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn hold(&self, lanes: Lanes) -> Result<Hold, ProposeError> {
        self.check_serving()?;
        let (sender, begun) = oneshot::channel();
        let held = async {
            self.commands.send(Command::Read(lanes, sender)).await.ok()?;
            begun.await.ok()
        };
        match tokio::time::timeout(HOLD_WAIT, held).await {
            Ok(Some(hold)) => Ok(hold),
            Ok(None) => {
                let reason = "the replica has stopped or is recovering".to_owned();
                Err(ProposeError::NotServing { reason, maybe_written: false })
            }
            Err(_) => {
                let reason = format!("writes to the table before this read were not executed within {HOLD_WAIT:?}");
                Err(ProposeError::Unavailable { reason, maybe_written: false })
            }
        }
    }

    /// Whether what was read at a linearizable level may be shown.
    pub fn standing(&self) -> Standing {
        self.shared.standing.clone()
    }

    /// Finds out from the log whether this life had not ended when this was called; bounded in time.
    ///
    /// # Errors
    /// It has, or it could not be found out.
    pub async fn prove(&self) -> Result<(), ProposeError> {
        through_log(&self.shared, &self.proposer).await.map(drop)
    }

    /// The version of the schema applied here.
    pub fn schema(&self) -> watch::Receiver<SchemaVersion> {
        self.shared.schema.subscribe()
    }

    /// The index of the record that made the schema that is applied here; 0 before the first. Read it before what is judged by
    /// the schema: it may be behind, never ahead.
    pub fn schema_index(&self) -> u64 {
        self.shared.schema_index.load(Ordering::Acquire)
    }

    /// The index of the last record applied here, by this process, that may have changed the schema, roles or permissions.
    pub fn last_ddl(&self) -> u64 {
        self.shared.last_ddl.load(Ordering::Acquire)
    }

    /// Schema changes as they are applied here.
    pub fn events(&self) -> broadcast::Receiver<SchemaEvent> {
        self.shared.events.subscribe()
    }

    /// For people and probes.
    pub fn status(&self) -> Status {
        Status { leader: (self.leadership)(), ..self.shared.status() }
    }

    /// Orders a digest record and returns what this replica computed at its index; the others keep theirs.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn digest(&self) -> Result<Digest, ProposeError> {
        let outcome = self.propose_record(Record::bare(RequestKind::Digest)).await?;
        let lost =
            || ProposeError::Unavailable { reason: "the digest was replaced already".to_owned(), maybe_written: false };
        let digest = self.shared.digest(outcome.index).ok_or_else(lost)?;
        match digest.failed {
            Some(reason) => Err(ProposeError::Unavailable { reason, maybe_written: false }),
            None => Ok(digest),
        }
    }

    /// The digest computed here for the digest record at `index`, if it was applied and is one of the last few.
    pub fn digest_at(&self, index: u64) -> Option<Digest> {
        self.shared.digest(index)
    }

    /// Makes a restore point now; returns its index.
    ///
    /// # Errors
    /// Why there is none; for people.
    pub async fn restore_point(&self) -> Result<u64, String> {
        let (sender, answer) = oneshot::channel();
        let stopped = "the replica has stopped or is recovering";
        self.commands.try_send(Command::RestorePoint(sender)).map_err(|_| stopped.to_owned())?;
        answer.await.map_err(|_| stopped.to_owned())?
    }

    /// Gives up what the store holds and builds it anew, from the log or from a restore point of another replica; no client
    /// is served meanwhile. For a store that differs from the others'; `reason` is for people. Returns once no crash can
    /// bring back what the store holds; bounded in time.
    ///
    /// # Errors
    /// Why it can't begin now; for people.
    pub async fn rebuild(&self, reason: &str) -> Result<(), String> {
        let stopped = "the replica has stopped or is recovering";
        let (known, begun) = oneshot::channel();
        let rebuild = Rebuild { reason: reason.to_owned(), known };
        self.commands.try_send(Command::Rebuild(rebuild)).map_err(|_| stopped.to_owned())?;
        match tokio::time::timeout(REBUILD_WAIT, begun).await {
            Ok(begun) => begun.map_err(|_| stopped.to_owned()),
            Err(_) => Err(format!(
                "it serves nobody, but its store agent could not be told within {REBUILD_WAIT:?}; it goes on trying"
            )),
        }
    }

    /// Stops gracefully: finishes what is on its way, drains, and marks the store clean, so that the next start needs
    /// no rewind. Returns when it is done, with what was achieved.
    pub async fn stop(self) -> String {
        self.stop.cancel();
        self.finished().await
    }

    /// Completes when the replica has ended, with the reason.
    pub async fn finished(&self) -> String {
        let mut finished = self.shared.finished.subscribe();
        match finished.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => String::new(),
        }
    }
}
