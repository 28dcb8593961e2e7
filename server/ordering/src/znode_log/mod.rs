//! The leaderless engine: ZooKeeper's order of sequential creates is the order.
//!
//! Every replica can append for itself, and the lowest that is there does for the others, as long as it answers. An append is
//! one transaction, `multi{check(segment is open), check(the writers' incarnations live), create(sequential), ...}`; a
//! segment that is full is sealed by `multi{check(own incarnation), set(sealed), create the next}`, so that nothing ever
//! follows a seal and nothing of an old incarnation follows its end (I6). `layout` has the names, `plan` decides, the rest
//! talks to ZooKeeper.
//!
//! Appends and everything else use sessions of their own: the client delays a request until the one before it is
//! acknowledged by TCP (it does not set `TCP_NODELAY`), so that one append in flight per session is quickest, and a
//! tail's reads must not wait for appends.

mod append;
mod bodies;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod gather;
mod grant;
mod layout;
mod living;
mod open;
mod plan;
mod published;
mod push;
mod recent;
mod replayed;
mod tail;
mod truncate;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant as Deadline;
use tokio_util::task::AbortOnDropHandle;
use zookeeper_client::Client;

pub use self::open::OpenError;
pub use self::push::PushError;
pub use crate::connection::DigestAuth;

pub(crate) use self::append::{Outcome, Stored};
pub(crate) use self::layout::{Layout, is_free, overlap};
pub(crate) use self::open::Court;
pub(crate) use self::plan::READ_TARGET_BYTES;
pub(crate) use self::push::{Line, Load, MAX_CARRIED_BYTES, Told};

use self::append::{AppendLane, Part};
use self::push::{Kind, Pushes};
use self::recent::Recent;
use crate::connection::{Access, Connection};
use crate::state_log::{StateLog, StateLogConfig};
use crate::truncation::Published;
use crate::{
    AppendError, Appended, Beginning, Committed, Incarnation, Life, LogError, LogHealth, LogId, OrderedLog, Position,
    TailError,
};

/// How a replica uses the log.
#[derive(Clone, Debug)]
pub struct Config {
    /// ZooKeeper's servers, `host:port,host:port`.
    pub connect: String,
    /// Path below which everything is kept; made if it is not there. All replicas of a log name the same one.
    pub root: String,
    /// Path of the log itself, if it is not `requests` below the root. A log with a leader alone may have another one.
    pub log: Option<String>,
    /// Number of the replica.
    pub replica: u32,
    /// ZooKeeper session time-out asked for; the server may give another.
    pub session_timeout: Duration,
    /// How long [`ZnodeLog::open`] tries to reach ZooKeeper.
    pub open_timeout: Duration,
    /// How long an append waits, in all, before it answers `Unavailable` or `Unknown`.
    pub append_timeout: Duration,
    /// How long a truncation, or a look at the ends of the log, may take.
    pub admin_timeout: Duration,
    /// Entries after which a segment is sealed. Appends under way go beyond it by a few.
    pub segment_entries: u32,
    /// Entries with a body under way at once; further ones wait. Those without a body go beside them, one transaction at a time.
    pub batches_in_flight: usize,
    /// ZooKeeper sessions that appends are spread over, at most one per transaction under way.
    pub append_sessions: usize,
    /// The largest entry kept in the order itself, in bytes; the body of a larger one is kept beside it, in chunks of
    /// this size. ZooKeeper's own limit is a little below 1 MiB, but each of its servers keeps its last 500 transactions in memory,
    /// whatever they hold (`commitLogCount`, which can't be less), a leader three times over: with 32 KiB these are 48 MiB at most.
    pub max_entry_bytes: usize,
    /// The largest entry taken at all, in bytes.
    pub max_body_bytes: usize,
    /// Entries that a handle has appended, or was pushed, kept for its tail, so that it need not read them back.
    pub recent_entries: usize,
    /// Bytes of such entries.
    pub recent_bytes: usize,
    /// Credentials; with them, only they may touch what is created, and what is there.
    pub auth: Option<DigestAuth>,
    /// Where entries that were read are kept for the next start, if anywhere.
    pub state_log: Option<StateLogConfig>,
    /// Anybody may touch it in spite of them: while replicas are changed over.
    pub open_to_all: bool,
    /// Whose the nodes are that are there already is changed to what is said by the two before. Not for those who only look.
    pub grant: bool,
}

