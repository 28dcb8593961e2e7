//! The way to the leader: a connection that this replica opens, for as long as another one leads.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::forward::LAST_ANSWERS;
use super::{Leader, Standing};
use crate::znode_log::ZnodeLog;

/// Longest time to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// First and longest pause between attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// A connection that lasted so long was a good one.
const GOOD: Duration = Duration::from_secs(1);

/// A connection between two replicas.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// What carries bytes between replicas.
pub trait Messenger: Debug + Send + Sync + 'static {
    /// Connects to the replica whose messenger is at that address, as its [`super::Config::address`] says: its side of the connection
    /// goes to [`super::ZooKeeperLeader::take_line`].
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Duplex>>>;
}

/// Keeps a connection to whoever leads.
pub(super) async fn keep(log: ZnodeLog, messenger: Arc<dyn Messenger>, mut standing: watch::Receiver<Standing>) {
    let mut pause = BACKOFF.0;
    loop {
        let leader = match standing.wait_for(|standing| standing.other().is_some()).await {
            Ok(standing) => standing.other().cloned(),
            Err(_) => return,
        };
        let Some(leader) = leader else { continue };
        let started = Instant::now();
        let mut line = AbortOnDropHandle::new(tokio::spawn(hold(log.clone(), messenger.clone(), leader.clone())));
        let leads_still = tokio::select! {
            _ = &mut line => true,
            changed = standing.wait_for(|standing| standing.leader.as_ref() != Some(&leader)) => {
                if changed.is_err() {
                    return;
                }
                false
            }
        };
        if leads_still {
            pause = if started.elapsed() > GOOD { BACKOFF.0 } else { (pause * 2).min(BACKOFF.1) };
            sleep(pause).await;
        } else {
            pause = BACKOFF.0;
            // What it was handed it may have appended, and be about to say so.
            tokio::spawn(timeout(LAST_ANSWERS, line));
        }
    }
}

async fn hold(log: ZnodeLog, messenger: Arc<dyn Messenger>, leader: Leader) {
    let ended = match timeout(CONNECT_LIMIT, messenger.connect(&leader.address)).await {
        Ok(Ok(stream)) => log.hold_line(stream).await.map_err(|error| error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {CONNECT_LIMIT:?}")),
    };
    if let Err(error) = ended {
        debug!(leader = leader.replica, address = leader.address, error, "no connection to the leader now");
    }
}
