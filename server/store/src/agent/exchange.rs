//! Restore points for the agents of other replicas: what is there, and every file of it, over HTTP. What somebody reads
//! is kept while they read.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::layout::Layout;
use super::{disk, plan, points, tree};
use crate::api::Manifest;

/// How long a restore point is kept for somebody who has read of it and not come back since.
pub const LEASE: Duration = Duration::from_secs(60);
/// Restore points that are kept for readers beyond those the store keeps for itself.
pub const LEASES: usize = 2;

/// Which restore points are being read.
#[derive(Debug, Clone, Default)]
pub struct Leases(Arc<Mutex<BTreeMap<String, Instant>>>);

impl Leases {
    /// Somebody reads of this one now.
    pub fn renew(&self, id: &str) {
        let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        read.retain(|_, at| at.elapsed() < LEASE);
        // Ids of restore points that exist: as few as those.
        read.insert(id.to_owned(), Instant::now());
    }

    /// Those that were read of lately.
    pub fn current(&self) -> Vec<String> {
        let read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        read.iter().filter(|(_, at)| at.elapsed() < LEASE).map(|(id, _)| id.clone()).collect()
    }
}

/// The manifest of a committed restore point.
///
/// # Errors
/// If there is none of that id, or the disk fails.
pub fn manifest(layout: &Layout, id: &str) -> Result<Manifest> {
    plan::check_id(id).map_err(|refusal| anyhow::anyhow!(refusal))?;
    points::manifest(layout, id)
}

/// The list of files of a committed restore point.
///
/// # Errors
/// As for [`manifest`].
pub fn files(layout: &Layout, id: &str) -> Result<Vec<tree::Entry>> {
    manifest(layout, id)?;
    disk::read_json(&layout.files(id))?.context("its list of files is missing")
}

/// Where a file of a committed restore point lies. Nothing outside its tree is ever named.
///
/// # Errors
/// As for [`manifest`]; also if the path is not one of a file below the tree.
pub fn file(layout: &Layout, id: &str, path: &Path) -> Result<PathBuf> {
    manifest(layout, id)?;
    anyhow::ensure!(is_plain(path), "{} is not a path of a restore point's file", path.display());
    Ok(layout.tree(id).join(path))
}

/// Whether a path is relative and leads nowhere but down.
pub fn is_plain(path: &Path) -> bool {
    let mut components = path.components().peekable();
    components.peek().is_some() && components.all(|component| matches!(component, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_down() {
        for (path, plain) in [
            ("ks/t-1/nb-1-big-Data.db", true),
            (".idx/x", true),
            ("", false),
            ("/etc/passwd", false),
            ("../x", false),
            ("a/../../x", false),
            ("a/./b", true),
        ] {
            assert_eq!(is_plain(Path::new(path)), plain, "{path}");
        }
    }

    #[test]
    fn what_is_read_of_is_leased() {
        let leases = Leases::default();
        assert!(leases.current().is_empty());
        leases.renew("b");
        leases.renew("a");
        leases.renew("a");
        assert_eq!(leases.current(), ["a", "b"]);
    }
}
