//! Which replicas live, and where: each registers ephemerally, everybody watches.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};
use uuid::Uuid;
use zookeeper_client::{Client, CreateMode, Error, MultiReadResult, MultiWriteError};

use crate::LogError;
use crate::connection::{Connection, connected};
use crate::znode_log::ZnodeLog;

/// A watch is a hint: without one, the members are looked at this often all the same.
const POLL: Duration = Duration::from_secs(5);
/// Pause after an attempt that ZooKeeper did not take.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Members read at once; more than this are left out.
const MAX_MEMBERS: usize = 256;

/// A replica as it shows itself to the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Number of the replica.
    pub id: u32,
    /// The identity that drivers know it by.
    pub host_id: Uuid,
    /// Where drivers reach it.
    pub address: IpAddr,
    /// Port of the CQL front end.
    pub cql_port: u16,
    /// Port of the admin interface.
    pub admin_port: u16,
    /// Data centre shown to drivers.
    pub data_center: String,
    /// Rack shown to drivers.
    pub rack: String,
}

/// A replica's registration, and its view of everybody's. Dropping it ends the watching; the registration ends with the
/// session, or by [`Members::leave`].
#[derive(Debug)]
pub struct Members {
    own: watch::Sender<Option<Member>>,
    all: watch::Receiver<Vec<Member>>,
    registered: watch::Receiver<bool>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Members {
    /// Watches the members of a log; registers nobody until [`Members::register`].
    pub fn watching(log: &ZnodeLog) -> Self {
        let (own, own_wanted) = watch::channel(None);
        let (registered_sender, registered) = watch::channel(false);
        let (all_sender, all) = watch::channel(Vec::new());
        let registering = keep_registered(log.clone(), own_wanted, registered_sender);
        let watching = keep_watching(log.control(), log.layout().members(), all_sender);
        let tasks = [tokio::spawn(registering), tokio::spawn(watching)].map(AbortOnDropHandle::new);
        Self { own, all, registered, _tasks: tasks }
    }

    /// Registers this replica, or changes what it shows; again after every lost session, until it leaves. A replica whose
    /// incarnation is over stays away.
    pub fn register(&self, member: Member) {
        self.own.send_replace(Some(member));
    }

    /// Takes the registration back.
    pub fn leave(&self) {
        self.own.send_replace(None);
    }

    /// Whether ZooKeeper has this replica's present registration; stands while the connection is away.
    pub fn registered(&self) -> watch::Receiver<bool> {
        self.registered.clone()
    }

    /// The members that live, in order of their ids, and changes; while ZooKeeper is away, the last ones known.
    pub fn watch(&self) -> watch::Receiver<Vec<Member>> {
        self.all.clone()
    }
}

/// What ended an attempt to register.
enum Attempt {
    Done,
    Again(String),
    /// ZooKeeper does not know the incarnation.
    Over,
}

async fn keep_registered(log: ZnodeLog, mut wanted: watch::Receiver<Option<Member>>, registered: watch::Sender<bool>) {
    let control = log.control();
    let mut link = control.link();
    // The node of this process, if it left one; another's is not ours to take away.
    let mut ours: Option<Member> = None;
    loop {
        let client = connected(&mut link).await;
        let epoch = link.borrow_and_update().epoch;
        let member = wanted.borrow_and_update().clone();
        let attempt = match (&member, &ours) {
            (Some(member), _) => enter(&log, &client, member).await,
            (None, Some(before)) => exit(&log, &client, before.id).await,
            (None, None) => Attempt::Done,
        };
        match attempt {
            Attempt::Done => {
                registered.send_replace(member.is_some());
                ours = member;
                // A closed channel can't be waited on; its owner is dropping this task.
                tokio::select! {
                    changed = wanted.changed() => if changed.is_err() { return },
                    changed = link.wait_for(|link| link.epoch != epoch) => if changed.is_err() { return },
                }
            }
            Attempt::Again(detail) => {
                debug!(detail, "not registered yet, trying again");
                sleep(RETRY_PAUSE).await;
            }
            Attempt::Over => {
                registered.send_replace(false);
                match log.over(&client).await {
                    LogError::Fenced => {
                        info!("a newer incarnation of this replica registers itself");
                        return;
                    }
                    // The log may come back.
                    error => debug!(%error, "not registered, trying again"),
                }
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Registers in the present session, over whatever an earlier session or process left.
async fn enter(log: &ZnodeLog, client: &Client, member: &Member) -> Attempt {
    let path = log.layout().member(member.id);
    let data = serde_json::to_vec(member).expect("plain fields serialise");
    let before = match client.get_data(&path).await {
        Ok((found, stat)) if stat.ephemeral_owner == client.session_id().0 && found == data => return Attempt::Done,
        Ok((_, stat)) => Some(stat.version),
        Err(Error::NoNode) => None,
        Err(error) => return Attempt::Again(error.to_string()),
    };
    let options = CreateMode::Ephemeral.with_acls(log.access().acls());
    let mut writer = client.new_multi_writer();
    let added = writer
        .add_check_version(log.incarnation_path(), 0)
        .and_then(|()| match before {
            Some(version) => writer.add_delete(&path, Some(version)),
            None => Ok(()),
        })
        .and_then(|()| writer.add_create(&path, &data, &options));
    match added {
        Ok(()) => committed(writer.commit().await),
        Err(error) => Attempt::Again(error.to_string()),
    }
}

async fn exit(log: &ZnodeLog, client: &Client, id: u32) -> Attempt {
    let mut writer = client.new_multi_writer();
    let added = writer
        .add_check_version(log.incarnation_path(), 0)
        .and_then(|()| writer.add_delete(&log.layout().member(id), None));
    if let Err(error) = added {
        return Attempt::Again(error.to_string());
    }
    match writer.commit().await {
        Err(MultiWriteError::OperationFailed { index: 1, source: Error::NoNode }) => Attempt::Done,
        outcome => committed(outcome),
    }
}

/// The outcome of a transaction whose first operation checks the incarnation.
fn committed<T>(outcome: Result<T, MultiWriteError>) -> Attempt {
    match outcome {
        Ok(_) => Attempt::Done,
        Err(MultiWriteError::OperationFailed { index: 0, source: Error::NoNode }) => Attempt::Over,
        Err(error) => Attempt::Again(error.to_string()),
    }
}

async fn keep_watching(control: Arc<Connection>, folder: String, all: watch::Sender<Vec<Member>>) {
    let mut link = control.link();
    loop {
        let client = connected(&mut link).await;
        let epoch = link.borrow_and_update().epoch;
        // Armed before reading, so that nothing falls in between.
        let seen = async {
            let (names, _, watcher) = client.get_and_watch_children(&folder).await?;
            Ok::<_, Error>((read_members(&client, &folder, names).await?, watcher))
        };
        match seen.await {
            Ok((members, watcher)) => {
                all.send_if_modified(|current| {
                    let changed = *current != members;
                    *current = members;
                    changed
                });
                tokio::select! {
                    _ = watcher.changed() => {}
                    changed = link.wait_for(|link| link.epoch != epoch) => if changed.is_err() { return },
                    () = sleep(POLL) => {}
                }
            }
            Err(error) => {
                debug!(%error, "members not read, trying again");
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

async fn read_members(client: &Client, folder: &str, names: Vec<String>) -> Result<Vec<Member>, Error> {
    let mut reader = client.new_multi_reader();
    for name in names.iter().take(MAX_MEMBERS) {
        reader.add_get_data(&format!("{folder}/{name}"))?;
    }
    let mut members = Vec::new();
    for (name, result) in names.iter().zip(reader.commit().await?) {
        // One that has left in between is no member.
        let MultiReadResult::Data { data, .. } = result else { continue };
        match serde_json::from_slice::<Member>(&data) {
            Ok(member) if member.id.to_string() == *name => members.push(member),
            Ok(member) => warn!(name, id = member.id, "a member's registration carries another id; left out"),
            Err(error) => warn!(name, %error, "a member's registration can't be read; left out"),
        }
    }
    members.sort_by_key(|member| member.id);
    Ok(members)
}
