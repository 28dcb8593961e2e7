//! Restore points on the disk: what is there, making one, dropping one.
//!
//! A restore point is a folder with a sealed tree, the list of its files and a manifest. The manifest is written last
//! and removed first: a folder without one is garbage.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};

use super::faults::Faults;
use super::layout::Layout;
use super::{disk, tree};
use crate::api::{Damaged, Manifest, RestorePoint};

/// The summary of a manifest.
pub fn point(manifest: &Manifest) -> RestorePoint {
    RestorePoint {
        id: manifest.id.clone(),
        sequence: manifest.sequence,
        index: manifest.mark.index,
        created_ms: manifest.created_ms,
        files: manifest.files.clone(),
    }
}

/// The restore points on the disk.
#[derive(Debug, Default)]
pub struct Found {
    /// The committed ones, oldest first.
    pub points: Vec<RestorePoint>,
    /// Those whose manifest can't be understood: damaged, or written by a later version of this program. They are not used, and
    /// stay until there is a new restore point: what is only in them must not be lost by a start of the wrong program.
    pub unreadable: Vec<Damaged>,
}

impl Found {
    /// Whether there are none at all.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty() && self.unreadable.is_empty()
    }
}

/// Reads the restore points, and deletes the uncommitted ones.
pub fn load(layout: &Layout) -> Result<Found> {
    let folder = layout.restore_points();
    let mut found = Found::default();
    for entry in fs::read_dir(&folder).with_context(|| format!("can't list {}", folder.display()))? {
        let name = entry.with_context(|| format!("can't list {}", folder.display()))?.file_name();
        let id = name.to_string_lossy().into_owned();
        match disk::read_bytes(&layout.manifest(&id))?.map(|bytes| serde_json::from_slice::<Manifest>(&bytes)) {
            Some(Ok(manifest)) => found.points.push(point(&manifest)),
            Some(Err(error)) => {
                let damaged = Damaged { id, detail: format!("its manifest.json can't be understood: {error}") };
                tracing::error!("{damaged}");
                found.unreadable.push(damaged);
            }
            None => {
                tracing::info!(id, "deleting an uncommitted restore point");
                disk::remove_tree(&folder.join(&name))?;
            }
        }
    }
    found.points.sort_by_key(|point| point.sequence);
    Ok(found)
}

/// The manifest of a committed restore point.
pub fn manifest(layout: &Layout, id: &str) -> Result<Manifest> {
    disk::read_json(&layout.manifest(id))?.with_context(|| format!("restore point {id} has no manifest"))
}

/// Checks a committed restore point: that its files are there and, with `read`, that they hold what they held.
///
/// # Errors
/// What is wrong with it.
pub fn check(layout: &Layout, id: &str, read: bool) -> Result<()> {
    let entries: Option<Vec<tree::Entry>> = disk::read_json(&layout.files(id))?;
    tree::check(&layout.tree(id), &entries.context("its list of files is missing")?, read)
}

/// Links Cassandra's snapshot `tag` into a new, uncommitted tree.
pub fn gather(layout: &Layout, id: &str, tag: &str) -> Result<()> {
    disk::create_dir(&layout.restore_point(id))?;
    tree::gather(&layout.data(), tag, &layout.tree(id))
}

/// Makes an uncommitted tree a restore point. `earlier` is the one before it, whose files need no second look.
/// The manifest's `files` are filled in.
pub fn commit(layout: &Layout, mut manifest: Manifest, earlier: Option<&str>, faults: &Faults) -> Result<Manifest> {
    let id = manifest.id.clone();
    let known = match earlier {
        Some(earlier) => {
            let entries = disk::read_json::<Vec<tree::Entry>>(&layout.files(earlier)).ok().flatten();
            entries.map(|entries| (layout.tree(earlier), entries))
        }
        None => None,
    };
    let known = known.as_ref().map(|(folder, entries)| (folder.as_path(), entries.as_slice()));
    let entries = tree::seal(&layout.tree(&id), known)?;
    manifest.files = tree::summary(&entries);
    disk::write_json(&layout.files(&id), &entries)?;
    faults.pass("commit-tree-synced");
    disk::write_json(&layout.manifest(&id), &manifest)?;
    faults.pass("commit-manifest-renamed");
    Ok(manifest)
}

