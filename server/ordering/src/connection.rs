//! One ZooKeeper session after another, kept up for as long as it is wanted.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};
use zookeeper_client::{Acls, Client, SessionState};

/// First and longest pause between attempts to get a session.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

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
}

impl Access {
    /// Who may touch the nodes that we create. With a user, the user alone; else whoever reaches ZooKeeper.
    pub(crate) fn acls(&self) -> Acls<'static> {
        match self.auth {
            Some(_) => Acls::creator_all(),
            None => Acls::anyone_all(),
        }
    }

    async fn connect(&self) -> Result<Client, zookeeper_client::Error> {
        let mut connector = Client::connector().with_session_timeout(self.session_timeout);
        if let Some(DigestAuth { user, password }) = &self.auth {
            connector = connector.with_auth("digest", format!("{user}:{password}").as_bytes());
        }
        connector.connect(&self.connect).await
    }
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
    pub(crate) fn start(name: String, access: Access) -> Self {
        let link = Link { client: None, epoch: 0, since: Instant::now(), detail: "not connected yet".into() };
        let (sender, receiver) = watch::channel(link);
        let task = tokio::spawn(async move { keep_up(&name, &access, &sender).await });
        Self { link: receiver, _task: AbortOnDropHandle::new(task) }
    }

    /// The connection's state, and changes of it.
    pub(crate) fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    /// The session if it is connected now.
    pub(crate) fn connected(&self) -> Option<Client> {
        self.link.borrow().client.clone()
    }

    /// The session, once it is connected. The caller bounds the wait.
    pub(crate) async fn client(&self) -> Client {
        connected(&mut self.link()).await
    }
}

/// Waits for a link to be connected; for ever when its connection is gone.
pub(crate) async fn connected(link: &mut watch::Receiver<Link>) -> Client {
    let client = match link.wait_for(|link| link.client.is_some()).await {
        Ok(link) => link.client.clone(),
        Err(_) => None,
    };
    match client {
        Some(client) => client,
        None => std::future::pending().await,
    }
}

async fn keep_up(name: &str, access: &Access, link: &watch::Sender<Link>) {
    let mut pause = BACKOFF.0;
    loop {
        match access.connect().await {
            Ok(client) => {
                pause = BACKOFF.0;
                info!(connection = name, session = %client.session_id(), "ZooKeeper session established");
                follow(name, client, link).await;
            }
            Err(error) => {
                set_down(link, format!("no ZooKeeper session: {error}"));
                warn!(connection = name, %error, "no ZooKeeper session, trying again");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// Publishes a session's states until it ends.
async fn follow(name: &str, client: Client, link: &watch::Sender<Link>) {
    let mut states = client.state_watcher();
    let mut state = client.state();
    loop {
        match state {
            SessionState::SyncConnected => {
                link.send_modify(|link| {
                    link.client = Some(client.clone());
                    link.epoch += 1;
                });
            }
            SessionState::Disconnected | SessionState::ConnectedReadOnly => {
                set_down(link, "the connection to ZooKeeper is lost".into());
            }
            _ => {
                warn!(connection = name, %state, "ZooKeeper session ended");
                return set_down(link, format!("the ZooKeeper session ended: {state}"));
            }
        }
        state = states.changed().await;
    }
}

fn set_down(link: &watch::Sender<Link>, detail: String) {
    link.send_modify(|link| {
        if link.client.take().is_some() {
            link.since = Instant::now();
        }
        link.detail = detail;
    });
}
