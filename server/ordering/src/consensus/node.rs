//! A replica's node: starting it, its health, stopping it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{self, sleep};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::command::{Note, Outcome};
use super::core::{Core, RaftHandle, Rounds, Route};
use super::frames::{Answer, Request, Small};
use super::hand_over;
use super::machine::Machine;
use super::network::Network;
use super::peer::{Lane, Peers};
use super::propose::Proposer;
use super::storage::{LogStore, blocking};
use super::types::{Metrics, Raft, replica_of};
use super::{Config, ConsensusLog, Inner, RETRY_PAUSE, VolumeError, membership, propose, serve};
use crate::{Incarnation, LogHealth, LogId};

/// How long a piece of a snapshot may take.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(4);
/// Bytes of a snapshot that are sent at once.
const SNAPSHOT_PIECE: u64 = 1 << 20;
/// Entries that are sent at once, whatever their bytes.
const REPLICATED_ENTRIES: u64 = 1024;
/// Time between two snapshots, at least.
const SNAPSHOT_PAUSE: Duration = Duration::from_secs(1);
/// How often the health is looked at when nothing else happens.
const HEALTH_CHECK: Duration = Duration::from_millis(500);

/// Why a node can't be started, or a life can't be begun.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting is wrong.
    #[error("the settings of the log are wrong: {0}")]
    Config(String),
    /// The folder can't be used.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The port can't be used.
    #[error("the other replicas can't be served at {listen}: {source}")]
    Listen {
        /// The address.
        listen: std::net::SocketAddr,
        /// The system's words.
        source: std::io::Error,
    },
    /// Raft has refused what is on the volume, or has stopped.
    #[error("the log can't be used: {0}")]
    Raft(String),
    /// No majority of the replicas was there in time.
    #[error("no majority of the replicas has answered within {waited:?}: {detail}")]
    Unavailable {
        /// How long.
        waited: Duration,
        /// The last trouble.
        detail: String,
    },
}

/// A replica's node; clones share everything. It runs until the last handle of it or of a log is dropped, or it is stopped.
#[derive(Clone, Debug)]
pub struct Node {
    running: Arc<Running>,
}

#[derive(Debug)]
struct Running {
    core: Arc<Core>,
    health: watch::Receiver<LogHealth>,
    tasks: Mutex<Vec<AbortOnDropHandle<()>>>,
}

impl Node {
    /// Starts the replica's node: it serves the others, and is one of them as soon as they have taken it in.
    ///
    /// # Errors
    /// If the settings are wrong, or the folder or the port can't be used.
    pub async fn start(config: Config) -> Result<Self, OpenError> {
        config.check().map_err(OpenError::Config)?;
        let (folder, replica) = (config.folder.clone(), config.replica);
        let opened = blocking(move || {
            let log = LogStore::open(&folder, replica)?;
            Ok::<_, VolumeError>((log.clone(), Machine::open(log)?))
        });
        let (log, machine) = opened.await?;
        let listener = TcpListener::bind(config.listen).await;
        let listener = listener.map_err(|source| OpenError::Listen { listen: config.listen, source })?;
        let peers = Peers::new(config.addresses.clone());
        let (node, network) = (log.node(), Network { peers: peers.clone() });
        let raft_config =
            Arc::new(raft_config(&config).validate().map_err(|error| OpenError::Config(error.to_string()))?);
        let raft = Raft::new(node, raft_config, network, log, machine.clone()).await;
        let raft = RaftHandle(raft.map_err(|error| OpenError::Raft(error.to_string()))?);
        tracing::info!(replica, node = format!("{node:x}"), listen = %config.listen, "a node of the ordered log runs");
        let (proposer, queue) = Proposer::new();
        let core = Arc::new(Core {
            config,
            node,
            raft,
            peers,
            machine,
            proposer,
            yielding: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            rounds: Rounds::default(),
            changing: tokio::sync::Mutex::new(()),
            vouched: Mutex::new(BTreeMap::new()),
        });
        let (sender, health) = watch::channel(judge(&core.metrics(), &core.config, None));
        let tasks = vec![
            AbortOnDropHandle::new(tokio::spawn(serve::run(core.clone(), listener))),
            AbortOnDropHandle::new(tokio::spawn(propose::run(core.clone(), queue))),
            AbortOnDropHandle::new(tokio::spawn(membership::keep(core.clone()))),
            AbortOnDropHandle::new(tokio::spawn(keep_small(core.clone()))),
            AbortOnDropHandle::new(tokio::spawn(watch_health(core.clone(), sender))),
        ];
        Ok(Self { running: Arc::new(Running { core, health, tasks: Mutex::new(tasks) }) })
    }

