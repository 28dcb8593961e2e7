//! The engine with a leader: one replica, elected in ZooKeeper, appends for all.
//!
//! The log is the one of [`crate::znode_log`], node for node; what differs is who appends. A replica registers with an ephemeral node,
//! and the lowest number that is registered makes the ephemeral node `leader` and counts the epoch on (`election` decides, `campaign`
//! does it). Requests of the others go to it over the messenger (`line`, `forward`); whatever it brings into the log, its own or
//! theirs, is one transaction that checks the segment, the lives of all whose entries are in it, and the epoch. So one that was
//! deposed and does not know it changes nothing (I6), however long it slept.
//!
//! An entry that a leader has not acknowledged when it goes is sent to the next one; who reads the log drops second copies. How many
//! wait is bounded ([`Config::pending_entries`]); beyond that an append is refused at once.
//!
//! One that is about to stop hands over ([`ZooKeeperLeader::hand_over`]): the next is elected within milliseconds. One that dies is
//! missed when its ZooKeeper session ends. One that lives and is of no use, since it can't append or most others can't reach it, hands
//! over after some seconds (`fitness`).

mod campaign;
mod election;
mod fitness;
mod forward;
mod line;
mod pending;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

pub use self::line::{Duplex, Messenger};
pub use self::pending::Backlog;

use self::campaign::Campaign;
use self::election::{About, Own, Reign};
use self::pending::Room;
use crate::truncation::Published;
use crate::znode_log::{self, Court, Fence, MAX_CARRIED_BYTES, OpenError, PushError, ZnodeLog, is_free, overlap};
use crate::{
    AppendError, Appended, Beginning, Committed, Incarnation, Leadership, Life, LogError, LogHealth, LogId, OrderedLog,
    Position, TailError,
};

/// Longest wait for another replica to lead, once this one does no longer.
const HAND_OVER_WAIT: Duration = Duration::from_secs(2);

/// How a replica uses the log.
#[derive(Clone, Debug)]
pub struct Config {
    /// The log itself.
    pub log: znode_log::Config,
    /// Folder of those who may come to lead; `election` below the root if none is given. The same for all replicas, for good.
    pub election: Option<String>,
    /// Node of who leads; `leader` below the root if none is given. The same for all replicas, for good.
    pub leader: Option<String>,
    /// Where others reach this replica's messenger.
    pub address: String,
    /// What connects to theirs.
    pub messenger: Arc<dyn Messenger>,
    /// Appends without an outcome at once; further ones are refused.
    pub pending_entries: usize,
    /// Their bytes.
    pub pending_bytes: usize,
}

impl Config {
    /// The usual settings.
    pub fn new(log: znode_log::Config, address: impl Into<String>, messenger: Arc<dyn Messenger>) -> Self {
        Self {
            log,
            election: None,
            leader: None,
            address: address.into(),
            messenger,
            pending_entries: 256,
            pending_bytes: 64 << 20,
        }
    }

    /// Says what is wrong with the settings; where the election is.
    fn check(&self) -> Result<Court, String> {
        let root = &self.log.root;
        let path = |given: &Option<String>, usual: &str| match given {
            None => Ok(format!("{root}/{usual}")),
            Some(path) if is_free(root, path, usual) => Ok(path.clone()),
            Some(path) => {
                Err(format!("the path {path:?} is none like {root}/{usual}, or takes in what else is below {root}"))
            }
        };
        let log = self.log.layout()?.requests();
        let court = Court { log, election: path(&self.election, "election")?, leader: path(&self.leader, "leader")? };
        let pairs = [(&court.log, &court.election), (&court.log, &court.leader), (&court.election, &court.leader)];
        if let Some((one, other)) = pairs.into_iter().find(|(one, other)| overlap(one, other)) {
            return Err(format!("the paths {one} and {other} must not lie in each other"));
        }
        if self.log.max_entry_bytes > MAX_CARRIED_BYTES {
            return Err(format!("max_entry_bytes must be at most {MAX_CARRIED_BYTES}: entries go to the leader whole"));
        }
        if self.pending_entries == 0 || self.pending_bytes == 0 {
            return Err("pending_entries and pending_bytes must be at least 1".into());
        }
        Ok(court)
    }
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Number of the replica.
    pub replica: u32,
    /// Its life.
    pub incarnation: Incarnation,
    /// Greater with each change.
    pub epoch: i32,
    /// Where its messenger is.
    pub address: String,
}