impl Config {
    /// Largest value of [`Config::max_entry_bytes`].
    pub const MAX_ENTRY_BYTES: usize = 900 << 10;
    /// The usual [`Config::max_entry_bytes`].
    pub const ENTRY_BYTES: usize = 32 << 10;
    /// Largest value of [`Config::max_body_bytes`].
    pub const MAX_BODY_BYTES: usize = 64 << 20;

    /// Smallest value of [`StateLogConfig::max_bytes`].
    pub const MIN_STATE_LOG_BYTES: u64 = 64 << 10;

    /// The usual settings.
    pub fn new(connect: impl Into<String>, root: impl Into<String>, replica: u32) -> Self {
        Self {
            connect: connect.into(),
            root: root.into(),
            log: None,
            replica,
            session_timeout: Duration::from_secs(6),
            open_timeout: Duration::from_secs(30),
            append_timeout: Duration::from_secs(10),
            admin_timeout: Duration::from_secs(30),
            segment_entries: 10_000,
            batches_in_flight: 2,
            append_sessions: 2,
            max_entry_bytes: Self::ENTRY_BYTES,
            max_body_bytes: 17 << 20,
            recent_entries: 1024,
            recent_bytes: 16 << 20,
            auth: None,
            state_log: None,
            open_to_all: false,
            grant: true,
        }
    }

    /// Says what is wrong with the settings, naming the field.
    fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: usize, most: usize| match (1..=most).contains(&value) {
            true => Ok(()),
            false => Err(format!("{name} is {value}, it must be between 1 and {most}")),
        };
        within("max_entry_bytes", self.max_entry_bytes, Self::MAX_ENTRY_BYTES)?;
        within("max_body_bytes", self.max_body_bytes, Self::MAX_BODY_BYTES)?;
        within("the number of chunks of a body", self.max_body_bytes.div_ceil(self.max_entry_bytes), 4096)?;
        within("segment_entries", self.segment_entries as usize, 1_000_000)?;
        within("batches_in_flight", self.batches_in_flight, 4096)?;
        within("append_sessions", self.append_sessions, 16)?;
        if let Some(StateLogConfig { max_bytes, .. }) = self.state_log
            && max_bytes < Self::MIN_STATE_LOG_BYTES
        {
            return Err(format!(
                "state_log.max_bytes is {max_bytes}, it must be {} at least",
                Self::MIN_STATE_LOG_BYTES
            ));
        }
        if self.connect.trim().is_empty() {
            return Err("connect is empty, it must name ZooKeeper's servers".into());
        }
        if self.connect.contains('/') {
            return Err("connect has a path behind its servers: root says where the log is".into());
        }
        if self.auth.as_ref().is_some_and(|auth| auth.user.is_empty() || auth.user.contains(':')) {
            return Err("auth.user is empty or has a colon".into());
        }
        if self.open_to_all && self.auth.is_none() {
            return Err("open_to_all says nothing without auth".into());
        }
        self.layout().map(drop)
    }

    /// Where everything is.
    pub(crate) fn layout(&self) -> Result<Layout, String> {
        let layout = Layout::new(&self.root)?;
        match &self.log {
            None => Ok(layout),
            Some(log) if is_free(&self.root, log, "requests") => Ok(layout.with_requests(log.clone())),
            Some(log) => Err(format!(
                "the path of the log {log:?} is none like {0}/requests, or takes in what else is below {0}",
                self.root
            )),
        }
    }
}

/// Who may append to a log.
#[derive(Clone, Debug)]
pub(crate) enum Authority {
    /// Every replica, for itself and for others.
    Everybody,
    /// Who leads, for all; this handle does while it has a fence.
    Leader(watch::Sender<Option<Fence>>),
    /// Not this handle: it reads.
    Others,
}

