//! Durable changes of single files and folders. What returns without an error survives a power cut.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Serialize, de::DeserializeOwned};

/// Free bytes under which a volume counts as full: two segments of Cassandra's commit log, which it makes at their full size.
const LEAST_ROOM: u64 = 64 << 20;

/// That the volume of `path` is full, if it is, in the system's words and with what is left.
pub fn shortage(path: &Path) -> Option<String> {
    let volume = nix::sys::statvfs::statvfs(path).ok()?;
    let left = volume.blocks_available() * volume.fragment_size();
    let mib = |bytes: u64| bytes >> 20;
    (left < LEAST_ROOM).then(|| {
        format!(
            "No space left on device: of the volume of {} {} MiB are free, at least {} MiB are needed",
            path.display(),
            mib(left),
            mib(LEAST_ROOM)
        )
    })
}

/// Syncs a folder: its list of names.
pub fn sync_dir(path: &Path) -> Result<()> {
    let dir = File::open(path).with_context(|| format!("can't open folder {}", path.display()))?;
    dir.sync_all().with_context(|| format!("can't sync folder {}", path.display()))
}

/// Syncs the folder that `path` lies in.
pub fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().with_context(|| format!("{} has no parent", path.display()))?;
    sync_dir(parent)
}

/// Creates a folder (its parent exists), durably.
pub fn create_dir(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Ok(()) => sync_parent(path),
        Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(e) => Err(e).with_context(|| format!("can't create folder {}", path.display())),
    }
}

/// Writes a file as a whole: after a crash there is the old content or the new one.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let temporary = path.with_extension("new");
    let bytes = serde_json::to_vec(value).with_context(|| format!("can't encode {}", path.display()))?;
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("can't write {}", path.display()))?;
    sync_parent(path)
}

/// Reads a file; `None` if there is none.
pub fn read_bytes(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("can't read {}", path.display())),
    }
}

/// Reads what [`write_json`] wrote; `None` if there is no such file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(bytes) = read_bytes(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).with_context(|| format!("can't understand {}", path.display()))
}

/// Removes a file, durably; fine if there is none.
pub fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => {}
        // An earlier removal may have failed between its two steps: sync all the same.
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e).with_context(|| format!("can't remove {}", path.display())),
    }
    sync_parent(path)
}

/// Removes a folder with everything in it, durably; fine if there is none.
pub fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => sync_parent(path),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).with_context(|| format!("can't remove {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_files_are_replaced_as_a_whole_and_removed_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        assert_eq!(read_json::<u32>(&path).unwrap(), None);
        write_json(&path, &1).unwrap();
        write_json(&path, &2).unwrap();
        assert_eq!(read_json::<u32>(&path).unwrap(), Some(2));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::write(&path, "{").unwrap();
        assert!(read_json::<u32>(&path).is_err(), "a damaged file is an error, not an absent one");
        remove_file(&path).unwrap();
        remove_file(&path).unwrap();
        assert_eq!(read_json::<u32>(&path).unwrap(), None);
    }
}