impl Leader {
    fn life(&self) -> Life {
        (self.replica, self.incarnation)
    }
}

impl From<Reign> for Leader {
    fn from(Reign { replica, incarnation, epoch, address }: Reign) -> Self {
        Self { replica, incarnation, epoch, address }
    }
}

/// Who leads, as a replica knows it: a hint, for by the time that it is read another one may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Who leads, if anybody does.
    pub leader: Option<Leader>,
    /// Whether that is this handle.
    pub leads: bool,
}

impl Standing {
    /// Who leads, if it is another one.
    fn other(&self) -> Option<&Leader> {
        self.leader.as_ref().filter(|_| !self.leads)
    }
}

/// A handle on the log; clones share everything.
#[derive(Clone, Debug)]
pub struct ZooKeeperLeader {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    log: ZnodeLog,
    own: watch::Sender<Own>,
    rested: watch::Sender<Option<Own>>,
    standing: watch::Sender<Standing>,
    room: Room,
    _tasks: [AbortOnDropHandle<()>; 3],
}

impl ZooKeeperLeader {
    /// Opens the log, creating it if need be, takes a new incarnation for the replica, and takes part in the election from then on.
    ///
    /// # Errors
    /// If the settings are wrong or not those of the other replicas, what is in ZooKeeper is no log of this engine, or ZooKeeper can't
    /// be reached in time.
    pub async fn open(config: Config) -> Result<(Self, Incarnation), OpenError> {
        let court = config.check().map_err(OpenError::Config)?;
        let Config { log, address, messenger, pending_entries, pending_bytes, .. } = config;
        let fence: watch::Sender<Option<Fence>> = watch::Sender::new(None);
        let (log, incarnation) = ZnodeLog::open_led(log, court.clone(), fence.clone()).await?;
        let about = About { address, ..About::default() };
        let own = watch::Sender::new(Own { life: log.life(), about, over: false });
        let (rested, standing) = (watch::Sender::new(None), watch::Sender::new(Standing::default()));
        let cut_off = watch::Sender::new(false);
        let judging = fitness::keep(log.clone(), own.clone(), standing.subscribe(), cut_off.subscribe());
        let campaign = Campaign {
            log: log.clone(),
            court,
            own: own.clone(),
            rested: rested.clone(),
            standing: standing.clone(),
            fence,
            cut_off,
        };
        let keeping = line::keep(log.clone(), messenger, standing.subscribe());
        let tasks =
            [tokio::spawn(campaign.run()), tokio::spawn(keeping), tokio::spawn(judging)].map(AbortOnDropHandle::new);
        let room = Room::new(pending_entries, pending_bytes);
        Ok((Self { shared: Arc::new(Shared { log, own, rested, standing, room, _tasks: tasks }) }, incarnation))
    }

    /// The log without the leader's rules: for the member list, and for what is pushed from replica to replica. Its appends are taken
    /// while this replica leads.
    pub fn znodes(&self) -> &ZnodeLog {
        &self.shared.log
    }