/// What says that a replica leads still: checked by whatever it brings into the log (I6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fence {
    /// The node of the epoch.
    pub(crate) path: String,
    /// Its version: the epoch.
    pub(crate) version: i32,
}

/// A handle on the log in ZooKeeper; clones share everything.
#[derive(Clone, Debug)]
pub struct ZnodeLog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    access: Access,
    layout: Layout,
    /// Sessions for appends.
    lanes: Vec<AppendLane>,
    /// The session for everything else.
    control: Arc<Connection>,
    /// Who may append.
    authority: Authority,
    /// Where entries are handed in that go together.
    gather: mpsc::Sender<Part>,
    /// Bounds the appends of entries with a body (I7); held until ZooKeeper's answer, not only until the caller's time-out.
    permits: Arc<Semaphore>,
    /// The newest segment known; it may be sealed by now.
    segment: AtomicU32,
    /// Whether this handle is sealing a segment now.
    sealing: AtomicBool,
    /// Set for good once ZooKeeper has said that the incarnation is over.
    fenced: AtomicBool,
    /// Names bodies.
    body_counter: AtomicU64,
    recent: Recent,
    /// What was read before, on a volume of this replica's.
    state_log: Option<Arc<StateLog>>,
    pushes: Pushes,
    log_id: LogId,
    incarnation: Incarnation,
    /// Path of the incarnation's node, checked by everything that changes the log.
    incarnation_path: String,
    health: watch::Receiver<LogHealth>,
    _health_task: AbortOnDropHandle<()>,
}

impl ZnodeLog {
    /// Opens the log, creating it if need be, and takes a new incarnation for the replica: every append of the one
    /// before that is not committed by then never will be (I6).
    ///
    /// # Errors
    /// If the settings are wrong, what is in ZooKeeper is no log of ours, or ZooKeeper can't be reached in time.
    pub async fn open(config: Config) -> Result<(Self, Incarnation), OpenError> {
        Self::open_as(config, Authority::Everybody, open::Claim::Own(None)).await
    }

    /// Opens a log that is there, whatever engine it is of, to read it: no append of this handle is taken.
    ///
    /// # Errors
    /// As [`ZnodeLog::open`], or there is no log.
    pub async fn open_reader(config: Config) -> Result<(Self, Incarnation), OpenError> {
        let config = Config { grant: false, ..config };
        Self::open_as(config, Authority::Others, open::Claim::Any).await
    }

    /// Opens a log with a leader; appends are taken while there is a fence.
    pub(crate) async fn open_led(
        config: Config,
        court: Court,
        fence: watch::Sender<Option<Fence>>,
    ) -> Result<(Self, Incarnation), OpenError> {
        Self::open_as(config, Authority::Leader(fence), open::Claim::Own(Some(court))).await
    }

    async fn open_as(
        config: Config,
        authority: Authority,
        claim: open::Claim,
    ) -> Result<(Self, Incarnation), OpenError> {
        let (gather, parts) = mpsc::channel(gather::QUEUE);
        let inner = Arc::new(open::open(config, authority, claim, gather).await?);
        tokio::spawn(gather::run(Arc::downgrade(&inner), parts));
        if inner.config.auth.is_some() && inner.config.grant {
            tokio::spawn(grant::run(Arc::downgrade(&inner)));
        }
        let incarnation = inner.incarnation;
        Ok((Self { inner }, incarnation))
    }

    /// Sends every entry that this handle commits from now on, answers what the other side asks, and appends what it is
    /// handed, until the connection ends: the other side has [`ZnodeLog::take_pushes`].
    ///
    /// # Errors
    /// Why it has ended.
    pub async fn push_to(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send) -> Result<(), PushError> {
        let inner = &self.inner;
        inner.pushes.send(stream, Kind::Pushes, |carry| append::carried(inner.clone(), carry)).await
    }

    /// Takes the entries that another replica commits, until the connection ends: its tails read them from memory. Once the
    /// connection is two seconds old, own entries are handed over to that replica, if it is the lowest of all.
    ///
    /// # Errors
    /// Why it has ended.
    pub async fn take_pushes(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send) -> Result<(), PushError> {
        let inner = &self.inner;
        inner.pushes.receive(stream, Kind::Pushes, |committed| inner.recent.put(committed)).await
    }