/// Deletes a restore point or an uncommitted tree; fine if there is none. A crash in the middle leaves garbage only.
pub fn remove(layout: &Layout, id: &str) -> Result<()> {
    let folder = layout.restore_point(id);
    if !exists(&folder)? {
        return Ok(());
    }
    disk::remove_file(&layout.manifest(id))?;
    disk::remove_tree(&folder)
}

fn exists(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e).with_context(|| format!("can't stat {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Files, Mark};

    fn layout() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        fs::create_dir_all(layout.restore_points()).unwrap();
        fs::create_dir_all(layout.data().join("ks/t/snapshots/tag")).unwrap();
        fs::write(layout.data().join("ks/t/snapshots/tag/nb-1-big-Data.db"), "rows").unwrap();
        (dir, layout)
    }

    fn manifest_of(id: &str, sequence: u64) -> Manifest {
        let mark = Mark { index: 7, replica_state: serde_json::json!({ "clock": 1 }) };
        Manifest {
            id: id.into(),
            sequence,
            mark,
            cassandra_now_ms: 1,
            created_ms: 1,
            files: Files::default(),
            footprint: None,
        }
    }

    #[test]
    fn only_committed_trees_survive_a_restart() {
        let (_dir, layout) = layout();
        for (id, sequence) in [("b", 2), ("a", 1)] {
            gather(&layout, id, "tag").unwrap();
            commit(&layout, manifest_of(id, sequence), None, &Faults::default()).unwrap();
        }
        gather(&layout, "c", "tag").unwrap();
        let points = load(&layout).unwrap().points;
        assert_eq!(points.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(!layout.restore_point("c").exists());
        assert_eq!(points[0].files.count, 1);
        assert_eq!(manifest(&layout, "a").unwrap().mark.replica_state["clock"], 1);
    }

    #[test]
    fn a_restore_point_without_all_its_files_is_not_whole() {
        let (_dir, layout) = layout();
        gather(&layout, "a", "tag").unwrap();
        commit(&layout, manifest_of("a", 1), None, &Faults::default()).unwrap();
        check(&layout, "a", true).unwrap();
        fs::remove_file(layout.tree("a").join("ks/t/nb-1-big-Data.db")).unwrap();
        assert!(check(&layout, "a", false).is_err());
        remove(&layout, "a").unwrap();
        remove(&layout, "a").unwrap();
        assert!(check(&layout, "a", false).is_err());
        assert!(load(&layout).unwrap().is_empty());
    }

    #[test]
    fn one_that_is_not_understood_is_named_and_stays() {
        let (_dir, layout) = layout();
        for (id, sequence) in [("a", 1), ("b", 2)] {
            gather(&layout, id, "tag").unwrap();
            commit(&layout, manifest_of(id, sequence), None, &Faults::default()).unwrap();
        }
        for damage in ["", "{", "{\"id\":\"b\"}", "\0\0\0\0"] {
            fs::write(layout.manifest("b"), damage).unwrap();
            let found = load(&layout).unwrap();
            assert_eq!(found.points.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(), ["a"]);
            assert_eq!(found.unreadable.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(), ["b"]);
            assert!(layout.tree("b").exists());
        }
    }

    #[test]
    fn half_removed_is_garbage_not_damage() {
        let (_dir, layout) = layout();
        gather(&layout, "a", "tag").unwrap();
        commit(&layout, manifest_of("a", 1), None, &Faults::default()).unwrap();
        disk::remove_file(&layout.manifest("a")).unwrap();
        assert!(load(&layout).unwrap().is_empty());
        assert!(!layout.restore_point("a").exists());
    }
}
