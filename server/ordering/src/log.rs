//! The contract of an ordered log.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use bytes::Bytes;
use futures::Stream;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use crate::Position;
use crate::truncation::Published;

/// One life of one replica, as the log numbers it: later ones are greater, none is ever given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub i64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// One life of one replica: its number, and the incarnation.
pub type Life = (u32, Incarnation);

/// Which log this is, made at random with the log: one that was deleted and made again, or whose storage began anew, has
/// another one, and positions and incarnations of it mean nothing in the old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogId(pub Uuid);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a committed append answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Where the entry stands.
    pub position: Position,
    /// When the log took it, in milliseconds since 1970, by the log's clock. The tail shows the same number.
    pub commit_time_ms: i64,
}

/// An entry in the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Where the entry stands.
    pub position: Position,
    /// When the log took it, in milliseconds since 1970, by the log's clock; the same for every reader.
    pub commit_time_ms: i64,
    /// The entry as it was appended.
    pub entry: Bytes,
}

/// Where a log begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// The first position that the log still has.
    pub position: Position,
    /// What was given up before it, in the bytes that whoever gave it up counts by; `None` if that is not known.
    pub bytes: Option<u64>,
}

impl Beginning {
    /// Nothing was given up.
    pub const START: Self = Self { position: Position::START, bytes: Some(0) };
}

impl From<Position> for Beginning {
    fn from(position: Position) -> Self {
        if position == Position::START { Self::START } else { Self { position, bytes: None } }
    }
}

/// Why an append did not answer with a position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The entry may stand in the log, may come to stand in it later, or never. Append it again, and drop the second
    /// copy when reading.
    #[error("it is not known whether the entry was committed: {detail}")]
    Unknown {
        /// What happened, for people.
        detail: String,
    },
    /// This life has ended, most often because a newer incarnation of this replica exists (I6). The entry was not committed,
    /// and none of this handle will be.
    #[error("a newer incarnation of this replica has taken over, or the others took it for gone")]
    Fenced,
    /// The entry is larger than the log takes. Nothing was proposed.
    #[error("the entry has {bytes} bytes, the log takes at most {limit}")]
    TooLarge {
        /// Size of the entry, in bytes.
        bytes: usize,
        /// The largest size that is taken, in bytes.
        limit: usize,
    },
    /// The entry was not committed and will not be: the log could not be reached, or refused it.
    #[error("the log is not available: {reason}")]
    Unavailable {
        /// What happened, for people.
        reason: String,
    },
}

/// Why a tail ended. Trouble with connections never ends one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TailError {
    /// The entries asked for were given up; the log starts later.
    #[error("the log was truncated, it starts at {first}")]
    Truncated {
        /// The first position that the log still has.
        first: Position,
    },
    /// The position asked for lies past the end: it belongs to another log, or this one has lost entries.
    #[error("the log ends at {end}, before the position asked for")]
    Ahead {
        /// The first position that is not committed.
        end: Position,
    },
    /// See [`LOG_LOST`].
    #[error("{LOG_LOST}")]
    Lost,
    /// What stands in the log breaks its rules: a gap, an entry that is none.
    #[error("the log is corrupt at {position}: {detail}")]
    Corrupt {
        /// The position being read.
        position: Position,
        /// What was found.
        detail: String,
    },
}

/// Why there is no such log (any more), and what to do.
pub const LOG_LOST: &str = "ZooKeeper lost its data, or another root is configured: the ordered log is gone, or another one \
                            is in its place. Bring the old data back; until then this replica serves nobody and keeps \
                            what it has";

/// Why an operation on the log itself failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// This life has ended, most often because a newer incarnation of this replica exists (I6).
    #[error("a newer incarnation of this replica has taken over, or the others took it for gone")]
    Fenced,
    /// It could not be done, or not all of it, within the bound; do it again.
    #[error("the log is not available: {reason}")]
    Unavailable {
        /// What happened, for people.
        reason: String,
    },
    /// See [`LOG_LOST`].
    #[error("{LOG_LOST}")]
    Lost,
    /// The position lies past the end of the log.
    #[error("position {position} lies past the end of the log, {end}")]
    OutOfRange {
        /// The position asked for.
        position: Position,
        /// The first position that is not committed.
        end: Position,
    },
    /// What stands in the log breaks its rules.
    #[error("the log is corrupt: {detail}")]
    Corrupt {
        /// What was found.
        detail: String,
    },
}

/// Whether the log can be reached. A hint: it may be old by the time it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogHealth {
    /// Appends and reads reach the log.
    Connected,
    /// They do not; retries go on inside.
    Disconnected {
        /// Since when.
        since: Instant,
        /// What happened, for people.
        detail: String,
    },
}