    /// Begins a life of a replica, most often of the one that this is the node of.
    ///
    /// # Errors
    /// If no majority of the replicas is there in time.
    pub async fn begin(&self, replica: u32) -> Result<(ConsensusLog, Incarnation), OpenError> {
        let waited = self.core().config.open_timeout;
        let note = Note::Begin { replica, opener: Uuid::new_v4() };
        let unavailable = |detail: String| OpenError::Unavailable { waited, detail };
        match self.core().settle(note, time::Instant::now() + waited).await {
            Ok((Outcome::Begun { incarnation, log }, _)) => {
                let inner = Inner {
                    node: self.clone(),
                    life: (replica, incarnation),
                    log_id: LogId(log),
                    fenced: AtomicBool::new(false),
                };
                Ok((ConsensusLog { inner: Arc::new(inner) }, incarnation))
            }
            Ok((Outcome::Fenced, _)) => Err(unavailable(
                "another life of this replica has begun meanwhile; does a second process run it?".into(),
            )),
            Ok((other, _)) => Err(unavailable(format!("another answer than was asked for: {other:?}"))),
            Err(error) => Err(unavailable(error.to_string())),
        }
    }

    /// Which replica leads, as far as this node knows.
    pub fn leader(&self) -> Option<u32> {
        match self.core().route() {
            Route::Here => Some(self.core().config.replica),
            Route::There(leader) => Some(replica_of(leader)),
            Route::Nowhere => None,
        }
    }

    /// The replicas that vote, as far as this node knows.
    pub fn voters(&self) -> Vec<u32> {
        self.core().metrics().membership_config.voter_ids().map(replica_of).collect()
    }

    /// Whether this node votes, as far as it knows: it, and not another volume of the same replica.
    pub fn votes(&self) -> bool {
        self.core().metrics().membership_config.voter_ids().any(|voter| voter == self.core().node)
    }

    /// Index of the first of Raft's entries that this node still has.
    pub fn first_index(&self) -> u64 {
        self.core().metrics().purged.map_or(0, |purged| purged.index + 1)
    }

    /// Takes a replica out: it has no vote any more, and is told nothing. For one that was scaled down. One that still runs
    /// asks to be taken in again, unless it is the one that this is the node of: that does so when it is started again.
    ///
    /// # Errors
    /// Why it could not be done; it may be tried again. Until then the replica takes part as before.
    pub async fn remove(&self, replica: u32) -> Result<(), String> {
        let core = self.core();
        let own = replica == core.config.replica;
        // It must not ask to be taken in while it is taken out.
        let leaving = own.then(|| Leaving::begin(&core.leaving));
        self.try_remove(replica).await?;
        if let Some(leaving) = leaving {
            leaving.done();
        }
        Ok(())
    }

