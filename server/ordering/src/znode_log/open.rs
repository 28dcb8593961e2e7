//! Opening the log: its root, its newest segment, a new incarnation of the replica.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;
use zookeeper_client::{Acls, Client, CreateMode, Error, MultiWriteError, MultiWriteResult};

use super::append::{AppendLane, Part};
use super::layout::{Layout, LogHeader, SegmentState, segment_of};
use super::push::Pushes;
use super::recent::Recent;
use super::{Config, Inner, watch_health};
use crate::connection::{Access, Connection, Server};
use crate::{Beginning, Incarnation, LogId};

/// Pause after an attempt that ZooKeeper did not take.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

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
    /// What is there is no log that this program knows.
    #[error("{path} in ZooKeeper holds no log that this program knows: {detail}")]
    Foreign {
        /// What was read.
        path: String,
        /// What is wrong with it.
        detail: String,
    },
}

pub(super) async fn open(config: Config, gather: mpsc::Sender<Part>) -> Result<Inner, OpenError> {
    config.check().map_err(OpenError::Config)?;
    let layout = Layout::new(&config.root).map_err(OpenError::Config)?;
    let access = Access {
        connect: config.connect.clone(),
        session_timeout: config.session_timeout,
        auth: config.auth.clone(),
        open_to_all: config.open_to_all,
    };
    let control = Arc::new(Connection::start(format!("control-{}", config.replica), access.clone(), Server::Any));
    let opening = Opening { config: &config, layout: &layout, access: &access, control: &control };
    let opened = opening.run().await?;
    let lane_count = config.append_sessions.min(config.batches_in_flight + 1);
    let lanes: Vec<_> = (0..lane_count)
        .map(|lane| format!("append-{}-{lane}", config.replica))
        .map(|name| AppendLane::new(Connection::start(name, access.clone(), Server::Leader)))
        .collect();
    let connections = [control.clone()].into_iter().chain(lanes.iter().map(AppendLane::connection)).collect();
    let (health, health_task) = watch_health(connections);
    Ok(Inner {
        gather,
        permits: Arc::new(Semaphore::new(config.batches_in_flight)),
        segment: AtomicU32::new(opened.segment),
        sealing: AtomicBool::new(false),
        fenced: AtomicBool::new(false),
        body_counter: AtomicU64::new(0),
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

    /// Makes what is missing. `requests` and its first segment come in one transaction, so no log is without one.
    async fn ensure_layout(&self) -> Result<LogId, StepError> {
        let client = self.control.client().await;
        self.ensure_parent(&client).await?;
        let directory = CreateMode::Persistent.with_acls(self.access.acls());
        let incarnations = self.layout.incarnations(self.config.replica);
        let pulse = self.layout.pulse(self.config.replica);
        let folders = [&self.layout.bodies(), &incarnations, &pulse, &self.layout.members(), &self.layout.positions()];
        for path in folders {
            client.mkdir(path, &directory).await.map_err(|error| step_error(path, error))?;
        }
        let requests = self.layout.requests();
        if client.check_stat(&requests).await.map_err(|error| step_error(&requests, error))?.is_none() {
            let id = LogId(Uuid::new_v4());
            let mut writer = client.new_multi_writer();
            let added = writer
                .add_create(&requests, &LogHeader::new(id, Beginning::START).data(), &directory)
                .and_then(|()| writer.add_create(&self.layout.segment(0), SegmentState::Open.data(), &directory));
            added.map_err(|error| step_error(&requests, error))?;
            match writer.commit().await.map_err(Error::from) {
                Ok(_) | Err(Error::NodeExists) => {}
                Err(error) => return Err(step_error(&requests, error)),
            }
        }
        let (data, _) = client.get_data(&requests).await.map_err(|error| step_error(&requests, error))?;
        match LogHeader::parse(&data) {
            Ok(header) => Ok(header.id),
            Err(detail) => Err(StepError::Final(OpenError::Foreign { path: requests, detail })),
        }
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
