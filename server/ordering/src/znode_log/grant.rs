//! Whose the nodes are that are there already, where that has changed: with credentials they become theirs alone, or everybody's
//! while replicas are changed over.
//!
//! Looked at once each time the log is opened, beside everything else. Replicas that are changed over one by one leave nothing
//! behind: what the others make as before meanwhile, the last one finds.

use std::sync::Weak;
use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};
use zookeeper_client::{Acl, Acls, Client, Error};

use super::Inner;

/// Nodes looked at at once.
const AT_ONCE: usize = 64;
/// Pause after an attempt that ZooKeeper did not take.
const PAUSE: Duration = Duration::from_secs(5);

/// Goes over all nodes once, for as long as the log is open; after any trouble, again.
pub(super) async fn run(log: Weak<Inner>) {
    loop {
        match pass(&log).await {
            Ok(0) => return,
            Ok(changed) => return info!(changed, "nodes of the log in ZooKeeper have other owners now"),
            Err(Error::NoAuth) => {
                return warn!("nodes of the log in ZooKeeper belong to others, and are left as they are");
            }
            Err(error) => debug!(%error, "the owners of nodes could not be looked at, trying again"),
        }
        sleep(PAUSE).await;
        if log.strong_count() == 0 {
            return;
        }
    }
}

/// Goes over all nodes, folder by folder; how many were changed.
async fn pass(log: &Weak<Inner>) -> Result<usize, Error> {
    let mut changed = 0;
    let mut folders = match log.upgrade() {
        Some(inner) => vec![inner.layout.root().to_owned()],
        None => return Ok(0),
    };
    let mut first = true;
    while let Some(folder) = folders.pop() {
        let Some(inner) = log.upgrade() else { return Ok(changed) };
        let client = inner.control.connected().ok_or(Error::ConnectionLoss)?;
        let (acls, limit) = (inner.access.acls(), inner.config.admin_timeout);
        // It is not held up by what may take long.
        drop(inner);
        let work = async {
            let mut found = Found::default();
            if std::mem::take(&mut first) {
                // The root itself, which is not looked into again.
                found.changed += usize::from(one(&client, folder.clone(), acls).await?.changed);
            }
            let names = match client.list_children(&folder).await {
                Err(Error::NoNode) => Vec::new(),
                names => names?,
            };
            let paths = names.into_iter().map(|name| format!("{folder}/{name}"));
            let mut looks = stream::iter(paths).map(|path| one(&client, path, acls)).buffer_unordered(AT_ONCE);
            while let Some(look) = looks.next().await {
                found.add(look?);
            }
            Ok::<_, Error>(found)
        };
        let found: Found = timeout(limit, work).await.map_err(|_| Error::Timeout)??;
        changed += found.changed;
        folders.extend(found.folders);
    }
    Ok(changed)
}

/// What was found in a folder.
#[derive(Default)]
struct Found {
    changed: usize,
    /// Nodes that have children.
    folders: Vec<String>,
}

impl Found {
    fn add(&mut self, Look { changed, folder }: Look) {
        self.changed += usize::from(changed);
        self.folders.extend(folder);
    }
}

/// What came of a look at a node.
#[derive(Default)]
struct Look {
    changed: bool,
    folder: Option<String>,
}

/// Looks at a node, and gives it the owners that it should have. One that has gone is fine.
async fn one(client: &Client, path: String, wanted: Acls<'static>) -> Result<Look, Error> {
    let (acl, stat) = match client.get_acl(&path).await {
        Err(Error::NoNode) => return Ok(Look::default()),
        found => found?,
    };
    let changed = is_open(&acl) != is_open(&wanted);
    if changed {
        match client.set_acl(&path, &wanted, None).await {
            Err(Error::NoNode) => return Ok(Look::default()),
            set => drop(set?),
        }
    }
    Ok(Look { changed, folder: (stat.num_children > 0).then_some(path) })
}

/// Whether anybody may touch a node.
fn is_open(acl: &[Acl]) -> bool {
    acl.iter().any(|acl| acl.scheme() == "world")
}