    /// Appends what another replica hands over on a connection that it has opened, until that ends.
    pub(crate) async fn take_line(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send) -> Result<(), PushError> {
        let inner = &self.inner;
        inner.pushes.send(stream, Kind::Line, |carry| append::carried(inner.clone(), carry)).await
    }

    /// Has a connection to the leader, by which own entries can be handed over to it ([`ZnodeLog::line`]) until it ends.
    pub(crate) async fn hold_line(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send) -> Result<(), PushError> {
        let inner = &self.inner;
        inner.pushes.receive(stream, Kind::Line, |committed| inner.recent.put(committed)).await
    }

    /// The way to that life, if there is one.
    pub(crate) fn line(&self, life: Life) -> Option<Line> {
        self.inner.pushes.line(life)
    }

    /// Tells of connections of others that come and go.
    pub(crate) fn line_changes(&self) -> watch::Receiver<u64> {
        self.inner.pushes.changes()
    }

    /// Says who appends all entries, if anybody does.
    pub(crate) fn expect_leader(&self, leader: Option<u32>) {
        match leader {
            Some(leader) if leader == self.inner.config.replica => self.inner.pushes.expect_own(),
            leader => self.inner.pushes.expect(leader.into_iter().collect()),
        }
    }

    /// Whether a session that carries appends is connected.
    pub(crate) fn has_lane(&self) -> bool {
        self.inner.lanes.iter().any(|lane| lane.connection().connected().is_some())
    }

    /// Whether ZooKeeper has said that this life is over.
    pub(crate) fn is_over(&self) -> bool {
        self.inner.is_fenced()
    }

    /// Asks ZooKeeper whether this life is over.
    pub(crate) async fn check_life(&self) -> Result<(), AppendError> {
        let failed = |error: LogError| append::unavailable(error.to_string());
        let client = self.inner.synced_client().await.map_err(failed)?;
        match client.check_stat(&self.inner.incarnation_path).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => match self.over(&client).await {
                LogError::Fenced => Err(AppendError::Fenced),
                error => Err(failed(error)),
            },
            Err(error) => Err(append::unavailable(error.to_string())),
        }
    }

    /// Refuses what no append of this handle can bring into the log.
    pub(crate) fn check(&self, entry: &Bytes) -> Result<(), AppendError> {
        append::check(&self.inner, entry)
    }

    /// Appends an own entry, by this handle itself.
    pub(crate) fn append_here(
        &self,
        entry: Bytes,
        requests: usize,
        deadline: Deadline,
    ) -> impl Future<Output = Outcome> + Send + 'static {
        append::here(self.inner.clone(), entry, requests >= gather::SEVERAL, deadline)
    }

    /// What another replica is to be handed, for an entry of so many requests that is no larger than an entry of the order.
    pub(crate) fn load(&self, entry: &Bytes, requests: usize) -> Option<Load> {
        let waits = requests >= gather::SEVERAL;
        let fits = entry.len() <= self.inner.config.max_entry_bytes;
        fits.then(|| Load { entry: entry.clone(), waits, stored_in: None })
    }

    /// Stores the body of an own entry that is larger.
    pub(crate) async fn store(&self, entry: &Bytes, deadline: Deadline) -> Result<Stored, AppendError> {
        append::store(&self.inner, entry, deadline).await
    }

    /// Whether no segment after that one is known.
    pub(crate) fn is_newest(&self, segment: u32) -> bool {
        self.inner.segment() <= segment
    }

    /// Looks for the segment after one that a body was stored with for nothing.
    pub(crate) async fn look_beyond(&self, segment: u32, deadline: Deadline) {
        append::look_beyond(&self.inner, segment, deadline).await;
    }

    /// Another replica has appended this entry for this one.
    pub(crate) fn learn(&self, appended: Appended, entry: Bytes) {
        append::learn(&self.inner, appended, entry);
    }

    /// How the log is used.
    pub(crate) fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The life that this handle is.
    pub(crate) fn life(&self) -> Life {
        (self.inner.config.replica, self.inner.incarnation)
    }

    /// Says which other replicas append. While there is a connection from each of them, tails wait a moment for what they
    /// push before they read the log. A log with a leader knows by itself who does.
    pub fn expect_pushes(&self, replicas: BTreeSet<u32>) {
        if matches!(self.inner.authority, Authority::Everybody) {
            self.inner.pushes.expect(replicas);
        }
    }

    /// Whether an entry is in memory, because it was pushed or appended by this handle.
    #[cfg(feature = "conformance")]
    pub fn has_pushed(&self, position: Position) -> bool {
        self.inner.recent.get(position).is_some()
    }

    /// Entries that were read from the state log.
    #[cfg(feature = "conformance")]
    pub fn read_from_state_log(&self) -> u64 {
        self.inner.state_log.as_ref().map_or(0, |log| log.entries_read())
    }

    /// Whether the state log has written the entry at that position.
    #[cfg(feature = "conformance")]
    pub fn is_in_state_log(&self, position: Position) -> bool {
        self.inner.state_log.as_ref().is_some_and(|log| log.has(position))
    }

    /// Whether another replica would append this one's next entry.
    #[cfg(feature = "conformance")]
    pub fn is_carried(&self) -> bool {
        self.inner.pushes.is_carried()
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    pub(crate) fn control(&self) -> Arc<Connection> {
        self.inner.control.clone()
    }

    pub(crate) fn access(&self) -> &Access {
        &self.inner.access
    }

    pub(crate) fn incarnation_path(&self) -> &str {
        &self.inner.incarnation_path
    }

    /// What it means that ZooKeeper does not know this handle's incarnation.
    pub(crate) async fn over(&self, client: &Client) -> LogError {
        truncate::over(&self.inner, client).await
    }
}