impl LogHealth {
    /// Whether the log can be reached.
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected)
    }
}

/// Who leads a log that has a leader. A hint: another one may by the time it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leadership {
    /// The replica that leads.
    pub replica: u32,
    /// Greater with each change.
    pub epoch: i64,
}

/// A totally ordered, durable sequence of entries.
///
/// A value is a cheap handle of one incarnation of one replica. Appends that do not overlap in time stand in the order
/// in which they were made (I4); a committed entry stays at its position until it is truncated (I2).
pub trait OrderedLog: Clone + Send + Sync + 'static {
    /// Appends an entry of one request: see [`OrderedLog::append_requests`].
    fn append(&self, entry: Bytes) -> impl Future<Output = Result<Appended, AppendError>> + Send + 'static {
        self.append_requests(entry, 1)
    }

    /// Appends an entry of so many requests. `Ok` says that it is committed, durably, at that position.
    ///
    /// An entry of several requests may be kept back for milliseconds, for others to go with it.
    ///
    /// Nothing happens before the future is polled. Dropping it leaves the outcome unknown. It is bounded in time and
    /// in what it queues (I7): past the bound it answers `Unavailable`, or `Unknown` once the entry was proposed.
    fn append_requests(
        &self,
        entry: Bytes,
        requests: usize,
    ) -> impl Future<Output = Result<Appended, AppendError>> + Send + 'static;

    /// Every entry from `from` on, in order, without gaps, for ever; an error is the last item.
    fn tail(&self, from: Position) -> impl Stream<Item = Result<Committed, TailError>> + Send + Unpin + 'static;

    /// Gives up the entries below `below`; the caller has proved that nobody needs them. May be repeated, and must be
    /// after `Unavailable` for the space to be freed. Never moves the first position back. The position and its bytes are
    /// kept together, durably.
    fn truncate(&self, below: Beginning) -> impl Future<Output = Result<(), LogError>> + Send;

    /// Where the log begins, as whoever gave up what was before it has said.
    fn beginning(&self) -> impl Future<Output = Result<Beginning, LogError>> + Send;

    /// The first position that the log still has.
    fn first(&self) -> impl Future<Output = Result<Position, LogError>> + Send {
        async { Ok(self.beginning().await?.position) }
    }

    /// The first position that is not committed yet: past everything acknowledged before the call. Advice only, it
    /// may be passed by the time it is known.
    fn end(&self) -> impl Future<Output = Result<Position, LogError>> + Send;

    /// Makes known, durably, what this replica's restore points need of the log; replaces what it made known before.
    fn publish(&self, published: Published) -> impl Future<Output = Result<(), LogError>> + Send;

    /// What every replica has made known, in order of their numbers; also those that are long gone.
    fn published(&self) -> impl Future<Output = Result<Vec<Published>, LogError>> + Send;

    /// The lives that may append, and so acknowledge requests: all that were taken before this call and not ended before it
    /// returns. Fails for a handle whose own life is over.
    fn living(&self) -> impl Future<Output = Result<BTreeSet<Life>, LogError>> + Send;

    /// Ends this life: nothing of it comes to stand in the log any more, and nobody asks for it. For a replica that stops;
    /// one that crashes is replaced by its next life.
    fn resign(&self) -> impl Future<Output = Result<(), LogError>> + Send;

    /// Ends another one's life, as it could itself: for a replica that is gone and has not said so. What it may have on its
    /// way never comes to stand in the log, and if it is there after all it has to begin a new life. Without effect on one
    /// that has ended.
    fn retire(&self, life: Life) -> impl Future<Output = Result<(), LogError>> + Send;

    /// What [`OrderedLog::ask`] answers others about this life: the highest index that its replica may have shown to
    /// anybody, by an answer or in a read. It only grows. Before the first call there is no answer; later ones are
    /// without effect.
    fn vouch(&self, shown: Arc<AtomicU64>);

    /// Asks each of these, but this handle's own, what it has shown; the highest. `None` unless every one of them answers
    /// within a short time. What comes is no older than the call.
    fn ask(&self, lives: &BTreeSet<Life>) -> impl Future<Output = Option<u64>> + Send;

    /// Whether the log can be reached, and changes of it.
    fn health(&self) -> watch::Receiver<LogHealth>;

    /// Who leads, if the engine has a leader and anybody is known to.
    fn leadership(&self) -> Option<Leadership> {
        None
    }

    /// Which log this is.
    fn log_id(&self) -> LogId;

    /// The incarnation that this handle appends for.
    fn incarnation(&self) -> Incarnation;
}