    async fn try_remove(&self, replica: u32) -> Result<(), String> {
        let core = self.core();
        let deadline = time::Instant::now() + core.config.admin_timeout;
        loop {
            let answer = match core.route() {
                Route::Here => membership::take_out(core, replica).await,
                Route::There(leader) => {
                    let request = Request::Small(Small::Leave { replica });
                    let answer = core.peers.call(replica_of(leader), Lane::Control, &request, deadline).await;
                    answer.unwrap_or_else(|error| Answer::Refused(error.to_string()))
                }
                Route::Nowhere => Answer::Refused("no replica leads".into()),
            };
            let reason = match answer {
                Answer::Done => return Ok(()),
                Answer::Refused(reason) => reason,
                _ => "another replica leads now".into(),
            };
            if time::Instant::now() + RETRY_PAUSE >= deadline {
                return Err(reason);
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Gives up leading, if this node does, to the one that is farthest; whether nobody waits for it now.
    pub async fn hand_over(&self) -> bool {
        hand_over::hand_over(self.core()).await
    }

    /// Stops it: hands over first, and returns when nothing of it runs any more.
    pub async fn stop(&self) {
        self.hand_over().await;
        self.halt().await;
    }

    /// Stops it as a crash would, but returns when nothing of it runs any more.
    pub async fn halt(&self) {
        let tasks = std::mem::take(&mut *self.running.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for task in &tasks {
            task.abort();
        }
        for task in tasks {
            // It was told to end.
            let _ = task.await;
        }
        if let Err(error) = self.core().raft.shutdown().await {
            tracing::warn!(%error, "Raft did not stop as it should");
        }
        self.core().machine.close().await;
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.running.core
    }

    /// Whether the log can be reached, and changes of that.
    pub fn health(&self) -> watch::Receiver<LogHealth> {
        self.running.health.clone()
    }
}

/// The time while this replica is taken out, and afterwards if it was done.
struct Leaving<'a>(&'a AtomicBool);

impl<'a> Leaving<'a> {
    fn begin(leaving: &'a AtomicBool) -> Self {
        leaving.store(true, Ordering::Release);
        Self(leaving)
    }

    fn done(self) {
        std::mem::forget(self);
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

fn raft_config(config: &Config) -> openraft::Config {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    openraft::Config {
        cluster_name: "replicateddb".into(),
        heartbeat_interval: millis(config.heartbeat),
        election_timeout_min: millis(config.election),
        election_timeout_max: millis(config.election * 2),
        install_snapshot_timeout: millis(SNAPSHOT_LIMIT),
        snapshot_max_chunk_size: SNAPSHOT_PIECE,
        max_payload_entries: REPLICATED_ENTRIES,
        // Taken when there is something to leave out, and only then; see `machine`.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        ..openraft::Config::default()
    }
}

/// Leaves out of Raft's log what was given up.
async fn keep_small(core: Arc<Core>) {
    let mut progress = core.machine.progress();
    while progress.wait_for(|progress| progress.purgeable).await.is_ok() {
        if let Err(error) = core.raft.trigger().snapshot().await {
            tracing::debug!(%error, "Raft has stopped");
            return;
        }
        sleep(SNAPSHOT_PAUSE).await;
    }
}

/// Tells whether the log can be reached.
async fn watch_health(core: Arc<Core>, health: watch::Sender<LogHealth>) {
    let mut metrics = core.raft.metrics();
    loop {
        let since = match &*health.borrow() {
            LogHealth::Connected => None,
            LogHealth::Disconnected { since, .. } => Some(*since),
        };
        let now = judge(&metrics.borrow_and_update(), &core.config, since);
        health.send_if_modified(|current| {
            let changed = *current != now;
            *current = now;
            changed
        });
        if let Ok(Err(_)) = time::timeout(HEALTH_CHECK, metrics.changed()).await {
            return;
        }
    }
}

/// What Raft's own words mean. One that leads notices by itself alone that no majority answers it.
fn judge(metrics: &Metrics, config: &Config, since: Option<Instant>) -> LogHealth {
    let silent = metrics.millis_since_quorum_ack.is_some_and(|millis| {
        metrics.current_leader == Some(metrics.id) && u128::from(millis) > (config.election * 2).as_millis()
    });
    let detail = match (&metrics.running_state, metrics.current_leader) {
        (Err(error), _) => format!("this replica's node has stopped: {error}"),
        (Ok(()), None) => "no replica leads".to_owned(),
        (Ok(()), Some(_)) if silent => "no majority of the replicas answers".to_owned(),
        (Ok(()), Some(_)) => return LogHealth::Connected,
    };
    LogHealth::Disconnected { since: since.unwrap_or_else(Instant::now), detail }
}