impl OrderedLog for ZnodeLog {
    fn append_requests(
        &self,
        entry: Bytes,
        requests: usize,
    ) -> impl Future<Output = Result<Appended, AppendError>> + Send + 'static {
        append::append(self.inner.clone(), entry, requests >= gather::SEVERAL)
    }

    fn tail(&self, from: Position) -> impl Stream<Item = Result<Committed, TailError>> + Send + Unpin + 'static {
        tail::tail(self.inner.clone(), from).boxed()
    }

    async fn truncate(&self, below: Beginning) -> Result<(), LogError> {
        self.inner.bounded(truncate::truncate(&self.inner, below)).await
    }

    async fn beginning(&self) -> Result<Beginning, LogError> {
        let look = async {
            let client = self.inner.synced_client().await?;
            Ok(truncate::read_header(&self.inner, &client).await?.0.beginning())
        };
        self.inner.bounded(look).await
    }

    async fn end(&self) -> Result<Position, LogError> {
        let look = async {
            let client = self.inner.synced_client().await?;
            truncate::end(&self.inner, &client).await
        };
        self.inner.bounded(look).await
    }

    async fn publish(&self, published: Published) -> Result<(), LogError> {
        self.inner.bounded(published::publish(&self.inner, &published)).await
    }

    async fn published(&self) -> Result<Vec<Published>, LogError> {
        let look = async {
            let client = self.inner.synced_client().await?;
            published::published(&self.inner, &client).await
        };
        self.inner.bounded(look).await
    }

    async fn living(&self) -> Result<BTreeSet<Life>, LogError> {
        self.inner.bounded(living::living(&self.inner)).await
    }

    async fn resign(&self) -> Result<(), LogError> {
        self.inner.bounded(living::resign(&self.inner)).await
    }

    async fn retire(&self, life: Life) -> Result<(), LogError> {
        self.inner.bounded(living::retire(&self.inner, life)).await
    }

    fn vouch(&self, shown: Arc<AtomicU64>) {
        self.inner.pushes.vouch(shown);
    }

    fn ask(&self, lives: &BTreeSet<Life>) -> impl Future<Output = Option<u64>> + Send {
        self.inner.pushes.ask(lives)
    }

    fn health(&self) -> watch::Receiver<LogHealth> {
        self.inner.health.clone()
    }

    fn log_id(&self) -> LogId {
        self.inner.log_id
    }

    fn incarnation(&self) -> Incarnation {
        self.inner.incarnation
    }
}

