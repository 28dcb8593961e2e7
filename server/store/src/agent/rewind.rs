//! Putting a restore point back. The JVM must be gone. Each step is durable before the next; done again after a crash
//! anywhere it ends in the same directory (I10).

use anyhow::{Context, Result};

use super::faults::Faults;
use super::layout::Layout;
use super::plan::Intent;
use super::{disk, points, tree};
use crate::api::{Clean, Held};

/// Carries out a rewind to its end and leaves a clean mark that says what the directory now holds.
///
/// # Errors
/// If the disk fails or the restore point is not there; the intent stays, and nothing starts before it is done.
pub fn carry_out(layout: &Layout, intent: &Intent, faults: &Faults) -> Result<Clean> {
    // The old mark goes first: with the intent written, but not durable, nothing must look clean.
    disk::remove_file(&layout.clean())?;
    faults.pass("rewind-mark-cleared");
    disk::write_json(&layout.intent(), intent)?;
    faults.pass("rewind-intent");
    // The commit log goes before the data: replayed onto anything else than what it was written for, it would add to it.
    disk::create_dir(&layout.cassandra())?;
    disk::remove_tree(&layout.commitlog())?;
    for folder in layout.others() {
        disk::remove_tree(&folder)?;
    }
    faults.pass("rewind-commitlog-dropped");
    disk::remove_tree(&layout.data())?;
    faults.pass("rewind-data-dropped");
    let manifest = match &intent.restore_point {
        Some(id) => {
            tree::copy(&layout.tree(id), &layout.incoming())?;
            faults.pass("rewind-tree-linked");
            std::fs::rename(layout.incoming(), layout.data()).context("can't put the restored tree in place")?;
            disk::sync_dir(&layout.cassandra())?;
            faults.pass("rewind-tree-renamed");
            Some(points::manifest(layout, id)?)
        }
        None => {
            disk::remove_tree(&layout.incoming())?;
            let found = points::load(layout)?;
            let damaged = found.unreadable.iter().map(|damaged| &damaged.id);
            for id in found.points.iter().map(|point| &point.id).chain(damaged) {
                points::remove(layout, id)?;
            }
            None
        }
    };
    let clean = Clean { manifest, held: Held::Drained };
    disk::write_json(&layout.clean(), &clean)?;
    faults.pass("rewind-marked");
    disk::remove_file(&layout.intent())?;
    faults.pass("rewind-intent-removed");
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::api::{Files, Manifest, Mark};

    fn store() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        fs::create_dir_all(layout.restore_points()).unwrap();
        let snapshot = layout.data().join("ks/t/snapshots/tag");
        fs::create_dir_all(&snapshot).unwrap();
        fs::write(snapshot.join("nb-1-big-Data.db"), "rows").unwrap();
        points::gather(&layout, "a", "tag").unwrap();
        let mark = Mark { index: 7, replica_state: serde_json::Value::Null };
        let manifest = Manifest {
            id: "a".into(),
            sequence: 1,
            mark,
            cassandra_now_ms: 1,
            created_ms: 1,
            files: Files::default(),
            footprint: None,
        };
        points::commit(&layout, manifest, None, &Faults::default()).unwrap();
        (dir, layout)
    }

    fn disturb(layout: &Layout) {
        fs::create_dir_all(layout.commitlog()).unwrap();
        fs::write(layout.commitlog().join("CommitLog-7-1.log"), "later").unwrap();
        fs::create_dir_all(layout.data().join("ks/new")).unwrap();
        fs::write(layout.data().join("ks/new/nb-1-big-Data.db"), "later").unwrap();
        fs::create_dir_all(layout.incoming().join("ks")).unwrap();
        fs::write(layout.incoming().join("ks/half"), "interrupted").unwrap();
    }

    #[test]
    fn rewinding_twice_gives_the_same_directory() {
        let (_dir, layout) = store();
        let intent = Intent { restore_point: Some("a".into()) };
        for _ in 0..2 {
            disturb(&layout);
            let clean = carry_out(&layout, &intent, &Faults::default()).unwrap();
            assert_eq!(clean.manifest.unwrap().mark.index, 7);
            assert_eq!(clean.held, Held::Drained);
            let entries = tree::seal(&layout.data(), None).unwrap();
            assert_eq!(entries.len(), 1);
            assert_eq!(entries[0].path.to_str(), Some("ks/t/nb-1-big-Data.db"));
            assert!(!layout.commitlog().exists() && !layout.incoming().exists() && !layout.intent().exists());
        }
    }

    #[test]
    fn rewinding_to_nothing_deletes_the_restore_points_too() {
        let (_dir, layout) = store();
        disturb(&layout);
        let clean = carry_out(&layout, &Intent { restore_point: None }, &Faults::default()).unwrap();
        assert_eq!(clean, Clean { manifest: None, held: Held::Drained });
        assert!(!layout.data().exists() && !layout.commitlog().exists());
        assert!(points::load(&layout).unwrap().is_empty());
    }

    #[test]
    fn a_failed_rewind_leaves_no_mark_and_keeps_its_intent() {
        let (_dir, layout) = store();
        disk::write_json(&layout.clean(), &Clean { manifest: None, held: Held::Drained }).unwrap();
        let intent = Intent { restore_point: Some("missing".into()) };
        assert!(carry_out(&layout, &intent, &Faults::default()).is_err());
        assert!(!layout.clean().exists());
        assert_eq!(disk::read_json::<Intent>(&layout.intent()).unwrap(), Some(intent));
    }
}
