//! One ZooKeeper session after another, kept up for as long as it is wanted.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};
use zookeeper_client::{Acls, Client, SessionState};

use crate::leader::leader;

/// First and longest pause between attempts to get a session.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How long what was on its way when a connection was lost has to be answered.
const LAST_ANSWERS: Duration = Duration::from_millis(100);
/// Longest wait for a session with the leader alone: it may have said that it leads and be gone, and others serve.
const LEADER_WAIT: Duration = Duration::from_secs(1);
/// Pause between looks for the leader.
const LEADER_CHECK: Duration = Duration::from_secs(10);

/// A user and password of ZooKeeper's `digest` scheme.
#[derive(Clone)]
pub struct DigestAuth {
    /// Name of the user; without a colon.
    pub user: String,
    /// The password, in clear.
    pub password: String,
}

impl std::fmt::Debug for DigestAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DigestAuth").field("user", &self.user).finish_non_exhaustive()
    }
}

/// How to reach ZooKeeper.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// `host:port,host:port`.
    pub(crate) connect: String,
    pub(crate) session_timeout: Duration,
    pub(crate) auth: Option<DigestAuth>,
    /// Anybody may touch what we create in spite of it.
    pub(crate) open_to_all: bool,
}

impl Access {
    /// Who may touch the nodes that we create. With a user, the user alone, unless they are open; else whoever reaches ZooKeeper.
    pub(crate) fn acls(&self) -> Acls<'static> {
        match self.auth {
            Some(_) if !self.open_to_all => Acls::creator_all(),
            _ => Acls::anyone_all(),
        }
    }

    /// A session with one of these servers.
    async fn connect(&self, servers: &str) -> Result<Client, zookeeper_client::Error> {
        let mut connector = Client::connector().with_session_timeout(self.session_timeout);
        if let Some(DigestAuth { user, password }) = &self.auth {
            connector = connector.with_auth("digest", format!("{user}:{password}").as_bytes());
        }
        connector.connect(servers).await
    }
}

/// Which of ZooKeeper's servers a connection goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// Any of them. A session stays what it is when it gets to another server.
    Any,
    /// The leader, as far as it is known, by a new session whenever that is another one.
    Leader,
}

/// What a connection is at this moment.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// The session, while it is connected.
    pub(crate) client: Option<Client>,
    /// Grows each time it gets connected again: what a watch missed must then be read.
    pub(crate) epoch: u64,
    /// Since when it is not connected, and why; meaningless while it is.
    pub(crate) since: Instant,
    pub(crate) detail: String,
}

/// Keeps a session up: a lost connection is found again by the client, a session that ended is replaced.
#[derive(Debug)]
pub(crate) struct Connection {
    link: watch::Receiver<Link>,
    _task: AbortOnDropHandle<()>,
}

impl Connection {
    /// Starts to connect. `name` is for the log.
    pub(crate) fn start(name: String, access: Access, server: Server) -> Self {
        let link = Link { client: None, epoch: 0, since: Instant::now(), detail: "not connected yet".into() };
        let (sender, receiver) = watch::channel(link);
        let keeper = Keeper { name, access, server, link: sender };
        let task = tokio::spawn(async move { keeper.keep_up().await });
        Self { link: receiver, _task: AbortOnDropHandle::new(task) }
    }

    /// The connection's state, and changes of it.
    pub(crate) fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    /// The session if it is connected now.
    pub(crate) fn connected(&self) -> Option<Client> {
        self.link.borrow().client.clone().filter(is_connected)
    }

    /// The session, once it is connected. The caller bounds the wait.
    pub(crate) async fn client(&self) -> Client {
        connected(&mut self.link()).await
    }
}

/// Waits for a link to be connected; for ever when its connection is gone.
pub(crate) async fn connected(link: &mut watch::Receiver<Link>) -> Client {
    let client = match link.wait_for(|link| link.client.as_ref().is_some_and(is_connected)).await {
        Ok(link) => link.client.clone(),
        Err(_) => None,
    };
    match client {
        Some(client) => client,
        None => std::future::pending().await,
    }
}

