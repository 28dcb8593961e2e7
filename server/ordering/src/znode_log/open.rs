//! Opening the log: its root, its newest segment, a new incarnation of the replica.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::warn;
use uuid::Uuid;
use zookeeper_client::{Acls, Client, CreateMode, Error, MultiWriteError, MultiWriteResult};

use super::append::{AppendLane, Part};
use super::layout::{Layout, LogHeader, SegmentState, ZNODE_LOG, ZOOKEEPER_LEADER, segment_of};
use super::push::Pushes;
use super::recent::Recent;
use super::{Authority, Config, Inner, watch_health};
use crate::connection::{Access, Connection, Server};
use crate::state_log::{StateLog, StateLogConfig};
use crate::{Beginning, Incarnation, LogId};

/// Pause after an attempt that ZooKeeper did not take.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Longest wait for the state log, which is read as a whole.
const STATE_LOG_LIMIT: Duration = Duration::from_secs(30);

/// Why the log could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A setting is wrong.
    #[error("the settings of the log are wrong: {0}")]
    Config(String),
    /// ZooKeeper could not be reached, or did not answer, within [`Config::open_timeout`].
    #[error("ZooKeeper at {connect} was not reached within {waited:?}: {detail}")]
    Unavailable {
        /// The servers tried.
        connect: String,
        /// How long.
        waited: Duration,
        /// The last trouble.
        detail: String,
    },
    /// ZooKeeper refuses: wrong credentials, or a root that others own.
    #[error("ZooKeeper refuses access to {path}: {detail}")]
    Refused {
        /// What was to be touched.
        path: String,
        /// ZooKeeper's words.
        detail: String,
    },
    /// The log is there, and another engine's: its order has other rules.
    #[error(
        "{path} in ZooKeeper holds a log of the engine {made_by}, and this replica is to use {opened_by}: start it with the log's \
         engine, or name another root for a new database"
    )]
    OtherEngine {
        /// What was read.
        path: String,
        /// The log's engine.
        made_by: String,
        /// The one that was to open it.
        opened_by: String,
    },
    /// What is there is no log that this program knows.
    #[error("{path} in ZooKeeper holds no log that this program knows: {detail}")]
    Foreign {
        /// What was read.
        path: String,
        /// What is wrong with it.
        detail: String,
    },
}

/// What a log is opened as.
#[derive(Clone, Debug)]
pub(super) enum Claim {
    /// A log of one's own engine, made if there is none. With a court that is the one with a leader.
    Own(Option<Court>),
    /// One that is there, of whatever engine.
    Any,
}

/// Where a log's leader is elected. All replicas have to agree, so it stands in the node of the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Court {
    /// The log itself.
    pub(crate) log: String,
    /// The folder of those who may come to lead.
    pub(crate) election: String,
    /// The node of who leads.
    pub(crate) leader: String,
}

impl Court {
    /// What the node of the epoch holds.
    pub(crate) fn data(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain fields serialise")
    }
}

pub(super) async fn open(
    config: Config,
    authority: Authority,
    claim: Claim,
    gather: mpsc::Sender<Part>,
) -> Result<Inner, OpenError> {
    config.check().map_err(OpenError::Config)?;
    if config.log.is_some() && matches!(claim, Claim::Own(None)) {
        return Err(OpenError::Config(format!("the engine {ZNODE_LOG} has its log at requests below the root")));
    }
    let layout = config.layout().map_err(OpenError::Config)?;
    let access = Access {
        connect: config.connect.clone(),
        session_timeout: config.session_timeout,
        auth: config.auth.clone(),
        open_to_all: config.open_to_all,
    };
    let control = Arc::new(Connection::start(format!("control-{}", config.replica), access.clone(), Server::Any));
    let opening = Opening { config: &config, claim: &claim, layout: &layout, access: &access, control: &control };
    let opened = opening.run().await?;
    let lane_count = config.append_sessions.min(config.batches_in_flight + 1);
    let lanes: Vec<_> = (0..lane_count)
        .map(|lane| format!("append-{}-{lane}", config.replica))
        .map(|name| AppendLane::new(Connection::start(name, access.clone(), Server::Leader)))
        .collect();
    let connections = [control.clone()].into_iter().chain(lanes.iter().map(AppendLane::connection)).collect();
    let (health, health_task) = watch_health(connections);
    let state_log = match config.state_log.clone() {
        Some(state_log) => open_state_log(state_log, opened.log_id).await,
        None => None,
    };
    Ok(Inner {
        authority,
        gather,
        permits: Arc::new(Semaphore::new(config.batches_in_flight)),
        segment: AtomicU32::new(opened.segment),
        sealing: AtomicBool::new(false),
        fenced: AtomicBool::new(false),
        body_counter: AtomicU64::new(0),
        state_log,
        recent: Recent::new(config.recent_entries, config.recent_bytes),
        pushes: Pushes::new(
            opened.push_key,
            opened.log_id,
            (config.replica, opened.incarnation),
            node_of(&opened.incarnation_path),
        ),
        log_id: opened.log_id,
        incarnation: opened.incarnation,
        incarnation_path: opened.incarnation_path,
        health,
        _health_task: health_task,
        config,
        access,
        layout,
        lanes,
        control,
    })
}