    /// Who leads, and changes of it.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.shared.standing.subscribe()
    }

    /// Appends that have no outcome yet.
    pub fn backlog(&self) -> Backlog {
        self.shared.room.backlog()
    }

    /// Appends what another replica hands over on a connection that its [`Messenger`] has made, until that ends.
    ///
    /// # Errors
    /// Why it has ended.
    pub async fn take_line(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send) -> Result<(), PushError> {
        self.shared.log.take_line(stream).await
    }

    /// This replica is about to stop: it leads only if no other one can, and hands over if it does. Returns when another one leads, or
    /// at once if there is none; it may go on appending.
    pub async fn hand_over(&self) {
        let shared = &self.shared;
        shared.own.send_modify(|own| own.about.leaving = true);
        let done = async {
            let mut rested = shared.rested.subscribe();
            let said = |own: &Option<Own>| own.as_ref().is_some_and(|own| own.about.leaving || own.over);
            if rested.wait_for(said).await.is_ok() {
                // It leads still if there is no other one.
                shared.standing.subscribe().wait_for(|standing| standing.leader.is_some()).await.ok();
            }
        };
        if timeout(HAND_OVER_WAIT, done).await.is_err() {
            info!("no other replica leads the log yet");
        }
    }
}

/// What is read from the election's nodes, for fuzz targets.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    use super::election::{About, Reign, life_of, name_of};

    /// The name of a candidate's node, as it is written again; `None` if it can't be read.
    pub fn name(name: &str) -> Option<String> {
        life_of(name).map(name_of)
    }

    /// What a candidate, or the one that leads, says: either is read or refused.
    pub fn data(data: &[u8]) -> [bool; 2] {
        [serde_json::from_slice::<About>(data).is_ok(), serde_json::from_slice::<Reign>(data).is_ok()]
    }
}

impl OrderedLog for ZooKeeperLeader {
    fn append_requests(
        &self,
        entry: Bytes,
        requests: usize,
    ) -> impl Future<Output = Result<Appended, AppendError>> + Send + 'static {
        forward::append(self.shared.clone(), entry, requests)
    }

    fn tail(&self, from: Position) -> impl Stream<Item = Result<Committed, TailError>> + Send + Unpin + 'static {
        self.shared.log.tail(from)
    }

    async fn truncate(&self, below: Beginning) -> Result<(), LogError> {
        self.shared.log.truncate(below).await
    }

    async fn beginning(&self) -> Result<Beginning, LogError> {
        self.shared.log.beginning().await
    }

    async fn end(&self) -> Result<Position, LogError> {
        self.shared.log.end().await
    }

    async fn publish(&self, published: Published) -> Result<(), LogError> {
        self.shared.log.publish(published).await
    }

    async fn published(&self) -> Result<Vec<Published>, LogError> {
        self.shared.log.published().await
    }

    async fn living(&self) -> Result<BTreeSet<Life>, LogError> {
        self.shared.log.living().await
    }

    async fn resign(&self) -> Result<(), LogError> {
        let shared = &self.shared;
        shared.log.resign().await?;
        shared.own.send_modify(|own| own.over = true);
        let mut rested = shared.rested.subscribe();
        let withdrawn = rested.wait_for(|own| own.as_ref().is_some_and(|own| own.over));
        if timeout(HAND_OVER_WAIT, withdrawn).await.is_err() {
            info!("the election is left when the session ends");
        }
        Ok(())
    }

    async fn retire(&self, life: Life) -> Result<(), LogError> {
        self.shared.log.retire(life).await
    }

    fn vouch(&self, shown: Arc<AtomicU64>) {
        self.shared.log.vouch(shown);
    }

    fn ask(&self, lives: &BTreeSet<Life>) -> impl Future<Output = Option<u64>> + Send {
        self.shared.log.ask(lives)
    }

    fn health(&self) -> watch::Receiver<LogHealth> {
        self.shared.log.health()
    }

    fn leadership(&self) -> Option<Leadership> {
        let standing = self.shared.standing.borrow();
        standing.leader.as_ref().map(|leader| Leadership { replica: leader.replica, epoch: leader.epoch.into() })
    }

    fn log_id(&self) -> LogId {
        self.shared.log.log_id()
    }

    fn incarnation(&self) -> Incarnation {
        self.shared.log.incarnation()
    }
}
