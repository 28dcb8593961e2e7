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
            Ok(Passed { changed, refused }) => {
                if changed > 0 {
                    info!(changed, "nodes of the log in ZooKeeper have other owners now");
                }
                if refused > 0 {
                    warn!(refused, "nodes of the log in ZooKeeper belong to others, and are left as they are");
                }
                return;
            }
            Err(error) => debug!(%error, "the owners of nodes could not be looked at, trying again"),
        }
        sleep(PAUSE).await;
        if log.strong_count() == 0 {
            return;
        }
    }
}

/// What came of a pass over all nodes.
#[derive(Default)]
struct Passed {
    /// Nodes that have other owners now.
    changed: usize,
    /// Nodes that belong to others, who alone can change that.
    refused: usize,
}

/// Goes over all nodes, folder by folder.
async fn pass(log: &Weak<Inner>) -> Result<Passed, Error> {
    let mut passed = Passed::default();
    let mut folders = match log.upgrade() {
        Some(inner) => vec![inner.layout.root().to_owned()],
        None => return Ok(passed),
    };
    let mut first = true;
    while let Some(folder) = folders.pop() {
        let Some(inner) = log.upgrade() else { return Ok(passed) };
        let client = inner.control.connected().ok_or(Error::ConnectionLoss)?;
        let (acls, limit) = (inner.access.acls(), inner.config.admin_timeout);
        // It is not held up by what may take long.
        drop(inner);
        let work = async {
            let mut found = Found::default();
            if std::mem::take(&mut first) {
                // The root itself, which is not looked into again.
                found.add(Look { folder: None, ..one(&client, folder.clone(), acls).await? });
            }
            let names = match client.list_children(&folder).await {
                // One that may not be listed may not be changed either, and was counted.
                Err(Error::NoNode | Error::NoAuth) => Vec::new(),
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
        passed.changed += found.passed.changed;
        passed.refused += found.passed.refused;
        folders.extend(found.folders);
    }
    Ok(passed)
}

/// What was found in a folder.
#[derive(Default)]
struct Found {
    passed: Passed,
    /// Nodes that have children.
    folders: Vec<String>,
}

impl Found {
    fn add(&mut self, Look { changed, refused, folder }: Look) {
        self.passed.changed += usize::from(changed);
        self.passed.refused += usize::from(refused);
        self.folders.extend(folder);
    }
}

/// What came of a look at a node.
#[derive(Default)]
struct Look {
    changed: bool,
    refused: bool,
    folder: Option<String>,
}

/// Looks at a node, and gives it the owners that it should have. One that has gone is fine; so are those below one of somebody
/// else's, as far as they may be looked at.
async fn one(client: &Client, path: String, wanted: Acls<'static>) -> Result<Look, Error> {
    let (acl, stat) = match client.get_acl(&path).await {
        Err(Error::NoNode) => return Ok(Look::default()),
        Err(Error::NoAuth) => return Ok(Look { refused: true, ..Look::default() }),
        found => found?,
    };
    let (mut changed, mut refused) = (false, false);
    if is_open(&acl) != is_open(&wanted) {
        match client.set_acl(&path, &wanted, None).await {
            Err(Error::NoNode) => return Ok(Look::default()),
            Err(Error::NoAuth) => refused = true,
            set => changed = set.map(|_| true)?,
        }
    }
    Ok(Look { changed, refused, folder: (stat.num_children > 0).then_some(path) })
}

/// Whether anybody may touch a node.
fn is_open(acl: &[Acl]) -> bool {
    acl.iter().any(|acl| acl.scheme() == "world")
}
