//! The engine without ZooKeeper: the replicas agree among themselves, by Raft.
//!
//! Each replica is a [`Node`], with a folder on its volume and connections to the others. Raft (the library `openraft`) orders
//! batches of commands: entries to append, and the log's own bookkeeping (lives, what replicas make known, where the log
//! begins). `state` is that bookkeeping, a pure function of the batches, and refuses the entries of lives that are over (I6).
//!
//! - **On disk** (`file_log`, `record`, `volume`): Raft's log, one write and one sync for all that waits at the same time, on
//!   every node before it is acknowledged; the vote; a snapshot. It is the log itself, too: a tail reads it (`machine` says how
//!   snapshots go with that).
//! - **Proposing** (`propose`): whoever leads takes what comes within a moment as one batch, with its clock; the others send it
//!   what comes to them. What was proposed and got no answer is of unknown outcome.
//! - **Reading** is local. The end of the log, and everything that must not be old, waits until this node has applied what the
//!   leader knew to be committed while a majority still followed it (Raft's read index).
//! - **Members** (`membership`): a node is a replica *and its volume*, so that an emptied volume is never taken for the node
//!   that made promises. New nodes learn before they vote.
//! - **Handing over** (`hand_over`): before it stops, a leader that has one to follow it says so, and leads no longer.
//!
//! What is trusted: the network between replicas. Frames have checksums, and no keys yet.

mod command;
mod core;
mod file_log;
mod frames;
mod hand_over;
mod machine;
mod membership;
mod network;
mod node;
mod peer;
mod propose;
mod record;
mod serve;
mod state;
mod storage;
mod tail;
mod types;
mod volume;

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::sync::watch;
use tokio::time::Instant;

pub use self::node::{Node, OpenError};
pub use self::peer::Addresses;
pub use self::volume::VolumeError;

use self::command::{Command, Note, Outcome};
use self::core::Core;
use self::frames::{Answer, Request, Small};
use self::peer::Lane;
use self::propose::ProposeError;
use self::state::State;
use crate::truncation::Published;
use crate::{
    AppendError, Appended, Beginning, Committed, Incarnation, Life, LogError, LogHealth, LogId, OrderedLog, Position,
    TailError,
};

/// Pause before something that was not taken is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// How long others have to say what they have shown: whoever asks has another way.
const ASK_LIMIT: Duration = Duration::from_millis(50);

/// How a replica takes part.
#[derive(Clone, Debug)]
pub struct Config {
    /// Number of the replica, from 0.
    pub replica: u32,
    /// Folder on the replica's own volume; made if it is not there.
    pub folder: PathBuf,
    /// Where the other replicas reach this one.
    pub listen: SocketAddr,
    /// Where this one reaches the others.
    pub addresses: Addresses,
    /// How many replicas there are. Those from 0 on begin the group together, if there is none yet: all of them must be
    /// there then.
    pub replicas: u32,
    /// Entries that have the same segment in their positions; what the log was begun with counts.
    pub segment_entries: u32,
    /// The largest entry taken, in bytes.
    pub max_body_bytes: usize,
    /// How long beginning a life waits for a majority.
    pub open_timeout: Duration,
    /// How long an append waits, in all, before it answers `Unavailable` or `Unknown`.
    pub append_timeout: Duration,
    /// How long anything else may take.
    pub admin_timeout: Duration,
    /// Time between two signs of life of the leader.
    pub heartbeat: Duration,
    /// A leader that has given no sign for twice this is no longer waited for; after as long again, and at most twice that,
    /// another one is elected. A few heartbeats at least.
    pub election: Duration,
}

impl Config {
    /// Largest value of [`Config::max_body_bytes`].
    pub const MAX_BODY_BYTES: usize = 64 << 20;

    /// The usual settings.
    pub fn new(
        replica: u32,
        folder: impl Into<PathBuf>,
        listen: SocketAddr,
        addresses: Addresses,
        replicas: u32,
    ) -> Self {
        Self {
            replica,
            folder: folder.into(),
            listen,
            addresses,
            replicas,
            segment_entries: 10_000,
            max_body_bytes: 17 << 20,
            open_timeout: Duration::from_secs(30),
            append_timeout: Duration::from_secs(10),
            admin_timeout: Duration::from_secs(30),
            heartbeat: Duration::from_millis(300),
            election: Duration::from_millis(700),
        }
    }