/// It is a cache: without it everything is read in ZooKeeper.
async fn open_state_log(config: StateLogConfig, log: LogId) -> Option<Arc<StateLog>> {
    let folder = config.folder.display().to_string();
    let opening = tokio::task::spawn_blocking(move || StateLog::open(&config, log));
    let trouble = match timeout(STATE_LOG_LIMIT, opening).await {
        Ok(Ok(Ok(state_log))) => return Some(Arc::new(state_log)),
        Ok(Ok(Err(error))) => error.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("the disk did not answer within {STATE_LOG_LIMIT:?}"),
    };
    warn!(folder, trouble, "the state log can't be used: a restart will read the log in ZooKeeper");
    None
}

/// The last part of a path.
fn node_of(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

/// What opening finds out.
struct Opened {
    log_id: LogId,
    push_key: Vec<u8>,
    segment: u32,
    incarnation: Incarnation,
    incarnation_path: String,
}

struct Opening<'a> {
    config: &'a Config,
    claim: &'a Claim,
    layout: &'a Layout,
    access: &'a Access,
    control: &'a Connection,
}

/// Why a step of opening did not succeed.
enum StepError {
    /// It may at the next attempt.
    Again(String),
    /// It won't.
    Final(OpenError),
}

impl Opening<'_> {
    async fn run(&self) -> Result<Opened, OpenError> {
        let deadline = Instant::now() + self.config.open_timeout;
        let log_id = self.retry(deadline, || self.ensure_layout()).await?;
        let push_key = self.retry(deadline, || self.ensure_push_key()).await?;
        let (incarnation, incarnation_path) = self.retry(deadline, || self.take_incarnation()).await?;
        let segment = self.retry(deadline, || self.newest_segment()).await?;
        Ok(Opened { log_id, push_key, segment, incarnation, incarnation_path })
    }

    /// Every step can be repeated whatever became of it before (I10).
    async fn retry<T, F>(&self, deadline: Instant, step: impl Fn() -> F) -> Result<T, OpenError>
    where
        F: Future<Output = Result<T, StepError>>,
    {
        let mut detail = self.control.link().borrow().detail.clone();
        loop {
            match timeout_at(deadline, step()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(StepError::Final(error))) => return Err(error),
                Ok(Err(StepError::Again(trouble))) => detail = trouble,
                Err(_) => {
                    let link = self.control.link().borrow().clone();
                    let detail = if link.client.is_none() { link.detail } else { detail };
                    let connect = self.config.connect.clone();
                    return Err(OpenError::Unavailable { connect, waited: self.config.open_timeout, detail });
                }
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Makes what is missing. `requests` and its first segment come in one transaction, so no log is without one. In one of another
    /// engine nothing is made.
    async fn ensure_layout(&self) -> Result<LogId, StepError> {
        let client = self.control.client().await;
        let found = self.header(&client).await?;
        if matches!(self.claim, Claim::Own(_)) {
            self.ensure_parent(&client).await?;
        }
        let engine = match self.claim {
            Claim::Own(court) => self.ensure_engine(&client, court.as_ref()).await?,
            Claim::Any if found.is_some() => ZNODE_LOG,
            Claim::Any => {
                let detail = "there is none".into();
                return Err(StepError::Final(OpenError::Foreign { path: self.layout.requests(), detail }));
            }
        };
        let directory = CreateMode::Persistent.with_acls(self.access.acls());
        let incarnations = self.layout.incarnations(self.config.replica);
        let pulse = self.layout.pulse(self.config.replica);
        let folders = [&self.layout.bodies(), &incarnations, &pulse, &self.layout.members(), &self.layout.positions()];
        for path in folders {
            client.mkdir(path, &directory).await.map_err(|error| step_error(path, error))?;
        }
        let requests = self.layout.requests();
        if found.is_none() {
            let id = LogId(Uuid::new_v4());
            if let Some((parent, _)) = requests.rsplit_once('/').filter(|(parent, _)| !parent.is_empty()) {
                client.mkdir(parent, &directory).await.map_err(|error| step_error(parent, error))?;
            }
            let mut writer = client.new_multi_writer();
            let added = writer
                .add_create(&requests, &LogHeader::new(id, engine, Beginning::START).data(), &directory)
                .and_then(|()| writer.add_create(&self.layout.segment(0), SegmentState::Open.data(), &directory));
            added.map_err(|error| step_error(&requests, error))?;
            match writer.commit().await.map_err(Error::from) {
                Ok(_) | Err(Error::NodeExists) => {}
                Err(error) => return Err(step_error(&requests, error)),
            }
        }
        match self.header(&client).await? {
            Some(header) => Ok(header.id),
            None => Err(StepError::Again("the log is not there yet".into())),
        }
    }

    /// The log's header, if there is a log; an error if it is another engine's than the one that opens it.
    async fn header(&self, client: &Client) -> Result<Option<LogHeader>, StepError> {
        let path = self.layout.requests();
        let data = match client.get_data(&path).await {
            Ok((data, _)) => data,
            Err(Error::NoNode) => return Ok(None),
            Err(error) => return Err(step_error(&path, error)),
        };
        let header = match LogHeader::parse(&data) {
            Ok(header) => header,
            Err(detail) => return Err(StepError::Final(OpenError::Foreign { path, detail })),
        };
        match self.claim {
            Claim::Own(court) if header.engine() != engine_of(court.as_ref()) => {
                Err(other_engine(path, header.engine(), court.as_ref()))
            }
            _ => Ok(Some(header)),
        }
    }

    /// Sees to it that what is below the root is of this engine, or nothing; a log with a leader has its epoch before anything else.
    async fn ensure_engine(&self, client: &Client, court: Option<&Court>) -> Result<&'static str, StepError> {
        let path = self.layout.epoch();
        let failed = |error| step_error(&path, error);
        let there = match client.get_data(&path).await {
            Ok((data, _)) => Some(data),
            Err(Error::NoNode) => None,
            Err(error) => return Err(failed(error)),
        };
        let Some(court) = court else {
            return match there {
                Some(_) => Err(other_engine(path, ZOOKEEPER_LEADER, None)),
                None => Ok(ZNODE_LOG),
            };
        };
        let directory = CreateMode::Persistent.with_acls(self.access.acls());
        let Some(there) = there else {
            let incarnations = self.layout.all_incarnations();
            if client.check_stat(&incarnations).await.map_err(failed)?.is_some() {
                return Err(other_engine(incarnations, ZNODE_LOG, Some(court)));
            }
            client.mkdir(&self.config.root, &directory).await.map_err(failed)?;
            return match client.create(&path, &court.data(), &directory).await {
                Ok(_) | Err(Error::NodeExists) => Err(StepError::Again("the epoch was made just now".into())),
                Err(error) => Err(failed(error)),
            };
        };
        if there != court.data() {
            let there = String::from_utf8_lossy(&there).into_owned();
            let detail =
                format!("its replicas agree on {there}, and this one is to use others: give it the same paths");
            return Err(StepError::Final(OpenError::Foreign { path, detail }));
        }
        let parents =
            [&court.election, &court.leader].map(|path| path.rsplit_once('/').map_or("", |(parent, _)| parent));
        for folder in parents.into_iter().filter(|folder| !folder.is_empty()) {
            client.mkdir(folder, &directory).await.map_err(|error| step_error(folder, error))?;
        }
        self.ensure_election(client, court).await?;
        Ok(ZOOKEEPER_LEADER)
    }

    /// What the root is below is everybody's: other logs have theirs there, with other credentials.
    async fn ensure_parent(&self, client: &Client) -> Result<(), StepError> {
        let Some((parent, _)) = self.layout.root().rsplit_once('/').filter(|(parent, _)| !parent.is_empty()) else {
            return Ok(());
        };
        let failed = |error| step_error(parent, error);
        // To make what is there would need a permission on what it is below.
        if client.check_stat(parent).await.map_err(failed)?.is_some() {
            return Ok(());
        }
        client.mkdir(parent, &CreateMode::Persistent.with_acls(Acls::anyone_all())).await.map_err(failed)
    }

    /// The folder of the election says whose it is: two databases that elected in the same one would end each other's leads for ever.
    async fn ensure_election(&self, client: &Client, court: &Court) -> Result<(), StepError> {
        let path = &court.election;
        let failed = |error| step_error(path, error);
        match client.create(path, &court.data(), &CreateMode::Persistent.with_acls(self.access.acls())).await {
            Ok(_) => return Ok(()),
            Err(Error::NodeExists) => {}
            Err(error) => return Err(failed(error)),
        }
        let (there, stat) = client.get_data(path).await.map_err(failed)?;
        if there == court.data() {
            return Ok(());
        }
        if there.is_empty() && stat.num_children == 0 {
            // A folder that somebody has made beforehand.
            return match client.set_data(path, &court.data(), Some(stat.version)).await {
                Ok(_) => Ok(()),
                Err(Error::BadVersion) => Err(StepError::Again("the election's folder was taken just now".into())),
                Err(error) => Err(failed(error)),
            };
        }
        let there = String::from_utf8_lossy(&there).into_owned();
        let detail =
            format!("it is no folder of this log's election, and holds {there:?}: give each database paths of its own");
        Err(StepError::Final(OpenError::Foreign { path: path.clone(), detail }))
    }

    /// The key that pushed entries are proved by: whoever may read the log may read it. Made by the first who comes.
    async fn ensure_push_key(&self) -> Result<Vec<u8>, StepError> {
        let path = self.layout.push_key();
        let failed = |error| step_error(&path, error);
        let client = self.control.client().await;
        let made = [Uuid::new_v4(), Uuid::new_v4()].map(Uuid::into_bytes).concat();
        let options = CreateMode::Persistent.with_acls(self.access.acls());
        match client.create(&path, &made, &options).await {
            Ok(_) => Ok(made),
            Err(Error::NodeExists) => Ok(client.get_data(&path).await.map_err(failed)?.0),
            Err(error) => Err(failed(error)),
        }
    }

    /// Replaces the replica's incarnation. The version of the folder makes two who do it at once come one after the
    /// other; an attempt whose answer is lost is replaced by the next one.
    async fn take_incarnation(&self) -> Result<(Incarnation, String), StepError> {
        let folder = self.layout.incarnations(self.config.replica);
        let failed = |error| step_error(&folder, error);
        let client = self.control.client().await;
        client.sync(&folder).await.map_err(failed)?;
        let (_, stat) = client.get_data(&folder).await.map_err(failed)?;
        let before = client.list_children(&folder).await.map_err(failed)?;
        let mut writer = client.new_multi_writer();
        writer.add_set_data(&folder, &[], Some(stat.version)).map_err(failed)?;
        for name in &before {
            writer.add_delete(&format!("{folder}/{name}"), None).map_err(failed)?;
        }
        let options = CreateMode::PersistentSequential.with_acls(self.access.acls());
        // The session tells it from incarnations in a ZooKeeper that has lost its data since: their numbers begin anew.
        writer.add_create(&format!("{folder}/i-{}-", client.session_id()), &[], &options).map_err(failed)?;
        let results = match writer.commit().await {
            Ok(results) => results,
            Err(MultiWriteError::OperationFailed { source: Error::BadVersion | Error::NoNode, .. }) => {
                return Err(StepError::Again("another process takes the same replica's incarnation".into()));
            }
            Err(error) => return Err(failed(error.into())),
        };
        match results.into_iter().last() {
            Some(MultiWriteResult::Create { path, stat }) if !stat.is_invalid() => Ok((Incarnation(stat.czxid), path)),
            _ => Err(StepError::Again("ZooKeeper's answer lacks the new incarnation".into())),
        }
    }

    async fn newest_segment(&self) -> Result<u32, StepError> {
        let client = self.control.client().await;
        let requests = self.layout.requests();
        let newest = newest_segment(&client, self.layout).await.map_err(|error| step_error(&requests, error))?;
        newest.ok_or_else(|| {
            let detail = "it has no segment".into();
            StepError::Final(OpenError::Foreign { path: requests, detail })
        })
    }
}

fn engine_of(court: Option<&Court>) -> &'static str {
    if court.is_some() { ZOOKEEPER_LEADER } else { ZNODE_LOG }
}

fn other_engine(path: String, made_by: &str, court: Option<&Court>) -> StepError {
    let (made_by, opened_by) = (made_by.to_owned(), engine_of(court).to_owned());
    StepError::Final(OpenError::OtherEngine { path, made_by, opened_by })
}

fn step_error(path: &str, error: Error) -> StepError {
    let path = path.to_owned();
    match error {
        Error::NoAuth | Error::InvalidAcl | Error::AuthFailed | Error::QuotaExceeded => {
            StepError::Final(OpenError::Refused { path, detail: error.to_string() })
        }
        Error::BadArguments(detail) => StepError::Final(OpenError::Config((*detail).into())),
        other => StepError::Again(other.to_string()),
    }
}

/// The newest segment there is, by listing; not for the steady state.
pub(super) async fn newest_segment(client: &Client, layout: &Layout) -> Result<Option<u32>, Error> {
    client.sync(&layout.requests()).await?;
    let names = client.list_children(&layout.requests()).await?;
    Ok(names.iter().filter_map(|name| segment_of(name)).max())
}