/// A session says so itself before the link does, and before it fails what is on its way. What it is given from then on it
/// keeps to itself until it is connected again, or has expired.
fn is_connected(client: &Client) -> bool {
    client.state() == SessionState::SyncConnected
}

/// Completes when a session has no connection, a moment after what was on its way has been answered.
pub(crate) async fn lost(client: &Client) {
    let mut states = client.state_watcher();
    let mut state = client.state();
    while state == SessionState::SyncConnected {
        state = states.changed().await;
    }
    tokio::time::sleep(LAST_ANSWERS).await;
}

/// Does the work of a [`Connection`].
struct Keeper {
    name: String,
    access: Access,
    server: Server,
    link: watch::Sender<Link>,
}

impl Keeper {
    async fn keep_up(&self) {
        let mut pause = BACKOFF.0;
        loop {
            let connected = match self.at_leader(None).await {
                Some((client, leader)) => Ok((client, Some(leader))),
                None => self.connect(None).await.map(|client| (client, None)),
            };
            match connected {
                Ok((client, leader)) => {
                    pause = BACKOFF.0;
                    self.follow(client, leader).await;
                }
                Err(error) => {
                    self.set_down(format!("no ZooKeeper session: {error}"));
                    warn!(connection = self.name, %error, "no ZooKeeper session, trying again");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// The leader, if this connection goes to it.
    async fn leader(&self) -> Option<&str> {
        match self.server {
            Server::Any => None,
            Server::Leader => leader(&self.access.connect).await,
        }
    }

    /// A session with the leader alone, if this connection goes to it, it is another than this one, and it takes the session.
    async fn at_leader(&self, than: Option<&str>) -> Option<(Client, &str)> {
        let leader = self.leader().await.filter(|leader| than != Some(*leader))?;
        match timeout(LEADER_WAIT, self.connect(Some(leader))).await {
            Ok(Ok(client)) => return Some((client, leader)),
            Ok(Err(error)) => debug!(connection = self.name, leader, %error, "no session with ZooKeeper's leader"),
            Err(_) => {
                debug!(connection = self.name, leader, "ZooKeeper's leader takes no session within {LEADER_WAIT:?}")
            }
        }
        None
    }

    /// A session with that server alone, or with any.
    async fn connect(&self, server: Option<&str>) -> Result<Client, zookeeper_client::Error> {
        let client = self.access.connect(server.unwrap_or(&self.access.connect)).await?;
        info!(connection = self.name, session = %client.session_id(), server, "ZooKeeper session established");
        Ok(client)
    }

    /// Publishes a session's states until it ends. One of the leader alone ends with its connection; one of another server gives way
    /// to one of the leader, and lasts while somebody uses it.
    async fn follow(&self, mut client: Client, mut leader: Option<&str>) {
        let mut states = client.state_watcher();
        let mut state = client.state();
        loop {
            match state {
                SessionState::SyncConnected => self.set_up(&client),
                SessionState::Disconnected | SessionState::ConnectedReadOnly => {
                    self.set_down("the connection to ZooKeeper is lost".into());
                    if leader.is_some() {
                        return;
                    }
                }
                _ => {
                    warn!(connection = self.name, %state, "ZooKeeper session ended");
                    return self.set_down(format!("the ZooKeeper session ended: {state}"));
                }
            }
            state = tokio::select! {
                state = states.changed() => state,
                (better, found) = self.better(leader) => {
                    (leader, client) = (Some(found), better);
                    states = client.state_watcher();
                    client.state()
                }
            };
        }
    }

    /// A session with the leader, once that is another than this one.
    async fn better(&self, than: Option<&str>) -> (Client, &str) {
        if self.server == Server::Any {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(LEADER_CHECK).await;
            if let Some(better) = self.at_leader(than).await {
                return better;
            }
        }
    }

    fn set_up(&self, client: &Client) {
        self.link.send_modify(|link| {
            link.client = Some(client.clone());
            link.epoch += 1;
        });
    }

    fn set_down(&self, detail: String) {
        self.link.send_modify(|link| {
            if link.client.take().is_some() {
                link.since = Instant::now();
            }
            link.detail = detail;
        });
    }
}