    /// Says what is wrong with the settings, naming the field.
    fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: usize, least: usize, most: usize| match (least..=most).contains(&value) {
            true => Ok(()),
            false => Err(format!("{name} is {value}, it must be between {least} and {most}")),
        };
        within("replica", self.replica as usize, 0, types::MAX_REPLICA as usize)?;
        within("replicas", self.replicas as usize, 1, 64)?;
        within("segment_entries", self.segment_entries as usize, 1, 1_000_000)?;
        within("max_body_bytes", self.max_body_bytes, 1, Self::MAX_BODY_BYTES)?;
        within("heartbeat in milliseconds", self.heartbeat.as_millis() as usize, 10, 10_000)?;
        let least = self.heartbeat.as_millis() as usize * 2;
        within("election in milliseconds", self.election.as_millis() as usize, least, 60_000)
    }
}

/// A handle on the log, of one life of one replica; clones share everything.
#[derive(Clone, Debug)]
pub struct ConsensusLog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    node: Node,
    life: Life,
    log_id: LogId,
    /// Set for good once the life is known to be over.
    fenced: AtomicBool,
}

impl ConsensusLog {
    /// Starts the replica's node and begins a life: every append of the one before that is not committed by then never will
    /// be (I6).
    ///
    /// # Errors
    /// If the settings are wrong, the folder or the port can't be used, or no majority of the replicas is there in time.
    pub async fn open(config: Config) -> Result<(Self, Incarnation), OpenError> {
        let replica = config.replica;
        Node::start(config).await?.begin(replica).await
    }

    /// The node that it goes through.
    pub fn node(&self) -> &Node {
        &self.inner.node
    }

    fn core(&self) -> &Arc<Core> {
        self.inner.node.core()
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.core().config.admin_timeout
    }

    fn set_fenced(&self) {
        let (replica, incarnation) = self.inner.life;
        if !self.inner.fenced.swap(true, Ordering::AcqRel) {
            tracing::warn!(replica, %incarnation, "this life of the replica is over");
        }
    }

    async fn append_entry(self, entry: Bytes) -> Result<Appended, AppendError> {
        let (bytes, limit) = (entry.len(), self.core().config.max_body_bytes);
        if bytes > limit {
            return Err(AppendError::TooLarge { bytes, limit });
        }
        if self.inner.fenced.load(Ordering::Acquire) {
            return Err(AppendError::Fenced);
        }
        let deadline = Instant::now() + self.core().config.append_timeout;
        let append = Command::Append { life: self.inner.life, entry };
        match self.core().submit(append, deadline).await {
            Ok(Outcome::Appended { position, at_ms }) => Ok(Appended { position, commit_time_ms: at_ms }),
            Ok(Outcome::Fenced) => {
                self.set_fenced();
                Err(AppendError::Fenced)
            }
            Ok(other) => Err(AppendError::Unknown { detail: format!("another answer than was asked for: {other:?}") }),
            Err(ProposeError::Unknown(detail)) => Err(AppendError::Unknown { detail }),
            Err(ProposeError::NotProposed(reason)) => Err(AppendError::Unavailable { reason }),
        }
    }

    /// Puts bookkeeping into the order.
    async fn settle(&self, note: Note) -> Result<(), LogError> {
        let ends_this = matches!(&note, Note::End { by, life } if by == life);
        match self.core().settle(note, self.deadline()).await {
            Ok((Outcome::Done, _)) => Ok(()),
            // The first attempt has done it.
            Ok((Outcome::Fenced, true)) if ends_this => Ok(()),
            Ok((Outcome::Fenced, _)) => {
                self.set_fenced();
                Err(LogError::Fenced)
            }
            Ok((other, _)) => Err(unavailable(format!("another answer than was asked for: {other:?}"))),
            Err(error) => Err(unavailable(error.to_string())),
        }
    }