impl Inner {
    /// The newest segment known.
    fn segment(&self) -> u32 {
        self.segment.load(Ordering::Acquire)
    }

    /// Learns of a segment.
    fn saw_segment(&self, segment: u32) {
        self.segment.fetch_max(segment, Ordering::AcqRel);
    }

    /// What an append has to check, if anything; an error unless this handle may append.
    fn fence(&self) -> Result<Option<Fence>, AppendError> {
        match &self.authority {
            Authority::Everybody => Ok(None),
            Authority::Leader(fence) => {
                let fence = fence.borrow().clone();
                fence.map(Some).ok_or_else(|| append::unavailable("this replica does not lead"))
            }
            Authority::Others => Err(append::unavailable("the log is open for reading")),
        }
    }

    /// ZooKeeper has said that this is no longer the epoch.
    fn deposed(&self, old: Option<&Fence>) {
        if let Authority::Leader(fence) = &self.authority {
            fence.send_if_modified(|now| now.as_ref() == old && now.take().is_some());
        }
    }

    fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Acquire)
    }

    fn set_fenced(&self) {
        if let Authority::Leader(fence) = &self.authority {
            fence.send_replace(None);
        }
        if !self.fenced.swap(true, Ordering::AcqRel) {
            tracing::warn!(incarnation = %self.incarnation, "a newer incarnation of this replica has taken over the log");
        }
    }

    /// The control session, caught up with ZooKeeper's leader.
    async fn synced_client(&self) -> Result<Client, LogError> {
        let client = self.control.client().await;
        client.sync(&self.layout.requests()).await.map_err(unavailable)?;
        Ok(client)
    }

    /// Bounds an operation on the log by [`Config::admin_timeout`].
    async fn bounded<T>(&self, work: impl Future<Output = Result<T, LogError>>) -> Result<T, LogError> {
        match tokio::time::timeout(self.config.admin_timeout, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(LogError::Unavailable {
                reason: format!("ZooKeeper did not answer within {:?}", self.config.admin_timeout),
            }),
        }
    }
}

fn unavailable(error: zookeeper_client::Error) -> LogError {
    LogError::Unavailable { reason: error.to_string() }
}

/// Connected while the control session and one of the append sessions are.
fn judge_health(connections: &[Arc<Connection>]) -> LogHealth {
    let links: Vec<_> = connections.iter().map(|connection| connection.link().borrow().clone()).collect();
    let Some((control, lanes)) = links.split_first() else { return LogHealth::Connected };
    let lane_up = lanes.iter().any(|link| link.client.is_some());
    match [control].into_iter().chain(lanes).find(|link| link.client.is_none()) {
        Some(down) if control.client.is_none() || !lane_up => {
            LogHealth::Disconnected { since: down.since, detail: down.detail.clone() }
        }
        _ => LogHealth::Connected,
    }
}

/// Publishes the health of `connections`, the control session first, for as long as its task lives.
fn watch_health(connections: Vec<Arc<Connection>>) -> (watch::Receiver<LogHealth>, AbortOnDropHandle<()>) {
    let now = LogHealth::Disconnected { since: Instant::now(), detail: "not connected yet".into() };
    let (sender, receiver) = watch::channel(now);
    let task = tokio::spawn(async move {
        let mut links: Vec<_> = connections.iter().map(|connection| connection.link()).collect();
        loop {
            links.iter_mut().for_each(|link| link.mark_unchanged());
            let health = judge_health(&connections);
            sender.send_if_modified(|current| {
                let changed = *current != health;
                *current = health;
                changed
            });
            let changes = links.iter_mut().map(|link| Box::pin(link.changed()));
            if futures::future::select_all(changes).await.0.is_err() {
                return;
            }
        }
    });
    (receiver, AbortOnDropHandle::new(task))
}