    /// Looks at the state, which holds everything that was acknowledged before the call.
    async fn look<T>(&self, look: impl FnOnce(&State) -> T) -> Result<T, LogError> {
        self.core().catch_up(self.deadline()).await.map_err(unavailable)?;
        Ok(self.core().machine.look(look))
    }
}

fn unavailable(reason: String) -> LogError {
    LogError::Unavailable { reason }
}

impl OrderedLog for ConsensusLog {
    fn append_requests(
        &self,
        entry: Bytes,
        _requests: usize,
    ) -> impl Future<Output = Result<Appended, AppendError>> + Send + 'static {
        self.clone().append_entry(entry)
    }

    fn tail(&self, from: Position) -> impl Stream<Item = Result<Committed, TailError>> + Send + Unpin + 'static {
        tail::tail(self.core().clone(), from).boxed()
    }

    async fn truncate(&self, below: Beginning) -> Result<(), LogError> {
        let note = Note::truncate(self.inner.life, below);
        match self.core().settle(note, self.deadline()).await {
            Ok((Outcome::Done, _)) => Ok(()),
            Ok((Outcome::OutOfRange { end }, _)) => Err(LogError::OutOfRange { position: below.position, end }),
            Ok((Outcome::Fenced, _)) => {
                self.set_fenced();
                Err(LogError::Fenced)
            }
            Ok((other, _)) => Err(unavailable(format!("another answer than was asked for: {other:?}"))),
            Err(error) => Err(unavailable(error.to_string())),
        }
    }

    async fn beginning(&self) -> Result<Beginning, LogError> {
        self.look(State::beginning).await
    }

    async fn end(&self) -> Result<Position, LogError> {
        self.look(State::end).await
    }

    async fn publish(&self, published: Published) -> Result<(), LogError> {
        self.settle(Note::Publish { by: self.inner.life, published }).await
    }

    async fn published(&self) -> Result<Vec<Published>, LogError> {
        self.look(|state| state.published().cloned().collect()).await
    }

    async fn living(&self) -> Result<BTreeSet<Life>, LogError> {
        let living: BTreeSet<Life> = self.look(|state| state.living().collect()).await?;
        if !living.contains(&self.inner.life) {
            self.set_fenced();
            return Err(LogError::Fenced);
        }
        Ok(living)
    }

    async fn resign(&self) -> Result<(), LogError> {
        let life = self.inner.life;
        self.settle(Note::End { by: life, life }).await
    }

    async fn retire(&self, life: Life) -> Result<(), LogError> {
        self.settle(Note::End { by: self.inner.life, life }).await
    }

    fn vouch(&self, shown: Arc<AtomicU64>) {
        let mut vouched = self.core().vouched.lock().unwrap_or_else(PoisonError::into_inner);
        vouched.retain(|_, shown| shown.strong_count() > 0);
        vouched.entry(self.inner.life).or_insert_with(|| Arc::downgrade(&shown));
    }

    async fn ask(&self, lives: &BTreeSet<Life>) -> Option<u64> {
        let deadline = Instant::now() + ASK_LIMIT;
        let others = lives.iter().filter(|life| **life != self.inner.life);
        let answers = futures::future::join_all(others.map(|life| self.ask_one(*life, deadline))).await;
        answers.into_iter().try_fold(0, |highest, shown| Some(highest.max(shown?)))
    }

    fn health(&self) -> watch::Receiver<LogHealth> {
        self.inner.node.health()
    }

    fn log_id(&self) -> LogId {
        self.inner.log_id
    }

    fn incarnation(&self) -> Incarnation {
        self.inner.life.1
    }
}

impl ConsensusLog {
    async fn ask_one(&self, life: Life, deadline: Instant) -> Option<u64> {
        let here = {
            let vouched = self.core().vouched.lock().unwrap_or_else(PoisonError::into_inner);
            vouched.get(&life).and_then(Weak::upgrade)
        };
        if let Some(here) = here {
            return Some(here.load(Ordering::SeqCst));
        }
        let request = Request::Small(Small::Ask { life });
        match self.core().peers.call(life.0, Lane::Control, &request, deadline).await {
            Ok(Answer::Shown(shown)) => shown,
            Ok(_) | Err(_) => None,
        }
    }
}
